"""A fine-tuning that was ended goes on to the same numbers, and tests no case twice."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import labelled
from typer.testing import CliRunner

from situs.cli import app
from situs.errors import RunError
from situs.transfer import Result, finetune
from situs.transfer.check import check_result
from situs.transfer.training import Finetuning

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("data"), classes=1)


def settings(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(data),
        "out": str(out),
        "train": 2,
        "validation": 1,
        "test": 3,
        "steps": 8,
        "validate_every": 2,
        "checkpoint_every": 3,
        "patch_size": [16, 16, 8],
        "warmup_steps": 1,
        "threads": 1,
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
        **changes,
    }


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return finetune(settings(data, tmp_path_factory.mktemp("whole") / "out"), quiet=True)


def assert_same(one: Result, two: Result) -> None:
    """In every weight, score and voxel."""
    for part in ("encoder", "decoder", "head"):
        a, b = (load_file(r.folder / "model" / f"{part}.safetensors") for r in (one, two))
        assert all(torch.equal(a[k], b[k]) for k in a)
    kept = {"folder", "seconds"}
    assert one.model_dump(exclude=kept) == two.model_dump(exclude=kept)
    assert one.cases() == two.cases()
    for name in one.split["test"]:
        a, b = (nib.load(r.folder / f"predictions/{name}.nii.gz") for r in (one, two))
        assert np.array_equal(a.dataobj, b.dataobj)
    rows = [(r.folder / "metrics.csv").read_text().splitlines() for r in (one, two)]
    # Seconds are the sixth column.
    rows = [[line.split(",")[:4] + line.split(",")[6:] for line in table] for table in rows]
    assert rows[0] == rows[1]
    # What only an unfinished one needs is gone.
    names = [sorted(p.name for p in r.folder.iterdir()) for r in (one, two)]
    assert names[0] == names[1]
    assert "state" not in names[0]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("call", [1, 2, 4, 5, 8])
def test_a_stopped_fine_tuning_goes_on_to_the_same_numbers(
    data: Path, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    out, calls = tmp_path / "out", 0
    real = Finetuning.training_step

    def stops(self: Finetuning, *arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Finetuning, "training_step", stops)
        with pytest.raises(Stop):
            finetune(settings(data, out), quiet=True)
    with pytest.raises(RunError, match="is not empty"):
        finetune(settings(data, out), quiet=True)
    with pytest.raises(RunError, match=r"another configuration.*lr: was 0\.001, now 0\.1"):
        finetune(settings(data, out, lr=0.1), resume=True, quiet=True)
    done = CliRunner().invoke(app, ["finetune", "--resume", str(out), "--quiet"])
    assert done.exit_code == 0, done.output
    assert_same(whole, Result.open(out))
    assert check_result(out) == []


def test_weights_pull_a_fine_tuning_and_its_resumption_alike(
    data: Path, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = load_file(whole.folder / "model/encoder.safetensors")
    real = Finetuning.training_step
    weights = tmp_path / "weights"
    shutil.copytree(whole.folder / "model", weights)

    def tuned(out: Path, pull: float, stop: int = 99) -> Result:
        def stops(self: Finetuning, *arguments: Any) -> torch.Tensor:
            if self.global_step == stop:
                raise Stop
            return real(self, *arguments)

        config = settings(data, out, init=str(weights), lr=0.01, l2_sp=pull)
        del config["backbone"]
        with monkeypatch.context() as patched:
            patched.setattr(Finetuning, "training_step", stops)
            try:
                return finetune(config, quiet=True)
            except Stop:
                pass
        # Meanwhile the run that the weights came from was trained further.
        shutil.copytree(tmp_path / "free" / "model", weights, dirs_exist_ok=True)
        return finetune(config, resume=True, quiet=True)

    def far(result: Result) -> float:
        ended = load_file(result.folder / "model/encoder.safetensors")
        return sum(float((ended[k] - begun[k]).square().sum()) for k in begun) ** 0.5

    pulled, free = tuned(tmp_path / "pulled", 20.0), tuned(tmp_path / "free", 0.0)
    assert 0 < far(pulled) < 0.7 * far(free)
    assert_same(pulled, tuned(tmp_path / "again", 20.0, stop=5))


def test_a_stopped_test_goes_on_with_the_other_cases(
    data: Path, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("situs.transfer.evaluate")
    real, scored = module.score_segmentation, []

    def stops(case: str, *arguments: Any) -> Any:
        if len(scored) == 2:
            raise Stop
        scored.append(case)
        return real(case, *arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(module, "score_segmentation", stops)
        with pytest.raises(Stop):
            finetune(settings(data, out), quiet=True)

    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("trained again")

    def counted(case: str, *arguments: Any) -> Any:
        scored.append(case)
        return real(case, *arguments)

    # The end of a line that a kill cut off.
    with (out / "evaluated.jsonl").open("ab") as file:
        file.write(b'\n["c0", [{"ca')
    with monkeypatch.context() as patched:
        patched.setattr(module, "score_segmentation", counted)
        patched.setattr(Finetuning, "training_step", never)
        again = finetune(settings(data, out), resume=True, quiet=True)
    assert sorted(scored) == sorted(whole.split["test"])
    assert_same(whole, again)


def test_other_cases_are_not_gone_on_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("situs.transfer.finetune")
    with monkeypatch.context() as patched:
        patched.setattr(module, "evaluate", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            finetune(settings(data, tmp_path / "out", steps=2), quiet=True)
    file = tmp_path / "out" / "begun.json"
    begun = json.loads(file.read_text())
    file.write_text(json.dumps({**begun, "fingerprint": "of other voxels"}))
    with pytest.raises(RunError, match="cannot be resumed: the cases"):
        finetune(settings(data, tmp_path / "out", steps=2), resume=True, quiet=True)


@pytest.mark.parametrize("kind", ["run", "project", "notes"])
def test_overwriting_deletes_results_of_fine_tunings_and_nothing_else(
    data: Path, whole: Result, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = (whole.folder / "config.yaml").read_text()
    (out / "config.yaml").write_text("learning_rate: 1\n" if kind == "project" else config)
    if kind != "project":
        dear = out / ("run.json" if kind == "run" else "notes.txt")
        dear.write_text("{}")
    before = sorted(p.name for p in out.iterdir())
    with pytest.raises(RunError, match="something that is no result of situs"):
        finetune(settings(data, out, overwrite=True), quiet=True)
    assert sorted(p.name for p in out.iterdir()) == before


@pytest.mark.parametrize(
    "names", [["../../../escaped", "..", "/etc/passwd"], ["a/b", "con", "-rf"]]
)
def test_names_from_a_table_lead_nowhere(data: Path, tmp_path: Path, names: list[str]) -> None:
    """What a CSV calls its cases becomes files inside the predictions' folder, and only there."""
    rows = [f"images/c{i}.nii.gz,labels/c{i}.nii.gz,{name}" for i, name in enumerate(names)]
    rows += [f"images/c{i}.nii.gz,labels/c{i}.nii.gz,train-{i}" for i in (3, 4)]
    home = tmp_path / "deep" / "deeper"
    table = data / f"{len(names[0])}.csv"
    table.write_text("image,label,name\n" + "\n".join(rows) + "\n")
    parts = {"train": ["train-3"], "validation": ["train-4"], "test": names}
    out = home / "out"
    result = finetune(settings(table, out, steps=1, validate_every=1, **parts), quiet=True)
    written = {file for file in tmp_path.rglob("*") if file.is_file()}
    assert all(file.is_relative_to(out) for file in written)
    assert len(list((out / "predictions").iterdir())) == len(names)
    assert result.split["test"] == tuple(names)
    assert [row["case"] for row in result.cases()] == names
