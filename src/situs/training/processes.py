"""One training in many processes: how they meet, who goes first, and what ends them all.

The engine is Lightning's; here is what comes before it and what it leaves open. A process that
starts the others, and schedulers that start all of them (torchrun, SLURM), come to the same
meeting: a key-value store in the first process. There the first process makes the run folder
while the others wait, and there a process that fails says so, which ends the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from rich.console import Console
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from situs.errors import ConfigError, ProcessFailed, SitusError
from situs.ranks import RANK

T = TypeVar("T")

_LATE = timedelta(minutes=30)  # until all processes have come
_LONG = timedelta(hours=2)  # until one of them answers, observations of the first included
_CONNECT = timedelta(seconds=5)
_SAY_AFTER_S, _SAY_EVERY_S = 30.0, 60.0
_POLL_S = 0.2
_ECHO_S = 3.0  # for the one that failed first to say so
_GRACE_S = 20.0  # for a process to come out of a step that can no longer end

_meetings = 0


class Group:
    """The processes of one training; by itself just this one."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._turns = 0

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def in_turn(self, action: Callable[[], T]) -> T:
        """``action`` in the first process, then in the others."""
        return action()

    def agreed(self, value: T) -> T:
        """What the first process has for ``value``, which must be a JSON value."""
        return value


class Met(Group):
    """Several processes that have met."""

    def __init__(
        self, rank: int, size: int, connect: Callable[[], Store], children: Sequence[Any]
    ) -> None:
        super().__init__(rank, size)
        self._store, self._watched = connect(), connect()
        self._children = children
        self._over = threading.Event()
        self._failure: str | None = None

    def in_turn(self, action: Callable[[], T]) -> T:
        """``action`` in the first process, then in the others."""
        self._turns += 1
        key = f"turn {self._turns}"
        if not self.first:
            self._until(lambda: self._store.check([key]))
        result = action()
        if self.first:
            self._store.set(key, "done")
        return result

    def agreed(self, value: T) -> T:
        """What the first process has for ``value``, which must be a JSON value."""
        self._turns += 1
        key = f"agreed {self._turns}"
        if self.first:
            self._store.set(key, json.dumps(value))
            return value
        self._until(lambda: self._store.check([key]))
        found: T = json.loads(self._store.get(key))
        return found

    def arrive(self) -> None:
        """Wait until all have come; say so when that takes long.

        Raises:
            ProcessFailed: If one of them fails meanwhile, or does not come in half an hour.
        """
        self._store.add("arrived", 1)
        began = said = time.monotonic()
        pause = _SAY_AFTER_S
        while (here := self._store.add("arrived", 0)) < self.size:
            now = time.monotonic()
            if self.first and now - said > pause:
                missing = self.size - here
                _say(f"waiting for {missing} of {self.size} processes to start")
                said, pause = now, _SAY_EVERY_S
            if now - began > _LATE.total_seconds():
                raise ProcessFailed(
                    f"only {here} of {self.size} processes started within "
                    f"{_LATE.total_seconds() / 60:.0f} minutes. See the scheduler's log for the "
                    "others, or ask for fewer --devices or --num-nodes."
                )
            self._raise_failure()
            time.sleep(_POLL_S)

    def watch(self) -> None:
        """Look in the background whether others fail, and end this process if it cannot."""
        threading.Thread(target=self._watch, daemon=True).start()

    def tell(self, error: BaseException) -> None:
        """Let the others know that this process fails; the first to say so is believed."""
        text = f"process {self.rank} of {self.size}: {type(error).__name__}: {error}"
        with suppress(RuntimeError):
            self._store.compare_set("failed", "", text)

    def failure(self) -> str | None:
        """What another process failed of, after a moment in which it can say so."""
        end = time.monotonic() + _ECHO_S
        while self._failure is None and time.monotonic() < end:
            self._failure = self._look()
            time.sleep(_POLL_S)
        return self._failure

    def close(self, failed: bool) -> None:
        """Part; the first process leaves last, since the meeting is in it."""
        if not failed:
            self._store.add("left", 1)
            end = time.monotonic() + _GRACE_S
            while self.first and self._store.add("left", 0) < self.size:
                if time.monotonic() > end or self._look():
                    break
                time.sleep(0.02)
        self._over.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        end_children(self._children)

    def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._raise_failure()
            time.sleep(_POLL_S)

    def _raise_failure(self) -> None:
        failure = self._look()
        if failure is not None:
            self._failure = failure
            raise ProcessFailed(failure)

    def _look(self, store: Store | None = None) -> str | None:
        """What is known of a failure elsewhere."""
        for number, child in enumerate(self._children, start=1):
            if child.poll() not in (None, 0):
                with suppress(RuntimeError):
                    if (store or self._store).check(["failed"]):
                        break  # it could say what of
                return f"process {number} of {self.size} ended with code {child.poll()}"
        try:
            store = store or self._store
            return store.get("failed").decode() if store.check(["failed"]) else None
        except RuntimeError:
            return f"process 0 of {self.size} is gone"

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            failure = self._look(self._watched)
            if failure is None:
                continue
            self._failure = failure
            if self._over.wait(_GRACE_S):
                return
            if self.first:
                _say(f"error: {failure}")
            for child in self._children:
                child.kill()
            os._exit(1)


