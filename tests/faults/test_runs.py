"""Runs that are damaged, in use by others, or killed: nothing is lost, nothing mixed up."""

from __future__ import annotations

import io
import json
import shutil
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import forked, wait_until
from typer.testing import CliRunner

from situs.cli import app
from situs.errors import RunError, SitusError, StoreError
from situs.observation import Observation
from situs.pretraining.callbacks import ObservationCallback
from situs.pretraining.pretrain import pretrain
from situs.report.report import write_report
from situs.store import Preprocessing, Store, prepare
from situs.training.check import check_run
from situs.training.run import Run
from situs.views import decoded
from situs.weights import load_encoder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (26, 30, 24)], indexing="ij"))
    for subject in range(6):
        bumps = np.exp(-4 * ((grid - rng.uniform(-0.5, 0.5, (3, 1, 1, 1))) ** 2).sum(0))
        array = (100 + 400 * bumps + rng.normal(0, 5, bumps.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"subject_{subject}.nii.gz")
    rules = Preprocessing()
    return prepare([folder], tmp_path_factory.mktemp("stores") / "store", rules, workers=0)


def settings(store: Store, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": str(store.path),
        "out": str(out),
        "steps": 6,
        "batch_size": 2,
        "workers": 0,
        "observe_every": 3,
        "observe_samples": 2,
        "observe_controls": "never",
        "checkpoint_every": 2,
        "log_every": 1,
        "threads": 1,
        "options": {"view_size": [16, 16, 16], "chunk_size": [6, 6, 6], "width": 16},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
        **changes,
    }


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def last_weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints" / "last" / "encoder.safetensors")


def test_a_damaged_state_is_set_aside_and_the_one_before_it_resumed(
    store: Store, tmp_path: Path
) -> None:
    """To the same numbers; what was damaged is not deleted, a person may want it."""
    config = settings(store, tmp_path / "run")
    run = pretrain(config, quiet=True)
    true, rows = last_weights(run), [(row["step"], row["loss/total"]) for row in run.metrics()]
    (latest, _), (before, _) = run.states()
    run.note(status="stopped")
    flip(latest)
    bad = latest.read_bytes()
    assert [fault.file for fault in check_run(run.path)] == [str(latest)]
    with pytest.warns(UserWarning, match=f"going on from the state before it, {before.name}"):
        again = pretrain(config, mode="resume", quiet=True)
    assert again.status == "finished"
    assert all(torch.equal(true[k], v) for k, v in last_weights(again).items())
    assert rows == [(row["step"], row["loss/total"]) for row in again.metrics()]
    assert check_run(run.path) == []
    assert bad in [file.read_bytes() for file in latest.parent.glob("*.damaged")]


def test_a_run_of_before_that_has_old_names_of_settings_is_resumed(
    store: Store, tmp_path: Path
) -> None:
    run = pretrain(settings(store, tmp_path / "run"), quiet=True)
    file = run.path / "config.yaml"
    text = file.read_text()
    assert text.count(" gain: 0.25") == 1
    file.write_text(text.replace(" gain: 0.25", " scale: 0.25"))
    asked = {**Run.open(run.path).config, "out": str(run.path)}
    assert pretrain(asked, mode="resume", quiet=True).status == "finished"
    asked["options"]["spatial"]["intensity"]["scale"] = 0.5
    with pytest.raises(RunError, match=r"spatial\.intensity\.gain: was 0\.25, now 0\.5"):
        pretrain(asked, mode="resume", quiet=True)


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_is_neither_resumed_nor_replaced(
    store: Store, tmp_path: Path
) -> None:
    config = settings(store, tmp_path / "run", steps=100_000, observe_every=0)
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, situs; situs.pretrain(json.loads(sys.argv[1]), quiet=True)"
    )
    process = forked(script, json.dumps(config))
    try:
        states = tmp_path / "run" / "checkpoints" / "last"
        wait_until(lambda: bool(list(states.glob("state-*"))), process)
        for mode in ("new", "resume", "overwrite"):
            with pytest.raises(RunError, match=f"in use by process {process.pid} on .*pretrain"):
                pretrain(config, mode=mode, quiet=True)  # type: ignore[arg-type]
    finally:
        process.kill()
        process.wait()
    run = Run(tmp_path / "run")
    (_, whole), *_ = run.states()
    assert whole
    step = int(run.verified_state().name.split("-")[1])
    run.note()
    config["steps"] = 100_000
    with pytest.raises(RunError, match="cannot be resumed with another configuration"):
        pretrain({**config, "steps": step + 2}, mode="resume", quiet=True)


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "deep": lambda content: b"[" * 100_000,
    "binary": lambda content: bytes(range(256)) * 8,
    "list": lambda content: b"[1, 2]\n",
}


