"""Masked autoencoding: masks, sparse encoding and the loss against straightforward references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from host_waits import DEVICE, assert_never_waits
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBackbone, smooth_sources, stack
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from situs.backbones import BackboneConfig, build
from situs.config import validate
from situs.errors import ConfigError
from situs.methods.base import Network
from situs.methods.mae import Mae, MaeConfig, reconstruction, sparse_encoding
from situs.methods.mae.losses import from_blocks, to_blocks
from situs.methods.mae.sparse import at_size
from situs.methods.mae.views import every_view, fitted_block, random_blocks, to_voxels
from situs.observation import Observation

SMALL = {"view_size": (12, 8, 8), "block_size": (4, 4, 4)}


@settings(deadline=None, max_examples=25)
@given(
    grid=st.tuples(*[st.integers(1, 5)] * 3).filter(lambda g: np.prod(g) > 1),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_mask_hides_exactly_the_asked_share(grid, ratio, seed):
    mask = random_blocks(grid, ratio, np.random.default_rng(seed))
    blocks = int(np.prod(grid))
    assert mask.shape == grid
    assert mask.sum() == min(max(round(ratio * blocks), 1), blocks - 1)


def test_blocks_and_voxels_agree():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    block = (2, 3, 4)
    cut = to_blocks(x, block)
    assert torch.equal(from_blocks(cut, block, (4, 6, 8)), x)
    assert torch.equal(cut[1, 5], x[1, :, 2:4, 0:3, 4:8].flatten(1))
    grid = torch.rand(2, 2, 2, 2) < 0.5
    spread = to_voxels(grid, (4, 6, 8))
    assert torch.equal(to_blocks(spread, block)[:, :, 0, 0], grid.flatten(1))


def _reference_loss(predicted, image, hidden, inside, block):
    """Voxel by voxel, block by block."""
    squares = []
    for b, i, j, k in np.ndindex(hidden.shape):
        if not hidden[b, i, j, k]:
            continue
        box = tuple(slice(n * s, (n + 1) * s) for n, s in zip((i, j, k), block, strict=True))
        ok = inside[(b, *box)]
        for c in range(image.shape[1]):
            x, y = image[(b, c, *box)][ok], predicted[(b, c, *box)][ok]
            if len(x):
                squares.extend((y - (x - x.mean()) / np.sqrt(x.var() + 1e-6)) ** 2)
    return np.mean(squares)


def test_loss_equals_a_loop_over_blocks():
    rng = np.random.default_rng(0)
    image, predicted = rng.normal(size=(2, 2, 2, 12, 8, 8)).astype(np.float32)
    hidden = rng.random((2, 3, 2, 2)) < 0.5
    inside = np.ones((2, 12, 8, 8), dtype=bool)
    inside[:, 9:] = False
    inside[0, :, :, :3] = False
    loss = reconstruction(
        *(torch.from_numpy(a) for a in (predicted, image, hidden, inside)), (4, 4, 4)
    )
    expected = _reference_loss(predicted, image, hidden, inside, (4, 4, 4))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_ignores_each_blocks_brightness_and_contrast_and_all_visible_voxels():
    g = torch.Generator().manual_seed(0)
    image, predicted = torch.randn(2, 2, 1, 8, 8, 8, generator=g)
    hidden = torch.rand(2, 2, 2, 2, generator=g) < 0.5
    inside = torch.ones(2, 8, 8, 8, dtype=torch.bool)
    predicted.requires_grad_()
    loss = reconstruction(predicted, image, hidden, inside, (4, 4, 4))
    gain = to_voxels(torch.rand(2, 2, 2, 2, generator=g) + 0.5, (8, 8, 8))
    other = reconstruction(predicted, image * gain + 3 * gain, hidden, inside, (4, 4, 4))
    assert other.item() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    visible = ~to_voxels(hidden, (8, 8, 8))
    assert predicted.grad[visible].abs().max() == 0
    assert (predicted.grad[~visible].abs() > 0).all()


def _sparse_conv(x, active, conv, stride):
    """Sparse convolution by its definition: sums over active inputs, only at active outputs."""
    weight = conv.weight.detach().numpy()
    bias = conv.bias.detach().numpy()
    out_active = active.reshape(*(n for a in active.shape for n in (a // stride, stride))).any(
        (1, 3, 5)
    )
    out = np.zeros((weight.shape[0], *out_active.shape))
    for site in np.argwhere(out_active):
        value = bias.copy().astype(float)
        for offset in np.ndindex(3, 3, 3):
            at = site * stride + np.array(offset) - 1
            if (at >= 0).all() and (at < active.shape).all() and active[tuple(at)]:
                value += weight[(slice(None), slice(None), *offset)] @ x[(slice(None), *at)]
        out[(slice(None), *site)] = value
    return out, out_active


def test_sparse_encoding_equals_sparse_convolution_with_statistics_of_visible_places():
    torch.manual_seed(0)
    backbone = TinyBackbone()
    image = torch.randn(1, 1, 8, 4, 4)
    hidden = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    hidden[0, 1:3, 0] = True
    visible = (~to_voxels(hidden, (8, 4, 4))).float()
    with sparse_encoding(backbone.encoder, visible), torch.no_grad():
        features = backbone.encode(image * visible)

    x, active = image[0].numpy(), visible[0, 0].numpy() > 0
    stages = ((backbone.encoder.fine, 1), (backbone.encoder.coarse, 2))
    for (stage, stride), feature in zip(stages, features, strict=True):
        x, active = _sparse_conv(x, active, stage[0], stride)
        seen = x[:, active]
        seen = (seen - seen.mean(1, keepdims=True)) / np.sqrt(seen.var(1, keepdims=True) + 1e-5)
        x[:, active] = nn.functional.gelu(torch.from_numpy(seen)).numpy()
        np.testing.assert_allclose(feature[0].numpy(), x, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d, nn.BatchNorm3d])
def test_encoder_is_as_before_afterwards_and_unmasked_input_changes_nothing(norm):
    torch.manual_seed(0)
    encoder = TinyBackbone(norm).encoder
    image = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        before = encoder(image)
        with sparse_encoding(encoder, torch.ones(2, 1, 8, 8, 8)):
            dense = encoder(image)
        after = encoder(image)
    for a, b, c in zip(before, dense, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert torch.equal(a, c)


def test_batch_norm_averages_visible_places_only():
    norm = nn.BatchNorm3d(2, momentum=1.0)
    x = torch.randn(3, 2, 4, 4, 4)
    visible = (torch.rand(3, 1, 4, 4, 4) < 0.5).float()
    with sparse_encoding(nn.Sequential(norm), visible):
        out = norm(x)
    seen = x.movedim(1, -1)[visible[:, 0] > 0]
    torch.testing.assert_close(norm.running_mean, seen.mean(0))
    torch.testing.assert_close(norm.running_var, seen.var(0))
    assert (out * (1 - visible)).abs().max() == 0


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d, nn.BatchNorm3d])
def test_masking_never_waits_for_the_device(norm):
    encoder = TinyBackbone(norm).encoder.to(DEVICE)
    visible = torch.ones(2, 1, 8, 8, 8, device=DEVICE)

    def step():
        with sparse_encoding(encoder, visible):
            encoder(visible)[-1].mean().backward()

    assert_never_waits(step)


def test_config_names_a_usable_size():
    with pytest.raises(ConfigError, match=r"for instance \(16, 8, 8\)"):
        validate(MaeConfig, {"view_size": (15, 8, 8), "block_size": (8, 4, 4)})
    with pytest.raises(ConfigError, match=r"nothing to see.*view_size \(16, 16, 16\)"):
        validate(MaeConfig, {"view_size": (8, 8, 8), "block_size": (8, 8, 8)})


@pytest.mark.parametrize(
    ("stride", "block"),
    [
        ((8, 8, 8), (8, 8, 8)),
        ((32, 32, 32), (32, 32, 32)),
        ((2, 2, 1), (8, 8, 8)),
        ((3, 16, 8), (9, 16, 8)),
    ],
)
def test_by_default_hidden_blocks_leave_no_trace_at_any_scale(stride, block):
    assert fitted_block(None, stride) == block
    hidden = random_blocks((3, 2, 2), 0.6, np.random.default_rng(0))
    size = tuple(3 * b if axis == 0 else 2 * b for axis, b in enumerate(block))
    visible = (~to_voxels(torch.from_numpy(hidden)[None], size)).float()
    coarse = at_size(visible, torch.Size(n // s for n, s in zip(size, stride, strict=True)))
    assert coarse.mean().item() == pytest.approx(1 - hidden.mean())


def test_blocks_that_coarse_features_see_through_are_refused():
    backbone = TinyBackbone()
    backbone.strides = ((1, 1, 1), (8, 8, 16))
    options = {"view_size": (16, 16, 32), "block_size": (8, 8, 8)}
    method = Mae(validate(MaeConfig, options))
    for use in (method.resolve_for_backbone, method.build_heads):
        with pytest.raises(ConfigError, match=r"\(8, 8, 8\) must be a multiple.*\(8, 8, 16\)"):
            use(backbone)
    seen_whole = Mae(validate(MaeConfig, {**options, "masking": "input"})).resolve_for_backbone(
        backbone
    )
    assert seen_whole.config.block_size == (8, 8, 8)
    open_block = Mae(validate(MaeConfig, {"view_size": (16, 16, 32)}))
    assert open_block.resolve_for_backbone(backbone).config.block_size == (8, 8, 16)
    with pytest.raises(ConfigError, match="left to the backbone"):
        open_block.sample(smooth_sources(1, (20, 20, 36))[0], np.random.default_rng(0))
    too_small = Mae(validate(MaeConfig, {"view_size": (8, 8, 16)}))
    with pytest.raises(ConfigError, match=r"block_size \(8, 8, 16\).*view_size \(8, 8, 16\)"):
        too_small.resolve_for_backbone(backbone)


def test_a_transformer_computes_what_is_seen_and_learns_nothing_else():
    torch.manual_seed(0)
    options = {"width": 24, "depth": 2, "heads": 2, "patch": [4], "grid": [4, 2, 2]}
    backbone = build(BackboneConfig(name="primus", options=options))
    method = Mae(validate(MaeConfig, {"view_size": (16, 8, 8), "mask_ratio": 0.75}))
    method = method.resolve_for_backbone(backbone)
    assert method.config.block_size == (8, 8, 8)
    method = Mae(validate(MaeConfig, {**SMALL, "view_size": (16, 8, 8), "mask_ratio": 0.75}))
    network = Network(backbone, method.build_heads(backbone)).eval()
    source = smooth_sources(1, (16, 8, 8))[0]
    batch = stack([method.sample(source, np.random.default_rng(i)) for i in range(3)])

    images, seen, _ = every_view(batch)
    image, seen = images.requires_grad_(), ~seen
    rebuilt, _ = method.rebuild(image, ~seen, network)
    rebuilt.square().sum().backward()
    hidden = to_voxels(~seen, image.shape[2:])
    assert not image.grad[hidden].any()
    assert image.grad[~hidden].all()

    def operations(call) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        return counter.get_total_flops()

    some = operations(lambda: [b(x, None) for b in backbone.encoder.blocks for x in [tokens(4)]])
    part = operations(lambda: backbone.encode_seen(image, seen))
    embedding = operations(lambda: backbone.encoder.embed(image))
    assert part == embedding + some

    everything = backbone.encode_seen(image, torch.ones_like(seen))[0]
    assert torch.allclose(everything, backbone.encode(image)[0], atol=1e-6)
    with pytest.raises(ConfigError, match="'tokens' needs a transformer"):
        Mae(validate(MaeConfig, {**SMALL, "masking": "tokens"})).build_heads(TinyBackbone())


def tokens(number: int) -> torch.Tensor:
    return torch.zeros(3, number, 24)


def test_several_views_of_a_scan_count_as_so_many_scans_of_one():
    torch.manual_seed(0)
    backbone = TinyBackbone()
    many = Mae(validate(MaeConfig, {**SMALL, "views": 3}))
    network = Network(backbone, many.build_heads(backbone)).eval()
    items = [[scan] for scan in smooth_sources(2, (14, 12, 10))]
    batch = stack([many.sample(item[0], np.random.default_rng(n)) for n, item in enumerate(items)])
    assert batch["image"].shape == (2, 3, 1, 12, 8, 8)
    assert len({tuple(start) for start in batch["start"][0].tolist()}) > 1
    one = {key: value.flatten(0, 1)[:, None] for key, value in batch.items()}

    def step(views: dict[str, torch.Tensor]) -> torch.Tensor:
        return many.step(views, network, None, torch.Generator()).losses["total"]

    assert step(batch).item() == pytest.approx(step(one).item(), rel=1e-6)
    with torch.no_grad():
        apart, together = (
            many.observe(views, network, None, scans, 0).scores
            for views, scans in ((one, [i for i in items for _ in range(3)]), (batch, items))
        )
    # Errors of as many voxels, pooled by scan; features are watched view by view.
    rmse = "reconstruction_rmse"
    assert together[rmse].value == pytest.approx(apart[rmse].value, rel=0.02)
    for watched in ("feature_variance", "feature_rank"):
        assert together[watched].value == pytest.approx(apart[watched].value, rel=1e-4)
        assert 0 < together[watched].value < 8


@pytest.mark.parametrize("masking", ["auto", "input"])
def test_training_rebuilds_structure_of_scans_never_seen(masking, tmp_path):
    torch.manual_seed(0)
    method = Mae(validate(MaeConfig, {**SMALL, "masking": masking, "mask_ratio": 0.4}))
    backbone = TinyBackbone()
    network = Network(backbone, method.build_heads(backbone))
    sources = smooth_sources(12, (14, 10, 7))
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(120):
        batch = stack([method.sample(sources[i], rng) for i in rng.integers(0, 10, 4)])
        optimiser.zero_grad()
        method.step(batch, network, None, torch.Generator()).losses["total"].backward()
        optimiser.step()
    held_out = [[s] for s in sources[10:]] * 3
    batch = stack([method.sample(item[0], rng) for item in held_out])
    assert not batch["inside"][..., 7].any(), "the scan is 7 voxels deep, so one plane is padding"
    with torch.no_grad():
        seen = method.observe(batch, network.eval(), None, held_out, 120)
    assert seen.scores["reconstruction_r2"].value > 0.08
    assert seen.scores["reconstruction_rmse"].value < seen.scores["reconstruction_rmse"].constant
    seen.save(tmp_path / "o.obs")
    again = Observation.load(tmp_path / "o.obs")
    assert again.scores == seen.scores
    assert len(again.sections[0].panels) == 4