@contextmanager
def together(devices: int, num_nodes: int, accelerator: str) -> Iterator[Group]:
    """Meet the other processes of a training on ``devices`` × ``num_nodes`` devices.

    Where no scheduler started them, this process starts those of its machine: the same command
    again. They end where the context ends; those of a scheduler go on.

    Yields:
        The processes of this training.

    Raises:
        ConfigError: If a scheduler started another number of processes.
        ProcessFailed: If another process failed, whatever that did to this one.
    """
    size = devices * num_nodes
    if size == 1:
        _refuse_strangers(size)
        yield Group()
        return
    environment = _environment(devices, num_nodes)
    before = dict(os.environ)
    children = _started(environment, devices, num_nodes)
    ours = children or os.environ.get("SITUS_CHILD") == "1"
    rank = environment.global_rank()
    os.environ[RANK] = str(rank)
    failed = True
    group: Met | None = None
    try:
        group = Met(rank, size, _meeting(environment, size), children)
        group.arrive()
        group.watch()
        _join(group, environment, accelerator)
        yield group
        failed = False
    except Exception as error:
        if group is None or isinstance(error, ProcessFailed):
            raise
        # An error of the engine may only echo that another process is gone.
        failure = None if isinstance(error, SitusError) else group.failure()
        if failure is not None:
            raise ProcessFailed(failure) from error
        group.tell(error)
        raise
    finally:
        if group is not None:
            group.close(failed)
        else:
            end_children(children)
        if rank == 0:
            _restore(before)
    if ours and rank > 0:
        sys.exit(0)  # what comes after the training is for the first process


def end_children(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a while, ask, wait, and end."""
    for act in (lambda _: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for child in children:
            act(child)
        end = time.monotonic() + _GRACE_S / 2
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.01, end - time.monotonic()))
        if all(child.poll() is not None for child in children):
            return


def _restore(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _environment(devices: int, num_nodes: int) -> ClusterEnvironment:
    if TorchElasticEnvironment.detect():
        _refuse_strangers(devices * num_nodes)
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        tasks = int(os.environ.get("SLURM_NTASKS", "1"))
        if tasks != devices * num_nodes:
            raise ConfigError(
                f"SLURM started {tasks} processes, but --devices {devices} on --num-nodes "
                f"{num_nodes} need {devices * num_nodes}: set --ntasks-per-node={devices} and "
                f"--nodes={num_nodes} in the job, and start situs with srun"
            )
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _refuse_strangers(size: int) -> None:
    """A training that torchrun started many times, but that is told of one device."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if TorchElasticEnvironment.detect() else size
    if started != size:
        raise ConfigError(
            f"torchrun started {started} processes, but the training asks for {size}: let "
            f"--devices times --num-nodes be {started}"
        )


def _started(
    environment: ClusterEnvironment, devices: int, num_nodes: int
) -> list[subprocess.Popen[bytes]]:
    """Start the other processes of this machine, where that is for this process to do."""
    if not isinstance(environment, LightningEnvironment):
        return []
    node, local = environment.node_rank(), environment.local_rank()
    environment.set_world_size(devices * num_nodes)
    environment.set_global_rank(node * devices + local)
    if environment.creates_processes_externally:
        return []
    os.environ |= {
        "MASTER_ADDR": environment.main_address,
        "MASTER_PORT": str(environment.main_port),
        "WORLD_SIZE": str(devices * num_nodes),
        "NODE_RANK": str(node),
        "LOCAL_RANK": "0",
    }
    command = [sys.executable, *sys.orig_argv[1:]]
    return [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "LOCAL_RANK": str(local),
                RANK: str(node * devices + local),
                "SITUS_CHILD": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # results are printed by the first process
        )
        for local in range(1, devices)
    ]


def _meeting(environment: ClusterEnvironment, size: int) -> Callable[[], Store]:
    """How to come to the store of all processes; each meeting of a process has keys of its own."""
    global _meetings  # noqa: PLW0603 - all processes count alike
    _meetings += 1
    hosting = environment.global_rank() == 0 and not _has_agent()
    name = f"situs {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} {_meetings}"
    address, port = environment.main_address, environment.main_port
    host: list[Store] = []

    def connect() -> Store:
        end = time.monotonic() + _LATE.total_seconds()
        while True:
            try:
                store = TCPStore(
                    address,
                    port,
                    size,
                    is_master=hosting and not host,
                    timeout=_CONNECT,
                    wait_for_workers=False,
                )
            except RuntimeError:
                # The first process may be late: it is asked again until it is there.
                if hosting or time.monotonic() > end:
                    raise
                time.sleep(_POLL_S)
                continue
            host.append(store)
            return PrefixStore(name, store)

    return connect


def _has_agent() -> bool:
    """Whether torchrun keeps the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _join(group: Met, environment: ClusterEnvironment, accelerator: str) -> None:
    """Make the process group that Lightning finds ready."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(environment.local_rank())
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("group", group._store),
        rank=group.rank,
        world_size=group.size,
        timeout=_LONG,
    )


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
