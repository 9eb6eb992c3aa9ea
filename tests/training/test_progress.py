"""Progress in a pipe, in a terminal, and in silence."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

from rich.console import Console

from situs.training.progress import TrainingProgress
from situs.training.shown import silenced

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\r]")


def run_progress(callback: TrainingProgress, steps: int, first: int = 0) -> None:
    module = SimpleNamespace(progress={"gap": (9.3, "mm")}, data_wait_share=0.031)
    trainer = SimpleNamespace(
        global_step=first, max_steps=first + steps, is_global_zero=True, lightning_module=module
    )
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    callback.on_train_end(trainer, module)  # type: ignore[arg-type]


def test_progress_in_a_pipe_is_plain_lines() -> None:
    stream = io.StringIO()
    run_progress(TrainingProgress(console=Console(file=stream, width=40)), steps=50, first=100)
    text = stream.getvalue()
    assert not CONTROL.search(text)
    lines = text.splitlines()
    assert lines[0].startswith("pretraining: step 101 of 150, gap 9.30 mm, ")
    assert lines[0].endswith("3 % waiting for data")
    assert lines[-1].startswith("pretraining: step 150 of 150")
    assert len(lines) == 2


def test_progress_in_a_terminal_ends_with_a_full_bar() -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=160)
    run_progress(TrainingProgress(console=terminal), steps=5)
    text = stream.getvalue()
    assert "5/5" in text
    assert "gap 9.30 mm" in text


def test_the_bar_is_one_line_in_a_narrow_terminal() -> None:
    module = SimpleNamespace(
        progress={"gap vector error": (9.3, "mm"), "loss": (0.4, "")}, data_wait_share=0.5
    )
    trainer = SimpleNamespace(global_step=0, max_steps=20000, is_global_zero=True)
    for width in (80, 100, 120):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=width, color_system=None)
        callback = TrainingProgress(console=console)
        callback.on_train_start(trainer, module)  # type: ignore[arg-type]
        trainer.global_step = 1234
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        callback._close()
        # A bar of one line is drawn anew by going to its start, never by going up.
        assert "\x1b[1A" not in stream.getvalue()
        assert "1234/20000" in stream.getvalue()
        trainer.global_step = 0


def test_the_last_line_of_a_log_stands_once() -> None:
    stream = io.StringIO()
    run_progress(TrainingProgress(console=Console(file=stream, width=40)), steps=1)
    assert stream.getvalue().count("step 1 of 1") == 1


def test_quiet_and_other_ranks_write_nothing() -> None:
    stream = io.StringIO()
    with silenced(True):
        callback = TrainingProgress(console=Console(file=stream))
    run_progress(callback, steps=3)
    assert stream.getvalue() == ""
