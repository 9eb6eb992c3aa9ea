"""Who works in a folder: two processes that write the same run, result or store mix it up.

The owner holds a ``.lock`` file by ``flock``, which the system lets go whatever the process dies
of. Network file systems may keep such a lock on one machine only, or not at all: there the file's
own time counts, which the owner renews, and a lock of another machine is stale when nobody has
renewed it for :data:`LEASE_S`.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from situs.errors import RunError
from situs.files import parse_json

NAME = ".lock"
LEASE_S = 120.0
"""Seconds after which a lock that another machine has not renewed is stale."""

_RENEW_S = 20.0
_SETTLE_S = 0.3  # until two that wrote at once, where nothing can be held, see who was last
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@dataclass(frozen=True)
class Owner:
    """Who holds a folder.

    Attributes:
        host: Name of its machine.
        pid: Process.
        started: When the process was started, as the system counts, since numbers are used again;
            empty where the system does not tell.
        verb: What it does there.
        since: When it took the folder, local time.
        token: Tells two owners apart.
    """

    host: str
    pid: int
    started: str
    verb: str
    since: str
    token: str

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process is still there; asks this machine."""
        return _started(self.pid) == self.started and _exists(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.verb}, since {self.since})"


@contextmanager
def holding(folder: str | Path, verb: str, lease_s: float = LEASE_S) -> Iterator[None]:
    """Be the only one to write in a folder, while the context lasts.

    Args:
        folder: Made if absent, and removed again if nothing was put into it.
        verb: What is done there, for whoever is refused: ``"situs pretrain"``.
        lease_s: Seconds after which the lock of another machine is stale.

    Raises:
        RunError: If another process holds it; names the machine and the process.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        handle, owner = _take(folder, verb, lease_s)
        ended = threading.Event()
        renewing = threading.Thread(target=_renew, args=(handle, ended), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            if _read(folder / NAME) == owner:
                (folder / NAME).unlink()
    finally:
        if handle is not None:
            os.close(handle)
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def is_empty(folder: Path) -> bool:
    """Whether nothing stands in a folder but the lock of who asks."""
    return all(item.name == NAME for item in folder.iterdir())


def _take(folder: Path, verb: str, lease_s: float) -> tuple[int, Owner]:
    file = folder / NAME
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            held, there = _flock(handle), _read(file)
            if held is False and there is None:
                there = _wait_for_owner(file)
            if there is not None and _in_force(file, there, held, lease_s):
                raise RunError(
                    f"{folder} is in use by {there}. Wait for it or end it, or choose another "
                    "folder"
                )
            if held is False or not _same_file(handle, file):
                # Its owner is gone; what still holds it is a child of it, which writes nothing.
                if held is False and _same_file(handle, file):
                    file.unlink(missing_ok=True)
                os.close(handle)
                continue
            owner = _myself(verb)
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)
            os.fsync(handle)
            if held is None:
                time.sleep(_SETTLE_S)
                if (last := _read(file)) != owner:
                    raise RunError(f"{folder} was taken at the same time by {last}; try again")
            return handle, owner
        except RunError:
            os.close(handle)
            raise
        except OSError as error:  # a full disk: nobody shall find a lock without an owner
            file.unlink(missing_ok=True)
            os.close(handle)
            if error.filename is None:
                error.filename = str(file)
            raise


def _flock(handle: int) -> bool | None:
    """Whether the file is held now; None where this file system holds nothing."""
    try:
        import fcntl  # noqa: PLC0415 - absent on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _in_force(file: Path, there: Owner, held: bool | None, lease_s: float) -> bool:
    """Whether a lock that is written down still counts."""
    if there.here:
        # What this machine does not hold any more, its owner has let go or left by dying.
        return there.alive if held is not True else False
    return _age(file) < lease_s


def _age(file: Path) -> float:
    """Seconds since a file was renewed, by the clock of its file system."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=NAME) as now:
        os.utime(now.name)
        return os.stat(now.name).st_mtime - file.stat().st_mtime


def _wait_for_owner(file: Path) -> Owner | None:
    """The owner of a file that is held, who may be about to write down who he is."""
    for _ in range(20):
        if (owner := _read(file)) is not None:
            return owner
        time.sleep(0.05)
    return None


def _read(file: Path) -> Owner | None:
    try:
        return Owner(**parse_json(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _same_file(handle: int, file: Path) -> bool:
    """Whether the file that is held is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _renew(handle: int, ended: threading.Event) -> None:
    while not ended.wait(_RENEW_S):
        with suppress(OSError):
            os.utime(handle)


def _myself(verb: str) -> Owner:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(socket.gethostname(), pid, _started(pid), verb, since, secrets.token_hex(8))


def _started(pid: int) -> str:
    try:
        # Field 22, counted behind the name, which may hold spaces and brackets.
        return (
            Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
        )
    except (OSError, IndexError):
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
