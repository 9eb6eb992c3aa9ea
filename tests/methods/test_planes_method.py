from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from situs import backbones
from situs.backbones.base import BackboneConfig
from situs.catalog.stacks import Stack
from situs.catalog.studies import load_rules
from situs.errors import ConfigError, SitusError
from situs.geometry import Plane, intersect, line_heatmap, transform_lines
from situs.geometry.line_fit import fit_line
from situs.geometry.lines import line_angle_deg, line_offset_mm
from situs.geometry.stacks import stack_axis
from situs.methods.base import Nets, Network, Samples, Scores
from situs.methods.planes import Planes, PlanesConfig, line, location, plan_plane, planning_section
from situs.methods.planes.frames import fitted_frames
from situs.methods.planes.heads import places, predict
from situs.methods.planes.method import studies_of
from situs.methods.planes.planning_section import planned_section
from situs.methods.planes.predictions import Predictions
from situs.methods.planes.scoring import (
    chance_line_errors,
    constant_lines,
    deviations,
    line_errors,
    plan_planes,
    views_of,
)
from situs.methods.planes.views import sample_study, slices_of_stacks
from situs.methods.preview import WholeScans
from situs.observation import LinesPanel, Observation
from situs.views import ArraySource
from situs.views.controls import Emptied
from situs.views.decoded import Kept
from situs.views.planes import centred_plane, cut_planes
from situs.views.planes_virtual import VirtualConfig
from situs.views.slices import Pose, ViewGrid, posed, unposed

collate = torch.utils.data.default_collate


def volume(seed: int, shape: tuple[int, int, int] = (36, 40, 32)) -> ArraySource:
    rng = np.random.default_rng(seed)
    array = gaussian_filter(rng.normal(size=shape), 2) * 5
    mm = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    array += 6 * (np.linalg.norm(mm, axis=0) < 0.8) + 2 * mm[0] + 3 * mm[2]
    return ArraySource(array[None].astype(np.float32), np.eye(4), key=f"volume {seed}")


