from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from torch import Tensor, nn

from situs.backbones import BackboneConfig, build
from situs.transfer import windows
from situs.transfer.losses import classification_loss, segmentation_loss
from situs.transfer.networks import Classifier, Segmenter, pooled
from situs.transfer.optim import PullToWeights, parameter_groups
from situs.transfer.patches import Framing

SMALL = {"channels": [4, 8, 8]}


def small(dims: int = 3) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(build(BackboneConfig(spatial_dims=dims, options=SMALL)), 3)


def test_each_block_learns_slower_than_the_next() -> None:
    model = small()
    groups = parameter_groups(model.backbone, model.head, lr=0.1, layer_decay=0.5)
    rates = {g["name"]: g["lr"] for g in groups}
    assert rates == {
        "head": 0.1,
        "decoder": 0.1,
        "encoder.0": pytest.approx(0.1 / 8),
        "encoder.1": pytest.approx(0.1 / 4),
        "encoder.2": pytest.approx(0.1 / 2),
    }
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize(("dims", "classes"), [(2, 3), (3, 4), (3, 9)])
def test_no_two_classes_begin_alike(dims: int, classes: int) -> None:
    """Right angles; of more classes than features, as far apart as there is room."""
    options = {"channels": [4, 8, 8]}
    network = build(BackboneConfig(spatial_dims=dims, options=options))
    rows = Segmenter(network, classes).head.weight.detach().flatten(1)
    between, identity = (
        (rows @ rows.T, torch.eye(classes)) if classes <= 4 else (rows.T @ rows, torch.eye(4))
    )
    torch.testing.assert_close(between, 4 * identity)


def test_pulled_weights_follow_the_formula_and_the_head_goes_its_way() -> None:
    def trained(strength: float) -> dict[str, Tensor]:
        model = small()
        groups = parameter_groups(model.backbone, model.head, lr=0.01, layer_decay=0.5)
        optimiser = torch.optim.AdamW(groups, weight_decay=0.1)
        begun = {n: p.detach().clone() for n, p in model.backbone.encoder.named_parameters()}
        rates = {id(p): g["lr"] for g in groups for p in g["params"]}
        if strength:
            PullToWeights([model.backbone.encoder], strength).hold(optimiser)
        else:  # the same by hand: Adam without decay, then the pull
            for group in optimiser.param_groups:
                group["weight_decay"] = 0.1 if group["name"] in ("head", "decoder") else 0.0
        torch.manual_seed(1)
        for _ in range(4):
            optimiser.zero_grad()
            model(torch.randn(2, 1, 8, 8, 8)).square().mean().backward()
            optimiser.step()
            for name, parameter in model.backbone.encoder.named_parameters():
                if not strength:
                    far = rates[id(parameter)] * 3.0
                    parameter.data -= far * (parameter.data - begun[name])
        return {n: p.detach() for n, p in model.named_parameters()}

    found, expected = trained(3.0), trained(0.0)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-5), name  # Adam divides rounding too


class Pointwise(nn.Module):
    """Logits from each voxel alone: windows must not change the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.scale * x - 1], 1)


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(*[st.integers(3, 20)] * 3),
    axis=st.sampled_from([None, 0, 1, 2]),
    flips=st.sampled_from([(), (0,), (0, 2)]),
)
def test_windows_slices_and_flips_come_together_again(shape, axis, flips) -> None:
    image = torch.randn(1, *shape)
    model = Pointwise()
    framing = Framing((8, 8, 8) if axis is None else (8, 8), axis)
    probabilities = windows.segment(model, image, framing, 0.5, flips)
    expected = torch.cat([image, 2 * image - 1]).softmax(0)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 15), *[st.integers(1, 37)] * 3),
    seed=st.integers(0, 99),
)
def test_probabilities_are_those_of_the_whole_volume_to_the_bit(shape, seed) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 5
    expected = logits.softmax(1)
    windows._softmax_in_place(logits)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("shape", [(1, 2, 20, 9, 17), (5, 2, 20, 9)])
def test_windows_come_a_few_at_a_time(shape: tuple[int, ...]) -> None:
    batch = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    size = (8,) * (len(shape) - 2)
    parts = list(windows._windows(batch, size, 0.5, (0.0,)))
    assert [len(part) for part in parts[:-1]] == [8] * (len(parts) - 1)
    places = dense_patch_slices(shape[2:], size, [4] * len(size))
    whole = torch.cat([batch[(slice(None), slice(None), *place)] for place in places])
    assert torch.equal(torch.cat(parts), whole)


def test_a_slice_network_sees_each_slice_alone() -> None:
    model = small(dims=2).eval()
    image = torch.randn(1, 6, 16, 16)
    framing = Framing((16, 16), 0)
    whole = windows.segment(model, image, framing)
    alone = model(image[:, 4][None])[0].softmax(0)
    torch.testing.assert_close(whole[:, 4], alone, atol=1e-5, rtol=1e-4)


def test_flipping_makes_predictions_symmetric() -> None:
    model = small().eval()
    image = torch.randn(1, 16, 16, 16)
    symmetric = windows.segment(model, image, Framing((16, 16, 16)), flip_axes=(0,))
    mirrored = windows.segment(model, image.flip(1), Framing((16, 16, 16)), flip_axes=(0,))
    torch.testing.assert_close(symmetric, mirrored.flip(1), atol=1e-5, rtol=1e-4)


def test_a_scans_class_is_the_mean_over_its_windows() -> None:
    model = Classifier(build(BackboneConfig(spatial_dims=2, options=SMALL)), 4).eval()
    image = torch.randn(1, 16, 16, 5)
    mean = windows.classify(model, image, Framing((16, 16), 2), multi_label=False)
    expected = model(image.movedim(3, 0)).softmax(1).mean(0)
    torch.testing.assert_close(mean, expected)
    assert float(mean.sum()) == pytest.approx(1, abs=1e-5)
    padded = windows.pad_to(torch.ones(1, 1, 3, 20), (8, 8))
    assert padded.shape == (1, 1, 8, 20)
    assert padded[0, 0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_pooled_features() -> None:
    features = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
    assert torch.allclose(pooled(features)[:, :3], features[0].mean((2, 3)))
    assert pooled(features).shape == (2, 8)


def test_losses_against_plain_formulas() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, 4, 3), torch.randint(0, 3, (2, 5, 4, 3))
    p = logits.softmax(1)
    weights = (0.5, 1.0, 2.0)
    terms = segmentation_loss("dice_ce", weights)(logits, labels)
    log_p = p.log().gather(1, labels[:, None])[:, 0]
    w = torch.tensor(weights)[labels]
    torch.testing.assert_close(terms["ce"], -(w * log_p).sum() / w.sum())
    dices = []
    for k in (1, 2):
        truth = (labels == k).float()
        overlap = 2 * (p[:, k] * truth).sum()
        dices.append(weights[k] * (1 - overlap / (p[:, k].sum() + truth.sum())))
    torch.testing.assert_close(terms["dice"], torch.stack(dices).mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(terms["total"], terms["ce"] + terms["dice"])

    focal = segmentation_loss("dice_focal")(logits, labels)["focal"]
    torch.testing.assert_close(focal, -((1 - log_p.exp()) ** 2 * log_p).mean())

    several = torch.tensor([[0.0, 1.0, 1.0]])
    terms = classification_loss("dice_ce", multi_label=True)(torch.zeros(1, 3), several)
    assert float(terms["total"]) == pytest.approx(math.log(2))
    terms = classification_loss("dice_focal", multi_label=True)(torch.zeros(1, 3), several)
    assert float(terms["focal"]) == pytest.approx(math.log(2) / 4)
