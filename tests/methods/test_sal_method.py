from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from situs import backbones
from situs.backbones.base import BackboneConfig
from situs.config import validate
from situs.errors import ConfigError
from situs.geometry import Plane
from situs.methods.base import Network
from situs.methods.sal import Sal, SalConfig, local_alignment, spread
from situs.methods.sal.heads import embed
from situs.methods.sal.matching import discs_of, matches, planes_of
from situs.methods.sal.registration import alignment_in_patient, registered
from situs.methods.sal.views import deformed, disc_places, draw_pair, sample_pairs
from situs.observation import Observation
from situs.views import ArraySource
from situs.views.controls import Emptied
from situs.views.planes import cut_planes
from situs.views.slices import Pose, ViewGrid, posed


def scan(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> ArraySource:
    rng = np.random.default_rng(seed)
    affine = np.diag([*spacing, 1.0])
    array = gaussian_filter(rng.normal(size=shape), 2)[None] * 10
    return ArraySource(array.astype(np.float32), affine, key=f"scan {seed}")


def network(method: Sal) -> Network:
    torch.manual_seed(0)
    options = {"channels": [8, 16, 16], "strides": [2]}
    backbone = backbones.build(BackboneConfig(name="cnn", spatial_dims=2, options=options))
    return Network(backbone, method.build_heads(backbone))


@pytest.mark.parametrize(
    ("spacing", "axes"), [((1.0, 1.0, 5.0), {2}), ((4.0, 1.0, 1.0), {0}), ((1, 1, 1), {0, 1, 2})]
)
def test_pairs_follow_the_stack_and_the_distance(
    spacing: tuple[float, float, float], axes: set[int]
) -> None:
    source = scan((20, 22, 18), spacing, 0)
    rng = np.random.default_rng(0)
    config = SalConfig(max_distance_mm=3.0)
    drawn = [draw_pair(source, config, rng) for _ in range(200)]
    assert {p.axis for p in drawn} == axes
    for axis, first, second in drawn:
        gap = abs(first - second) * spacing[axis]
        assert 0 < gap <= max(3.0, spacing[axis])
        assert 0 <= min(first, second) <= max(first, second) < source.shape[axis]


def test_slices_of_an_oblique_stack_lie_as_far_apart_as_their_planes_say() -> None:
    source = scan((24, 12, 22), (0.8, 4.0, 0.8), 0)
    source.affine[:3, :3] = (
        Rotation.from_euler("xyz", [35, -20, 50], degrees=True).as_matrix() @ source.affine[:3, :3]
    )
    config = SalConfig(size=(16, 16), spacing_mm=1.0, max_distance_mm=9.0, pairs=20)
    sample = sample_pairs(source, config, np.random.default_rng(0))
    assert sample["axis"].unique().tolist() == [1]
    gaps = set()
    for pair in range(20):
        first, second = planes_of({k: v[None] for k, v in sample.items()}, 0, pair)
        gap = abs(float(first.distance_mm(second.center_mm)))
        moved = float((sample["position"][pair, 0] - sample["position"][pair, 1]).abs()) * 11 * 4
        assert gap == pytest.approx(moved, abs=1e-4)
        assert abs(first.normal_mm @ second.normal_mm) == pytest.approx(1)
        gaps.add(round(gap, 3))
    assert gaps == {4.0, 8.0}


def test_the_second_slice_is_brought_under_the_first() -> None:
    """Features that are the patient's coordinates come out as those straight across."""
    source = scan((40, 40, 40), (1, 1, 1), 0)
    source.affine[:3, :3] = Rotation.from_euler("xyz", [20, 30, -10], degrees=True).as_matrix()
    config = SalConfig(size=(32, 24), spacing_mm=1.0, pairs=4, intensity=None)
    sample = sample_pairs(source, config, np.random.default_rng(3))
    batch = {k: v[None] for k, v in sample.items()}

    def grid(plane: Plane) -> np.ndarray:
        pixel = np.stack(np.meshgrid(np.arange(6), np.arange(8)), -1) * 4 + 1.5
        return plane.to_mm(pixel)

    planes = [planes_of(batch, 0, p) for p in range(4)]
    maps = torch.tensor(np.stack([grid(second).transpose(2, 0, 1) for _, second in planes]))
    maps.requires_grad_()
    under, shown = registered(maps, batch)
    assert 0.5 < shown.double().mean() < 1
    for p, (first, second) in enumerate(planes):
        here = grid(first)
        across = here - second.distance_mm(here)[..., None] * second.normal_mm
        position = (second.to_px(here) - 1.5) / 4
        inside = ((position > 0) & (position < [5, 7])).all(-1)  # beyond, nothing to interpolate
        found = under[p].detach().numpy().transpose(1, 2, 0)
        assert inside.sum() > 10
        assert shown[p].numpy()[inside].all()
        assert np.abs(found[inside] - across[inside]).max() < 1e-9
        assert (found[~shown[p].numpy()] == 0).all()
    under.sum().backward()
    assert torch.isfinite(maps.grad).all()


def test_alignment_in_the_patient_asks_for_the_right_place() -> None:
    """Features of the place are aligned; the same features mirrored in one view are not."""
    source = scan((40, 40, 40), (1, 1, 1), 0)
    config = SalConfig(size=(32, 32), spacing_mm=1.0, pairs=4, axes=(2,), intensity=None)
    sample = sample_pairs(source, config, np.random.default_rng(1))
    batch = {k: v[None] for k, v in sample.items()}
    pixel = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1) * 4 + 1.5
    centers = np.stack(np.meshgrid(np.arange(0, 40, 3), np.arange(0, 40, 3)), -1)
    maps = []
    for p in range(4):
        for plane in planes_of(batch, 0, p):
            d = plane.to_mm(pixel)[:, :, None, None, :2] - centers
            maps.append(np.exp(-(d**2).sum(-1) / 32).reshape(8, 8, -1).transpose(2, 0, 1))
    pairs = torch.tensor(np.stack(maps), dtype=torch.float32).unflatten(0, (4, 2))
    right = alignment_in_patient(pairs, batch, 2)
    mirrored = torch.stack([pairs[:, 0], pairs[:, 1].flip(-1)], 1)
    wrong = alignment_in_patient(mirrored, batch, 2)
    image = local_alignment(pairs[:, 0], pairs[:, 1], 2)
    assert right < 0.1
    assert right < image < wrong
    apart = {"across": batch["across"] + torch.tensor([[0.0, 0.0, 900.0], [0.0, 0.0, 0.0]])}
    assert alignment_in_patient(pairs, apart, 2) == 0