def heart_like(seed: int, roles: tuple[str, ...] = ("sax", "2ch", "4ch")) -> list[ArraySource]:
    """Stacks in three orientations about one centre."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", [25, 35, -10], degrees=True).as_matrix()
    frames = {"sax": turn[:, [0, 1, 2]], "2ch": turn[:, [1, 2, 0]], "4ch": turn[:, [2, 0, 1]]}
    study = []
    for role in roles:
        slices = 9 if role == "sax" else 1
        affine = np.eye(4)
        affine[:3, :3] = frames[role] * [1.5, 1.5, 8.0]
        affine[:3, 3] = -affine[:3, :3] @ (np.array([32, 32, slices]) - 1) / 2
        array = rng.normal(size=(1, 32, 32, slices)).astype(np.float32)
        study.append(ArraySource(array, affine, key=role, study=f"s{seed}", description=role))
    return study


SERIES = PlanesConfig(studies="series", rules="heart", size=(48, 48), spacing_mm=1.5)
VIRTUAL = PlanesConfig(studies="virtual", size=(32, 32), spacing_mm=1.2, sigma_px=4)


def test_lines_of_a_real_study_are_where_the_planes_meet() -> None:
    study = heart_like(0)
    sample = sample_study(study, SERIES, np.random.default_rng(0))
    assert sample["images"].shape == (6, 1, 48, 48)
    assert sample["visible"].any()
    assert not sample["visible"][:, 2].any()  # no 3-chamber view in this study
    assert sample["present"].tolist() == [True, True, False, True]
    views = views_of({k: v[None] for k, v in sample.items()}, 0)
    for k, r in np.argwhere(sample["visible"].numpy()):
        assert sample["role"][k] != r
        a, b, c = sample["lines"][k, r].double().numpy()
        for t in (-10.0, 10.0):
            pixel = np.array([-c * a - t * b, -c * b + t * a])
            point, normal = sample["target_mm"][r].numpy()
            assert abs((views[k].to_mm(pixel) - point) @ normal) < 1e-3


def test_places_come_from_position_and_single_slices_have_none() -> None:
    study = heart_like(1)
    seen: dict[int, set[float]] = {}
    for i in range(40):
        sample = sample_study(study, SERIES, np.random.default_rng(i))
        for role, place, known in zip(
            sample["role"].tolist(), sample["location"].tolist(), sample["located"].tolist(),
            strict=True,
        ):  # fmt: skip
            assert known is (role == 0)
            if known:
                seen.setdefault(role, set()).add(round(place * 8, 4))
    assert seen == {0: set(map(float, range(9)))}


def test_a_study_without_roles_still_gives_a_sample() -> None:
    sample = sample_study([volume(0)], SERIES, np.random.default_rng(0))
    assert not sample["visible"].any()
    assert sample["located"].all()
    assert (sample["role"] == -1).all()


def test_augmentation_moves_image_and_line_together() -> None:
    """The line fitted in the augmented heat map is the line of the still view, transformed."""
    rng = np.random.default_rng(2)
    grid = ViewGrid((64, 64), 1.3)
    for _ in range(6):
        axes = Rotation.random(random_state=rng.integers(1000)).as_matrix()
        base = centred_plane(rng.normal(scale=4, size=3), axes[0], axes[1], (1, 1), (1, 1))
        target = centred_plane(np.zeros(3), axes[2], axes[0] + axes[1], (1, 1), (1, 1))
        still = unposed([base], grid)[0]
        pose = Pose(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.9, 1.1)), (0.05, -0.08))
        moved = posed([base], [base.center_mm], grid, [pose])[0]
        # The pixels of the still view that the augmented view's pixels show.
        corners = np.array([[0.0, 0], [63, 0], [0, 63]])
        there = still.to_px(moved.to_mm(corners))
        ones = np.ones((3, 1))
        forward = np.linalg.solve(np.hstack([there, ones]), np.hstack([corners, ones])).T
        expected = transform_lines(intersect([still], [target])[0][0], forward)
        line_there = intersect([moved], [target])[0][0]
        heat = line_heatmap(line_there, grid.size, (1.0, 1.0), 6.0)
        fitted, confidence = fit_line(heat, (1.0, 1.0), 6.0)
        assert confidence[0] > 0.99
        assert line_angle_deg(fitted, expected, (1, 1))[0] < 1e-2
        assert line_offset_mm(fitted, expected, grid.size, (1, 1))[0] < 1e-2


def test_line_loss_counts_visible_channels_only() -> None:
    rng = np.random.default_rng(0)
    lines = torch.tensor([[[1.0, 0, -8], [0, 1, -5]], [[0.6, 0.8, -9], [0, 0, 0]]])
    visible = torch.tensor([[True, False], [True, False]])
    maps = torch.tensor(rng.normal(size=(2, 2, 16, 20)), dtype=torch.float32, requires_grad=True)
    loss = line(maps, lines, visible, 3.0)
    truth = line_heatmap(lines[:, 0].numpy(), (16, 20), (1.0, 1.0), 3.0)
    expected = ((maps.detach().numpy()[:, 0] - truth) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert (maps.grad[:, 1] == 0).all()
    assert line(maps, lines, torch.zeros(2, 2, dtype=torch.bool), 3.0) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_the_line_loss_survive_half_precision(dtype: torch.dtype) -> None:
    """A pixel's share of the loss is below fp16's range until the loss is scaled."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(8, 3, 3, generator=generator)
    lines[..., :2] /= lines[..., :2].norm(dim=-1, keepdim=True)
    narrow = (torch.rand(8, 3, 128, 128, generator=generator) / 10).to(dtype).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    visible = torch.ones(8, 3, dtype=torch.bool)
    for heatmaps in (narrow, wide):
        (line(heatmaps, lines, visible, 4.0) * 2**16).backward()
    assert narrow.grad.dtype == dtype
    assert (narrow.grad.double() - wide.grad).norm() < 0.01 * wide.grad.norm()


