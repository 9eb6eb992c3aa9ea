"""One training in many processes: who starts them, how they meet, and what ends them all.

The engine is Lightning's; here is what comes before it. A process that starts the others, and
schedulers that start all of them (torchrun, SLURM), come to the same meeting.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from situs.errors import ConfigError, ProcessFailed, setting
from situs.ranks import RANK
from situs.training.meeting import LATE, Group, Met, end_children

_LONG = timedelta(hours=2)  # until one of them answers, observations of the first included
_CONNECT = timedelta(seconds=5)
_POLL_S = 0.2

_meetings = 0


@contextmanager
def together(devices: int, num_nodes: int, accelerator: str) -> Iterator[Group]:
    """Meet the other processes of a training on ``devices`` × ``num_nodes`` devices.

    Where no scheduler started them, this process starts those of its machine: the same command
    again. They end where the context ends; those of a scheduler go on.

    Yields:
        The processes of this training.

    Raises:
        ConfigError: If a scheduler started another number of processes, or a GPU is asked for
            that is not there.
        ProcessFailed: If another process failed, whatever that did to this one.
    """
    _check_device(devices, accelerator)
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
        group.watch()
        group.arrive()
        _join(group, environment, accelerator)
        yield group
        failed = False
    except Exception as error:
        if group is None or isinstance(error, ProcessFailed):
            raise
        cause = group.cause(error)
        if cause is not error:
            raise cause from error
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


def _check_device(devices: int, accelerator: str) -> None:
    """Refuse GPUs that are not there, before processes are started and scans are read for them."""
    there = max(torch.cuda.device_count(), int(torch.backends.mps.is_available()))
    # "auto" takes GPUs where there are any, and no cores where they are too few.
    if accelerator == "cpu" or (accelerator == "auto" and not there) or devices <= there:
        return
    found = f"torch finds {there} on this machine" if there else "torch finds none here"
    fewer = f"Say {setting('devices')} {there}" if there else f"Leave {setting('accelerator')} out"
    raise ConfigError(
        f"{setting('accelerator')} {accelerator} with {setting('devices')} {devices} asks for "
        f"more GPUs than there are: {found}. {fewer}, or say {setting('accelerator')} cpu"
    )


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
        end = time.monotonic() + LATE.total_seconds()
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