def test_embeddings_and_alignment_do_not_depend_on_the_batch() -> None:
    net = network(Sal(SalConfig(size=(32, 32), spacing_mm=1.0))).eval()
    slices = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = embed(net, slices)
        alone = [embed(net, one[None]) for one in slices]
    for k, one in enumerate(alone):
        assert torch.allclose(together.positions[k], one.positions[0], atol=1e-5)
        assert torch.allclose(together.slices[k], one.slices[0], atol=1e-5)
    i, j = together.positions[:3], together.positions[3:]
    for term in (lambda a, b: local_alignment(a, b, 3), lambda a, _: spread(a)):
        singly = torch.stack([term(i[k : k + 1], j[k : k + 1]) for k in range(3)]).mean()
        assert term(i, j).item() == pytest.approx(singly.item(), abs=1e-5)


def test_a_single_slice_is_its_own_neighbour() -> None:
    source = scan((20, 20, 1), (1, 1, 8), 0)
    pair = draw_pair(source, SalConfig(), np.random.default_rng(0))
    assert pair == (2, 0, 0)


def test_a_posed_view_is_turned_within_its_slice() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, 10, 5], degrees=True).as_matrix()
    base = Plane.from_affine(affine, 1, 3, (10, 10, 10))
    grid = ViewGrid((8, 12), 0.5)
    poses = [Pose(), Pose(np.radians(30), 1.2, (0.1, -0.2))]
    still, turned = posed([base] * 2, [base.center_mm] * 2, grid, poses)
    assert np.allclose(still.center_mm, base.center_mm)
    assert turned.spacing == (0.6, 0.6)
    assert np.degrees(np.arccos(turned.row_mm @ still.row_mm)) == pytest.approx(30)
    assert np.allclose(turned.normal_mm, base.normal_mm)
    corners = turned.to_mm([[0, 0], [11, 0], [0, 7], [11, 7]])
    assert np.abs(base.distance_mm(corners)).max() < 1e-12
    shift = turned.center_mm - still.center_mm
    assert shift @ turned.column_mm == pytest.approx(0.1 * 8 * 0.6)
    assert shift @ turned.row_mm == pytest.approx(-0.2 * 12 * 0.6)


