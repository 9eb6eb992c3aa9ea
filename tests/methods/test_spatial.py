"""The method ``spatial``: chunks, terms, who receives gradient, and what it can learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from situs.backbones.base import Backbone, BackboneConfig
from situs.config import validate
from situs.errors import ConfigError
from situs.geometry import gap_matrix
from situs.methods.base import Network, Samples, Scores
from situs.methods.spatial import Spatial, SpatialConfig, chunk_starts, cut_chunks, losses
from situs.methods.spatial.method import roles
from situs.methods.spatial.voxels import measure_voxels, voxel_section
from situs.observation import OverlayPanel
from situs.pretraining.teacher import make_teacher
from situs.views import ArraySource

QUIET = {"shift": 0, "gain": 0, "gamma": (1.0, 1.0), "noise": 0, "blur": 0}


class Plain(Backbone):
    """Two convolutions without normalisation: absolute intensities survive."""

    def __init__(self, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = 3, channels
        self.channels, self.strides, self.decoder_channels = (width,), ((1, 1, 1),), width
        self.encoder = nn.Conv3d(channels, width, 3, padding=1, padding_mode="replicate")
        self.decoder = nn.Conv3d(width, width, 1)

    @classmethod
    def from_config(cls, config: BackboneConfig) -> Plain:
        return cls(config.in_channels)

    def encode(self, x: Tensor) -> list[Tensor]:
        return [self.encoder(x)]

    def decode(self, features: Any) -> Tensor:
        return self.decoder(features[-1])


def position_volume(shape: tuple[int, int, int] = (40, 48, 36)) -> ArraySource:
    """Intensity is position: channel c holds the coordinate along axis c, in [−1, 1]."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return ArraySource(grid.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))


def method(**options: Any) -> Spatial:
    defaults = {"view_size": (12, 12, 12), "chunk_size": (4, 4, 4), "width": 32, "intensity": QUIET}
    built = Spatial(validate(SpatialConfig, {**defaults, **options}))
    return built.resolve_for_data([position_volume()])


def batch_of(spatial: Spatial, count: int, seed: int = 0) -> dict[str, Tensor]:
    source = position_volume()
    rngs = np.random.default_rng(seed).spawn(count)
    return default_collate([spatial.sample(source, rng) for rng in rngs])


def network(spatial: Spatial) -> tuple[Network, Network]:
    torch.manual_seed(0)
    backbone = Plain()
    student = Network(backbone, spatial.build_heads(backbone))
    teacher = make_teacher(student)
    for parameter in teacher.parameters():  # otherwise nothing tells the two apart
        parameter.data.mul_(1.1)
    return student, teacher


def test_views_hold_what_their_centres_say() -> None:
    batch = batch_of(method(), 4)
    source = position_volume()
    scale = (np.asarray(source.shape) - 1) / 2
    center = batch["views"].mean(dim=(3, 4, 5)).numpy()  # coordinates are linear
    np.testing.assert_allclose((center + 1) * scale, batch["centers_vox"].numpy(), atol=1e-3)
    np.testing.assert_allclose(
        batch["centers_mm"].numpy(), batch["centers_vox"].numpy() * [1, 1, 2], rtol=1e-6
    )
    assert (batch["start_vox"] >= 0).all()
    assert (batch["start_vox"] + 12 <= torch.tensor(source.shape)).all()


