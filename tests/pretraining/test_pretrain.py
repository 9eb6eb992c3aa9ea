"""A run as its user sees it: files, resume, faults, and the same numbers every time."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from situs.config import load_config
from situs.errors import ConfigError, NonFiniteLoss, RunError, TransferError
from situs.files import keep_file
from situs.methods.s2dc import S2dc
from situs.methods.spatial import Spatial
from situs.pretraining.callbacks import is_best
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import EndlessSampler, ViewDataset, split_items
from situs.pretraining.module import Pretraining
from situs.pretraining.pace import Pace
from situs.pretraining.pretrain import pretrain
from situs.pretraining.teacher import TeacherConfig, momentum_at, update_teacher
from situs.store import Preprocessing, Store, prepare
from situs.training.run import MetricsFile, Run
from situs.training.states import step_of
from situs.views import ArraySource
from situs.weights import load_card


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Eight small scans with structure, prepared."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (26, 30, 24)], indexing="ij"))
    for subject in range(8):
        bumps = np.exp(-4 * ((grid - rng.uniform(-0.5, 0.5, (3, 1, 1, 1))) ** 2).sum(0))
        array = 100 + 400 * bumps + 50 * grid[0] + rng.normal(0, 5, bumps.shape)
        nib.save(
            nib.Nifti1Image(array.astype(np.float32), np.diag([1, 1, 1.2, 1])),
            folder / f"subject_{subject}.nii.gz",
        )
    return prepare([folder], tmp_path_factory.mktemp("stores") / "store", Preprocessing())


def settings(data: Store | Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": data.path if isinstance(data, Store) else data,
        "out": out,
        "steps": 6,
        "batch_size": 2,
        "seed": 3,
        "workers": 0,
        "observe_every": 3,
        "observe_samples": 4,
        "checkpoint_every": 3,
        "log_every": 1,
        "threads": 1,
        "options": {"view_size": [16, 16, 16], "chunk_size": [6, 6, 6], "width": 16},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
        **changes,
    }


def weights(run: Run, which: str = "last") -> dict[str, torch.Tensor]:
    folder = run.path / "checkpoints" / which
    return {
        **load_file(folder / "encoder.safetensors"),
        **{f"decoder.{k}": v for k, v in load_file(folder / "decoder.safetensors").items()},
    }


def assert_same_weights(one: Run, two: Run) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def best_step(run: Run) -> int:
    return int(json.loads((run.path / "checkpoints/best/card.json").read_text())["step"])


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    return pretrain(settings(store, tmp_path_factory.mktemp("runs") / "whole"), quiet=True)


def test_a_run_leaves_exactly_the_files_it_promises(whole: Run) -> None:
    states = [state for state, _ in whole.states()]
    assert [step_of(state) for state in states] == [6, 3]
    files = {
        str(f.relative_to(whole.path))
        for f in whole.path.rglob("*")
        if f.is_file() and "tensorboard" not in f.parts
    }
    kept = {
        f"checkpoints/{w}/{n}"
        for w in ("last", "best")
        for n in ("encoder.safetensors", "decoder.safetensors", "heads.safetensors", "card.json")
    }
    assert files == kept | {
        "config.yaml",
        "run.json",
        "data.json",
        "metrics.csv",
        *(f"checkpoints/last/{state.name}" for state in states),
        "observations/0000003-spatial.obs",
        "observations/0000006-spatial.obs",
    }
    assert whole.status == "finished"
    assert [row["step"] for row in whole.metrics()] == [1, 2, 3, 4, 5, 6]
    assert {"loss/total", "loss/gap_axis", "lr", "seconds"} <= whole.metrics()[0].keys()
    assert "score/gap_error" in whole.metrics()[2]
    assert whole.config["options"]["spatial"]["length_mm"] is not None
    assert whole.observations()[0].scores["gap_error"].unit == "mm"
    assert whole.encoder().spatial_dims == 3
    assert "MSE" in whole.record.method_info["spatial"].formulas["gap_axis"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_whatever_the_workers(
    whole: Run, store: Store, tmp_path: Path
) -> None:
    for workers in (2, "auto"):
        again = pretrain(
            settings(store, tmp_path / f"again-{workers}", workers=workers), quiet=True
        )
        assert_same_weights(whole, again)
    other = pretrain(settings(store, tmp_path / "other", seed=4), quiet=True)
    assert not torch.equal(next(iter(weights(other).values())), next(iter(weights(whole).values())))


def test_workers_draw_as_fast_as_steps_are_taken() -> None:
    assert Pace(sample_seconds=0.1, step_seconds=0.5, batch_size=8).workers(cores=14.5) == 2
    assert Pace(sample_seconds=3.35, step_seconds=1.0, batch_size=1).workers(cores=15) == 5
    assert Pace(sample_seconds=3.35, step_seconds=0.1, batch_size=2).workers(cores=7.9) == 7
    assert Pace(sample_seconds=0.1, step_seconds=0.1, batch_size=2).workers(cores=-1) == 1


class Stop(Exception):
    """A fault from outside."""


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the method fail in its ``call``-th step."""
    original, calls = Spatial.step, iter(range(1, 1000))

    def step(self: Spatial, *args: Any) -> Any:
        if next(calls) == call:
            raise Stop
        return original(self, *args)

    monkeypatch.setattr(Spatial, "step", step)