@pytest.fixture(scope="module")
def finished(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return pretrain(settings(store, tmp_path_factory.mktemp("runs") / "run"), quiet=True)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.csv", "data.json"])
def test_a_damaged_file_is_named_with_what_to_do(finished: Run, name: str, damage: str) -> None:
    file = finished.path / name
    good = file.read_bytes()
    try:
        file.write_bytes(DAMAGES[damage](good))
        found = [fault for fault in check_run(finished.path) if fault.file == str(file)]
        told = CliRunner().invoke(app, ["observe", str(finished.path)])
    finally:
        file.write_bytes(good)
    # Half of a table, or half of a configuration, can be a whole one.
    if damage != "cut" or name.endswith("json"):
        assert found
        assert all(str(file) in fault.what or "restore" in fault.what for fault in found)
    assert told.exception is None or isinstance(told.exception, SitusError | SystemExit)


def test_one_bad_observation_blocks_no_report(finished: Run, tmp_path: Path) -> None:
    files = finished.observation_files()
    file = files[max(files)][0]
    good = file.read_bytes()
    try:
        file.write_bytes(good[: len(good) // 2])
        with pytest.warns(UserWarning, match="is no whole observation"):
            page = write_report(finished.path, tmp_path / "page.html")
        with pytest.warns(UserWarning, match="is no whole observation"):
            assert [seen.step for seen in finished.observations()] == [min(files)]
    finally:
        file.write_bytes(good)
    assert page.stat().st_size > 10_000


def test_best_weights_of_a_broken_copy_give_way_to_the_last(finished: Run) -> None:
    """A kill between two renames leaves files that are not those of the card."""
    file = finished.path / "checkpoints" / "best" / "encoder.safetensors"
    good = file.read_bytes()
    try:
        flip(file)
        with pytest.warns(UserWarning, match="checkpoints/best .*checkpoints/last"):
            found = load_encoder(finished.path).encoder_state()
    finally:
        file.write_bytes(good)
    assert all(torch.equal(found[k], v) for k, v in last_weights(finished).items())


def test_check_tells_by_its_exit_code(finished: Run, store: Store) -> None:
    good = CliRunner().invoke(app, ["check", str(finished.path), str(store.path), "--json"])
    assert (good.exit_code, json.loads(good.stdout)) == (0, {"faults": []})
    file = next((finished.path / "checkpoints" / "last").glob("state-*"))
    content = file.read_bytes()
    try:
        flip(file)
        bad = CliRunner().invoke(app, ["check", str(finished.path)])
    finally:
        file.write_bytes(content)
    assert bad.exit_code == 1
    assert file.name in bad.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_scan_cut_while_training_is_left_out_counted_and_reported(
    store: Store, tmp_path: Path, workers: int
) -> None:
    """A few may go; that many have gone is an error."""
    copied = tmp_path / "store"
    shutil.copytree(store.path, copied)
    config = settings(store, tmp_path / "run", data=str(copied), workers=workers, steps=12)
    trained = [r.key for r in pretrain(config, quiet=True).data.records if not r.held_out]
    cut(copied, trained[0])
    with pytest.warns(UserWarning, match="goes on") if workers == 0 else nullcontext():
        run = pretrain(config, mode="overwrite", quiet=True)
    assert run.status == "finished"
    assert run.record.left_out == 1
    page = write_report(run.path, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 scan could not be read any more" in page
    cut(copied, trained[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(StoreError, match="is damaged"):
            pretrain(config, mode="overwrite", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "controls"), [("spatial", "last"), ("sal", "every")])
def test_a_held_out_scan_cut_while_training_is_left_out_of_observations(
    store: Store, tmp_path: Path, method: str, controls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controls and panels read scans long after the samples were drawn."""
    monkeypatch.setattr(decoded, "_LARGEST", 0)  # larger scans are not kept in memory
    copied = tmp_path / "store"
    shutil.copytree(store.path, copied)
    changes: dict[str, Any] = {"method": method, "observe_controls": controls, "held_out": 0.34}
    if method == "sal":
        changes["options"] = {"size": [16, 16], "spacing_mm": 1.0}
    config = settings(store, tmp_path / "run", data=str(copied), **changes)
    whole = last_weights(pretrain(config, quiet=True))
    real, lost = ObservationCallback.observe, []

    def damaging(self: ObservationCallback, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.global_step == 3:
            scan = module.held_out.samples()[1][0][0]
            cut(copied, scan.key)
            lost.append(module.names[scan.key])

    monkeypatch.setattr(ObservationCallback, "observe", damaging)
    with pytest.warns(UserWarning, match="held-out scan .*go on without it") as told:
        run = pretrain(config, mode="overwrite", quiet=True)
    assert any(lost[0] in str(warning.message) for warning in told)
    assert (run.status, run.record.left_out) == ("finished", None)
    assert run.record.held_out_left_out == 1
    # Nothing but what is looked at has changed.
    assert all(torch.equal(v, whole[k]) for k, v in last_weights(run).items())
    assert [seen.step for seen in run.observations()] == [6]
    page = write_report(run.path, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 held-out scan could not be read any more" in page


def test_a_run_whose_only_held_out_scan_is_lost_ends_well(store: Store, tmp_path: Path) -> None:
    copied = tmp_path / "store"
    shutil.copytree(store.path, copied)
    config = settings(store, tmp_path / "run", data=str(copied), observe_controls="last")
    held = [r.key for r in pretrain(config, quiet=True).data.records if r.held_out]
    assert len(held) == 1
    cut(copied, held[0])
    with pytest.warns(UserWarning, match="Nothing is observed any more"):
        run = pretrain(config, mode="overwrite", quiet=True)
    assert (run.status, run.record.held_out_left_out) == ("finished", 1)
    assert run.observations() == []
    assert write_report(run.path, tmp_path / "page.html").is_file()
    assert load_encoder(run.path) is not None


def cut(store: Path, key: str) -> None:
    file = next(store.glob(f"scans/*/{key}.b2nd"))
    file.write_bytes(file.read_bytes()[:-100])


def test_observations_that_claim_or_nest_too_much_are_named(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays larger than memory, a document without end, brackets without end."""
    good = next((finished.path / "observations").glob("0000006-*.obs"))
    with zipfile.ZipFile(good) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    array = next(name for name in whole if name.endswith(".npy"))
    claim = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**46,)}
    np.lib.format.write_array_header_1_0(claim, header)
    for name, content in {
        array: claim.getvalue(),
        "observation.json": b"[" * 100_000,
    }.items():
        with zipfile.ZipFile(tmp_path / "bad.obs", "w") as archive:
            for member, was in whole.items():
                archive.writestr(member, content if member == name else was)
        with pytest.raises(SitusError, match=r"bad\.obs is no whole observation"):
            Observation.load(tmp_path / "bad.obs")
    # The directory says how long a member is: nothing longer is inflated.
    monkeypatch.setattr("situs.observation.observation._LARGEST", 2**20)
    assert Observation.load(good).step == 6
    with zipfile.ZipFile(tmp_path / "bad.obs", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, was in whole.items():
            more = b" " * 2**20 if member == "observation.json" else b""
            archive.writestr(member, was + more)
    with pytest.raises(SitusError, match=r"bad\.obs is no whole observation"):
        Observation.load(tmp_path / "bad.obs")