def test_a_mirrored_view_shows_what_its_geometry_says() -> None:
    source, grid = scan((40, 30, 20), (1, 1, 1), 0), ViewGrid((15, 15), 1.0)
    base = Plane.from_affine(source.affine, 2, 9, source.shape)
    poses = [Pose(0.3, mirrored=m) for m in (False, True)]
    as_is, mirrored = posed([base] * 2, [base.center_mm] * 2, grid, poses)
    images = cut_planes(source, [as_is, mirrored])
    np.testing.assert_allclose(images[1], images[0][..., ::-1], atol=1e-4)
    assert np.allclose(mirrored.to_mm([[0, 4]]), as_is.to_mm([[14, 4]]))


def test_both_views_of_a_pair_look_at_one_part_of_a_larger_slice_however_they_are_turned() -> None:
    pose = {"rotation_deg": 180, "scale": 0, "shift": 0, "mirror": 0.5}
    weights = {"local": 0, "spread": 0}
    options = {"axes": [1], "shown": "all", "size": [24, 16], "spacing_mm": 1.0, "pairs": 20}
    config = validate(SalConfig, {**options, "pose": pose, "weights": weights})
    batch = sample_pairs(scan((60, 20, 50), (1, 1, 1), 0), config, np.random.default_rng(0))
    one = {name: values[None] for name, values in batch.items()}
    views = [planes_of(one, 0, pair) for pair in range(20)]
    middles = np.array([[plane.to_mm([[7.5, 11.5]])[0] for plane in pair] for pair in views])
    np.testing.assert_allclose(middles[:, 0, [0, 2]], middles[:, 1, [0, 2]], atol=1e-9)
    np.testing.assert_allclose(np.ptp(middles[:, 0, [0, 2]], axis=0), [36, 34], rtol=0.2)


def test_deformed_slices_are_smooth_bounded_and_only_placed() -> None:
    ramp = np.broadcast_to(np.arange(48, dtype=np.float32), (3, 1, 48, 48)).copy()
    moved = deformed(ramp, 3.0, np.random.default_rng(0))
    assert np.array_equal(moved, deformed(ramp, 3.0, np.random.default_rng(0)))
    away = np.abs(moved - ramp)[..., 8:-8, 8:-8]
    assert 0.5 < away.max() <= 3 + 1e-3
    assert np.abs(np.diff(moved, axis=-2)).max() < 1.5, "smooth"
    pcl = SalConfig(preset="pcl")
    assert pcl.weights["local"] == pcl.weights["spread"] == 0
    assert pcl.pose.mirror == 0.5
    with pytest.raises(ConfigError, match=r"only placed.*weights.local and weights.spread to 0"):
        validate(SalConfig, {"elastic_mm": 2})
    for term in ("spread", "pixel"):  # both are held against where a slice lies
        with pytest.raises(ConfigError, match=f"set weights.{term} to 0"):
            validate(SalConfig, {"preset": "pcl", "weights": {term: 1}})