@pytest.mark.parametrize("fails_in", [4, 6])
def test_a_resumed_run_ends_with_the_same_numbers(
    whole: Run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_in: int
) -> None:
    config = settings(store, tmp_path / "run")
    with monkeypatch.context() as patched:
        stop_at(patched, fails_in)
        with pytest.raises(Stop):
            pretrain(config, quiet=True)
    stopped = Run.open(tmp_path / "run")
    assert stopped.status == "stopped"
    resumed = pretrain(config, mode="resume", quiet=True)
    assert resumed.status == "finished"
    assert_same_weights(whole, resumed)
    assert best_step(resumed) == best_step(whole)
    losses, expected = ([row["loss/total"] for row in r.metrics()] for r in (resumed, whole))
    assert losses == expected
    assert [o.scores["gap_error"].value for o in resumed.observations()] == [
        o.scores["gap_error"].value for o in whole.observations()
    ]


def test_resuming_between_accumulated_batches_changes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimiser = {"accumulate": 2, "warmup_steps": 1}
    whole = pretrain(settings(store, tmp_path / "whole", optimiser=optimiser), quiet=True)
    config = settings(store, tmp_path / "run", optimiser=optimiser)
    with monkeypatch.context() as patched:
        stop_at(patched, 8)  # the second half of the fourth step
        with pytest.raises(Stop):
            pretrain(config, quiet=True)
    assert_same_weights(whole, pretrain(config, mode="resume", quiet=True))


def test_a_cpu_steps_in_one_call_and_a_run_that_began_otherwise_goes_on_so(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(store, tmp_path / "run", observe_every=0, checkpoint_every=2, steps=4)
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        with pytest.raises(Stop):
            pretrain(config, quiet=True)
    run = Run.open(tmp_path / "run")
    kept = run.verified_state()
    state = torch.load(kept, weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert [group["fused"] for group in groups] == [True, True]
    for group in groups:
        group["fused"] = None
    part = kept.with_name(".state.partial")
    torch.save(state, part)
    run.keep_state(part, step_of(kept))
    ended = torch.load(
        pretrain(config, mode="resume", quiet=True).verified_state(), weights_only=True
    )
    assert step_of(run.verified_state()) == 4
    assert [g["fused"] for g in ended["optimizer_states"][0]["param_groups"]] == [None, None]


def queued(store: Store, out: Path, **changes: Any) -> dict[str, Any]:
    """A run with a queue and running statistics: both change before a step is finished."""
    options = {"crop_size": [8, 8, 8], "queue_size": 12, "global_crops": 2, "hidden": 8}
    changes = {
        "method": "s2dc",
        "options": {**options, "features": 8},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8], "norm": "batch"}},
        "observe_every": 0,
        "observe_samples": 1,
        "checkpoint_every": 2,
    } | changes
    return settings(store, out, **changes)


def whole_state(run: Run) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run.verified_state(), weights_only=True)
    flat = {f"network.{k}": v for k, v in state["state_dict"].items()}
    for number, moments in state["optimizer_states"][0]["state"].items():
        flat |= {f"{number}.{k}": v for k, v in moments.items()}
    return flat


