from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TinyBackbone, smooth_sources, stack

from situs.backbones import Backbone, BackboneConfig
from situs.backbones import build as build_backbone
from situs.config import load_config, validate
from situs.errors import ConfigError
from situs.methods import build, method_class
from situs.methods.base import Batch, Network
from situs.methods.s2dc.heads import KeyQueue
from situs.methods.s2dc.losses import info_nce
from situs.methods.s2dc.observation import fullest_slices
from situs.methods.s2dc.presets import PRESETS
from situs.methods.s2dc.tokens import encode_region, slice_pairs, slice_tokens, token_vox
from situs.observation import Observation, iter_panels
from situs.pretraining.config import PretrainConfig
from situs.views import ArraySource

torch.set_num_threads(1)
SMALL = {
    "stage": -1,
    "grid": (2, 1, 1),
    "global_crops": 2,
    "crop_size": (8, 8, 8),
    "hidden": 32,
    "features": 16,
    "queue_size": 20,
}
IN_PLANE = {"motion": {"plane": "axial"}, "per_slice": True, "grid": (2, 3, 1)}


def prepared(
    options: dict[str, object], backbone: Backbone | None = None, samples: int = 2
) -> tuple[object, Batch, Network, list[ArraySource]]:
    torch.manual_seed(0)
    method = build("s2dc", {**SMALL, **options})
    sources = smooth_sources(samples, (20, 26, 18))
    rng = np.random.default_rng(0)
    batch = stack([method.sample(source, rng) for source in sources])
    backbone = backbone or TinyBackbone()
    return method, batch, Network(backbone, method.build_heads(backbone)), sources


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stage": 0, "crop_size": (4, 4, 4)},
        IN_PLANE,
        {"temperature": 0.05, "norm": "layer", "queue_size": 0},
        {"weights": {"p2p": 0, "global": 0}},
        {"weights": {"p2s": 0, "p2p": 0}},
    ],
)
def test_a_step_trains_what_its_terms_reach(options: dict[str, object]) -> None:
    method, batch, student, _ = prepared(options)
    teacher = copy.deepcopy(student).requires_grad_(False)
    result = method.step(batch, student, teacher, torch.Generator())  # type: ignore[attr-defined]
    weights = method.config.weights  # type: ignore[attr-defined]
    assert set(result.losses) == {name for name, w in weights.items() if w} | {"total"}
    total = sum(weights[name] * result.losses[name] for name in result.losses if name != "total")
    torch.testing.assert_close(result.losses["total"], total)

    result.losses["total"].backward()
    trained = {name for name, p in student.named_parameters() if p.grad is not None}
    assert any(name.startswith("backbone.encoder") for name in trained)
    assert ("heads.dustbin" in trained) == bool(weights["p2p"])
    assert all(p.grad is None for p in teacher.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters() if p.grad is not None)


def test_tokens_stand_where_their_voxels_are() -> None:
    """The features of a crop in the region's grid are those of the crop encoded alone."""
    method, batch, student, _ = prepared({"norm": "layer", "grid": (2, 2, 2)})
    student.eval()
    encoded = encode_region(method.config, batch["source"], student)  # type: ignore[attr-defined]
    crop = 5  # cell (1, 0, 1) of a 2×2×2 grid
    alone = student.backbone.encode(batch["source"][0, crop][None])[-1]
    torch.testing.assert_close(encoded.features[0, :, 4:, :4, 4:], alone[0])
    flat = encoded.features.flatten(2).mT
    torch.testing.assert_close(encoded.tokens, student.heads.tokens(flat))


def test_slices_hold_the_tokens_and_pairs_of_one_place() -> None:
    grid, axis = (2, 3, 4), 2
    tokens = torch.arange(24.0).reshape(1, 24, 1)
    pairs = torch.rand(1, 24, 24) > 0.5
    by_slice, pairs_by_slice = slice_tokens(tokens, grid, axis), slice_pairs(pairs, grid, axis)
    for z in range(4):
        members = torch.arange(24).reshape(grid)[:, :, z].flatten()
        assert torch.equal(by_slice[z, :, 0].long(), members)
        assert torch.equal(pairs_by_slice[z], pairs[0][members[:, None], members])


def test_queue_is_first_in_first_out() -> None:
    queue = KeyQueue(size=5, features=1)
    for first in range(0, 9, 3):
        queue.push(torch.arange(first, first + 3.0)[:, None])
    assert sorted(queue.keys()[:, 0].tolist()) == [4, 5, 6, 7, 8]

    few = KeyQueue(size=5, features=1)
    few.push(torch.ones(3, 1))
    places, stored = few.slots()
    assert torch.equal(places[stored], few.keys())
    query = torch.randn(2, 1)
    torch.testing.assert_close(
        info_nce(query, query, places, unit=False, counted=stored),
        info_nce(query, query, few.keys(), unit=False),
    )
    restored = KeyQueue(size=5, features=1)
    restored.load_state_dict(queue.state_dict())
    for q in (queue, restored):
        q.push(torch.tensor([[9.0]]))
    assert torch.equal(queue.keys(), restored.keys())
    queue.push(torch.arange(100.0)[:, None])
    assert sorted(queue.keys()[:, 0].tolist()) == [95, 96, 97, 98, 99]