def test_samples_are_reproducible_and_stack() -> None:
    method = Sal(SalConfig(size=(32, 32), spacing_mm=1.0, pairs=3))
    sources = [scan((40, 30, 20), (1, 1, 1), 0), scan((18, 30, 9), (0.7, 0.7, 5), 1)]
    samples = [method.sample(s, np.random.default_rng(4)) for s in (*sources, sources[0])]
    assert all(torch.equal(samples[0][k], samples[2][k]) for k in samples[0])
    assert {k: v.shape for k, v in samples[0].items()} == {
        k: v.shape for k, v in samples[1].items()
    }
    assert samples[0]["slices"].shape == (3, 2, 1, 32, 32)
    assert samples[1]["axis"].unique().tolist() == [2]
    assert ((samples[0]["position"] >= 0) & (samples[0]["position"] <= 1)).all()


@pytest.mark.parametrize("shown", ["all", "inside"])
def test_perfect_features_have_no_match_error(shown: str) -> None:
    """Features that are the patient's own coordinates find the place straight across."""
    source = scan((40, 40, 40), (1, 1, 1), 0)
    config = SalConfig(
        size=(32, 32), spacing_mm=1.0, pairs=2, intensity=None, shown=shown, shown_mm=24
    )
    batch = {k: v[None] for k, v in sample_pairs(source, config, np.random.default_rng(1)).items()}
    for pair in range(2):
        planes = planes_of(batch, 0, pair)
        axis = int(batch["axis"][0, pair, 0])
        maps = []
        for plane in planes:
            pixel = (np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1) + 0.5) * 4 - 0.5
            place = np.delete(plane.to_mm(pixel), axis, axis=-1) / 40
            # Bumps of one width around fixed centres: cosine is largest at the same place.
            centers = np.stack(np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 30)), -1)
            d = place[:, :, None, None] - centers
            maps.append(np.exp(-(d**2).sum(-1) / 0.02).reshape(8, 8, -1).transpose(2, 0, 1))
        image = torch.ones(32, 32)
        image[0, 0] = -100  # all but one corner is tissue
        discs = discs_of(batch, 0, pair)
        found = matches(*(torch.from_numpy(m) for m in maps), image, planes, discs)
        assert len(found.error_mm) > (20 if shown == "all" else 4)
        assert np.median(found.error_mm) < 2.5  # half a position of 4 mm, in both directions
        assert found.chance_mm > (10 if shown == "all" else 7)
        assert found.returned.mean() > (0.9 if shown == "all" else 0.7)
        for disc, points in zip(discs, (found.start_px, found.predicted_px), strict=True):
            assert disc.holds(points).all()


def test_without_anatomy_nothing_tells_what_matches() -> None:
    """Discs lie inside their slices, and the place in one says next to nothing of the other.

    The best answer that knows a place in the first disc, its distance from the middle, is hardly
    better than the middle of the second, whatever the place.
    """
    base, radius = Plane((0, 0, 0), (1, 0, 0), (0, 1, 0), (41, 51), (1.0, 1.0)), 10.0
    rng = np.random.default_rng(0)
    places = np.stack([disc_places(base, radius, rng) for _ in range(20_000)])
    assert (np.abs(places) <= [25 - radius, 20 - radius]).all()
    start = rng.uniform(-radius, radius, (len(places), 2))
    there = start + places[:, 0] - places[:, 1]
    both = (np.linalg.norm(start, axis=1) < radius) & (np.linalg.norm(there, axis=1) < radius)
    start, there = start[both], there[both]
    middle = np.linalg.norm(there, axis=1).mean()
    away = np.linalg.norm(start, axis=1)
    unit = start / away[:, None]
    along = (there * unit).sum(1)
    across = there[:, 0] * unit[:, 1] - there[:, 1] * unit[:, 0]
    ring = np.digitize(away, np.linspace(0, radius, 11))
    guess = np.array([np.median(along[ring == r]) for r in range(12) if (ring == r).any()])
    best = np.hypot(along - guess[np.unique(ring, return_inverse=True)[1]], across).mean()
    assert best > 0.97 * middle
    assert middle < np.linalg.norm(there - start, axis=1).mean()
    assert 0.3 < both.sum() / (len(both) * np.pi / 4) < 0.5

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix() * [1, 1, 2]
    source = ArraySource(np.ones((1, 40, 44, 24), np.float32), affine, air=(-3.0,))
    method = Sal(SalConfig(spacing_mm=1.0, pairs=8, intensity=None)).resolve_for_data([source])
    assert method.config.shown_mm == pytest.approx(0.55 * 42, abs=4)
    sample = method.sample(Emptied(source), np.random.default_rng(0))
    assert set(sample["slices"].numpy().round(4).ravel().tolist()) == {-3.0, 1.0}
    size = (method.config.shown_mm / sample["pixel_mm"]) ** 2 * np.pi / 4
    seen = (sample["slices"][:, :, 0] > 0).sum((-2, -1))
    assert torch.allclose(seen.double(), size, rtol=0.05)