def assert_same_state(one: Run, two: Run) -> None:
    first, second = whole_state(one), whole_state(two)
    assert first.keys() == second.keys()
    assert any("queue.stored" in name for name in first)
    assert any("running_var" in name for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_broke_off_leaves_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    config = queued(store, tmp_path / "run", optimiser={"accumulate": accumulate}, steps=4)
    whole = pretrain({**config, "out": tmp_path / "whole"}, quiet=True)
    original, calls = S2dc.step, iter(range(1, 100))

    def poisoned(self: S2dc, batch: Any, *args: Any) -> Any:
        if next(calls) == 3 * accumulate:
            batch = {**batch, "augmented": batch["augmented"] * torch.nan}
        return original(self, batch, *args)

    with monkeypatch.context() as patched:
        patched.setattr(S2dc, "step", poisoned)
        with pytest.raises(NonFiniteLoss, match="'global' is not finite at step 2"):
            pretrain(config, quiet=True)
    stopped = Run.open(tmp_path / "run")
    assert stopped.record.step == 2
    assert all(torch.isfinite(v).all() for v in whole_state(stopped).values())

    def broken(self: Pretraining, *args: Any, **kwargs: Any) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "configure_gradient_clipping", broken)
        with pytest.raises(Stop):
            pretrain(config, mode="resume", quiet=True)
    resumed = pretrain(config, mode="resume", quiet=True)
    assert_same_state(whole, resumed)
    losses, expected = (
        [(r["step"], r["loss/total"]) for r in x.metrics()] for x in (resumed, whole)
    )
    assert losses == expected
    assert [step for step, _ in losses] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("where", ["global", "gradient"])
def test_a_step_that_is_looked_at_later_leaves_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int, where: str
) -> None:
    # As on a GPU, which is asked only where something is logged or saved: here after step 5.
    monkeypatch.setattr("situs.pretraining.module.looks_later", lambda *_: True)
    changes = {"optimiser": {"accumulate": accumulate}, "steps": 5, "log_every": 5}
    config = queued(store, tmp_path / "run", checkpoint_every=5, **changes)
    whole = pretrain({**config, "out": tmp_path / "whole"}, quiet=True)
    original, calls = S2dc.step, iter(range(1, 100))

    def poisoned(self: S2dc, batch: Any, *args: Any) -> Any:
        here = next(calls) == 3 * accumulate
        if here and where == "global":
            batch = {**batch, "augmented": batch["augmented"] * torch.nan}
        result = original(self, batch, *args)
        if here and where == "gradient":
            result.losses["total"].register_hook(lambda grad: grad * torch.nan)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(S2dc, "step", poisoned)
        with pytest.raises(NonFiniteLoss, match=f"'{where}' is not finite at step 2.*sub") as told:
            pretrain(config, quiet=True)
    assert len(set(told.value.scans)) == 2
    stopped = Run.open(tmp_path / "run")
    assert stopped.record.step == 2
    state = torch.load(stopped.verified_state(), weights_only=True)
    assert state["global_step"] == 2
    assert state["lr_schedulers"][0]["last_epoch"] == 2
    assert all(torch.isfinite(v).all() for v in whole_state(stopped).values())
    assert_same_state(whole, pretrain(config, mode="resume", quiet=True))


def test_nothing_is_saved_of_a_step_that_broke_off_while_parameters_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = queued(store, tmp_path / "run", steps=4)
    whole = pretrain({**config, "out": tmp_path / "whole"}, quiet=True)
    calls = iter(range(1, 100))

    def interrupted(*args: Any) -> None:
        update_teacher(*args)
        if next(calls) == 4:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr("situs.pretraining.module.update_teacher", interrupted)
        with pytest.raises(Stop):
            pretrain(config, quiet=True)
    state = torch.load(Run.open(tmp_path / "run").verified_state(), weights_only=True)
    assert state["global_step"] == 2  # of the checkpoint; step 3 is done again
    assert_same_state(whole, pretrain(config, mode="resume", quiet=True))


