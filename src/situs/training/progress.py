"""Progress in the terminal: scores in their units, time left, time spent waiting for data.

In a pipe or a log the same facts come as plain lines without control characters.
"""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from situs import text
from situs.training.shown import is_silent

# A log gets a line at every twentieth of the way, but not more often than this, and a sign of
# life at least once a minute.
_LINE_EVERY_S = 5.0
_LINE_AT_LEAST_EVERY_S = 60.0
_LINES = 20


class _TimeLeft(ProgressColumn):
    """Time left in words, from the speed of the last half minute."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None else f"{text.duration(left)} left", style="cyan")


class TrainingProgress(pl.Callback):
    """A Lightning callback that shows the scores in their units, time left and data wait.

    It reads ``trainer.lightning_module.progress`` (name → (value, unit)) and
    ``.data_wait_share`` (0 to 1), where they exist. Only the first process of a distributed run
    writes; nothing at all is written inside :func:`situs.training.shown.silenced`.

    Args:
        console: Where to write; standard error by default, so that results can be piped.
        what: The word before the bar.
    """

    def __init__(self, console: Console | None = None, what: str = "pretraining") -> None:
        self._quiet = is_silent()
        self._console = console or Console(stderr=True)
        self._what = what
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = self._last_time = 0.0
        self._first_step = self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, at the step that a resumed run continues from."""
        if self._silent(trainer):
            return
        self._began = self._last_time = time.monotonic()
        self._first_step = self._last_step = trainer.global_step
        if not self._console.is_terminal:
            return
        # One line in any terminal: the scores give way, all else keeps its width.
        whole = Column(no_wrap=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}", table_column=whole),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=whole),
            TextColumn(
                "{task.fields[scores]}",
                style="green",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            TextColumn("{task.fields[wait]}", style="dim", table_column=whole),
            TimeElapsedColumn(table_column=whole),
            _TimeLeft(table_column=whole),
            console=self._console,
            refresh_per_second=4,
            expand=True,
        )
        self._task = self._bar.add_task(
            self._what,
            total=_total(trainer),
            completed=trainer.global_step,
            scores="",
            wait="",
        )
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar, or write a line when one is due."""
        if self._silent(trainer):
            return
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                scores=" · ".join(_scores(pl_module)),
                wait=_wait(pl_module),
            )
        elif self._due(trainer):
            self._write_line(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar; the last line of a log is always the last step."""
        written = self._last_step == trainer.global_step
        if self._bar is None and not self._silent(trainer) and not written:
            self._write_line(trainer, pl_module)
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back before the error is printed."""
        self._close()

    def _silent(self, trainer: pl.Trainer) -> bool:
        return self._quiet or not trainer.is_global_zero

    def _due(self, trainer: pl.Trainer) -> bool:
        total = _total(trainer)
        waited = time.monotonic() - self._last_time
        advanced = trainer.global_step - self._last_step
        if self._last_step == self._first_step and advanced > 0:
            return True
        far = total is not None and advanced * _LINES >= total
        return (far and waited >= _LINE_EVERY_S) or waited >= _LINE_AT_LEAST_EVERY_S

    def _write_line(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now, step, total = time.monotonic(), trainer.global_step, _total(trainer)
        parts = [f"{self._what}: step {step}" + (f" of {total}" if total else "")]
        parts += _scores(pl_module)
        parts.append(f"{text.duration(now - self._began)} so far")
        done = step - self._first_step
        if total and done > 0 and step < total:
            left = (now - self._began) * (total - step) / done
            parts.append(f"{text.duration(left)} left")
        if wait := _wait(pl_module):
            parts.append(wait)
        self._console.print(", ".join(parts), markup=False, highlight=False, soft_wrap=True)
        self._last_time, self._last_step = now, step

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _total(trainer: pl.Trainer) -> int | None:
    return int(trainer.max_steps) if trainer.max_steps and trainer.max_steps > 0 else None


def _scores(pl_module: pl.LightningModule) -> list[str]:
    progress: dict[str, tuple[float, str]] = getattr(pl_module, "progress", None) or {}
    return [
        f"{text.printable(name)} {text.quantity(float(v), unit)}"
        for name, (v, unit) in progress.items()
    ]


def _wait(pl_module: pl.LightningModule) -> str:
    share = getattr(pl_module, "data_wait_share", None)
    return "" if share is None else f"{100 * float(share):.0f} % waiting for data"
