"""Resumable states of a training: the latest ones, each with its checksum in its name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from situs.errors import RunError
from situs.files import file_sha256, keep_file, naming

if TYPE_CHECKING:
    import pytorch_lightning as pl

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
        try:
            with naming(file):
                trainer.strategy.checkpoint_io.save_checkpoint(state, file)
        except OSError:
            file.unlink(missing_ok=True)
            raise
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
