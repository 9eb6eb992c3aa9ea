"""What every backbone keeps to, whatever library it comes from."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from situs.backbones import AdaptedBackbone, Backbone, BackboneConfig, available, build
from situs.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """A small network of one kind, and sizes that it takes."""

    name: str
    spatial_dims: int
    sizes: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, Any], ...] = ()
    in_channels: int = 1

    @property
    def config(self) -> BackboneConfig:
        return BackboneConfig(
            name=self.name,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            options={k: _listed(v) for k, v in self.options},
        )


class _Maps(nn.Module):
    def __init__(self, fine: nn.Module, coarse: nn.Module) -> None:
        super().__init__()
        self.fine, self.coarse = fine, coarse

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x).relu()
        return {"fine": fine, "coarse": self.coarse(fine).relu()}


class TwoScales(AdaptedBackbone):
    """A network that knows nothing of situs."""

    @staticmethod
    def make(spatial_dims: int, in_channels: int) -> nn.Module:
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        return _Maps(conv(in_channels, 4, 3, 2, padding=1), conv(4, 8, 3, 2, padding=1))


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


# The 3D ResNet-U-Net works too, but 14 million weights are slow to make again and again.
SAMPLES = [
    Sample("cnn", 3, ((8, 8, 16), (24, 16, 8)), (("channels", (4, 8, 16, 32)),)),
    Sample("cnn", 2, ((16, 16), (8, 40)), in_channels=2),
    Sample(
        "cnn",
        3,
        ((16, 16, 6), (8, 16, 2)),
        (("channels", (4, 8, 16)), ("strides", ((2, 2, 1), (2, 2, 2))), ("norm", "group")),
    ),
    Sample("cnn", 3, ((4, 4, 4), (8, 4, 12)), (("channels", (4, 8, 8)), ("norm", "batch"))),
    Sample(
        "nnunet",
        3,
        ((8, 8, 8), (4, 12, 16)),
        (("channels", (4, 8, 12)), ("blocks", (1, 2, 1))),
        in_channels=2,
    ),
    Sample(
        "nnunet",
        3,
        ((16, 16, 5), (8, 16, 3)),
        (
            ("channels", (4, 8, 8)),
            ("blocks", (1, 1, 1)),
            ("strides", ((2, 2, 1),)),
            ("kernels", ((3, 3, 1),)),
        ),
    ),
    Sample("nnunet", 2, ((16, 16), (8, 24)), (("channels", (4, 8, 8)), ("blocks", (1, 1, 1)))),
    Sample(
        "nnunet",
        3,
        ((8, 8, 8), (4, 12, 16)),
        (("encoder", "plain"), ("channels", (4, 8, 12)), ("blocks", (1, 2, 1))),
    ),
    Sample(
        "swin_unetr",
        3,
        ((32, 32, 64),),
        (("feature_size", 12), ("depths", (1, 1, 1, 1)), ("window_size", 4)),
    ),
    Sample("swin_unetr", 2, ((32, 32), (64, 96)), (("feature_size", 12), ("norm", "group"))),
    Sample("resnet_unet", 2, ((32, 32), (64, 96)), (("resnet", "resnet10"),), in_channels=3),
]
_TOKENS = (("width", 24), ("depth", 2), ("heads", 2), ("decoder_channels", 8))
SAMPLES += [
    Sample("primus", 3, ((16, 16, 8), (8, 24, 16)), (*_TOKENS, ("grid", (2, 2, 1)))),
    Sample("primus", 3, ((8, 8, 4),), (*_TOKENS, ("patch", (4, 4, 2)), ("grid", ())), 2),
    Sample("primus", 2, ((16, 16), (8, 24)), (*_TOKENS, ("grid", (2,)))),
    Sample("vit", 3, ((16, 16, 8), (8, 24, 16)), (*_TOKENS, ("patch", (8,)), ("grid", (2, 2, 1)))),
    Sample("vit", 2, ((28, 28), (14, 42)), (*_TOKENS, ("patch", (14,)), ("registers", 2)), 3),
]
SAMPLES += [
    Sample("test_backbone_contract:TwoScales", 3, ((16, 16, 8), (8, 24, 16))),
    Sample("test_backbone_contract:TwoScales", 2, ((16, 16), (8, 24)), in_channels=2),
]
IDS = [f"{s.name}-{s.spatial_dims}d-{i}" for i, s in enumerate(SAMPLES)]
CASES = [(s, size) for s in SAMPLES for size in s.sizes]
CASE_IDS = [f"{IDS[SAMPLES.index(s)]}-{'x'.join(map(str, size))}" for s, size in CASES]


@pytest.fixture(params=SAMPLES, ids=IDS)
def sample(request: pytest.FixtureRequest) -> Sample:
    if request.param.name == "nnunet":
        pytest.importorskip("dynamic_network_architectures", reason="needs the extra 'nnunet'")
    return request.param


@lru_cache
def network(sample: Sample, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build(sample.config).eval()


def image(sample: Sample, size: tuple[int, ...], batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, sample.in_channels, *size, generator=generator)


def test_every_registered_backbone_has_a_sample():
    assert {s.name for s in SAMPLES} - {"test_backbone_contract:TwoScales"} == set(available())


@pytest.mark.parametrize(("sample", "size"), CASES, ids=CASE_IDS, indirect=["sample"])
@torch.no_grad()
def test_shapes_are_those_promised(sample: Sample, size: tuple[int, ...]):
    net = network(sample)
    x = image(sample, size)
    features = net.encode(x)
    assert len(features) == len(net.channels) == len(net.strides)
    for feature, channels, strides in zip(features, net.channels, net.strides, strict=True):
        expected = tuple(n // s for n, s in zip(size, strides, strict=True))
        assert feature.shape == (2, channels, *expected)
    decoded = net.decode(features)
    assert decoded.shape == (2, net.decoder_channels, *size)
    assert torch.equal(decoded, net(x))
    assert torch.isfinite(decoded).all()


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other(sample: Sample):
    net = network(sample)
    x = image(sample, sample.sizes[0], batch=3)
    together = net(x)
    alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4 * float(together.abs().max()))


def test_gradient_reaches_every_parameter_and_only_through_its_part(sample: Sample):
    torch.manual_seed(0)
    net = build(sample.config).train()
    with torch.no_grad():  # nnU-Net begins with each residual branch multiplied by zero
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    x = image(sample, sample.sizes[-1])
    features = net.encode(x)
    net.decode(features).square().mean().backward()
    gradients = {n: p.grad for n, p in net.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    # Vectors may be without effect: a bias is, before a normalisation.
    assert [n for n, g in gradients.items() if g.ndim > 1 and not g.any()] == []

    net.zero_grad()
    sum(f.square().mean() for f in net.encode(x)).backward()
    assert all(p.grad is None for p in net.decoder.parameters())
    # The encoder alone: every weight that shapes its features gets gradient without a decoder.
    assert all(p.grad is not None for p in net.encoder.parameters())


@torch.no_grad()
def test_encoder_blocks_follow_the_forward_pass(sample: Sample):
    backbone = network(sample)
    blocks = backbone.encoder_blocks()
    # One a scale: a block too many would slow the first layers down for nothing.
    stem = ("encoder", "plain") not in sample.options
    expected = {"cnn": len(backbone.channels), "nnunet": len(backbone.channels) + stem}
    expected |= {"primus": 3, "vit": 3}  # what makes tokens, and each block
    expected["test_backbone_contract:TwoScales"] = 1  # nobody said what its blocks are
    assert len(blocks) == expected.get(sample.name, 5)
    listed = [id(p) for block in blocks for module in block for p in module.parameters()]
    assert sorted(listed) == sorted(id(p) for p in backbone.encoder.parameters())

    order: list[int] = []
    hooks = [
        module.register_forward_hook(lambda *_, number=number: order.append(number))
        for number, (trunk, *_) in enumerate(blocks)
        for module in trunk.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    backbone.encode(image(sample, sample.sizes[0]))
    for hook in hooks:
        hook.remove()
    assert order == sorted(order)
    assert set(order) == set(range(len(blocks)))


def test_encoder_and_decoder_states_are_the_whole_network(sample: Sample):
    net, other = network(sample), network(sample, seed=9)
    names = {f"encoder.{n}" for n in net.encoder_state()}
    names |= {f"decoder.{n}" for n in net.decoder_state()}
    assert names == set(net.state_dict())
    storages = [t.data_ptr() for t in net.parameters()]
    assert len(storages) == len(set(storages))

    x = image(sample, sample.sizes[0])
    with torch.no_grad():
        twin = build(sample.config).eval()
        assert not torch.allclose(twin.encode(x)[-1], other.encode(x)[-1])
        twin.encoder.load_state_dict(other.encoder_state())
        assert torch.equal(twin.encode(x)[-1], other.encode(x)[-1])
        twin.decoder.load_state_dict(other.decoder_state())
        assert torch.equal(twin(x), other(x))


@torch.no_grad()
def test_the_same_seed_and_input_give_the_same_output(sample: Sample):
    torch.manual_seed(0)
    again = build(sample.config).eval()
    x = image(sample, sample.sizes[0])
    assert torch.equal(again(x), network(sample)(x))
    assert torch.equal(pickle.loads(pickle.dumps(again))(x), again(x))


def test_wrong_sizes_name_the_next_usable_one(sample: Sample):
    net = network(sample)
    good = sample.sizes[0]
    wrong = tuple(n - 1 if d > 1 else n for n, d in zip(good, net.divisor, strict=True))
    with pytest.raises(ConfigError, match="the next usable size is") as caught:
        net.encode(image(sample, wrong))
    usable = eval(str(caught.value).rpartition("is ")[2])
    with torch.no_grad():
        assert net(image(sample, usable)).shape[2:] == usable


def test_instance_normalisation_of_a_single_voxel_is_refused():
    net = network(SAMPLES[0])
    with pytest.raises(ConfigError, match=r"next usable size is \(16, 16, 16\)"):
        net.check_size((8, 8, 8))
    net.check_size((8, 8, 16))


@pytest.mark.parametrize("name", available())
def test_unknown_options_are_errors(name: str):
    with pytest.raises(ConfigError, match=r"unknown key 'backbone\.options\.chanels'"):
        build(BackboneConfig(name=name, options={"chanels": [8, 16]}))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'swin_unetr'"):
        build(BackboneConfig(name="swin-unetr"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cnn", {"channels": [8, 16], "strides": [2, 2, 2]}, "strides must have one entry or 1"),
        ("cnn", {"channels": [6, 16], "norm": "group"}, "multiples of 4"),
        ("cnn", {"channels": [8, -1]}, "greater than 0"),
        ("nnunet", {"channels": [8, 16], "blocks": [1, 1, 1]}, "blocks must have 2 entries"),
        ("swin_unetr", {"feature_size": 20}, "multiple of 12"),
        ("resnet_unet", {"resnet": "resnet9"}, "resnet"),
        ("primus", {"width": 100}, "multiple of 6 × heads"),
        ("primus", {"patch": [8, 8]}, "one number or 3"),
        ("vit", {"heads": 5}, "multiple of 2 × heads"),
    ],
)
def test_options_that_do_not_fit_are_explained(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build(BackboneConfig(name=name, options=options))


@torch.no_grad()
def test_swin_unetr_computes_what_monai_computes():
    sample = SAMPLES[IDS.index("swin_unetr-3d-8")]
    net = network(sample)
    reference = SwinUNETR(
        1,
        1,
        feature_size=12,
        depths=(1, 1, 1, 1),
        window_size=4,
        norm_name=("INSTANCE", {"affine": True}),
    ).eval()
    missing, unexpected = reference.load_state_dict(
        {**net.encoder_state(), **net.decoder_state()}, strict=False
    )
    assert unexpected == []
    assert missing == ["out.conv.conv.weight", "out.conv.conv.bias"]
    x = image(sample, sample.sizes[0])
    assert torch.allclose(reference(x), reference.out(net(x)), atol=1e-5)


@torch.no_grad()
def test_nnunet_computes_what_its_package_computes():
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    sample = SAMPLES[IDS.index("nnunet-3d-4")]
    net = network(sample)
    reference = unet.ResidualEncoderUNet(
        2,
        3,
        [4, 8, 12],
        torch.nn.Conv3d,
        3,
        [1, 2, 2],
        [1, 2, 1],
        5,
        1,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()
    missing, unexpected = reference.load_state_dict(net.state_dict(), strict=False)
    assert unexpected == []
    assert all(".seg_layers." in name or ".encoder." in name for name in missing)
    x = image(sample, sample.sizes[0])
    head = reference.decoder.seg_layers[-1]
    assert torch.allclose(reference(x), head(net(x)), atol=1e-5)