def test_slices_that_are_only_placed_are_shown_whole_and_runs_of_before_stay_so() -> None:
    sources = [scan((30, 30, 24), (1, 1, 1), 0)]
    placed = Sal(SalConfig(weights={"local": 0, "spread": 0})).resolve_for_data(sources).config
    assert (placed.shown, placed.radius_mm) == ("all", None)
    matched = Sal(SalConfig()).resolve_for_data(sources).config
    assert matched.shown == "inside"
    assert SalConfig.model_validate(matched.model_dump()) == matched
    saved = {k: v for k, v in matched.model_dump().items() if not k.startswith("shown")}
    assert SalConfig.model_validate(saved).radius_mm is None


@pytest.mark.parametrize("position", ["contrast", "regress"])
def test_learns_and_observes(position: str) -> None:
    sources = [scan((30, 30, 24), (1, 1, 1), seed) for seed in range(4)]
    for s in sources:  # a ramp along every axis tells the position
        s.array[0] += sum(np.meshgrid(*[np.linspace(-4, 4, n) for n in s.shape], indexing="ij"))
    method = Sal(SalConfig(axes=(2,), embedding=16, position=position, intensity=None))
    method = method.resolve_for_data(sources)
    assert method.config.size == (32, 32)
    assert method.config.spacing_mm == 1.0
    net = network(method)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator()
    totals = []
    for step in range(40):
        samples = [method.sample(s, np.random.default_rng([step, i]))
                   for i, s in enumerate(sources)]  # fmt: skip
        batch = torch.utils.data.default_collate(samples)
        result = method.step(batch, net, None, generator)
        assert set(result.losses) == {"local", "spread", "global", "total"}
        optimiser.zero_grad()
        result.losses["total"].backward()
        optimiser.step()
        totals.append(result.losses["total"].item())
    assert np.mean(totals[-5:]) < 0.9 * np.mean(totals[:5])
    net.eval()
    with torch.no_grad():
        observation = method.observe(batch, net, None, [[s] for s in sources], 25)
    scores = observation.scores
    assert scores["match_distance"].chance > 0
    assert len(scores["match_distance"].samples) == len(observation.scans) == 4
    assert np.isfinite([s.value for s in scores.values()]).all()
    kinds = {p.kind for section in observation.sections for p in section.panels}
    assert kinds == {"matches", "scatter", "curve"}


