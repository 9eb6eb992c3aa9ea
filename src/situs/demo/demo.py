"""The main job end to end on embedded data, in minutes on two cores.

A cohort is made, an encoder is pretrained on its unlabelled training scans, and the same
network is fine-tuned with few labels twice, from the pretrained weights and from scratch. The
test subjects are seen by neither. ``planes`` looks at examinations, not at volumes: its scans are
first cut into DICOM studies, and the planes of studies that are held out are planned.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situs.demo.cohort import demo_cohort
from situs.demo.studies import cut_demo_studies
from situs.errors import SitusError
from situs.evaluation.gains import Account, account
from situs.files import write_json
from situs.methods.composition import compose
from situs.planning import RoleSummary, open_catalog, plan, summarise
from situs.pretraining.pretrain import pretrain
from situs.report.report import write_report
from situs.store import Preprocessing, Store, prepare
from situs.training.run import Run
from situs.training.shown import silenced
from situs.transfer import FinetuneConfig, Result, finetune
from situs.transfer.folder import BEGUN
from situs.weights import load_card

LABELLED = 2
"""Subjects with labels."""
STEPS = 300
"""Pretraining steps, and what follows fits into minutes on two cores."""
FINETUNE = {
    "steps": 250,
    "batch_size": 2,
    "patch_size": (32, 32, 32),
    "lr": 5e-3,
    "overlap": 0.25,
    "load_decoder": False,
}
"""The same for both arms."""
FINETUNE_2D = {**FINETUNE, "batch_size": 4, "patch_size": None}
"""For methods whose network looks at slices: whole ones."""
PLANES = {
    "options": {"rules": "heart", "size": (32, 32), "spacing_mm": 6.0, "sigma_px": 3.0},
    "backbone": {"name": "cnn", "options": {"channels": [16, 32, 64, 128]}},
    "optimiser": {"lr": 2e-3, "warmup_steps": 20},
    "held_out": 0.25,
}
"""Of ``planes``: coarse pixels for the template's 3 mm, and some studies to plan."""
STEPS_PLANES = 500
TEST = 8
"""Held-out subjects that are scored, at most a third of the cohort."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        run: The pretraining run.
        results: Fine-tuning results under ``"scratch"`` and ``"pretrained"``.
        report: The HTML report.
        seconds: Of each stage.
        planes: For ``planes``, how well the planes of held-out studies were planned.
    """

    run: Run
    results: dict[str, Result]
    report: Path
    seconds: dict[str, float]
    planes: Sequence[RoleSummary] = ()

    def account(self) -> Account:
        """Pretrained beside scratch in every metric, over the test subjects.

        Raises:
            SitusError: If no test subject has a score.
        """
        pretrained, scratch = (self.results[name].cases() for name in ("pretrained", "scratch"))
        found = account(pretrained, scratch, "segmentation", LABELLED)
        if found is None:
            raise SitusError("no test subject has a score; look at cases.csv of both results")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; of a gain: pretrained − scratch and its 95 % interval."""
        account = self.account()
        gains = {g.metric.column: (g.difference, *(g.interval or ())) for g in account.gains}
        return {
            "run": self.run.path,
            "report": self.report,
            "dice": {name: result.scores["dice"] for name, result in self.results.items()},
            "gain": gains["dice"],
            "gains": gains,
            "verdict": account.sentence,
            "seconds": self.seconds,
            "planes": [row._asdict() for row in self.planes],
        }


def run_demo(
    out: Path,
    *,
    method: str = "spatial",
    subjects: int = 24,
    steps: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> DemoResult:
    """Run the demo; stages that an earlier call finished in ``out`` are not done again.

    Args:
        out: Folder for the cohort, the run and its report.
        method: Pretext task to show, or a composition.
        subjects: Of the cohort; at least 6.
        steps: Pretraining steps; by default what fits the time.
        seed: Of everything random.
        quiet: No progress.

    Raises:
        ConfigError: For a method that is not known.
        SitusError: If there are too few subjects, or ``out`` holds a demo of other settings.
    """
    if subjects < 6:
        raise SitusError(f"the demo needs at least 6 subjects, got {subjects}")
    with silenced(quiet):
        return _run_demo(out, method, subjects, steps, seed)


def _run_demo(out: Path, method: str, subjects: int, steps: int | None, seed: int) -> DemoResult:
    compose(method)  # an unknown one is told before anything is made
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def finished(stage: str) -> None:
        nonlocal began
        seconds[stage] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()

    cohort = out / "cohort"
    demo_cohort(cohort, subjects=subjects, seed=seed)
    finished("cohort")

    names = sorted(path.name.removesuffix(".nii.gz") for path in (cohort / "images").iterdir())
    test = names[-min(TEST, subjects // 3) :]
    unlabelled = [cohort / "images" / f"{name}.nii.gz" for name in names if name not in test]
    if method == "planes":
        store = _studies(unlabelled, out, seed)
    else:
        store = prepare(unlabelled, out / "store", Preprocessing())
    finished("prepare")

    config = demo_config(method, store.path, out / "run", steps, seed)
    run = Run(out / "run")
    if not (run.path / "run.json").exists():
        pretrain(config)
    elif run.status != "finished":
        pretrain(config, mode="resume" if run.left_to_do().saved else "overwrite")
    finished("pretrain")
    planes = _planned(run) if method == "planes" else []
    if planes:
        finished("plan")

    results: dict[str, Result] = {}
    for name, init in (("scratch", "none"), ("pretrained", str(run.path))):
        results[name] = _finetune(cohort, run, name, init, names[:LABELLED], test, seed)
        finished(f"finetune {name}")
    report = write_report(run.path)
    finished("report")
    return DemoResult(run, results, report, seconds, planes)


def _studies(volumes: Sequence[Path], out: Path, seed: int) -> Store:
    """A store of DICOM studies cut from volumes, the way that real studies take."""
    cut_demo_studies(volumes, out / "dicom", "heart", seed)
    return prepare(open_catalog([out / "dicom"]), out / "store", Preprocessing(spacing="native"))


def _planned(run: Run) -> list[RoleSummary]:
    """Plan the planes of the held-out studies; all of them are kept beside the run."""
    plans = plan(run.path)
    write_json(run.path / "planes.json", [one.as_dict() for one in plans])
    return summarise(plans)


def demo_config(
    method: str, store: Path, out: Path, steps: int | None, seed: int
) -> Mapping[str, Any]:
    """Settings of the demo's pretraining: each method's small preset, minutes on two cores."""
    steps = steps or (STEPS_PLANES if method == "planes" else STEPS)
    return {
        "method": method,
        "data": store,
        "out": out,
        "steps": steps,
        "batch_size": 4,
        "seed": seed,
        "backbone": {"name": "cnn", "options": {"channels": [8, 16, 32, 64]}},
        "observe_every": max(1, steps // 4),
        "observe_samples": 16,
        "checkpoint_every": 100,
        "optimiser": {"lr": 1e-3, "warmup_steps": 20},
        **(PLANES if method == "planes" else {}),
    }


def _finetune(
    cohort: Path,
    run: Run,
    name: str,
    init: str,
    train: list[str],
    test: list[str],
    seed: int,
) -> Result:
    out = run.path / "transfer" / name
    if (out / "result.json").is_file():
        return Result.open(out)
    card = load_card(run.path)
    scratch = {"backbone": card.backbone, "preprocessing": card.preprocessing}
    settings = FINETUNE if card.backbone.spatial_dims == 3 else FINETUNE_2D
    config = FinetuneConfig(
        data=cohort,
        out=out,
        init=init,
        train=tuple(train),
        test=tuple(test),
        seed=seed,
        overwrite=True,
        **settings,
        **(scratch if init == "none" else {}),
    )
    return finetune(config, resume=(out / BEGUN).is_file())
