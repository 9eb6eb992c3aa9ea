"""Resumable states of a training: the latest ones, each with its checksum in its name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from situs.errors import RunError
from situs.files import file_sha256, keep_file
from situs.training.steps import StepRollback

KEPT = 2
"""Resumable states that are kept, the latest ones."""

_DIGITS = 32  # of the SHA-256 of a state, in its name
_STATE = re.compile(rf"state-(\d+)-([0-9a-f]{{{_DIGITS}}})\.ckpt")


class States:
    """The states in a folder, ``state-STEP-CHECKSUM.ckpt``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> Iterator[tuple[Path, bool]]:
        """The states, the latest first, and whether each is what was written."""
        for _, digest, state in sorted(self._found(), reverse=True):
            yield state, file_sha256(state, _DIGITS) == digest

    def any(self) -> bool:
        """Whether there is a state, whole or not."""
        return bool(self._found())

    def verified(self, without: str, instead: str) -> Path:
        """The latest state whose checksum fits; a warning where a later one's does not.

        Args:
            without: What to do where there is no state.
            instead: What to do where none is whole.

        Raises:
            RunError: If there is none.
        """
        damaged = ""
        for state, whole in self.all():
            if whole:
                if damaged:
                    warnings.warn(
                        f"{damaged} is damaged (its checksum does not fit); going on from the "
                        f"state before it, {state.name}",
                        stacklevel=3,
                    )
                return state
            damaged = damaged or str(state)
        if damaged:
            raise RunError(
                f"{damaged} is damaged (its checksum does not fit), and no other state is whole. "
                f"{instead}"
            )
        raise RunError(f"{self.folder} holds no resumable state (state-*.ckpt). {without}")

    def keep(self, partial: Path, step: int) -> None:
        """Let a state that is written stand beside the one before it.

        One renaming does it: whenever the process is killed, there is a whole state with its
        digest. Older ones are deleted; later ones, which a training that went on from an earlier
        state found damaged, are set aside.
        """
        digest = file_sha256(partial, _DIGITS)
        state = partial.with_name(f"state-{step:07d}-{digest}.ckpt")
        keep_file(partial, state)
        earlier = []
        for other_step, _, other in sorted(self._found(), reverse=True):
            if other_step > step or (other_step == step and other != state):
                other.rename(other.with_suffix(".damaged"))
            elif other != state:
                earlier.append(other)
        for other in earlier[KEPT - 1 :]:
            other.unlink()

    def partial(self, trainer: pl.Trainer) -> Path:
        """Write a trainer's state under a passing name, for :meth:`keep`.

        All processes hold the same network, so the first one writes it without the others: when
        one of them has died there is nobody to wait for.
        """
        file = self.folder / ".state.partial"
        file.parent.mkdir(parents=True, exist_ok=True)
        # What Trainer.save_checkpoint does, but for its barrier.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        trainer.strategy.checkpoint_io.save_checkpoint(state, file)
        return file

    def _found(self) -> list[tuple[int, str, Path]]:
        """Step, digest and file of each state."""
        return [
            (int(named[1]), named[2], file)
            for file in self.folder.glob("state-*")
            if (named := _STATE.fullmatch(file.name))
        ]


def step_of(state: Path) -> int:
    """The step that a state stands at."""
    return int(state.name.split("-")[1])


def count_whole_steps(checkpoint: dict[str, Any], batches: int) -> None:
    """Let the loop of a saved state count the batches of whole steps only.

    A state saved inside a step would otherwise continue out of phase; the samples of the broken
    step are drawn again.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in ("total", "current"):
        progress[count] = dict.fromkeys(progress[count], batches)


class StateKeeper(pl.Callback):
    """Keeps the state at a schedule, at the end, when a signal came, and whatever went wrong.

    Args:
        states: Where.
        every: Steps between states.
        steps: Knows what is a whole step.
    """

    def __init__(self, states: States, every: int, steps: StepRollback) -> None:
        self.states, self.every, self.steps = states, every, steps

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if due and self.steps.whole:
            self.states.keep(self.states.partial(trainer), step)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the last whole step."""
        if trainer.global_step > 0 and self.steps.whole:
            self.states.keep(self.states.partial(trainer), trainer.global_step)