def test_hard_negatives_are_those_of_other_scans() -> None:
    """With one scan in a batch there are none, and nothing changes; with more the loss grows."""
    sources = [scan((30, 30, 24), (1, 1, 1), seed) for seed in range(3)]
    plain = Sal(SalConfig(axes=(2,), weights={"local": 0, "spread": 0})).resolve_for_data(sources)
    hard = Sal(plain.config.model_copy(update={"hardness": 3.0}))
    net = network(plain)
    samples = [plain.sample(s, np.random.default_rng(i)) for i, s in enumerate(sources)]
    for some, larger in ((samples[:1], False), (samples, True)):
        batch = torch.utils.data.default_collate(some)
        torch.manual_seed(0)
        first, second = (m.step(batch, net, None, torch.Generator()).losses for m in (plain, hard))
        assert (second["global"] > first["global"]) == larger


def test_observation_survives_a_file(tmp_path) -> None:
    sources = [scan((30, 30, 24), (1, 1, 1), 0)]
    method = Sal(SalConfig(pairs=1)).resolve_for_data(sources)
    net = network(method).eval()
    sample = method.sample(sources[0], np.random.default_rng(0))
    batch = torch.utils.data.default_collate([sample])
    with torch.no_grad():
        observation = method.observe(batch, net, None, [sources], 0)
    observation.save(tmp_path / "x.obs")
    again = Observation.load(tmp_path / "x.obs")
    assert again.scores.keys() == observation.scores.keys()


def test_collapse_is_warned_about_with_a_remedy() -> None:
    sources = [scan((30, 30, 24), (1, 1, 1), 0)]
    method = Sal(SalConfig(pairs=1)).resolve_for_data(sources)
    net = network(method).eval()
    with torch.no_grad():
        net.heads.local.weight.zero_()
        batch = torch.utils.data.default_collate(
            [method.sample(sources[0], np.random.default_rng(0))]
        )
        observation = method.observe(batch, net, None, [sources], 0)
    assert "weights.spread" in observation.warnings[0]


def test_terms_can_be_switched_off_and_typos_are_errors() -> None:
    sources = [scan((30, 30, 24), (1, 1, 1), 0)]
    method = Sal(SalConfig(weights={"global": 0, "spread": 0})).resolve_for_data(sources)
    sample = method.sample(sources[0], np.random.default_rng(0))
    batch = torch.utils.data.default_collate([sample])
    result = method.step(batch, network(method), None, torch.Generator())
    assert set(result.losses) == {"local", "total"}
    assert result.losses["total"] == result.losses["local"]
    with pytest.raises(ConfigError, match="resolve_for_data"):
        _ = SalConfig().grid


def test_positions_are_embedded_from_what_is_asked_and_reach_it() -> None:
    slices = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for options, size, decodes in (
        ({}, 4, False),
        ({"stride": 2}, 8, False),
        ({"features": "decoder"}, 4, True),
    ):
        method = Sal(SalConfig(size=(16, 16), spacing_mm=1.0, **options))
        net = network(method)
        out = embed(net, slices)
        assert out.positions is not None
        assert out.positions.shape[-2:] == (size, size)
        spread(out.positions).backward()
        touched = [p.grad is not None for p in net.backbone.decoder.parameters()]
        assert any(touched) == decodes == method.trains_decoder


def test_position_alone_decodes_nothing_and_is_judged_by_position() -> None:
    weights = {"local": 0, "spread": 0}
    sources = [scan((20, 20, 8), (1, 1, 6), s) for s in range(3)]
    method = Sal(SalConfig(size=(16, 16), weights=weights)).resolve_for_data(sources)
    assert method.config.position_threshold == 0.35  # eight slices are a short stack
    assert method.monitor == "position_error"
    net = network(method)
    rng = np.random.default_rng(0)
    samples = [method.sample(source, rng) for source in sources]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    result = method.step(batch, net, None, torch.Generator())
    result.losses["total"].backward()
    assert all(p.grad is None for p in net.backbone.decoder.parameters())
    assert all(p.grad is not None for p in net.backbone.encoder.parameters())
    with torch.no_grad():
        found = method.observe(batch, net.eval(), None, [[s] for s in sources], 0)
    assert {"position_error", "feature_rank"} <= found.scores.keys()
    assert "match_distance" not in found.scores
