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
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

_IMPORTED = ("cli", "store", "pretraining.process", "transfer.finetune", "studies", "report")
_MOST = 1 << 17  # bytes of a request


class Forked:
    """One of them, with the part of :class:`subprocess.Popen` that tests use."""

    def __init__(
        self, words: list[str], environment: dict[str, str], children: int = 0, **streams: Any
    ) -> None:
        self.args = words
        self.returncode: int | None = None
        self._told = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        request = {"words": words, "folder": os.getcwd(), "environment": environment}
        out, err = (file.fileno() for file in self._told)
        ends = self._ends(out, err, **streams)
        self.pid = _ask({**request, "children": children}, ends)

    def _ends(self, out: int, err: int, stdin: Any = None, stdout: Any = None) -> list[int]:
        """What it has as standard streams; our ends of pipes are kept."""
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        if stdin == subprocess.PIPE:
            given, own = os.pipe()
            self.stdin = os.fdopen(own, "w", encoding="utf-8")
        else:
            given = os.open(os.devnull, os.O_RDONLY)
        if stdout == subprocess.PIPE:
            own, out = os.pipe()
            self.stdout = os.fdopen(own, encoding="utf-8")
        elif stdout == subprocess.DEVNULL:
            out = os.open(os.devnull, os.O_WRONLY)
        else:
            out = os.dup(out)
        return [given, out, os.dup(err)]

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
        for file in self._told:
            file.seek(0)
        out, err = (file.read() for file in self._told)
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
def _server() -> socket.socket:
    """To the process they are forked from; it ends with the tests, and all of them with it."""
    ours, its = _pair()
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(its.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
        start_new_session=True,
    )
    its.close()

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _tell(to: socket.socket, request: dict[str, Any], ends: Sequence[int]) -> None:
    socket.send_fds(to, [json.dumps(request).encode()], ends)
    for end in ends:
        os.close(end)


def _ask(request: dict[str, Any], ends: Sequence[int] = ()) -> Any:
    _tell(_server(), request, ends)
    return json.loads(_server().recv(_MOST))


# --- What the server and the forked processes do --------------------------------------------


class _Child(Forked):
    """One that a forked process has ready since it began, when it had no thread yet."""

    def __init__(self) -> None:
        self._to, its = _pair()
        self._looking = threading.Lock()
        self.returncode = None
        self.pid = os.fork()
        if self.pid:
            its.close()
            return
        self._to.close()
        line, ends, *_ = socket.recv_fds(its, _MOST, 3)
        its.close()
        if not line:
            os._exit(0)  # nobody wanted it
        _be(ends=ends, **json.loads(line))

    def begin(self, args: list[str], **asked: Any) -> _Child:
        """Be what :class:`subprocess.Popen` would start; its standard error is the parent's."""
        self.args = args
        assert asked.get("stderr") is None
        request = {
            "words": [word for word in args[1:] if word not in ("-u", "-m")],
            "folder": os.getcwd(),
            "environment": dict(asked["env"]),
            "session": asked.get("start_new_session", False),
        }
        _tell(self._to, request, self._ends(1, 2, asked.get("stdin"), asked.get("stdout")))
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


def _serve(asked: socket.socket) -> None:
    subprocess.Popen = _Popen  # type: ignore[misc]
    for name in _IMPORTED:
        importlib.import_module(f"situs.{name}")
    assert threading.active_count() == 1, "a thread would be missing in what is forked"
    living: set[int] = set()
    while True:
        line, ends, *_ = socket.recv_fds(asked, _MOST, 3)
        if not line:
            break
        request, answer = json.loads(line), None
        if "pid" in request:
            done, status = os.waitpid(request["pid"], os.WNOHANG)
            living.discard(done)
            answer = os.waitstatus_to_exitcode(status) if done else None
        else:
            answer = os.fork()
            if not answer:
                asked.close()
                _be(ends=ends, **request)
            living.add(answer)
            for end in ends:
                os.close(end)
        asked.send(json.dumps(answer).encode())
    for pid in living:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _be(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    ends: list[int],
    session: bool = True,
    children: int = 0,
) -> NoReturn:
    """Become ``python -m MODULE …``, or ``python SCRIPT …``, and never return."""
    code = 1
    try:
        if session:
            os.setsid()
        for number, end in enumerate(ends):
            os.dup2(end, number)
            os.close(end)
        _ready.clear()
        _ready.extend([_Child() for _ in range(children)])
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        script = words[0].endswith(".py")
        sys.argv = list(words)
        sys.path[0] = str(Path(words[0]).parent) if script else folder
        sys.orig_argv = [sys.executable, *([] if script else ["-m"]), *words]
        run = runpy.run_path if script else runpy.run_module
        try:
            run(words[0], run_name="__main__")
            code = 0
        except SystemExit as said:
            code = said.code if isinstance(said.code, int) else int(said.code is not None)
            if said.code is not None and not isinstance(said.code, int):
                print(said.code, file=sys.stderr)  # noqa: T201 - as an interpreter does
        except BaseException:
            traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
