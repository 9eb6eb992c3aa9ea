"""How a result folder is entered: as a new one, as the same one again, or in place of another."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from situs.config import dump_yaml, read_yaml, validate
from situs.errors import RunError, SitusError, setting
from situs.files import read_json, sha256, write_file, write_json
from situs.locks import NAME, is_empty
from situs.made import beside_the_point
from situs.splits.split import Split
from situs.training.folder import check_outside, check_unchanged, clear
from situs.training.offending import OFFENDING
from situs.training.stopping import Left, left_to_do
from situs.transfer.cases import Cohort
from situs.transfer.config import FinetuneConfig
from situs.transfer.result import OBSERVATION, RESULT

CONFIG, BEGUN, STATE, JOURNAL = "config.yaml", "begun.json", "state", "evaluated.jsonl"
"""What was asked for; on which cases; states to go on from; the test cases scored so far."""

_OWN = {CONFIG, BEGUN, STATE, JOURNAL, RESULT, OBSERVATION, NAME, "cases.csv", "metrics.csv"} | {
    "model",
    "predictions",
    OFFENDING,
    "wandb",  # see situs.training.loggers
    "mlflow",
}
_REMEDY = "begin anew in another folder"


def check_folder(config: FinetuneConfig, resume: bool) -> None:
    """Refuse a folder that does not fit what is asked, or holds what is not situs's to delete.

    Raises:
        RunError: If it is not empty and nothing was said of that, holds something else than the
            result of a fine-tuning, or what is needed, or there is nothing to resume.
    """
    out = config.out
    if resume:
        _insist_on_begun(out)
        return
    if is_empty(out):
        return
    if not config.overwrite:
        raise RunError(
            f"{out} is not empty; choose another {setting('out')}, or say {setting('overwrite')}"
        )
    strange = sorted(item.name for item in out.iterdir() if item.name not in _OWN)
    if strange or not _is_ours(out / CONFIG):
        what = f" ({', '.join(strange[:3])})" if strange else ""
        raise RunError(f"{out} holds something that is no result of situs{what}; not replaced")
    check_outside(out, [config.data, *([] if config.init == "none" else [config.init])])


def begun_with(out: Path) -> dict[str, Any]:
    """The settings that the fine-tuning in a folder was begun with.

    Raises:
        RunError: If there is none.
    """
    if not (out / RESULT).is_file():  # a finished one is left as it is
        _insist_on_begun(out)
    return read_yaml(out / CONFIG)


def _insist_on_begun(out: Path) -> None:
    if not out.exists():
        raise RunError(f"{out} does not exist")
    if not (out / BEGUN).is_file():
        raise RunError(
            f"{out} holds no fine-tuning that can be resumed: it has no {BEGUN}"
            f"{beside_the_point(out)}"
        )


def _is_ours(file: Path) -> bool:
    """Whether a configuration is one that a fine-tuning wrote."""
    try:
        found = read_yaml(file)
    except SitusError:
        return False
    return {"data", "out", "task", "init"} <= set(found) <= set(FinetuneConfig.model_fields)


def enter_folder(config: FinetuneConfig, split: Split, cohort: Cohort, resume: bool) -> None:
    """Begin in an empty folder, or see that a resumed fine-tuning is the same one.

    Raises:
        RunError: If settings or cases are others than it was begun with.
    """
    begun = {"split": asdict(split), "fingerprint": _fingerprint(cohort, split)}
    if not resume:
        clear(config.out)
        write_file(config.out / CONFIG, dump_yaml(config))
        write_json(config.out / BEGUN, begun)
        return
    was = validate(FinetuneConfig, read_yaml(config.out / CONFIG)).model_dump(mode="json")
    check_unchanged(config.out, was, config)
    if read_json(config.out / BEGUN, _REMEDY) != json.loads(json.dumps(begun)):
        raise RunError(
            f"{config.out} cannot be resumed: the cases, or who of them is trained and tested on, "
            f"are not those that it was begun with. Restore them, or {_REMEDY}."
        )


def left_in(out: Path) -> Left:
    """What is left to do in the folder of a fine-tuning that was stopped."""
    return left_to_do("finetune", out, BEGUN, out / STATE)


def leave_folder(out: Path) -> None:
    """Delete what only an unfinished fine-tuning needs."""
    for name in (BEGUN, JOURNAL):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / STATE, ignore_errors=True)


def _fingerprint(cohort: Cohort, split: Split) -> str:
    """Of what is trained on."""
    parts: list[Any] = []
    for case in cohort.load(split.train):
        parts += [case.name, case.image.tobytes()]
        parts += [b"" if part is None else part.tobytes() for part in (case.label, case.target)]
    return sha256(*parts, digits=32)
