"""A verb that is stopped says so once, what is left to do, and leaves nothing half written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fake_worker
import pytest
import yaml
from collections_made import write_collection
from command_line import here
from test_out import VERBS

import situs.report.study
from situs.cli.exits import GOES_ON, Exit, exit_of, stopped
from situs.errors import Interrupted, Terminated
from situs.report.study import study
from situs.store import Store

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def signalled(number: int, when: Callable[[], object]) -> Iterator[None]:
    """This process gets a signal, twice as ``timeout`` sends it, as soon as something holds."""
    over = threading.Event()

    def look() -> None:
        while not over.is_set() and not when():
            time.sleep(0.001)
        if not over.is_set():
            os.kill(os.getpid(), number)
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_what_was_prepared_is_kept_and_the_line_that_is_told_goes_on(
    number: int, tmp_path: Path
) -> None:
    data = write_collection(tmp_path / "some data", cases=30) / "images"
    typed = ["prepare", str(data), "--out", str(tmp_path / "a store"), "--workers", "0"]
    code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TERMINATED
    with signalled(number, lambda: list(tmp_path.glob("a store/scans/*/*"))):
        said = here(code, *typed)
    told = f"stopped by {SIGNALS[signal.Signals(number)]}; what was done is kept; go on with: situs"
    assert said.startswith(told)
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob(".*")), "no lock and no part of a file"
    assert not (tmp_path / "a store" / "records.jsonl").exists()
    again = shlex.split(said.partition("go on with: situs ")[2])
    assert again == typed
    here(Exit.DONE, *again)
    assert len(Store.open(tmp_path / "a store")) == 30


@pytest.mark.parametrize("number", SIGNALS)
def test_a_study_says_that_its_jobs_save_and_goes_on_with_what_is_missing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = (sys.executable, str(Path(fake_worker.__file__)))
    monkeypatch.setattr(situs.report.study, "study", partial(study, worker=worker))
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    write_collection(tmp_path / "data", cases=12)
    monkeypatch.chdir(tmp_path)
    settings = {"data": "data", "out": "my study", "arms": ["none", "mae"], "labels": [2]}
    more = {"seeds": [0, 1], "test": 4, "validation": 2, "processes": 2, "bootstrap": 100}
    Path("study.yaml").write_text(yaml.safe_dump({**settings, **more}))
    typed = ["study", "study.yaml"]
    begun = tmp_path / "my study" / "jobs" / "begun.txt"
    code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.TERMINATED
    with signalled(number, lambda: begun.is_file() and begun.read_text().count("\n") > 2):
        said = here(code, *typed)
    by = SIGNALS[signal.Signals(number)]
    first, last = said.splitlines()
    assert first in (
        "stopping: the job under way saves its state",
        "stopping: the 2 jobs under way save their state",
    )
    assert last == f"stopped by {by}; what was done is kept; go on with: situs study study.yaml"
    assert not list(tmp_path.rglob(".lock"))
    before = begun.with_name("order.txt").read_text().splitlines()
    assert 0 < len(before) < 6
    here(Exit.DONE, *typed)
    done = begun.with_name("order.txt").read_text().splitlines()
    assert done[: len(before)] == before
    assert len(done) == len(set(done)) == 6, "a store, a pretraining, and 2 fine-tunings an arm"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_with_an_out_says_what_is_left(
    verb: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes when ``--out`` is looked at, which all of them do."""

    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("situs.files.check_writable", stop)
    monkeypatch.chdir(tmp_path)
    kept = verb in GOES_ON
    code = Exit.TERMINATED if kept else Exit.KILLED
    said = here(
        Exit.INTERRUPTED if number == signal.SIGINT else code,
        *(verb, *VERBS[verb], "--out", "my out"),
    )
    left = "nothing is left half written; begin again with the same command"
    if kept:
        words = [verb, *VERBS[verb], "--out", "my out", *filter(None, [GOES_ON[verb]])]
        left = f"what was done is kept; go on with: {shlex.join(['situs', *words])}"
    assert said == f"stopped by {SIGNALS[signal.Signals(number)]}; {left}\n"


@pytest.mark.parametrize("kind", [Interrupted, partial(Terminated, saved=False)])
def test_a_training_inside_a_verb_leaves_the_word_to_it(
    kind: Callable[[str], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["situs", "demo", "--subjects", "8"])
    of_training = kind("Stopped at step 3; go on with: situs pretrain --resume demo/run")
    assert stopped(of_training, "pretrain") is of_training
    of_verb = stopped(of_training, "demo")
    assert str(of_verb).endswith("what was done is kept; go on with: situs demo --subjects 8")
    assert exit_of(of_verb) in (Exit.INTERRUPTED, Exit.TERMINATED)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_anything_was_imported_is_one_line(number: int, code: int) -> None:
    """Of a process of its own, in which the import of the command line sends it."""
    script = (
        "import os, sys, importlib.abc\n"
        "class Sends(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'typer': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Sends())\n"
        "from situs.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "stopped before anything was begun\n"
