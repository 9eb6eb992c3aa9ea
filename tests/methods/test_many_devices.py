"""Every method computes on two devices what it computes on one: loss, gradients, three steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import TinyBackbone, smooth_sources
from torch import Tensor, nn
from torch.utils.data import default_collate

from situs import backbones
from situs.backbones.base import Backbone, BackboneConfig
from situs.methods import available
from situs.methods.base import Network
from situs.methods.composition import Composition, compose
from situs.methods.distributed import BatchNorm, alone, gathered, size, synchronise
from situs.pretraining.teacher import make_teacher, update_teacher

pytestmark = pytest.mark.slow

CUBE = {"view_size": [8, 8, 8]}
S2DC = {
    "stage": -1,
    "grid": [2, 1, 1],
    "global_crops": 2,
    "crop_size": [8, 8, 8],
    "hidden": 16,
    "features": 8,
    "queue_size": 12,
    # Transport stops when the whole batch has converged, so a looser one stops elsewhere.
    "tolerance": 1e-6,
}
SLICES = {"size": [16, 16], "spacing_mm": 1.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "spatial": (
        "spatial",
        {**CUBE, "chunk_size": [4, 4, 4], "width": 8, "head": "pairwise", "weights": {"voxel": 1}},
    ),
    "s2dc": ("s2dc", S2DC),
    "s2dc, layer norm": ("s2dc", {**S2DC, "norm": "layer"}),
    "sal": ("sal", {**SLICES, "window": 4, "weights": {"local": 1, "global": 1, "spread": 1}}),
    "sal, regress": ("sal", {**SLICES, "position": "regress"}),
    "sal, pixels": ("sal", {**SLICES, "weights": {"local": 0, "spread": 0, "pixel": 1}}),
    "planes": ("planes", {**SLICES, "studies": "virtual"}),
    "mae": ("mae", {**CUBE, "block_size": [4, 4, 4]}),
    "simclr": ("simclr", CUBE),
    "voco": ("voco", {"view_size": [8, 8, 8], "hidden": 16, "width": 8}),
    "voco, released": (
        "voco",
        {"preset": "released", "grid": [2, 1, 1], "crop_size": [8] * 3, "view_size": [8] * 3}
        | {"hidden": 16, "width": 8},
    ),
    "dino": ("dino", {"global_size": [8] * 3, "local_size": [4] * 3, "hidden": 16}),
    "dino, sinkhorn": (
        "dino",
        {"centering": "sinkhorn", "head_norm": "batch", "prototypes": 16, "bottleneck": 8}
        | {"global_size": [8] * 3, "local_size": [4] * 3, "hidden": 16},
    ),
    "spatial+s2dc": (
        "spatial+s2dc",
        {"spatial": {**CUBE, "chunk_size": [4, 4, 4], "width": 8}, "s2dc": S2DC},
    ),
    "mae, batch norm": ("mae", {**CUBE, "block_size": [4, 4, 4]}),
    "spatial, batch norm": ("spatial", {**CUBE, "chunk_size": [4, 4, 4], "width": 8}),
}
BATCH, STEPS = 4, 3


def network(name: str, composition: Composition) -> Backbone:
    if composition.spatial_dims == 2:
        options = {"channels": [4, 8, 8], "strides": [2]}
        return backbones.build(BackboneConfig(name="cnn", spatial_dims=2, options=options))
    return TinyBackbone(nn.BatchNorm3d if "batch norm" in name else nn.InstanceNorm3d)


def trained(name: str, ranks: int = 1, rank: int = 0) -> dict[str, Tensor]:
    """Losses of three steps, gradients of the first, and the network after the last."""
    expression, options = CASES[name]
    torch.manual_seed(0)
    # Of unlike sizes, so that unlike shares of each sample count.
    sources = [
        smooth_sources(1, shape, seed)[0]
        for seed, shape in enumerate([(26, 24, 28), (7, 25, 24), (24, 26, 9), (28, 8, 26)])
    ]
    composition = compose(expression, options).resolve_for_data(sources)
    backbone = network(name, composition)
    composition = composition.resolve_for_backbone(backbone)
    student = Network(backbone, composition.build_heads(backbone))
    synchronise(student)
    # An untrained network finds all crops alike, where voco's logarithm blows rounding up.
    double = expression == "voco"
    student = student.double() if double else student
    teacher = make_teacher(student)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.005, momentum=0.9)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        samples = [
            composition.sample([source], np.random.default_rng([step, number]))
            for number, source in enumerate(sources)
        ]
        batch = default_collate(samples[rank * BATCH // ranks : (rank + 1) * BATCH // ranks])
        if double:
            batch = {part: {k: _doubled(v) for k, v in b.items()} for part, b in batch.items()}
        generator = torch.Generator().manual_seed(step)
        losses = composition.step(batch, student, teacher, generator).losses
        optimiser.zero_grad(set_to_none=False)
        losses["total"].backward()
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.grad = averaged(parameter.grad, ranks)
        found |= {f"{step}/{k}": averaged(v.detach(), ranks) for k, v in losses.items()}
        if step == 0:
            gradients = [(k, p.grad) for k, p in student.named_parameters() if p.grad is not None]
            found |= {f"gradient of {k}": g.clone() for k, g in gradients}
        optimiser.step()
        update_teacher(teacher, student, 0.9)
    return found | {f"end/{k}": v.detach().float() for k, v in teacher.state_dict().items()}


def _doubled(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def averaged(value: Tensor, ranks: int) -> Tensor:
    """What distributed training does with gradients, and the log with losses."""
    if ranks > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value / ranks


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {name: trained(name, 2, rank) for name in CASES}
    with alone():  # what one process does while the other waits asks nobody
        assert (size(), len(gathered(torch.ones(3)))) == (1, 3)
        if rank == 0:
            BatchNorm(2)(torch.randn(4, 2))
    dist.barrier()
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """All cases in one pair of processes."""
    folder = tmp_path_factory.mktemp("two")
    # Forked, so that the processes need not import everything again.
    mp.start_processes(_process, args=(str(folder),), nprocs=2, start_method="fork")
    return dict(torch.load(folder / "results.pt", weights_only=True))


def test_every_method_is_here() -> None:
    assert set(available()) - {"none"} <= {case[0] for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(name: str, on_two: dict[str, dict[str, Tensor]]) -> None:
    one, two = trained(name), on_two[name]
    assert one.keys() == two.keys()
    away = {}
    for kind in ("0/", "gradient of ", "1/", "2/", "end/"):
        chosen = [key for key in one if key.startswith(kind)]
        whole, parts = (torch.cat([r[k].double().flatten() for k in chosen]) for r in (one, two))
        assert float(whole.norm()) > 1e-3
        away[kind] = float((whole - parts).norm() / whole.norm())
    said = " ".join(f"{kind.strip()} {value:.0e}" for kind, value in away.items())
    print(f"\n{name}: {said}")  # noqa: T201 - with pytest -s, for docs/clusters.md
    # Statistics of a handful of samples blow rounding up on the way back.
    assert away.pop("gradient of ") < 3e-5
    assert max(away.values()) < 1e-5, away


def test_batch_statistics_of_a_share_are_others() -> None:
    """What synchronising mends; by itself the layer is torch's own, names included."""
    layer = BatchNorm(3, affine=False, track_running_stats=False)
    plain = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(rows), plain(rows))
    assert not torch.allclose(layer(rows)[:4], layer(rows[:4]), atol=1e-2)
    assert copy.deepcopy(layer).state_dict().keys() == plain.state_dict().keys()
