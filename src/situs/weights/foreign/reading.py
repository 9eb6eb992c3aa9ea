"""Checkpoints of others, read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from situs.errors import TransferError

_NAMES = (
    *("network_weights", "state_dict", "net", "model", "teacher", "student"),
    *("model_state_dict", "weights"),
)
"""Keys under which checkpoints hold the weights; the first that is there counts.

Of a student and its averaged teacher the teacher is what such methods publish.
"""


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and what else it holds.

    Pickled files are read with ``weights_only=True``: tensors, containers and numbers, nothing
    that could run.

    Args:
        path: A file that ``torch.save`` wrote, or a safetensors file.

    Returns:
        Tensors by name, and the other entries of the file.

    Raises:
        TransferError: If the file is missing, holds other objects, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise TransferError(f"{path} is not a file; give the checkpoint itself")
    values: Any = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if not isinstance(values, Mapping):
        raise TransferError(f"{path} holds a {type(values).__name__}, not the tensors of a network")
    key = next((n for n in _NAMES if isinstance(values.get(n), Mapping)), None)
    found = values if key is None else values[key]
    tensors = {str(n): t for n, t in found.items() if isinstance(t, Tensor)}
    if not tensors:
        raise TransferError(f"{path} holds no tensors; its entries are {list(values)[:8]}")
    rest = {} if key is None else {str(n): v for n, v in values.items() if n != key}
    return tensors, rest


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise TransferError(f"{path} is not a valid safetensors file: {error}") from None


def _pickled(path: Path) -> Any:
    # Numbers of numpy, which trainers log beside the weights.
    inner: Any = np.core if np.__version__.startswith("1.") else np._core  # type: ignore[attr-defined]
    numbers: list[Any] = [np.dtype, np.ndarray, inner.multiarray.scalar]
    numbers += [inner.multiarray._reconstruct]
    numbers += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        named = [line.strip() for line in reason if "Unsupported" in line or "GLOBAL" in line]
        raise TransferError(
            f"{path} cannot be read without unpickling Python objects, which situs never does "
            f"({(named or reason or [type(error).__name__])[0][:200]}). Save its tensors alone "
            "where it is trusted: torch.save({'state_dict': checkpoint['state_dict']}, 'plain.pt')"
        ) from None