def test_location_loss_skips_single_slices() -> None:
    predicted, true = torch.tensor([0.1, 0.5, 9.0]), torch.tensor([0.0, 0.9, 0.0])
    loss = location(predicted, true, torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx((0.01 + 0.16) / 2)


def test_planning_from_true_lines_gives_the_plane_back() -> None:
    batch = collate(
        [sample_study([volume(i)], VIRTUAL, np.random.default_rng(i)) for i in range(4)]
    )
    visible = batch["visible"].numpy()
    planned = plan_planes(batch, batch["lines"].double().numpy(), visible.astype(float))
    angle, distance = deviations(batch, planned)
    assert np.isfinite(angle).mean() > 0.5
    assert np.nanmax(angle) < 1e-2
    assert np.nanmax(distance) < 1e-2


def test_planned_planes_are_drawn_where_they_cut_a_slice() -> None:
    items = [volume(i) for i in range(3)]
    batch = collate(
        [sample_study([v], VIRTUAL, np.random.default_rng(i)) for i, v in enumerate(items)]
    )
    lines, sure = batch["lines"].double().numpy(), batch["visible"].double().numpy()
    found = Predictions(
        heatmaps=np.zeros((*lines.shape[:3], 1, 1)),
        lines=lines,
        confidence=sure,
        planned=plan_planes(batch, lines, sure),
        location=batch["location"].numpy(),
        features=torch.zeros(1, 1),
    )
    samples = Samples(batch, [[item] for item in items])
    panels = planned_section(VIRTUAL, found, samples, WholeScans(), Scores()).panels
    assert panels
    for panel in panels:
        assert isinstance(panel, LinesPanel)
        assert len(panel.names)
        sample = next(i for i, v in enumerate(items) if v.key in panel.title)
        image = next(
            i
            for i, a in enumerate(batch["images"][sample, :, 0].numpy())
            if (a == panel.image).all()
        )
        roles = [VIRTUAL.roles.index(name) for name in panel.names]
        assert batch["role"][sample, image] not in roles
        for drawn in (panel.true, panel.predicted):
            sign = np.sign((drawn * lines[sample, image, roles])[:, :2].sum(-1, keepdims=True))
            np.testing.assert_allclose(sign * drawn, lines[sample, image, roles], atol=0.02)


def test_planning_survives_noise_and_says_what_it_lacks() -> None:
    rng = np.random.default_rng(0)
    target = centred_plane([2, -1, 3], [1, 0, 0], [0, 0.8, 0.6], (40, 40), (1, 1))
    views = []
    for _ in range(7):
        axes = Rotation.random(random_state=rng.integers(1000)).as_matrix()
        views.append(centred_plane(rng.normal(size=3), axes[0], axes[1], (60, 60), (1.2, 1.2)))
    lines = intersect(views, [target])[0][:, 0]
    noisy = lines + rng.normal(scale=[0.01, 0.01, 0.5], size=lines.shape)
    noisy /= np.linalg.norm(noisy[:, :2], axis=1, keepdims=True)
    noisy[3] = [1, 0, -5]  # one line is nonsense
    planned = plan_plane(views, noisy)
    angle, distance = planned.deviation(target)
    assert angle < 2
    assert distance < 1
    assert planned.fit.residuals_mm[3] > 5 * np.median(planned.fit.residuals_mm)
    again = planned.plane((20, 30), (1.0, 2.0))
    assert np.allclose(again.center_mm, planned.fit.point_mm)
    with pytest.raises(SitusError, match="1 of 7 views"):
        plan_plane(views, noisy, [1, 0, 0, 0, 0, 0, 0])
    with pytest.raises(SitusError, match="not parallel"):
        plan_plane([views[0], views[0]], noisy[:2])


def test_long_axis_views_alone_do_not_fix_a_long_axis_plane() -> None:
    """They all see the long axis; the plane through it is free to turn about it."""
    turned = [
        Rotation.from_rotvec(np.radians([0, 0, angle])).apply([[1, 0, 0], [0, 0, 1]])
        for angle in (0, 60, 120)
    ]
    two, three, target = (centred_plane([0, 0, 0], a, b, (60, 60), (2, 2)) for a, b in turned)
    short = centred_plane([0, 0, 30], [1, 0, 0], [0, 1, 0], (60, 60), (2, 2))
    lines = intersect([two, three, short], [target])[0][:, 0]
    lines[1, 2] += 2.0  # pixels
    with pytest.raises(SitusError, match="nearly one line"):
        plan_plane([two, three], lines[:2])
    angle, _ = plan_plane([two, three, short], lines).deviation(target)
    assert angle < 3


def test_errors_and_their_chance() -> None:
    true = np.array([[[1.0, 0, -10]], [[1.0, 0, -14]], [[0, 1.0, -16]]])
    visible = np.array([[True], [True], [False]])
    pixel = np.array([2.0, 2.0, 2.0])
    shape = (32, 32)
    exact = line_errors(true, true, visible, shape, pixel)
    assert np.nanmax(exact.angle_deg) == 0
    assert np.isnan(exact.angle_deg[2, 0])
    shifted = line_errors(true + np.array([0, 0, 1.5]), true, visible, shape, pixel)
    assert shifted.distance_mm[:2, 0].tolist() == [3.0, 3.0]
    chance = chance_line_errors(true, visible, shape, pixel)
    assert chance.distance_mm[:2, 0].tolist() == [8.0, 8.0]
    views = np.array([1, 1, 1])
    constant = line_errors(constant_lines(true, visible, shape, views), true, visible, shape, pixel)
    assert constant.distance_mm[:2, 0].tolist() == [4.0, 4.0]
    own = constant_lines(true, visible, shape, np.array([1, 2, 2]))
    assert np.nanmax(line_errors(own, true, visible, shape, pixel).distance_mm) == 0
    silent = line_errors(np.full_like(true, np.nan), true, visible, shape, pixel)
    assert silent.angle_deg[:2, 0].tolist() == [90, 90]


def test_mode_follows_the_data(caplog: pytest.LogCaptureFixture) -> None:
    hearts = [s for i in range(3) for s in heart_like(i)]
    config = PlanesConfig(rules="heart")
    assert studies_of(hearts, config) == "series"
    assert studies_of([volume(i) for i in range(3)], config) == "virtual"
    assert studies_of(hearts, PlanesConfig(rules="knee")) == "virtual"  # one stack of slices
    mixed = [*heart_like(0), volume(1), volume(2)]
    assert studies_of(mixed, PlanesConfig()) == "virtual"
    assert "1 of 3 studies" in caplog.text
    assert "cut out of all scans" in caplog.text
    assert studies_of(mixed, config) == "series", "rules were asked for"
    method = Planes(PlanesConfig(rules="heart")).resolve_for_data(hearts)
    assert method.config.roles == ("sax", "2ch", "3ch", "4ch")
    assert method.config.size == (32, 32)
    with pytest.raises(ConfigError, match="resolve_for_data"):
        _ = config.grid


def network(method: Planes) -> Network:
    torch.manual_seed(0)
    options = {"channels": [8, 16, 16], "strides": [2]}
    backbone = backbones.build(BackboneConfig(name="cnn", spatial_dims=2, options=options))
    return Network(backbone, method.build_heads(backbone))


def test_what_guessing_plans_is_kept_for_the_same_samples_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = [[volume(i)] for i in range(3)]
    method = Planes(VIRTUAL)
    nets = Nets(network(method).eval())

    def guessed(seed: int) -> list[tuple[float | None, float | None]]:
        batch = collate(
            [
                method.sample_study(item, np.random.default_rng([seed, i]))
                for i, item in enumerate(items)
            ]
        )
        with torch.no_grad():
            measured = method.measure(Samples(batch, items), method.predict(batch, nets))
        return [(m.chance, m.constant) for m in measured if m.name.startswith("plan_")]

    first, other = guessed(0), guessed(1)
    assert len(first) == 2
    assert first != other
    monkeypatch.setattr(planning_section, "_kept", Kept(16, lambda _: 1))
    assert guessed(1) == other
    assert guessed(0) == first  # not those kept for the same scans
    assert guessed(1) == other
    monkeypatch.setattr(planning_section, "plan_planes", None)
    assert guessed(1) == other  # planned once


def test_places_are_told_without_the_decoder() -> None:
    net = network(Planes(VIRTUAL)).eval()
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(places(net, images), predict(net, images).location)


def test_learns_and_observes(tmp_path: Path) -> None:
    items = [[volume(i)] for i in range(4)]
    method = Planes(VIRTUAL.model_copy(update={"slices": 4, "intensity": None}))
    net = network(method)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    terms: dict[str, list[float]] = {"line": [], "location": [], "total": []}
    for step in range(20):
        batch = collate([method.sample_study(item, np.random.default_rng([step, i]))
                         for i, item in enumerate(items)])  # fmt: skip
        result = method.step(batch, net, None, torch.Generator())
        assert set(result.losses) == set(terms)
        optimiser.zero_grad()
        result.losses["total"].backward()
        optimiser.step()
        for name, value in result.losses.items():
            terms[name].append(value.item())
    for values in terms.values():
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    net.eval()
    with torch.no_grad():
        observation = method.observe(batch, net, None, items, 20)
    scores = observation.scores
    assert scores["line_distance"].chance > scores["line_distance"].constant > 0
    assert all(len(s.samples) == 4 for s in scores.values() if s.collapsed is None)
    kinds = {p.kind for section in observation.sections for p in section.panels}
    assert kinds == {"lines", "scatter", "curve"}
    observation.save(tmp_path / "x.obs")
    read = Observation.load(tmp_path / "x.obs")
    assert read.scores.keys() == scores.keys()
    # The image of a panel is found again where its affine says that it lies in the scan.
    panel = read.sections[0].panels[0]
    assert isinstance(panel, LinesPanel)
    assert panel.affine is not None
    assert panel.volume is not None
    row, column = np.indices(panel.image.shape)
    pixels = np.stack([column, row, np.zeros_like(row), np.ones_like(row)]).reshape(4, -1)
    places = np.linalg.inv(panel.volume.affine) @ panel.affine @ pixels
    found = map_coordinates(panel.volume.array.astype(np.float32), places[:3], order=1)
    last = np.array(panel.volume.array.shape)[:, None] - 1
    inside = ((places[:3] >= 0) & (places[:3] <= last)).all(0)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(found[inside], panel.image.ravel()[inside], atol=0.05)


def test_samples_are_pure_and_stack_across_studies() -> None:
    samples = [sample_study(heart_like(i), SERIES, np.random.default_rng(7)) for i in (0, 1, 0)]
    assert all(torch.equal(samples[0][k], samples[2][k]) for k in samples[0])
    assert collate(samples)["lines"].shape == (3, 6, 4, 3)


def test_real_and_virtual_views_observe_real_studies() -> None:
    items = [heart_like(i) for i in range(2)]
    method = Planes(SERIES.model_copy(update={"slices": 3}))
    batch = collate(
        [method.sample_study(item, np.random.default_rng(i)) for i, item in enumerate(items)]
    )
    with torch.no_grad():
        observation = method.observe(batch, network(method).eval(), None, items, 0)
    assert np.isfinite(observation.scores["line_distance"].value)
    # A panel's image is a slice of the scan that it names: no other of the study lies so.
    panels = [p for s in observation.sections for p in s.panels if isinstance(p, LinesPanel)]
    assert len({panel.volume.name for panel in panels}) > 1
    for panel in panels:
        assert panel.volume.name in panel.title
        in_volume = np.linalg.inv(panel.volume.affine) @ panel.affine
        np.testing.assert_allclose(
            in_volume[2], [0, 0, in_volume[2, 2], in_volume[2, 3]], atol=1e-5
        )
        assert -1e-3 < in_volume[2, 3] < panel.volume.array.shape[2] - 1 + 1e-3


def test_plane_equality_of_target_and_view() -> None:
    view = Plane(np.zeros(3), [1, 0, 0], [0, 1, 0], (4, 4), (1, 1))
    planned_angle = plan_plane(
        [view, centred_plane([0, 0, 0], [0, 1, 0], [0, 0, 1], (4, 4), (1, 1))],
        [[1.0, 0, -1], [0.0, 1, -1]],
    )
    assert planned_angle.views == (0, 1)


def test_what_is_said_of_a_slice_does_not_depend_on_its_batch() -> None:
    net = network(Planes(VIRTUAL)).eval()
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = predict(net, images)
        alone = [predict(net, image[None]) for image in images]
    for k, one in enumerate(alone):
        assert torch.allclose(together.heatmaps[k], one.heatmaps[0], atol=1e-5)
        assert torch.allclose(together.location[k], one.location[0], atol=1e-5)


def test_a_study_is_the_same_wherever_the_patient_lies() -> None:
    """A rigid motion of the whole study changes neither images, lines nor places."""
    here, there = heart_like(3), []
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [70, -20, 100], degrees=True).as_matrix()
    motion[:3, 3] = [40, -100, 7]
    for s in here:
        there.append(
            ArraySource(s.array, motion @ s.affine, s.key, study=s.study, description=s.description)
        )
    one, two = (sample_study(s, SERIES, np.random.default_rng(5)) for s in (here, there))
    for name in ("images", "lines"):
        assert torch.allclose(one[name], two[name], atol=2e-4), name
    for name in ("visible", "location", "located", "role", "present"):
        assert torch.equal(one[name], two[name]), name
    assert one["visible"].any()


