"""``situs.pretrain``: from a configuration to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from situs.config import load_config
from situs.errors import ConfigError, ProcessFailed
from situs.files import check_writable
from situs.locks import holding
from situs.methods.composition import Composition, compose
from situs.pretraining.config import PretrainConfig, check_data_there
from situs.ranks import is_first
from situs.training.folder import Mode, check_mode, is_run
from situs.training.run import Run
from situs.training.shown import silenced
from situs.training.stopping import stop_signals, was_requeued


def pretrain(
    config: Mapping[str, Any] | str | Path | PretrainConfig,
    *,
    mode: Mode = "new",
    init: str | Path | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """Pretrain a backbone; everything that was computed is kept whatever happens.

    Args:
        config: A mapping, the path of a YAML file, or a :class:`PretrainConfig`.
        mode: ``"new"`` needs an empty or absent ``out``; ``"resume"`` continues the run there
            to the same numbers as an uninterrupted one, and leaves a finished one as it is;
            ``"overwrite"`` deletes it, once everything that is needed has been opened.
        init: A run or weights folder whose backbone the training starts from.
        overrides: ``key.path=value`` strings.
        quiet: No progress.

    Returns:
        The run.

    Raises:
        ConfigError: If the configuration cannot be used.
        RunError: If ``out`` is in use by another process, does not fit the mode, or cannot be
            resumed: with other settings or data than the run was begun with, or without a whole
            state.
        NonFiniteLoss: If a loss term or the gradient stops being finite; the last good state
            is saved, and the batch for ``situs replay``.
        ProcessFailed: If another process of this run failed.
        Interrupted: After Ctrl-C, when the step under way is whole and saved.
        Terminated: After SIGTERM likewise.
    """
    config = load_config(PretrainConfig, config, overrides)
    composition = compose(config.method, config.options, config.weights, config.uncertainty)
    _check_batch(config, composition)
    run = Run(config.out)
    with ExitStack() as stack:
        if is_first():
            check_writable(run.path, folder=True)
            stack.enter_context(holding(run.path, "situs pretrain"))
            mode = _mode(run, mode)
            check_mode(run, mode, config.paths, init)
            check_data_there(config, mode)
        stops = stack.enter_context(stop_signals(run.left_to_do))
        # Lightning takes seconds to import: what is wrong with the settings is told without it.
        from situs.pretraining.process import note_failure, pretrain_in_group  # noqa: PLC0415 - as said
        from situs.training.processes import together  # noqa: PLC0415 - as said

        group = stack.enter_context(together(config.devices, config.num_nodes, config.accelerator))
        mode = group.agreed(mode)
        stack.enter_context(silenced(quiet))
        try:
            pretrain_in_group(run, config, composition, mode, init, group, stops)
        except ProcessFailed as failure:
            if failure.speaks:
                note_failure(run, failure)
            raise
    return run


def _mode(run: Run, mode: Mode) -> Mode:
    """A SLURM job that was queued again goes on with the run it began."""
    again = mode == "new" and is_run(run.path) and was_requeued(run.record)
    return "resume" if again else mode


def _check_batch(config: PretrainConfig, composition: Composition) -> None:
    """Refuse a batch in which a method has nothing to compare a sample with."""
    together = config.batch_size * config.world_size
    for name, part in composition.parts.items():
        if together < part.least_batch:
            raise ConfigError(
                f"batch_size {config.batch_size} on {config.world_size} device(s) leaves '{name}' "
                f"nothing to contrast a sample with: its loss would be 0 whatever it learns. Take "
                f"batch_size={part.least_batch} or more (optimiser.accumulate does not help)"
            )
