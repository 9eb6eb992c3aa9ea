"""Small dealings with pytorch-lightning that every trainer of situs shares."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

# What Lightning says of choices that situs makes on purpose.
_INTENDED = (
    ".*module\\(s\\) in eval mode.*",  # the teacher
    ".*does not have many workers.*",
    ".*was not set, defaulting to.*",
    ".*Checkpoint directory.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.*",
    "Grad strides do not match bucket view strides.*",  # channels last, see quick_layout
    # Its successor has no gradient in torch 2.4.
    "torch.distributed.nn.functional.all_(reduce|gather) is deprecated.*",
)


@contextmanager
def quiet_engine() -> Iterator[None]:
    """Silence Lightning's hints and advertisements; its errors and other warnings stay."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for pattern in _INTENDED:
                warnings.filterwarnings("ignore", message=pattern)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def precision(wanted: str) -> Any:
    """Lightning's precision for ``"auto"``: bf16 or fp16 mixed on a GPU, 32 bits elsewhere."""
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "32"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def engine(devices: int, num_nodes: int, accelerator: str, wanted: str) -> dict[str, Any]:
    """Lightning's arguments for how many devices of which kind train, and how precisely."""
    several = devices * num_nodes > 1
    on_slurm = several and SLURMEnvironment.detect()
    return {
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": DDPStrategy(find_unused_parameters=True) if several else "auto",
        # Signals are answered by situs, see situs.training.stopping.
        "plugins": [SLURMEnvironment(auto_requeue=False)] if on_slurm else None,
        "precision": precision(wanted if accelerator != "cpu" or wanted != "auto" else "32"),
    }


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed what draws without a generator of its own, on the host and on ``device``.

    As ``torch.manual_seed`` does, which also leaves a note, with a stack trace, for every kind of
    device that was never used: milliseconds, too much for every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Run a network as it is written, whatever of it was compiled.

    Compiled code goes backward once; asking for the gradient of each term needs the graph again.
    """
    compiled = {m: m._compiled_call_impl for m in network.modules() if m._compiled_call_impl}
    for part in compiled:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in compiled.items():
            part._compiled_call_impl = call


def quick_layout(module: nn.Module) -> None:
    """Keep the weights of 3D convolutions channels-last where a CPU trains, in place.

    oneDNN then takes about a fifth less time for forward and backward; values stay what they
    are up to rounding. 2D convolutions gain nothing.
    """
    if torch.cuda.is_available():
        return
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.ConvTranspose3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)
