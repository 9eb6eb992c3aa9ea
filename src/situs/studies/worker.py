"""Carries out jobs in a process of its own, which ends with the study that started it.

It reads one job folder a line from standard input and answers each with ``done``, ``failed``, or
``taken`` where a worker of another study process is at the job, on this machine or another.
One process does many jobs, so that imports and the preparation of labelled cases are paid once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from situs.backbones import backbone_class
from situs.catalog.catalog import build_catalog
from situs.datasets.dataset import open_dataset
from situs.errors import NonFiniteLoss, RunError
from situs.files import write_json
from situs.locks import LEASE_S, holding
from situs.observation import verdicts
from situs.pretraining.pretrain import pretrain
from situs.store import Preprocessing, prepare
from situs.studies.cost import Cost
from situs.studies.jobs import COST, JOB, LOG, RESULT, RUN, JobRecord, JobResult
from situs.training.record import read_record
from situs.training.run import Run
from situs.transfer.cases import Cohort
from situs.transfer.finetune import finetune
from situs.transfer.folder import BEGUN
from situs.version import __version__
from situs.weights import load_card

_CLAIM_S = LEASE_S + 60
"""Of a machine that died; longer than the lease of the run inside, which is then free, too."""


class Worker:
    """Does jobs one after another; keeps the labelled cases that the last one needed."""

    def __init__(self) -> None:
        self._cohort: tuple[str, Cohort] | None = None

    def carry_out(self, folder: Path) -> dict[str, Any]:
        """Do the job of ``folder`` and write ``result.json`` as the very last thing."""
        job = read_record(JobRecord, folder / JOB, "start the study again, which writes it anew")
        resumed = (_resumable if job.kind == "pretrain" else _was_begun)(folder / RUN)
        actions: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
            "store": self._store,
            "pretrain": partial(self._pretrain, resumed=resumed),
            "tune": self._tried,
            "finetune": self._tried,
        }
        with Cost(folder / COST, resumed) as cost:
            found = actions[job.kind](job.config, folder / RUN) | cost.read()
        result = {**job.model_dump(include={"kind", "title", "key", "about"}), **found}
        result["situs"] = __version__
        result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        write_json(folder / RESULT, result)
        return result

    def _store(self, config: dict[str, Any], out: Path) -> dict[str, Any]:
        preprocessing = Preprocessing.model_validate(
            {**config["rules"], "compression": config["compression"]}
        )
        # Channels of one image are scans of their own here: pretraining reads one channel.
        catalog = build_catalog(
            [Path(p) for p in config["paths"]],
            volumes="each",
            workers=1,
            modality=config.get("modality"),
        )
        store = prepare(catalog, out, preprocessing, workers=1)
        return {
            "rules": store.preprocessing.of_voxels(),
            "scans": len(store),
            "refusals": [_refusal(row) for row in store.refused],
        }

    def _pretrain(self, config: dict[str, Any], out: Path, resumed: bool) -> dict[str, Any]:
        mode: Literal["resume", "new"] = "resume" if resumed else "new"
        if not resumed and out.exists():
            _set_aside(out)
        try:
            run = pretrain({**config, "out": str(out)}, mode=mode, quiet=True)
        except NonFiniteLoss as error:
            print(error, flush=True)  # noqa: T201 - the job's log
            return {"scores": {}, "diverged": True, "run": RUN}
        if run.status != "finished":
            raise RunError(f"{out} was stopped before its last step")
        scores = {
            f"{observation.method}/{name}" if "+" in config["method"] else name: score.value
            for observation in run.observations()
            for name, score in observation.scores.items()
        }
        explained = [
            f"{verdicts.label(score)}: {verdicts.explanation(score)}"
            for observation in run.observations()
            for score in observation.scores.values()
            if verdicts.told_first(score)
        ]
        return {"scores": scores, "explained": explained, "run": RUN}

    def _finetune(self, config: dict[str, Any], out: Path) -> dict[str, Any]:
        start = _pretrained_here(config, out)
        if start is not None:
            # The study's configuration named the backbone.
            backbone_class(load_card(start).backbone.name)
        values = {**config, "out": str(out), "overwrite": True}
        cohort = self._cohort_for(config)
        try:
            result = finetune(values, cohort=cohort, resume=_was_begun(out), quiet=True)
        except RunError as error:
            print(f"starting anew: {error}", flush=True)  # noqa: T201 - the job's log
            _set_aside(out)
            result = finetune(values, cohort=cohort, quiet=True)
        return {"scores": result.scores, "cases": result.cases(), "run": RUN}

    def _tried(self, config: dict[str, Any], out: Path) -> dict[str, Any]:
        """A fine-tuning or a trial; that its learning rate is too high is a result, too.

        So is a pretraining that diverged: there are no weights to begin with.
        """
        start = _pretrained_here(config, out)
        if start is not None and _diverged(start.parent):
            print(f"{start} diverged: there is nothing to begin with", flush=True)  # noqa: T201 - the job's log
            return {"scores": {}, "cases": [], "diverged": True}
        try:
            return self._finetune(config, out)
        except NonFiniteLoss as error:
            print(error, flush=True)  # noqa: T201 - the job's log
            return {"scores": {}, "cases": [], "diverged": True, "run": RUN}

    def _cohort_for(self, config: dict[str, Any]) -> Cohort:
        preprocessing = config.get("preprocessing") or load_card(config["init"]).preprocessing
        options = config["dataset"]
        key = json.dumps([config["data"], options, preprocessing], sort_keys=True, default=str)
        if self._cohort is None or self._cohort[0] != key:
            dataset = open_dataset(config["data"], **options)
            cohort = Cohort(dataset, Preprocessing.model_validate(preprocessing))
            self._cohort = (key, cohort)
        return self._cohort[1]


def _pretrained_here(config: dict[str, Any], out: Path) -> Path | None:
    """The run that a fine-tuning begins with, where this very study pretrained it."""
    start = Path(config.get("init", "none"))
    return start if start.is_relative_to(out.resolve().parents[1]) else None


def _diverged(folder: Path) -> bool:
    """Whether the job of a folder, which is finished, did."""
    return read_record(JobResult, folder / RESULT, "start the study again").diverged


def _resumable(run: Path) -> bool:
    """Whether a pretraining left a state to go on from."""
    if not (run / "run.json").is_file():
        return False
    try:
        return bool(Run.open(run).verified_state())
    except RunError as error:
        print(f"starting anew: {error}", flush=True)  # noqa: T201 - the job's log
        return False


def _was_begun(out: Path) -> bool:
    """Whether a fine-tuning left something to go on from."""
    return (out / BEGUN).is_file()


def _set_aside(out: Path) -> None:
    """Keep what cannot be gone on with: a person may want it."""
    if not out.exists():
        return
    number = 1
    while (aside := out.with_name(f"{out.name}-aside-{number}")).exists():
        number += 1
    out.rename(aside)
    print(f"{out} is kept as {aside.name}", flush=True)  # noqa: T201 - the job's log


def _refusal(row: dict[str, Any]) -> str:
    detail = f": {row['detail']}" if row["detail"] else ""
    return f"{row['source']}: {row['reason']}{detail}"


@contextlib.contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Standard output and error, also those of libraries written in C, into a job's log."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with file.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, old in zip((1, 2), kept, strict=True):
            os.dup2(old, stream)
            os.close(old)


def serve(carry_out: Callable[[Path], Any]) -> None:
    """Carry out the jobs that standard input names, each held while it lasts."""
    for line in sys.stdin:
        folder = Path(line.strip())
        with contextlib.ExitStack() as claim:
            try:
                claim.enter_context(holding(folder, "a job of a study", _CLAIM_S))
                answer = _tried(carry_out, folder)
            except RunError:
                answer = "taken"
        if not answer:
            return
        print(answer, flush=True)  # noqa: T201 - the protocol


def _tried(carry_out: Callable[[Path], Any], folder: Path) -> str:
    """How a job ended; nothing after a signal."""
    if (folder / RESULT).is_file():
        return "done"  # by another, before this process had it
    with _output_to(folder / LOG):
        try:
            carry_out(folder)
        except Exception:  # whatever a job dies of belongs in its log, and others go on
            traceback.print_exc()
            return "failed"
        except (KeyboardInterrupt, SystemExit) as end:  # with what was done saved
            print(end, flush=True)  # noqa: T201 - the job's log
            return ""
    return "done"


def main() -> None:
    """Entry point."""
    serve(Worker().carry_out)


if __name__ == "__main__":
    main()
