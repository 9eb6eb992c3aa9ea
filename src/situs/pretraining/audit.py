"""``situs audit``: what a run's configuration reaches when scans hold no anatomy.

The cheap controls of an observation ask the trained network, which has never seen an emptied
scan. Here the same configuration is trained on scans without anatomy, on the same split, so that
whatever else solves the task is found if it can be.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from situs.backbones.base import Backbone
from situs.config import load_config
from situs.errors import ConfigError, RunError, setting
from situs.files import remembered, write_json
from situs.methods.base import Nets
from situs.methods.composition import Composition, CompositionControls, compose
from situs.observation import Observation
from situs.pretraining.config import PretrainConfig
from situs.pretraining.controls import untrained, without_anatomy
from situs.pretraining.data import Item, observed_batch, split_items
from situs.pretraining.module import Pretraining
from situs.pretraining.parts import build_backbone, items_of, open_store
from situs.splits.groups import scan_groups
from situs.training.engine import engine, quick_layout, quiet_engine
from situs.training.progress import TrainingProgress
from situs.training.run import Run
from situs.training.shown import silenced
from situs.views.controls import CONTROLS
from situs.weights import beginning, load_into

AUDIT = "audit.json"
"""Name of the file that an audit leaves in the run's folder."""


_UNFINISHED = "audit-unfinished.json"


def audit(
    run: str | Path,
    steps_share: float = 0.25,
    *,
    init: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train a run's configuration on emptied and on shuffled scans, and write ``audit.json``.

    What one of the two trainings reached is kept at once: an audit that was stopped goes on with
    the other.

    Args:
        run: A finished run, with its scans or store where they were.
        steps_share: Share of the run's steps that each of the two trainings takes, above 0 and
            at most 1.
        init: The weights that the run began with, where it began with any; both trainings begin
            with them.
        quiet: No progress.

    Returns:
        Score → ``trained``, ``emptied``, ``shuffled``, ``untrained``, ``constant``, ``chance``,
        ``unit`` and ``better``; names of a composition's scores are ``part/score``.

    Raises:
        ConfigError: If ``steps_share`` is out of range, the data are not there, or ``init`` is not
            what the run began with.
        RunError: If there is no run, or none of its observations.
    """
    if not 0 < steps_share <= 1:
        raise ConfigError(
            f"{setting('steps_share')} must be above 0 and at most 1, got {steps_share:g}"
        )
    begun = time.perf_counter()
    folder = Run.open(run)
    latest = folder.observations()
    if not latest:
        raise RunError(f"{run} was never observed: there are no scores to audit")
    _check_init(folder, init)
    config = load_config(PretrainConfig, {**folder.config, "out": str(folder.path)}, ())
    steps = max(1, round(steps_share * config.steps))
    store = open_store(config, "resume")
    groups = scan_groups(store.records)
    composition = compose(config.method, config.options, config.weights, config.uncertainty)
    train, held_out = split_items(
        items_of(store, composition), config.held_out, config.seed, groups
    )
    unfinished = folder.path / _UNFINISHED
    of = {"steps": steps, "trained_steps": latest[0].step, "config": folder.config}
    reached = _kept(unfinished, of)
    for control in CONTROLS:
        if control in reached:
            continue
        backbone = build_backbone(config, composition, store)
        if init is not None:
            _begin(folder, backbone, init)
        module = Pretraining(_shorter(config, steps), composition, backbone, train, held_out)
        module.train_items = without_anatomy(train, control)
        with silenced(quiet):
            _fit(module, steps)
        reached[control] = _values(config, composition, module, held_out, control)
        write_json(unfinished, {"of": of, "reached": reached})
    found: dict[str, dict[str, dict[str, float]]] = {}
    for by_part in reached.values():
        for part, of_control in by_part.items():
            found.setdefault(part, {}).update(of_control)
    scores = _table(latest, found)
    document = {
        "steps": steps,
        "steps_share": steps_share,
        "trained_steps": config.steps if (done := folder.record.step) is None else done,
        "seconds": round(time.perf_counter() - begun, 1),
        "scores": scores,
    }
    write_json(folder.path / AUDIT, document)
    unfinished.unlink(missing_ok=True)
    return scores


def _kept(file: Path, of: dict[str, Any]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Control → part → control → score → value of an audit that was stopped; empty if of another.

    Args:
        file: What it left.
        of: What it must have been an audit of.
    """
    left = remembered(file)
    # As JSON, which knows no tuples.
    same = left.get("of") == json.loads(json.dumps(of, default=str))
    return dict(left["reached"]) if same else {}


def _check_init(folder: Run, init: str | Path | None) -> None:
    began = folder.record.init
    if began is not None and init is None:
        raise ConfigError(
            f"{folder.path} began with weights, '{began.get('name', '')}': give their folder as "
            f"{setting('init')}, so that the trainings without anatomy begin with them too"
        )
    if began is None and init is not None:
        raise ConfigError(f"{folder.path} began with random weights: leave out {setting('init')}")


def _begin(folder: Run, backbone: Backbone, init: str | Path) -> None:
    """Load what the run began with, once it is known to be that."""
    began = beginning(init, load_into(backbone, init))
    if began.sha256 != (folder.record.init or {}).get("sha256"):
        raise ConfigError(
            f"{setting('init')} {init} holds other weights than {folder.path} began with"
        )


def _shorter(config: PretrainConfig, steps: int) -> PretrainConfig:
    """The configuration with its schedule on fewer steps."""
    warmup = round(config.optimiser.warmup_steps * steps / config.steps)
    optimiser = config.optimiser.model_copy(update={"warmup_steps": warmup})
    return config.model_copy(
        update={"steps": steps, "optimiser": optimiser, "devices": 1, "num_nodes": 1}
    )


def _fit(module: Pretraining, steps: int) -> None:
    quick_layout(module)
    with quiet_engine():
        trainer = pl.Trainer(
            max_steps=steps,
            **engine(1, 1, module.config.accelerator, module.config.precision),
            accumulate_grad_batches=module.config.optimiser.accumulate,
            use_distributed_sampler=False,
            logger=False,
            callbacks=[TrainingProgress()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            # Lightning makes an exit with code 1 of a Ctrl-C, and is deaf to further ones.
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None


@torch.no_grad()
def _values(
    config: PretrainConfig,
    composition: Composition,
    module: Pretraining,
    held_out: Sequence[Item],
    control: str,
) -> dict[str, dict[str, dict[str, float]]]:
    """Part → control → score → value, on held-out scans without anatomy."""
    count, seed = config.observe_samples, config.seed
    real, items = observed_batch(held_out, composition, count, seed)
    without, _ = observed_batch(without_anatomy(held_out, control), composition, count, seed)
    fresh = untrained(config, composition, module.student.backbone)
    module.cpu().eval()
    return composition.control_values(
        real,
        Nets(module.student, module.teacher),
        items,
        CompositionControls({control: without}, fresh),
    )


def _table(
    latest: Sequence[Observation], found: dict[str, dict[str, dict[str, float]]]
) -> dict[str, dict[str, Any]]:
    """A row a score that is compared with anything."""
    several = len(latest) > 1
    return {
        f"{observation.method}/{name}" if several else name: {
            "trained": score.value,
            **{c: of[name] for c, of in found[observation.method].items() if name in of},
            "constant": score.constant,
            "chance": score.chance,
            "unit": score.unit,
            "better": score.better,
        }
        for observation in latest
        for name, score in observation.scores.items()
        if score.collapsed is None and not score.by_construction
    }