def test_observation_of_a_perfect_network(tmp_path: Path) -> None:
    """Intensity that encodes position, read off by a fixed encoder, is matched without error."""

    class ReadsPosition(TinyBackbone):
        """Pools the input; position is in the input's channels."""

        in_channels = 3
        channels, strides = (3, 3), ((1, 1, 1), (4, 4, 4))

        def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x, torch.nn.functional.avg_pool3d(x, 4)]

    class Angles(torch.nn.Module):
        """A unit vector from which any two positions differ."""

        def forward(self, position: torch.Tensor) -> torch.Tensor:
            angle = position * (torch.pi / 128)
            both = torch.cat([angle.cos(), angle.sin()], -1)
            return torch.nn.functional.normalize(both, dim=-1)

    backbone = ReadsPosition()
    method = build("s2dc", {**SMALL, "grid": (2, 2, 2), "intensity": {"probability": 0}})
    place = np.stack(np.indices((64, 64, 64))).astype(np.float32)
    source = ArraySource(place, np.diag([2.0, 2.0, 2.0, 1.0]), key="ramp", modality="MR")
    rng = np.random.default_rng(3)
    batch = stack([method.sample(source, rng) for _ in range(4)])
    network = Network(backbone, method.build_heads(backbone)).eval()
    network.heads.tokens = Angles()  # type: ignore[assignment]
    with torch.no_grad():
        observation = method.observe(batch, network, None, [[source]] * 4, step=5)

    scores = observation.scores
    assert scores["match_accuracy"].value > 99
    assert scores["match_error"].value < np.linalg.norm([8, 8, 8]) / 3  # within its token
    assert scores["match_error"].chance > 2 * scores["match_error"].value  # type: ignore[operator]
    assert scores["match_accuracy"].chance == pytest.approx(100 / 64)
    assert len(scores["match_accuracy"].samples) == len(observation.scans) == 4
    kinds = [panel.kind for _, panel in iter_panels(observation)]
    assert {"matches", "matrix", "overlay"} <= set(kinds)
    for _, panel in iter_panels(observation):
        if panel.kind == "matches":
            # Each arrow's true head holds the content of its tail: the scan is the coordinate.
            assert panel.true_vox.shape == panel.left_vox.shape  # type: ignore[attr-defined]
            near = panel.left.array  # type: ignore[attr-defined]
            far = panel.right.array  # type: ignore[attr-defined]
            for tail, head in zip(panel.left_vox, panel.true_vox, strict=True):  # type: ignore[attr-defined]
                head_vox = tuple(np.round(head).astype(int))
                if all(0 <= h < n for h, n in zip(head_vox, far.shape, strict=True)):
                    at_tail = near[tuple(np.floor(tail).astype(int))] + 0.5
                    assert abs(far[head_vox] - at_tail) < 1.5
    observation.save(tmp_path / "a.obs")
    assert Observation.load(tmp_path / "a.obs").scores.keys() == scores.keys()


def test_observation_warns_of_collapse_and_of_standing_still() -> None:
    method, batch, student, sources = prepared({"motion": {"translation": 0.1}}, samples=3)
    for parameter in student.backbone.encoder.parameters():
        torch.nn.init.constant_(parameter, float(parameter.ndim == 1))  # weights 0, biases 1
    student.eval()
    with torch.no_grad():
        observation = method.observe(batch, student, None, [[s] for s in sources], step=9)  # type: ignore[attr-defined]
    assert any("nearly constant" in warning for warning in observation.warnings)
    assert any("nothing moved" in warning for warning in observation.warnings)


def test_steps_on_one_batch_lower_the_loss() -> None:
    method, batch, student, _ = prepared({"temperature": 0.1, "weights": {"global": 0}})
    teacher = copy.deepcopy(student).requires_grad_(False)
    losses = []
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(12):
        loss = method.step(batch, student, teacher, torch.Generator()).losses["total"]  # type: ignore[attr-defined]
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for average, value in zip(teacher.parameters(), student.parameters(), strict=True):
            average.lerp_(value.detach(), 0.5)
    assert losses[-1] < losses[0] - 0.2


def test_presets_are_valid_and_fit() -> None:
    for name in PRESETS:
        config = validate(method_class("s2dc").Config, {"preset": name})
        assert all(size % 16 == 0 for size in config.crop_size)  # type: ignore[attr-defined]


def test_the_example_for_a_gpu_is_the_reference_preset() -> None:
    path = Path(__file__).parents[2] / "examples" / "s2dc-reference.yaml"
    run = load_config(PretrainConfig, path, ["data=store", "out=run"])
    config = method_class("s2dc").Config
    named = validate(config, {"preset": "reference"})
    assert validate(config, run.options) == named.model_copy(update={"preset": ""})
    preset = load_config(
        PretrainConfig, {"method": "s2dc", "options": {"preset": "reference"}}, ["data=s", "out=r"]
    )
    assert (run.teacher, run.optimiser) == (preset.teacher, preset.optimiser)


