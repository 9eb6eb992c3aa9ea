"""What every method must keep, those of other people too: run for each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_waits import DEVICE, assert_never_waits
from tiny import smooth_sources
from torch import Tensor
from torch.utils.data import default_collate

from situs.backbones import BackboneConfig
from situs.backbones import build as build_backbone
from situs.methods import Controls, Method, Nets, Network, Samples, available, build, passes
from situs.methods.observing import control_values, reach, reach_warnings, values
from situs.observation import verdicts
from situs.pretraining.controls import without_anatomy
from situs.pretraining.teacher import make_teacher
from situs.views.controls import Emptied, Shuffled
from situs.views.source import Source

EXAMPLE = Path(__file__).parents[2] / "examples" / "rotation"
PLUGIN = "situs_rotation:Rotation"
OPTIONS: dict[str, dict[str, Any]] = {
    "spatial": {"view_size": (16, 16, 16), "chunk_size": (4, 4, 4), "weights": {"voxel": 1.0}},
    "s2dc": {"grid": (2, 1, 1), "crop_size": (16, 16, 16), "global_crops": 2, "norm": "layer"},
    "mae": {"view_size": (16, 16, 16)},
    "simclr": {"view_size": (16, 16, 16)},
    "dino": {"global_size": (16,) * 3, "local_size": (8,) * 3, "locals": 2, "prototypes": 16},
    "voco": {"crop_size": (8, 8, 8)},
    "sal": {"size": (32, 32), "spacing_mm": 1.0, "weights": {"pixel": 1.0}},
    "planes": {"size": (32, 32), "spacing_mm": 1.0, "studies": "virtual", "slices": 4},
    PLUGIN: {"size": 16},
}
# Scores of guessing among answers, and how far above chance untrained features may be: overlapping
# crops look alike to any convolution, which is why an untrained network is a reference of its own.
GUESSED = {
    "spatial": ("adjacent_accuracy", 2.0),
    "s2dc": ("match_accuracy", 2.5),
    "voco": ("base_accuracy", 4.0),
    PLUGIN: ("turn_accuracy", 2.0),
}
# Scores that compare samples of a batch with each other.
AMONG_SAMPLES = {
    ("simclr", "retrieval_accuracy"),
    ("dino", "retrieval_accuracy"),
    ("s2dc", "crop_accuracy"),
    ("sal", "position_error"),
}


@pytest.fixture(params=list(OPTIONS))
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return made(request.param)


def made(name: str) -> Method:
    method = build(name, OPTIONS[name]).resolve_for_data(smooth_sources(4, (36, 34, 32)))
    return method.resolve_for_backbone(_backbone(method))


BACKBONES: dict[str, dict[str, Any]] = {
    "cnn": {"channels": [4, 8, 12]},
    "primus": {"width": 24, "heads": 2, "depth": 2, "patch": [4], "grid": [4]},
    "vit": {"width": 24, "heads": 2, "depth": 2, "patch": [4], "grid": [4]},
}


def _backbone(method: Method, name: str = "cnn") -> Any:
    config = BackboneConfig(name=name, spatial_dims=method.spatial_dims)
    return build_backbone(config.model_copy(update={"options": BACKBONES[name]}))


def nets_of(method: Method, seed: int = 0, name: str = "cnn") -> Nets:
    torch.manual_seed(seed)
    backbone = _backbone(method, name)
    student = Network(backbone, method.build_heads(backbone)).eval()
    return Nets(student, make_teacher(student) if method.uses_teacher else None)


def batch_of(method: Method, scans: list[Source], seed: int = 0) -> dict[str, Tensor]:
    return default_collate(
        [method.sample(s, np.random.default_rng([seed, i])) for i, s in enumerate(scans)]
    )


def test_all_of_situs_are_tested() -> None:
    assert set(OPTIONS) - {PLUGIN} == {n for n in available() if n != "rotation"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_gradient_arrives_where_the_method_says(method: Method, backbone: str) -> None:
    method = method.resolve_for_backbone(_backbone(method, backbone))
    nets = nets_of(method, name=backbone)
    found = {r.term: r for r in reach(method, batch_of(method, smooth_sources(2, (36,) * 3)), nets)}
    assert set(found) - {"total"} <= set(method.config.weights)
    assert found["total"].encoder == pytest.approx(100)
    assert reach_warnings(tuple(found.values())) == ()
    assert (found["total"].decoder > 90) if method.trains_decoder else found["total"].decoder == 0
    assert all(p.grad is None for p in nets.student.parameters())


WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OPTIONS),
    ("spatial", {"symmetric": True, "head": "pairwise", "vector_from": "coarse"}),
    ("spatial", {"weights": {"voxel": 1.0}, "chunk_pairs": "all", "chunk_head": "student"}),
    ("s2dc", {"motion": {"plane": "axial"}, "per_slice": True, "queue_of": "unmoved"}),
    ("sal", {"weights": {"pixel": 1.0}}),
    ("sal", {"window": 3, "features": "decoder", "stride": 4}),
    ("sal", {"position": "regress", "frame": "image", "window": 1}),
]


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_a_step_never_waits_for_the_device(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    scans = smooth_sources(4, (36, 34, 32))
    method = build(name, {**OPTIONS[name], **more}).resolve_for_data(scans)
    method = method.resolve_for_backbone(_backbone(method))
    student, teacher = (n and n.to(DEVICE).train() for n in nets_of(method))
    assert student is not None
    batch = {key: value.to(DEVICE) for key, value in batch_of(method, scans[:2]).items()}
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        method.step(batch, student, teacher, generator).losses["total"].backward()

    assert_never_waits(step)


def test_samples_are_pure(method: Method) -> None:
    scan = smooth_sources(1, (36, 34, 32))[0]
    one, again = (method.sample(scan, np.random.default_rng(5)) for _ in range(2))
    other = method.sample(scan, np.random.default_rng(6))
    assert one.keys() == again.keys() == other.keys()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_sample_alone_is_what_it_is_in_a_batch(method: Method) -> None:
    scans, nets = smooth_sources(3, (36, 34, 32)), nets_of(method)
    batch = batch_of(method, scans)
    alone = {key: value[1:2] for key, value in batch.items()}
    with torch.no_grad():
        many = method.measure(Samples(batch, [[s] for s in scans]), method.predict(batch, nets))
        one = method.measure(Samples(alone, [[scans[1]]]), method.predict(alone, nets))
    for whole, single in zip(many, one, strict=True):
        # What compares samples with each other cannot be the same with one of them.
        if whole.values is None or (method.name, whole.name) in AMONG_SAMPLES:
            continue
        expected = pytest.approx(whole.samples[1], rel=1e-3, abs=1e-3, nan_ok=True)
        assert single.samples[0] == expected, whole.name


def test_looking_at_a_few_images_at_a_time_changes_nothing(
    method: Method, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    nets, scans = nets_of(method), smooth_sources(3, (36, 34, 32))
    batch = batch_of(method, scans)
    samples = Samples(batch, [[scan] for scan in scans])
    sizes: list[int] = []
    nets.student.backbone.encoder.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))

    def look(pixels: int) -> tuple[dict[str, float], int]:
        monkeypatch.setitem(passes._AT_ONCE, "cpu", pixels)
        sizes.clear()
        with torch.no_grad():
            return values(method.measure(samples, method.predict(batch, nets))), max(sizes)

    whole, most = look(2**30)
    parts, least = look(1)
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4, nan_ok=True)
    assert most > 1
    if PLUGIN not in request.node.name:
        assert least == 1


def test_controls_change_content_and_nothing_else(method: Method) -> None:
    scans = smooth_sources(3, (36, 34, 32))
    real = batch_of(method, scans)
    content = {
        "views",
        "view",
        "image",
        "images",
        "slices",
        "source",
        "moved",
        "augmented",
        "parts",
    }
    for control in (Emptied, Shuffled):
        without = batch_of(method, [control(s) for s in scans])
        changed = {k for k in real if not torch.equal(real[k], without[k])}
        assert changed
        assert changed <= content


def test_an_untrained_network_guesses(method: Method, request: pytest.FixtureRequest) -> None:
    scans = smooth_sources(24, (36, 34, 32))
    batch, items = batch_of(method, scans), [[s] for s in scans]
    with torch.no_grad():
        seen = [
            method.observe(batch, nets.student, nets.teacher, items, 0)
            for nets in (nets_of(method, seed) for seed in range(3))
        ]
    if (key := request.node.callspec.params["method"]) in GUESSED:
        name, factor = GUESSED[key]
        scores = [o.scores[name] for o in seen]
        assert np.mean([s.value for s in scores]) < factor * scores[0].chance
    assert all(s.chance is None or np.isfinite(s.chance) for o in seen for s in o.scores.values())
    assert all(len(o.scans) == len(scans) for o in seen)


def test_every_observation_can_be_held_against_controls(method: Method) -> None:
    scans = smooth_sources(3, (36, 34, 32))
    batch, nets = batch_of(method, scans), nets_of(method)
    controls = Controls({"emptied": batch_of(method, [Emptied(s) for s in scans])}, nets)
    with torch.no_grad():
        seen = method.observe(batch, *nets, [[s] for s in scans], 0, controls)
        watched = method.features(method.predict(batch, nets))
    assert watched is None or watched.ndim == 2, "one row a view, not a matrix a sample"
    judged = [s for s in seen.scores.values() if s.collapsed is None]
    assert judged
    for score in judged:
        if np.isfinite(score.value):
            assert score.emptied is not None
            # The untrained network is the one observed.
            assert score.untrained == pytest.approx(score.value)
        assert score.groups in {(), (0, 1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_border_shortcut_is_caught(
    planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns of a view, where one corner of the view is cut off if the shortcut is planted."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    method = made(PLUGIN)
    draw = type(method).sample

    def marked(self: Any, scan: Source, rng: np.random.Generator) -> dict[str, Tensor]:
        sample = draw(self, scan, rng)
        if planted:  # as if the view always hung over the scan's border on one side
            turned = sample["view"].rot90(-int(sample["turns"]), (1, 2))
            turned[:, :5] = -3.0
            sample["view"] = turned.rot90(int(sample["turns"]), (1, 2)).contiguous()
        return sample

    monkeypatch.setattr(type(method), "sample", marked)
    scans = _gradients(24)
    train, held = scans[:16], scans[16:]
    kinds = {
        "real": (train, held),
        "emptied": tuple([i[0] for i in without_anatomy([[s] for s in part], "emptied")]
                         for part in (train, held)),
    }  # fmt: skip
    real = batch_of(method, held * 4, 7)
    samples = Samples(real, [[s] for s in held * 4])
    reached = {}
    for kind, (seen, asked) in kinds.items():
        nets = _trained(method, seen)
        with torch.no_grad():
            if kind == "real":
                measured = method.measure(samples, method.predict(real, nets))
                reached[kind] = values(measured)["turn_accuracy"]
            else:
                controls = Controls({kind: batch_of(method, asked * 4, 7)})
                found = control_values(method, samples, nets, controls)
                reached[kind] = found[kind]["turn_accuracy"]
    score = measured[0].score(tuple(i % 8 for i in range(32)), emptied=reached["emptied"])
    assert score.value > 80
    assert (verdicts.explained(score, "emptied") > 0.8) == planted
    assert verdicts.verdict(score) == ("better" if planted else "anatomy")
    assert ("read off the scan's border" in verdicts.explanation(score)) == planted


def _gradients(count: int) -> list[Any]:
    """Scans that are brighter towards one end: the content tells the turn."""
    scans = smooth_sources(count, (24, 24, 24))
    ramp = np.linspace(-2, 2, 24, dtype=np.float32)[None, :, None, None]
    return [type(s)(0.5 * s.array + ramp, s.affine, s.key) for s in scans]


def _trained(method: Method, scans: list[Any]) -> Nets:
    nets = nets_of(method)
    nets.student.train()
    optimiser = torch.optim.AdamW(nets.student.parameters(), 1e-2)
    for step in range(60):
        batch = batch_of(method, scans, step)
        optimiser.zero_grad()
        method.step(batch, *nets, torch.Generator()).losses["total"].backward()
        optimiser.step()
    nets.student.eval()
    return nets
