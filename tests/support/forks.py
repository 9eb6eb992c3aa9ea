"""Processes forked from one that has imported everything: what starts a program costs seconds.

They are processes like those that ``small_runs.start`` begins, with signals, sessions, environments
and ends of their own, and so are the processes of Python that they start themselves, as many as
they are told. Only what happens while modules are imported is not theirs: where that, or the start
itself, is what a test is about, it starts a program.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

_IMPORTED = ("cli", "store", "pretraining.process", "transfer.finetune", "study", "report")


class Forked:
    """One of them, with the part of :class:`subprocess.Popen` that tests use."""

    def __init__(self, words: list[str], environment: dict[str, str], children: int = 0) -> None:
        self.args = words
        self.returncode: int | None = None
        request = {"words": words, "folder": os.getcwd(), "environment": environment}
        self.pid, *self._told = _ask({**request, "children": children})

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None."""
        if self.returncode is None:
            self.returncode = self._look()
        return self.returncode

    def _look(self) -> int | None:
        return _ask({"pid": self.pid})  # type: ignore[no-any-return]

    def wait(self, timeout: float = 600) -> int:
        """Its exit code."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.02)
        return code

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """What it wrote to standard output and standard error until it ended."""
        self.wait(timeout)
        out, err = (Path(file).read_text(encoding="utf-8") for file in self._told)
        return out, err

    def send_signal(self, number: int) -> None:
        """To it alone, as long as it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> subprocess.Popen[str]:
    """The process they are forked from; it ends with the tests, and all of them with it."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(server.communicate)  # which closes its standard input
    return server


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


# --- What the server and the forked processes do --------------------------------------------


class _Child(Forked):
    """One that a forked process has ready since it began, when it had no thread yet."""

    def __init__(self) -> None:
        end, self._tell = os.pipe()
        self._looking = threading.Lock()
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            os.close(end)
            return
        os.close(self._tell)
        with os.fdopen(end) as asked:
            line = asked.readline()
        if not line:
            os._exit(0)  # nobody wanted it
        request = json.loads(line)
        if request.pop("session"):
            os.setsid()
        _be(streams=[os.devnull, os.devnull if request.pop("mute") else None, None], **request)

    def begin(self, args: list[str], **asked: Any) -> _Child:
        """Be what :class:`subprocess.Popen` would start; its standard error is the parent's."""
        self.args = args
        assert asked.keys() <= {"env", "stdin", "stdout", "stderr", "start_new_session"}
        assert asked.get("stdout") in (None, subprocess.DEVNULL)
        assert asked.get("stderr") is None
        request = {
            "words": [word for word in args[1:] if word not in ("-u", "-m")],
            "folder": os.getcwd(),
            "environment": dict(asked["env"]),
            "session": asked.get("start_new_session", False),
            "mute": asked.get("stdout") is not None,
        }
        os.write(self._tell, f"{json.dumps(request)}\n".encode())
        return self

    def _look(self) -> int | None:
        with self._looking:
            if self.returncode is None:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if done else None
            return self.returncode


_ready: list[_Child] = []


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    """What a forked process starts is forked, too, as long as there are any ready."""

    def __new__(cls, args: Any, *_: Any, **asked: Any) -> Any:
        if _ready and args[0] == sys.executable:
            return _ready.pop().begin(list(args), **asked)
        return super().__new__(cls)


def _serve() -> None:
    subprocess.Popen = _Popen  # type: ignore[misc]
    for name in _IMPORTED:
        importlib.import_module(f"situs.{name}")
    assert threading.active_count() == 1, "a thread would be missing in what is forked"
    living: set[int] = set()
    folder = tempfile.mkdtemp(prefix="situs-forks-")
    for number, line in enumerate(sys.stdin):
        request, answer = json.loads(line), None
        if "pid" in request:
            done, status = os.waitpid(request["pid"], os.WNOHANG)
            living.discard(done)
            answer = os.waitstatus_to_exitcode(status) if done else None
        else:
            told = [f"{folder}/{number}.{name}" for name in ("out", "err")]
            pid = os.fork()
            if not pid:
                os.setsid()
                _be(streams=[os.devnull, *told], **request)
            living.add(pid)
            answer = [pid, *told]
        print(json.dumps(answer), flush=True)  # noqa: T201
    for pid in living:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(folder)


def _be(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    streams: list[str | None],
    children: int = 0,
) -> NoReturn:
    """Become ``python -m MODULE …``, or ``python SCRIPT …``, and never return."""
    code = 1
    try:
        for number, file in enumerate(streams):
            if file is not None:
                os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
        _ready.clear()
        _ready.extend([_Child() for _ in range(children)])
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        script = words[0].endswith(".py")
        sys.argv = list(words)
        sys.orig_argv = [sys.executable, *([] if script else ["-m"]), *words]
        run = runpy.run_path if script else runpy.run_module
        try:
            run(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