def test_the_stage_follows_the_number_of_tokens() -> None:
    for limit, stride in ((4096, 1), (4095, 2), (512, 2), (100, 2)):
        config = build(
            "s2dc", {**SMALL, "grid": (2, 2, 2), "stage": None, "max_tokens": limit}
        ).config
        assert token_vox(config, TinyBackbone()) == (stride,) * 3  # type: ignore[arg-type]


def test_the_authors_global_term_written_out() -> None:
    """One query an image, vectors as they are, a queue of unmoved crops, a fixed dustbin."""
    own = {"global_crops": 1, "global_unit": False, "global_temperature": 0.9}
    own |= {"queue_of": "unmoved", "queue_size": 3, "dustbin": 1.0, "norm": "layer"}
    method, batch, student, _ = prepared({**own, "weights": {"p2p": 0, "p2s": 0}})
    heads, teacher = student.heads, copy.deepcopy(student)
    assert "dustbin" not in dict(heads.named_parameters())
    assert float(heads.dustbin) == 1
    heads.queue.push(torch.randn(2, SMALL["features"]))  # type: ignore[arg-type]
    before = heads.queue.keys()
    got = method.step(batch, student, teacher, torch.Generator()).losses["global"]  # type: ignore[attr-defined]

    def embed(crops: torch.Tensor) -> torch.Tensor:
        return heads.crops(student.backbone.encode(crops)[-1].flatten(2).mean(-1))

    rows, chosen = torch.arange(2), batch["augmented_crop"][:, 0]
    query, key = embed(batch["source"][rows, chosen]), embed(batch["augmented"][:, 0])
    logits = query @ torch.cat([key, before]).T / 0.9
    want = -(logits.diagonal() - logits.logsumexp(1)).mean()
    torch.testing.assert_close(got, want)
    unmoved = embed(batch["source"][rows, chosen])
    torch.testing.assert_close(heads.queue.keys()[[2, 0]], unmoved)


BACKBONES = {
    "cnn": {"channels": [4, 8, 16, 16]},
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4, "norm": "group"},
}


@pytest.mark.filterwarnings("ignore:a region of")
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("term", ["p2p", "p2s", "global"])
def test_every_term_reaches_all_of_the_encoder_by_default(name: str, term: str) -> None:
    torch.manual_seed(0)
    size = 32 if name == "swin_unetr" else 16
    backbone = build_backbone(BackboneConfig(name=name, options=BACKBONES[name]))
    weights = {"p2p": 0, "p2s": 0, "global": 0} | {term: 1}
    options = {**SMALL, "stage": None, "crop_size": (size,) * 3, "grid": (2, 2, 1)}
    method = build("s2dc", {**options, "weights": weights})
    sources = smooth_sources(2, (2 * size, 2 * size, size))
    batch = stack([method.sample(s, np.random.default_rng(i)) for i, s in enumerate(sources)])
    student = Network(backbone, method.build_heads(backbone))
    teacher = copy.deepcopy(student)
    method.step(batch, student, teacher, torch.Generator()).losses["total"].backward()
    gradients = [(p.numel(), p.grad) for p in backbone.encoder.parameters()]
    reached = sum(n for n, g in gradients if g is not None and bool(g.any()))
    # Biases before a normalisation have no effect.
    assert reached >= 0.97 * sum(n for n, _ in gradients)
    assert all(p.grad is None for p in backbone.decoder.parameters())


def test_what_is_not_trained_or_too_coarse_is_said() -> None:
    with pytest.warns(UserWarning, match="stage 0 of 0–1: the stages beyond it get no gradient"):
        build("s2dc", {**SMALL, "stage": 0}).build_heads(TinyBackbone())
    few = {**SMALL, "crop_size": (4, 4, 4), "stage": None}
    with pytest.warns(UserWarning, match="only 16 tokens of 2×2×2 voxels"):
        build("s2dc", few).build_heads(TinyBackbone())


def test_refuses_a_stage_or_a_size_that_the_backbone_does_not_have() -> None:
    with pytest.raises(ConfigError, match="between -2 and 1"):
        build("s2dc", {**SMALL, "stage": 2}).build_heads(TinyBackbone())
    with pytest.raises(ConfigError, match="multiple of"):
        build("s2dc", {**SMALL, "crop_size": (9, 8, 8)}).build_heads(TinyBackbone())


def test_the_transport_plan_shows_slices_that_share_matches() -> None:
    """Everything moved two slices up: the middle slice's tokens have no match in the middle."""
    grid, up = (2, 3, 5), 2
    matches = torch.zeros(30, 30, dtype=torch.bool)
    tokens = torch.arange(30).reshape(grid)
    for near, far in zip(tokens[..., :-up].flatten(), tokens[..., up:].flatten(), strict=True):
        matches[near, far] = True
    matches[tokens[0, 0, 0], tokens[0, 0, up]] = False
    assert not matches[tokens[..., 2].flatten()[:, None], tokens[..., 2].flatten()].any()
    near, far = fullest_slices(matches, grid)
    assert far == near + up
    assert matches[tokens[..., near].flatten()[:, None], tokens[..., far].flatten()].sum() == 6
