"""The batch whose loss or gradient was not finite: kept when it happens, looked at afterwards.

Beside the batch stands all that its step depends on, so that it can be taken again without the
scans: the network as it was before the step, the configuration, the step's number. The files hold
voxels and names of scans, so they stay where the scans are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from situs.errors import NonFiniteLoss, RunError, not_writable
from situs.files import naming, writing
from situs.training.steps import SteppedModule

OFFENDING = "offending"
"""The folder of a run or result that holds these batches."""

Step = Callable[[Any], Mapping[str, Tensor]]
"""Takes the saved step with a batch, from the saved state; gives its loss terms, with ``total``."""


class KeepOffending(pl.Callback):
    """Keeps the batch that ended a training.

    Stands behind whoever winds the network back to the last whole step.

    Args:
        folder: Of the run or result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write it, and let the error say so; a full disk leaves the error as it is."""
        if not isinstance(exception, NonFiniteLoss):
            return
        assert isinstance(pl_module, SteppedModule)
        kept = {
            "term": exception.term,
            "step": exception.step,
            "precision": str(trainer.precision),
            "rank": trainer.global_rank,
            "state": pl_module.state_dict(),
            **pl_module.offending(exception.batch),
        }
        kept = apply_to_collection(kept, Tensor, lambda tensor: tensor.detach().cpu())
        file = self.folder / OFFENDING / f"step-{exception.step:07d}.pt"
        try:
            file.parent.mkdir(exist_ok=True)
            with writing(file) as part, naming(file):
                torch.save(kept, part)
        except Exception as error:
            if not not_writable(error):
                raise
            return
        exception.saved(f"situs replay {self.folder}")


def load_offending(folder: Path) -> dict[str, Any]:
    """The latest batch that was kept in a run or result.

    Raises:
        RunError: If there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not there; give the folder of a run or result that stopped")
    files = sorted((folder / OFFENDING).glob("step-*.pt"))
    if not files:
        raise RunError(
            f"{folder} holds no batch to replay: no loss or gradient in it has been other than "
            "finite since batches are kept"
        )
    try:
        kept: dict[str, Any] = torch.load(files[-1], map_location="cpu", weights_only=True)
        assert {"stage", "term", "step", "scans", "batch", "state"} <= kept.keys()
    except Exception as error:
        raise RunError(
            f"{files[-1]} is damaged ({type(error).__name__}); resume the training, which meets "
            "the same batch again"
        ) from None
    return kept


@dataclass(frozen=True)
class Found:
    """What one precision made of the step.

    Attributes:
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        term: First loss term that is not finite, ``"gradient"``, or None where all is finite.
        tensor: The first tensor that is not finite, in the order of computation: a part of the
            batch, a weight, the output of a module or the gradient of a parameter. None where
            none of these is: then the loss itself was computed wrongly from finite numbers.
        scans: Scans of the first sample whose absence makes the step finite; empty where no
            single sample does so.
    """

    precision: str
    term: str | None
    tensor: str | None = None
    scans: tuple[str, ...] = ()


def replay(kept: Mapping[str, Any], network: nn.Module, step: Step) -> list[Found]:
    """Take a saved step again on the CPU, in float32 and with the precision of the run.

    Args:
        kept: From :func:`load_offending`.
        network: All that has weights, as the run built it.
        step: The stage's own step.
    """
    own = _dtype(str(kept["precision"]))
    dtypes = [torch.float32] if own == torch.float32 else [torch.float32, own]
    return [_replayed(kept, network, step, dtype) for dtype in dtypes]


def _replayed(kept: Mapping[str, Any], network: nn.Module, step: Step, dtype: torch.dtype) -> Found:
    batch, scans = kept["batch"], [tuple(names) for names in kept["scans"]]

    def taken(batch: Any) -> tuple[str | None, str | None]:
        network.load_state_dict(kept["state"])
        network.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return _first(network, step, batch)

    name = str(dtype).removeprefix("torch.")
    term, tensor = taken(batch)
    if term is None:
        return Found(name, None)
    for where, value in _leaves(batch):
        for sample, row in enumerate(value if len(value) == len(scans) else ()):
            if not torch.isfinite(row).all():
                return Found(name, term, f"the batch's {where}", scans[sample])
    for where, value in kept["state"].items():
        if not torch.isfinite(value).all():
            return Found(name, term, f"the weights {where}")
    several = range(len(scans) if len(scans) > 1 else 0)
    guilty = [i for i in several if taken(_without(batch, i, len(scans)))[0] is None]
    return Found(name, term, tensor, scans[guilty[0]] if guilty else ())


def _first(network: nn.Module, step: Step, batch: Any) -> tuple[str | None, str | None]:
    """Term and tensor that are not finite first."""
    seen: list[str] = []
    with _watched(network, seen):
        terms = step(batch)
        wrong = [name for name, value in terms.items() if not torch.isfinite(value).all()]
        if wrong:
            parts = [name for name in wrong if name != "total"]
            return (parts or wrong)[0], next(iter(seen), None)
        terms["total"].backward()
    return ("gradient", seen[0]) if seen else (None, None)


@contextmanager
def _watched(network: nn.Module, seen: list[str]) -> Iterator[None]:
    """Note the outputs and gradients that are not finite, in the order they are computed."""

    def output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, result: Any) -> None:
            if any(not torch.isfinite(value).all() for _, value in _leaves(result)):
                seen.append(f"the output of {name or 'the network'} ({type(module).__name__})")

        return look

    def gradient(name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                seen.append(f"the gradient of {name}")

        return look

    hooks = [
        module.register_forward_hook(output(name))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    hooks += [
        parameter.register_post_accumulate_grad_hook(gradient(name))
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _leaves(values: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """Floating tensors in containers, with the way to each."""
    if isinstance(values, Tensor):
        if values.is_floating_point() and values.ndim:
            yield where, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{where}.{key}".strip("."))
    elif isinstance(values, Sequence) and not isinstance(values, str):
        for number, value in enumerate(values):
            yield from _leaves(value, f"{where}.{number}".strip("."))


def _without(batch: Any, sample: int, count: int) -> Any:
    """The batch with another sample in the place of one."""

    def replaced(value: Tensor) -> Tensor:
        if not value.ndim or len(value) != count:
            return value
        rows = torch.arange(count)
        rows[sample] = (sample + 1) % count
        return value[rows]

    return apply_to_collection(batch, Tensor, replaced)


def _dtype(precision: str) -> torch.dtype:
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32