def test_moving_the_scan_in_the_world_changes_nothing() -> None:
    spatial, source = method(), position_volume()
    turned = np.array([[0, -1, 0, 30], [1, 0, 0, -7], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    moved = ArraySource(source.array, turned)
    one = spatial.sample(source, np.random.default_rng(3))
    two = spatial.sample(moved, np.random.default_rng(3))
    for key in one:
        assert torch.equal(one[key], two[key]), key


def test_a_scan_smaller_than_the_view_is_padded() -> None:
    spatial = method(view_size=(64, 12, 12))
    sample = spatial.sample(position_volume(), np.random.default_rng(0))
    assert sample["views"].shape == (3, 3, 64, 12, 12)
    air = torch.from_numpy(position_volume().array).amin((1, 2, 3))[:, None, None, None]
    inside = (sample["views"] != air).any(dim=1)[0].any(dim=(1, 2)).sum()
    assert inside == 40


def test_along_an_axis_shorter_than_the_view_the_scan_lies_in_the_middle_of_every_view() -> None:
    """A border that moved with the view would tell the gap of views without anatomy."""
    batch = batch_of(method(view_size=(12, 12, 49)), 4)
    assert (batch["start_vox"][..., 2] == -6).all()
    assert (gap_matrix(batch["centers_mm"])[..., 2] == 0).all()
    assert len(batch["start_vox"][..., 0].unique()) > 4


def test_chunks_stay_inside_and_mirror_each_other() -> None:
    gaps = torch.randn(500, 3) * 20
    starts = chunk_starts(gaps, (24, 20, 16), (8, 7, 9))
    room = torch.tensor([16, 13, 7])
    assert (starts >= 0).all()
    assert (starts <= room).all()
    assert torch.equal(starts[:, 0] + starts[:, 1], room.expand(500, 3))
    assert torch.equal(starts[:, 0], starts[:, 3])
    # The first chunk leans towards the other view; an odd room leaves half a voxel of rounding.
    lean = (starts[:, 0] - starts[:, 2]).float()
    assert ((lean * gaps).sum(-1) >= -gaps.abs().sum(-1)).all()
    assert ((lean * gaps).sum(-1) > 0).float().mean() > 0.99


def test_cut_equals_slicing() -> None:
    features = torch.randn(3, 5, 9, 8, 7)
    which, starts = (
        torch.tensor([2, 0, 2, 1]),
        torch.tensor([[0, 1, 2], [5, 4, 4], [1, 1, 1], [5, 0, 0]]),
    )
    chunks = cut_chunks(features, which, starts, (4, 3, 3))
    for n, (x, y, z), chunk in zip(which, starts, chunks, strict=True):
        assert torch.equal(chunk, features[n, :, x : x + 4, y : y + 3, z : z + 3])


def test_terms_against_a_loop_over_pairs() -> None:
    predicted, true = torch.randn(2, 3, 3, 3), gap_matrix(torch.randn(2, 3, 3))
    pairs = [(b, i, j) for b in range(2) for i in range(3) for j in range(3) if i != j]
    axis = torch.stack([(predicted[p] - true[p]).square().mean() for p in pairs]).mean()
    norm = torch.stack([(predicted[p].norm() - true[p].norm()).square() for p in pairs]).mean()
    smooth = torch.stack([F.smooth_l1_loss(predicted[p], true[p]) for p in pairs]).mean()
    torch.testing.assert_close(losses.gap_axis(predicted, true), axis)
    torch.testing.assert_close(losses.gap_norm(predicted, true), norm)
    torch.testing.assert_close(losses.vector(predicted, true), smooth)


def test_the_voxel_term_against_a_loop_over_voxels() -> None:
    """Each voxel is asked for the vector to the other view's centre, its own offset given."""
    rng = np.random.default_rng(0)
    here, there = rng.normal(size=(2, 3, 4, 3, 2)), rng.normal(size=(2, 3, 4, 3, 2))
    centers = rng.normal(size=(2, 2, 3))
    middle = (np.array([4, 3, 2]) - 1) / 2
    found = []
    for b, x, y, z in np.ndindex(2, 4, 3, 2):
        offset = np.array([x, y, z]) - middle
        voxel = centers[b, 0] + offset
        said = there[b, :, x, y, z] - here[b, :, x, y, z] - offset
        miss = np.abs(said - (centers[b, 1] - voxel))
        found.append(np.where(miss < 1, miss**2 / 2, miss - 0.5).mean())
    term = losses.voxel(*(torch.tensor(v) for v in (here, there, centers[:, 1] - centers[:, 0])))
    assert float(term) == pytest.approx(np.mean(found))


def test_what_the_borders_of_a_view_tell_is_worth_nothing_to_the_voxel_term() -> None:
    """Any function of a voxel's place in its view cancels, also the place itself."""
    box = torch.randn(1, 3, 4, 3, 2).expand(2, -1, -1, -1, -1)
    true = torch.randn(2, 3)
    nothing = losses.voxel(torch.zeros_like(box), torch.zeros_like(box), true)
    torch.testing.assert_close(losses.voxel(box, box, true), nothing)
    anatomy = torch.zeros_like(box)
    right = losses.voxel(box + anatomy, box + anatomy + true[..., None, None, None], true)
    assert right < 1e-12


def test_the_map_of_voxel_errors_lies_where_its_view_lies() -> None:
    """The oracle's places are wrong in one voxel; there, and in mm, stands the error."""
    batch = batch_of(method(), 2)
    centers, length = batch["centers_mm"], torch.tensor([2.0, 4.0, 8.0])
    places = (centers / length)[..., None, None, None].repeat(1, 1, 1, 12, 12, 12)
    places[0, 0, 1, 3, 4, 5] += 0.5  # 2 mm
    source = position_volume()
    samples = Samples(batch, [[source]] * 2)
    measured = measure_voxels(places, length, batch)
    assert measured.samples == pytest.approx((2 * 2 / 3 / 12**3, 0), abs=1e-5)
    gaps = losses.off_diagonal(gap_matrix(centers))
    assert float(measured.constant) == pytest.approx(float(gaps.norm(dim=-1).mean()))
    panel = voxel_section(places, length, samples, Scores(), 1).panels[0]
    assert isinstance(panel, OverlayPanel)
    assert panel.overlay[3, 4, 5] == pytest.approx(2)
    assert panel.overlay.sum() == pytest.approx(2, abs=0.02)
    there = panel.overlay_affine @ [3, 4, 5, 1]
    start = batch["start_vox"][0, 0].numpy()
    np.testing.assert_allclose(there, source.affine @ [*(start + np.array([3, 4, 5])), 1])


def test_the_published_route_term_only_reweights_the_vector_term() -> None:
    """With positions every route telescopes, and each ordered pair ends equally many routes."""
    positions = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    true = gap_matrix(torch.randn(2, 4, 3, dtype=torch.float64))
    steps = gap_matrix(positions)
    torch.testing.assert_close(losses.route(steps, true), losses.vector(steps, true))
    assert losses.cycle(steps) < 1e-24
    assert losses.antisymmetry(steps) < 1e-24


def test_gradients_are_exact_and_finite_at_zero_length() -> None:
    true = gap_matrix(torch.randn(1, 3, 3, dtype=torch.float64))
    free = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    for term in (losses.gap_axis, losses.gap_norm, losses.vector, losses.route):
        assert torch.autograd.gradcheck(lambda x, term=term: term(x, true), free)
    for term in (losses.cycle, losses.antisymmetry):
        assert torch.autograd.gradcheck(term, free)
    nothing = torch.zeros(1, 3, 3, 3, requires_grad=True)
    losses.gap_norm(nothing, true.float()).backward()
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize("head", ["difference", "pairwise"])
def test_only_the_main_view_receives_gradient(head: str) -> None:
    spatial = method(head=head)
    batch = batch_of(spatial, 4)
    batch["views"].requires_grad_(True)
    student, teacher = network(spatial)
    seed = torch.Generator().manual_seed(5)
    main = torch.randint(3, (4, 1), generator=torch.Generator().manual_seed(5))[:, 0]
    result = spatial.step(batch, student, teacher, seed)
    result.losses["total"].backward()
    touched = batch["views"].grad.abs().amax(dim=(2, 3, 4, 5)) > 0
    assert torch.equal(touched, F.one_hot(main, 3).bool())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("head", ["difference", "pairwise"])
def test_symmetric_is_the_mean_over_main_views(head: str) -> None:
    weights = {"voxel": 1.0}
    spatial = method(head=head, weights=weights)
    symmetric = method(head=head, weights=weights, symmetric=True)
    student, teacher = network(spatial)
    batch = batch_of(spatial, 1)
    by_main = {}
    for seed in range(40):
        main = int(torch.randint(3, (1, 1), generator=torch.Generator().manual_seed(seed)))
        by_main[main] = spatial.step(batch, student, teacher, torch.Generator().manual_seed(seed))
    assert set(by_main) == {0, 1, 2}
    both = symmetric.step(batch, student, teacher, torch.Generator()).losses
    for name in both:
        mean = torch.stack([r.losses[name] for r in by_main.values()]).mean()
        torch.testing.assert_close(both[name], mean, rtol=1e-4, atol=1e-6)


def test_samples_of_a_batch_do_not_mix() -> None:
    spatial = method(symmetric=True)
    student, teacher = network(spatial)
    batch = batch_of(spatial, 3)
    whole = spatial.step(batch, student, teacher, torch.Generator()).losses
    alone = [
        spatial.step(
            {k: v[b : b + 1] for k, v in batch.items()}, student, teacher, torch.Generator()
        )
        for b in range(3)
    ]
    for name, value in whole.items():
        mean = torch.stack([one.losses[name] for one in alone]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)


TERMS = ["gap_axis", "gap_norm", "chunk_adjacent", "chunk_distant", "vector", "route", "voxel"]


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_usable_alone(term: str) -> None:
    off = {name: 0.0 for name in [*TERMS, "cycle", "antisymmetry"]}
    spatial = method(weights={**off, term: 2.0})
    student, teacher = network(spatial)
    result = spatial.step(batch_of(spatial, 2), student, teacher, torch.Generator())
    assert set(result.losses) == {term, "total"}
    torch.testing.assert_close(result.losses["total"], 2 * result.losses[term])


def test_roles_compare_every_main_view_with_all_others() -> None:
    for views in (2, 3, 5):
        role = roles(views, symmetric=True)
        for main, others in zip(role.student, role.others, strict=True):
            assert {int(main), *role.teacher[others].tolist()} == set(range(views))


def test_a_coarse_vector_trains_the_encoder_and_leaves_the_decoder_alone() -> None:
    off = dict.fromkeys(TERMS, 0.0)
    spatial = method(vector_from="coarse", weights={**off, "gap_axis": 1.0})
    student, teacher = network(spatial)
    loss = spatial.step(batch_of(spatial, 2), student, teacher, torch.Generator()).losses["total"]
    encoder, decoder = student.backbone.encoder.weight, student.backbone.decoder.weight
    (grad,) = torch.autograd.grad(loss, [encoder], retain_graph=True)
    assert grad.abs().sum() > 0
    assert torch.autograd.grad(loss, [decoder], allow_unused=True) == (None,)


LEARNERS = [("difference", "dense"), ("pairwise", "dense"), ("difference", "coarse")]


@pytest.mark.slow
@pytest.mark.parametrize(("head", "features"), LEARNERS)
def test_where_intensity_is_position_the_heads_reach_near_zero_error(
    head: str, features: str
) -> None:
    small = {"view_size": (8, 8, 8), "chunk_size": (3, 3, 3), "weights": {"voxel": 1.0}}
    spatial = method(head=head, vector_from=features, **small)
    student, _ = network(spatial)
    teacher = make_teacher(student)
    optimiser = torch.optim.Adam(student.parameters())
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / 200)
        batch = batch_of(spatial, 10, seed=step)
        result = spatial.step(batch, student, teacher, generator)
        optimiser.zero_grad()
        result.losses["total"].backward()
        optimiser.step()
        teacher.load_state_dict(student.state_dict())
    batch = batch_of(spatial, 24, seed=10_000)
    with torch.no_grad():
        observation = spatial.observe(batch, student, None, [[position_volume()]] * 24, 300)
    scores = observation.scores
    assert scores["gap_error"].value < 0.06 * scores["gap_error"].chance
    assert scores["vector_error"].value < 0.08 * scores["vector_error"].chance
    assert scores["voxel_error"].value < 0.25 * scores["voxel_error"].constant
    assert scores["gap_r2"].value > 0.99
    assert scores["direction_error"].value < 6
    assert scores["adjacent_accuracy"].value > 60
    assert 80 < scores["direction_error"].chance < 100


def test_the_released_preset_averages_over_the_zero_diagonal() -> None:
    predicted, true = gap_matrix(torch.randn(2, 3, 3)), gap_matrix(torch.randn(2, 3, 3))
    ratio = losses.gap_axis(predicted, true) / losses.gap_axis(predicted, true, diagonal=True)
    assert float(ratio) == pytest.approx(1.5)
    assert method(preset="released").config.gap_diagonal


def test_the_released_preset_compares_chunks_of_all_pairs_by_the_students_head() -> None:
    off = dict.fromkeys(TERMS, 0.0)
    spatial = method(preset="released", weights={**off, "chunk_adjacent": 1.0})
    student, teacher = network(spatial)
    batch = batch_of(spatial, 1)
    main = int(torch.randint(3, (1, 1), generator=torch.Generator().manual_seed(5)))
    term = spatial.step(batch, student, teacher, torch.Generator().manual_seed(5)).losses
    order = [(main + k) % 3 for k in range(3)]
    views, centers = batch["views"][0, order], batch["centers_vox"][0, order]
    dense = [(teacher if v else student).backbone(views[v : v + 1]) for v in range(3)]
    cosines = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        starts = chunk_starts((centers[j] - centers[i])[None], (12,) * 3, (4,) * 3)[0]
        one, two = (
            student.heads.chunk_vector(
                cut_chunks(dense[v], torch.tensor([0]), starts[c : c + 1], (4,) * 3)
            )
            for c, v in ((0, i), (1, j))
        )
        cosines.append(F.cosine_similarity(one, two))
    torch.testing.assert_close(term["chunk_adjacent"], -torch.cat(cosines).mean())
    term["total"].backward()
    assert all(p.grad is not None for p in student.heads.chunk_vector.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    with pytest.raises(ConfigError, match="needs chunk_head 'student'"):
        method(chunk_pairs="all")


def test_a_chunk_larger_than_its_view_names_the_fields() -> None:
    with pytest.raises(ConfigError, match=r"chunk_size .* must not exceed view_size"):
        method(chunk_size=(16, 4, 4))