@pytest.mark.parametrize(
    ("order", "flips"), [((1, 0, 2), (0,)), ((2, 1, 0), (0, 1)), ((1, 2, 0), (1,))]
)
def test_the_order_that_voxels_are_stored_in_says_nothing(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    """Axes permuted and flipped, images, lines and places stay the same."""
    here, there = heart_like(4), []
    for s in here:
        image = nib.Nifti1Image(s.array[0], s.affine)
        turn = [[order.index(a), -1 if a in flips else 1] for a in range(3)]
        moved = image.as_reoriented(np.array(turn))
        array = np.ascontiguousarray(np.asarray(moved.dataobj)[None])
        there.append(
            ArraySource(array, moved.affine, s.key, study=s.study, description=s.description)
        )
    method = Planes(SERIES).resolve_for_data(here)
    assert set(method.config.frames) == {"sax", "2ch", "4ch"}
    for role, frame in Planes(SERIES).resolve_for_data(there).config.frames.items():
        assert frame == pytest.approx(method.config.frames[role])
    every = [{}, {}]
    for n, study in enumerate((here, there)):
        for source in study:
            axis = stack_axis(source.shape, source.spacing)
            role = method.config.roles.index(source.description)
            for index in range(source.shape[axis]):
                one = slices_of_stacks([(Stack.of(source), index, role)], method.config)
                views = posed(one.bases, one.bases.center_mm, method.config.grid, [Pose(0.2)])
                view, at = views[0], float(one.locations[0])
                image = cut_planes(source, [view])[0]
                every[n][source.key, round(at * 8) if role == 0 else 0] = image, view
    assert every[0].keys() == every[1].keys()
    for key, (image, view) in every[0].items():
        other = every[1][key][0]
        inside = (image > image.min()) & (other > other.min())  # air is what the box read has least
        assert inside.mean() > 0.3
        assert np.allclose(image[inside], other[inside], atol=1e-4), key
        assert np.allclose(view.origin_mm, every[1][key][1].origin_mm)


def test_stacks_between_two_axes_are_followed_in_one_direction() -> None:
    """Oblique normals whose largest component changes from study to study."""
    sources = []
    for turn in (-6, -2, 3, 7):
        for sign in (1, -1):
            frame = Rotation.from_euler("xyz", [0, 45 + turn, 0], degrees=True).as_matrix()
            affine = np.eye(4)
            affine[:3, :3] = frame * [1, 1, sign * 8]
            affine[:3, 3] = -affine[:3, :3] @ [7.5, 7.5, 4]
            array = np.zeros((1, 16, 16, 9), np.float32)
            sources.append(ArraySource(array, affine, description="sax"))
    frames = fitted_frames(sources, load_rules("heart"))
    config = SERIES.model_copy(update={"frames": frames})
    assert np.degrees(np.arccos(np.dot(frames["sax"], [0.5**0.5, 0, 0.5**0.5]))) < 1
    rows = []
    for source in sources:
        first = slices_of_stacks([(Stack.of(source), 0, 0)], config)
        before = first.bases[0].center_mm @ frames["sax"] < 0
        assert bool(first.locations[0] == 0) is bool(before)
        rows.append(first.bases[0].row_mm)
    assert np.min(np.array(rows) @ rows[0]) > np.cos(np.radians(20))


def test_an_emptied_scan_looks_alike_in_every_virtual_slice() -> None:
    """What a view shows without anatomy is a disc, whose size and place say nothing of the slice.

    Its middle is where augmentation put it, whatever the slice's place in the scan.
    """
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix() * [1, 1, 2]
    empty = ArraySource(np.ones((1, 40, 44, 24), np.float32), affine, air=(-3.0,))
    config = PlanesConfig(studies="virtual", slices=40, intensity=None, spacing_mm=1.0)
    method = Planes(config).resolve_for_data([empty])
    radius = method.config.virtual.radius_mm
    assert radius == pytest.approx(16)  # 0.8 of the least extent, halved
    assert method.config.size == (48, 48)
    sample = method.sample_study([empty], np.random.default_rng(0))
    assert sample["images"].unique().tolist() == [-3.0, 1.0]
    rows, columns = np.indices((48, 48))
    for image, pixel in zip(sample["images"][:, 0].numpy(), sample["pixel_mm"], strict=True):
        seen = image == 1
        area = np.pi * (radius / float(pixel)) ** 2
        if not (seen[[0, -1]].any() or seen[:, [0, -1]].any()):  # the disc is wholly in view
            assert seen.sum() == pytest.approx(area, rel=0.03)
        away = np.hypot(rows - rows[seen].mean(), columns - columns[seen].mean())
        assert away[seen].max() < radius / float(pixel) + 1
    assert np.ptp(sample["location"].numpy()) > 0.5
    whole = config.model_copy(update={"virtual": VirtualConfig(shown="all")})
    border = Planes(whole).resolve_for_data([empty])
    assert border.config.virtual.radius_mm is None
    assert len(border.sample_study([empty], np.random.default_rng(0))["images"].unique()) > 2


@pytest.mark.slow
def test_lines_are_learned_from_anatomy_and_not_without_it() -> None:
    """Bodies that share most of their anatomy, with the defaults: 14 s a training."""
    bodies = same_anatomy(28)
    reached = {}
    for kind, scans in (("real", bodies), ("emptied", [Emptied(s) for s in bodies])):
        method = Planes(PlanesConfig(studies="virtual", intensity=None)).resolve_for_data(scans)
        torch.manual_seed(0)
        options = {"channels": [8, 16, 32]}
        backbone = backbones.build(BackboneConfig(name="cnn", spatial_dims=2, options=options))
        net = Network(backbone, method.build_heads(backbone))
        optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
        for step in range(160):
            some = [scans[(4 * step + k) % 16] for k in range(4)]
            batch = drawn(method, some, step)
            optimiser.zero_grad()
            method.step(batch, net, None, torch.Generator()).losses["total"].backward()
            optimiser.step()
        held, batch = scans[16:], drawn(method, scans[16:], 999)
        with torch.no_grad():
            found = method.predict(batch, Nets(net.eval()))
            measured = method.measure(Samples(batch, [[s] for s in held]), found)
        reached[kind] = {m.name: np.nanmean(m.samples) / m.constant for m in measured}
    for name in ("line_distance", "location_error", "plan_angle"):
        assert reached["real"][name] < 0.85, (name, reached)
        assert reached["emptied"][name] > 0.95, (name, reached)
    assert reached["real"]["line_angle"] < 0.7 * reached["emptied"]["line_angle"]


def same_anatomy(count: int) -> list[ArraySource]:
    shape = (32, 32, 32)
    mm = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    common = gaussian_filter(np.random.default_rng(7).normal(size=shape), 4)
    common = 1.5 * common / common.std() + mm[0] + 1.5 * mm[1] + 2 * mm[2]
    bodies = []
    for seed in range(count):
        own = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
        array = (common + 0.2 * own / own.std())[None].astype(np.float32)
        bodies.append(ArraySource(array, np.eye(4), key=f"body {seed}", air=(-6.0,)))
    return bodies


def drawn(method: Planes, scans: list[ArraySource], seed: int) -> dict[str, torch.Tensor]:
    return collate(
        [method.sample(s, np.random.default_rng([seed, i])) for i, s in enumerate(scans)]
    )


def test_slices_of_a_scan_too_thin_for_the_disc_are_still_drawn() -> None:
    thin = ArraySource(np.ones((1, 40, 40, 4), np.float32))
    config = PlanesConfig(studies="virtual", virtual=VirtualConfig(shown_mm=30))
    sample = Planes(config).resolve_for_data([thin]).sample_study([thin], np.random.default_rng(0))
    assert torch.isfinite(sample["images"]).all()


def test_the_width_of_lines_is_a_length_and_runs_of_before_keep_theirs() -> None:
    paper = PlanesConfig(size=(224, 224), spacing_mm=1.26)
    assert paper.sigma * 1.26 == pytest.approx(7.56)
    assert PlanesConfig(size=(128, 128), spacing_mm=2.0, sigma_mm=8.0).sigma == 4
    fitted = Planes(PlanesConfig(studies="virtual")).resolve_for_data([volume(0)]).config
    assert fitted.sigma * fitted.spacing_mm == pytest.approx(fitted.sigma_mm)
    saved = PlanesConfig(sigma_px=6.0, slices=6, rules="heart", pose={})
    assert (saved.sigma, saved.location_pool) == (6.0, "mean")
    again = PlanesConfig.model_validate(fitted.model_dump())
    assert again == fitted
