"""The benchmark that a GPU is asked with runs in small wherever the tests do."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finished, forked

from situs.backbones import BackboneConfig, build
from situs.methods.composition import compose
from situs.views import ArraySource

ROOT = Path(__file__).parents[1]


def run(out: Path, *options: str) -> dict[str, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        said, _ = finished(forked("benchmarks.gpu", "--small", "--out", out, *options), 0)
    found = json.loads((out / "gpu.json").read_text())
    assert found["machine"]["torch"]
    assert found["matrix_tflops"] > 0
    assert (out / "gpu.md").read_text().strip() in said
    return {row["name"]: row for row in found["rows"]}


@pytest.mark.slow
def test_rows_are_measured_whole_and_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu  # noqa: PLC0415 - stands outside the package

    page = Path(shutil.copy(ROOT / "docs" / "performance.md", tmp_path))
    before = page.read_text()
    rows = run(tmp_path, "--only", "mae", "sal 128", "--minutes", "0.05", "--page", str(page))
    written = page.read_text()
    assert written.count("| mae 128³, in small, 2 |") == 1
    assert written.partition("<!-- gpu -->")[0] == before.partition("<!-- gpu -->")[0]
    again = ["gpu", "--made", str(tmp_path / "gpu.json"), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", again)
    page.write_text(before)
    gpu.main()
    assert page.read_text() == written
    first = rows["mae 128³, in small"]
    assert first["errors"] == []
    assert all(first[f"{name}_ms"] > 0 for name in ("network", "loss", "step", "trainer"))
    # The replayed calls are part of the step: they can start nothing that it does not start.
    assert 0 < first["network_launches"] < first["launches"]
    assert first["tflop"] > 0


def test_a_row_that_fails_and_one_that_is_compiled_late_cost_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu  # noqa: PLC0415 - stands outside the package

    order = []

    def measure(row: Any, *_: Any) -> dict[str, Any]:
        order.append(row.name)
        if row.name == "second":
            raise RuntimeError("no memory left")
        return {"loss_ms": 1.0}

    def compiled(step: Any, _: float) -> dict[str, Any]:
        order.append(f"{step} compiled")
        kept = json.loads((tmp_path / "gpu.json").read_text())["rows"]
        assert [row["name"] for row in kept] == ["first, in small", "second, in small"]
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "compiled", compiled)
    monkeypatch.setattr(gpu, "Step", lambda row, *_: row.name)
    rows = [gpu.Row(name, "mae", 1, {}, {}) for name in ("first", "second")]
    asked = argparse.Namespace(minutes=1, small=True, out=tmp_path, page=None)
    gpu.run(rows, rows[:1], asked)
    assert order == ["first", "second", "first compiled"]
    first, second = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert first["loss_ms"] == 1
    assert "no compiler" in first["errors"][0]
    assert "no memory left" in second["errors"][0]


def test_every_row_has_settings_that_its_method_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu import ROWS  # noqa: PLC0415 - stands outside the package

    for row in ROWS:
        for small in (False, True):
            config = row.config(small)
            compose(config.method, config.options)


def test_launches_are_counted_forward_and_backward_without_views(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.launches import dispatched  # noqa: PLC0415 - stands outside the package

    x, y = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    assert dispatched(lambda: x.mT.flatten().detach()) == 1  # the copy of what is turned
    assert dispatched(lambda: x[0] * y[1]) == 1
    total = (x * y).sum()
    # The gradient that it begins with, and a product for each factor.
    assert dispatched(total.backward) == 3


def test_what_a_step_holds_is_counted_until_nobody_holds_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.held import NO_VALUES, Held  # noqa: PLC0415 - stands outside the package

    mib = 2**20
    with NO_VALUES, Held() as count:
        x = torch.empty(2**18, requires_grad=True)
        y = x.exp()  # kept for the gradient
        assert count.now == 2 * mib
        z = (y[:10].view(2, 5) * 2).sum()  # a view, and 512 bytes a small tensor
        assert 2 * mib < count.now < 2 * mib + 2048
        del y
        assert count.now > 2 * mib
        z.backward()
        assert count.most >= 3 * mib
        del z
        assert count.now == 2 * mib  # x and its gradient


@pytest.mark.parametrize("of", ["VOLUMES", "STACKS"])
def test_what_is_learned_of_anatomy_is_asked_of_views_that_the_network_takes(
    of: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import anatomy  # noqa: PLC0415 - stands outside the package

    shape = (64, 64, 12) if of == "STACKS" else (36, 50, 36)
    scan = ArraySource(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    for method, options, _ in getattr(anatomy, of).values():
        found = compose(method, options).resolve_for_data([scan])
        dims = found.spatial_dims
        backbone = build(BackboneConfig(**anatomy.BACKBONE, spatial_dims=dims))
        found.resolve_for_backbone(backbone).build_heads(backbone)