def test_a_loss_that_is_not_finite_stops_with_names_and_keeps_the_last_good_state(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Spatial.step, iter(range(100))

    def poisoned(self: Spatial, *args: Any) -> Any:
        result = original(self, *args)
        if next(calls) == 4:
            result.losses["route"] = result.losses["route"] * torch.nan
            result.losses["total"] = result.losses["total"] * torch.nan
        return result

    monkeypatch.setattr(Spatial, "step", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"'route' is not finite at step 4.*subject") as caught:
        pretrain(settings(store, tmp_path / "run"), quiet=True)
    assert len(caught.value.scans) == 2
    run = Run.open(tmp_path / "run")
    assert run.record.step == 4
    assert all(torch.isfinite(v).all() for v in weights(run).values())
    assert json.loads((run.path / "checkpoints/last/card.json").read_text())["step"] == 4


def test_new_resume_and_overwrite_are_three_wishes(
    whole: Run, store: Store, tmp_path: Path
) -> None:
    config = settings(store, tmp_path / "run")
    with pytest.raises(RunError, match="not a run folder"):
        pretrain(config, mode="resume", quiet=True)
    with pytest.raises(RunError, match="already holds a run"):
        pretrain(settings(store, whole.path), quiet=True)
    with pytest.raises(RunError, match="batch_size × devices: was 2, now 3"):
        pretrain(settings(store, whole.path, batch_size=3), mode="resume", quiet=True)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans that are no store."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(2):
        array = np.random.default_rng(number).normal(100, 20, (20, 20, 20)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{number}.nii")
    return folder


def test_a_resumed_run_has_the_same_data_and_options(
    whole: Run, store: Store, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(store.path, tmp_path / "moved")
    other = prepare([few], tmp_path / "other", Preprocessing(), workers=0).path
    config = settings(store, tmp_path / "run")
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(Stop):
            pretrain(config, quiet=True)
    run = Run.open(tmp_path / "run")
    begun, scans = run.record, (run.path / "data.json").read_bytes()

    weighted = {"spatial": run.config["options"]["spatial"] | {"weights": {"route": 0.0}}}
    with pytest.raises(RunError, match=r"options\.spatial\.weights\.route: was 0\.5, now 0\.0"):
        pretrain({**config, "options": weighted}, mode="resume", quiet=True)
    resolved = {**config, "options": run.config["options"]}
    with pytest.raises(RunError, match=rf"other data \(fingerprint was {store.fingerprint}"):
        pretrain({**resolved, "data": other}, mode="resume", quiet=True)
    torn = json.loads(scans)
    torn["records"][0]["held_out"] ^= True
    (run.path / "data.json").write_text(json.dumps(torn))
    with pytest.raises(RunError, match="held out in another way"):
        pretrain(config, mode="resume", quiet=True)
    assert run.record == begun
    (run.path / "data.json").write_bytes(scans)

    resumed = pretrain({**config, "data": moved}, mode="resume", quiet=True)
    assert_same_weights(whole, resumed)
    assert resumed.record.stopped_by is None
    assert len(resumed.record.resumed) == 1
    assert resumed.record.started == begun.started
    files = {f: f.read_bytes() for f in run.path.rglob("*") if f.is_file()}
    assert pretrain(config, mode="resume", quiet=True).status == "finished"
    assert files == {f: f.read_bytes() for f in run.path.rglob("*") if f.is_file()}


def test_no_run_is_written_among_the_scans(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(few.rglob("*"))
    monkeypatch.chdir(few)
    with pytest.raises(RunError, match=r"'out': \. holds the scans"):
        pretrain(settings(few, Path()), quiet=True)
    assert sorted(few.rglob("*")) == before


@pytest.mark.slow
def test_overwriting_deletes_nothing_that_the_run_needs(few: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(few, out, steps=1, workers=0, held_out=0.0)
    run = pretrain(config, quiet=True)
    files = sorted(out.rglob("*"))
    for needed, init in ((out / "store", None), (few, out), (out / "store", out)):
        with pytest.raises(RunError, match=r"overwriting .* would delete"):
            pretrain({**config, "data": needed}, mode="overwrite", init=init, quiet=True)
    with pytest.raises(ConfigError, match="'data' is not there"):
        pretrain({**config, "data": tmp_path / "gone"}, mode="overwrite", quiet=True)
    with pytest.raises(TransferError):
        pretrain(config, mode="overwrite", init=tmp_path, quiet=True)
    assert sorted(out.rglob("*")) == files
    assert pretrain(config, mode="resume", quiet=True).status == "finished"
    with pytest.raises(RunError, match="goes on with its own store"):
        pretrain({**config, "data": tmp_path}, mode="resume", quiet=True)

    (out / "report").mkdir()
    again = pretrain({**config, "seed": 8}, mode="overwrite", quiet=True)
    assert again.record.seed == 8
    assert not (out / "report").exists()
    assert len(Store.open(out / "store")) == 2
    assert run.status == "finished"


def test_a_damaged_state_is_refused(store: Store, tmp_path: Path) -> None:
    config = settings(store, tmp_path / "run", steps=3)
    run = pretrain(config, quiet=True)
    state = run.verified_state()
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="damaged"):
        run.verified_state()
    state.unlink()
    with pytest.raises(RunError, match="no resumable state"):
        run.verified_state()


def test_a_run_that_is_killed_while_it_saves_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "checkpoints" / "last"
    last.mkdir(parents=True)
    run = Run(tmp_path)

    def save(step: int) -> None:
        (last / ".state.partial").write_bytes(f"state {step}".encode() * 100)
        run.keep_state(last / ".state.partial", step)

    def killed(*args: Any) -> None:
        raise Stop

    def named_and_killed(part: Path, path: Path) -> None:
        keep_file(part, path)
        raise Stop

    save(9)
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(f"os.{call}", killed)
            with pytest.raises(Stop):
                save(10)
        assert run.verified_state().read_bytes() == b"state 9" * 100
    with monkeypatch.context() as patched:
        patched.setattr("situs.training.states.keep_file", named_and_killed)
        with pytest.raises(Stop):
            save(10)
    assert len(list(last.glob("state-*"))) == 2
    assert run.verified_state().read_bytes() == b"state 10" * 100
    save(10_000_000)
    assert run.verified_state().read_bytes() == b"state 10000000" * 100
    assert [f.read_bytes()[:8] for f in sorted(last.iterdir())] == [b"state 10", b"state 10"]


def test_init_starts_from_given_weights(whole: Run, store: Store, tmp_path: Path) -> None:
    config = settings(store, tmp_path / "run", steps=1, optimiser={"lr": 1e-12, "weight_decay": 0})
    started = pretrain(config, init=whole.path, quiet=True)
    best = weights(whole, "best")
    for name, value in weights(started).items():
        torch.testing.assert_close(value, best[name])

    # What it began with stays known: in the run, in every card, and over several trainings.
    card = load_card(started.path)
    assert card.began is not None
    assert card.began.model_dump(mode="json") == started.record.init
    assert card.began.sha256["encoder"] == load_card(whole.path).checksums["encoder.safetensors"]
    assert card.began.shares == {"encoder": 1.0, "decoder": 1.0}
    assert card.began.method == "spatial"
    again = pretrain({**config, "out": tmp_path / "again"}, init=started.path, quiet=True)
    assert load_card(again.path).began.began == card.began
    assert load_card(whole.path).began is None


def test_unknown_keys_suggest_the_nearest(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'optimiser.lrr' \(did you mean 'lr'\?\)"):
        load_config(PretrainConfig, settings(store, tmp_path), ["optimiser.lrr=1"])
    with pytest.raises(ConfigError, match=r"unknown method 'spacial' \(did you mean 'spatial'\?\)"):
        pretrain(settings(store, tmp_path / "x", method="spacial", options={}), quiet=True)
    with pytest.raises(ConfigError, match="view_sise"):
        pretrain(settings(store, tmp_path / "y", options={"view_sise": 3}), quiet=True)


def test_a_contrast_needs_something_to_contrast_with(store: Store, tmp_path: Path) -> None:
    contrast: dict[str, Any] = {
        "method": "simclr",
        "options": {"view_size": [8, 8, 8], "hidden": 8, "width": 8},
        "steps": 1,
    }
    alone = settings(store, tmp_path / "alone", **contrast | {"batch_size": 1})
    with pytest.raises(ConfigError, match=r"batch_size 1 on 1 device.*batch_size=2 or more"):
        pretrain(alone, quiet=True)
    assert not (tmp_path / "alone").exists()
    crowded = settings(store, tmp_path / "crowded", **contrast | {"batch_size": 9})
    with pytest.warns(UserWarning, match="7 training scans for batches of 9: .* simclr"):
        pretrain(crowded, quiet=True)


def test_the_best_of_one_method_is_its_lowest_score() -> None:
    values = [3.0, 2.0, 2.0, math.nan, 2.5, 1.0]
    verdicts = [is_best([{"spatial": v} for v in values[: n + 1]]) for n in range(len(values))]
    assert verdicts == [True, True, False, False, False, True]
    assert is_best([{"spatial": math.nan}, {"spatial": 5.0}])
    assert is_best([{}, {}]), "nothing to judge by: the latest"


def test_the_best_of_a_sum_asks_all_parts_whatever_their_order_and_unit() -> None:
    # Gaps in mm get better for 7 steps while R² gets worse from the third on.
    gaps, r2 = [30.0, 20, 18, 17.5, 17.4, 17.3], [0.0, 0.2, 0.3, 0.25, 0.1, -0.3]
    history = [{"spatial": g, "mae": -r} for g, r in zip(gaps, r2, strict=True)]
    judged = [is_best(history[: n + 1]) for n in range(6)]
    assert judged == [True, True, True, False, False, False]
    scaled = [{"mae": 1000 * h["mae"] + 5, "spatial": h["spatial"] / 25.4} for h in history]
    assert [is_best(scaled[: n + 1]) for n in range(6)] == judged


def test_a_sum_is_judged_by_the_monitors_of_all_its_parts(store: Store, tmp_path: Path) -> None:
    options = {
        "spatial": settings(store, tmp_path)["options"],
        "mae": {"view_size": [16, 16, 16]},
    }
    changes = {"method": "spatial+mae", "options": options, "observe_every": 2}
    run = pretrain(settings(store, tmp_path / "run", **changes), quiet=True)
    assert run.config["options"]["mae"]["block_size"] == [8, 8, 8]
    rows = [r for r in run.metrics() if "score/mae/reconstruction_r2" in r]
    history = [
        {"spatial": r["score/spatial/gap_error"], "mae": -r["score/mae/reconstruction_r2"]}
        for r in rows
    ]
    best = [int(r["step"]) for n, r in enumerate(rows) if is_best(history[: n + 1])]
    assert [int(r["step"]) for r in rows] == [2, 4, 6]
    assert best_step(run) == best[-1]


def test_samples_depend_on_their_number_only() -> None:
    sampler = EndlessSampler(first_step=5, batch_size=2)
    numbers = [n for n, _ in zip(sampler, range(4), strict=False)]
    assert numbers == [10, 11, 12, 13]
    ranks = [EndlessSampler(0, 2, rank, 2) for rank in (0, 1)]
    first = [[n for n, _ in zip(r, range(4), strict=False)] for r in ranks]
    assert first == [[0, 1, 4, 5], [2, 3, 6, 7]]
    dataset = ViewDataset([[ArraySource(np.zeros((1, 4, 4, 4), np.float32))]] * 5, None, seed=1)  # type: ignore[arg-type]
    order = [dataset.item_index(n) for n in range(15)]
    assert all(sorted(order[e : e + 5]) == [0, 1, 2, 3, 4] for e in (0, 5, 10))
    assert [dataset.item_index(n) for n in (12, 3)] == [order[12], order[3]]


def test_scans_of_a_study_stay_on_one_side() -> None:
    array = np.zeros((1, 2, 2, 2), np.float32)
    items = [[ArraySource(array, key=f"{s}-{i}", study=f"s{s}")] for s in range(10) for i in (0, 1)]
    train, held = split_items(items, 0.2, seed=0)
    assert len(train) == 16
    assert not {i[0].study for i in train} & {i[0].study for i in held}
    everything = split_items(items[:6], 0.2, seed=0)
    assert everything[0] == everything[1] == items[:6]


def test_the_teachers_momentum_rises() -> None:
    cosine = TeacherConfig(momentum=0.9, schedule="cosine")
    assert momentum_at(cosine, 100_000, 100_000) == pytest.approx(1.0, abs=1e-4)
    assert momentum_at(TeacherConfig(momentum=0.99), 0, 10) == pytest.approx(0.1)


def test_metrics_of_a_resumed_run_drop_what_will_be_done_again(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        file.add(step, {"loss": step})
    file.add(3, {"score": 1.0})
    file.flush()
    again = MetricsFile(tmp_path / "metrics.csv", from_step=2)
    again.add(3, {"loss": 30.0})
    again.flush()
    text = (tmp_path / "metrics.csv").read_text().split()
    assert text == ["step,loss,score", "1,1,", "2,2,", "3,30.0,"]
