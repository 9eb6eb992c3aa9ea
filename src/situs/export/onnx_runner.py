"""Apply an exported model with nothing but numpy and onnxruntime.

This file is copied beside ``model.onnx``. Scans must be arrays ``(C, X, Y, Z)`` with axes towards
R, A, S at the spacing in ``card.json``; ``prepare`` scales CT as the card says. Example:

    python run.py scan.npy labels.npy      # CT in Hounsfield units
    python run.py scan.npy labels.npy --prepared
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Model:
    """A fine-tuned network as ONNX.

    Args:
        folder: With ``model.onnx``, ``task.json`` and ``card.json``.
    """

    def __init__(self, folder: str | Path) -> None:
        import onnxruntime  # noqa: PLC0415 - the module is read where it is absent, too

        folder = Path(folder)
        self.task: dict[str, Any] = json.loads((folder / "task.json").read_text("utf-8"))
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", providers=onnxruntime.get_available_providers()
        )

    def prepare(self, hounsfield: npt.NDArray[Any]) -> Floats:
        """CT ``(C, X, Y, Z)`` in Hounsfield units, clipped and scaled as in training."""
        preprocessing = self.task["preprocessing"]
        low, high = preprocessing["ct_window"]
        first, last = preprocessing.get("ct_range", (-1.0, 1.0))
        share = (np.clip(np.asarray(hounsfield, np.float32), low, high) - low) / (high - low)
        return np.asarray(first + share * (last - first), np.float32)

    def probabilities(self, image: Floats, air: Sequence[float] | None = None) -> Floats:
        """Class probabilities of a prepared scan.

        Args:
            image: ``(C, X, Y, Z)`` as :meth:`prepare` gives it.
            air: What lies outside the scan, one value a channel; each channel's least by default.

        Returns:
            ``(K, X, Y, Z)`` for segmentation, by Gaussian-weighted windows, or ``(K,)``.
        """
        task, axis = self.task, self.task["slice_axis"]
        air = [float(channel.min()) for channel in image] if air is None else air
        total: Any = 0.0
        flips = _subsets(task["flip_axes"])
        for axes in flips:
            there = tuple(a + 1 for a in axes)
            volume = np.flip(image, there)
            batch = volume[None] if axis is None else np.moveaxis(volume, axis + 1, 0)
            if task["kind"] == "classification":
                total = total + self._classes(batch, air)
                continue
            found = self._segments(batch, air)
            back = found[0] if axis is None else np.moveaxis(found, 0, axis + 1)
            total = total + np.flip(back, there)
        return np.asarray(total / len(flips), np.float32)

    def segment(self, image: Floats) -> npt.NDArray[np.int16]:
        """Label values ``(X, Y, Z)`` of a prepared scan."""
        values = np.array([int(value) for value in self.task["classes"]], np.int16)
        labels: npt.NDArray[np.int16] = values[self.probabilities(image).argmax(0)]
        return labels

    def _logits(self, windows: Floats) -> Floats:
        (out,) = self.session.run(None, {"image": np.ascontiguousarray(windows, np.float32)})
        return np.asarray(out, np.float32)

    def _segments(self, batch: Floats, air: Sequence[float]) -> Floats:
        size = tuple(self.task["patch_size"])
        padded, inside = _padded(batch, size, air)
        weight = _bump(size)
        sums: Any = None
        seen = np.zeros(padded.shape[2:], np.float32)
        for place in _places(padded.shape[2:], size, self.task["overlap"]):
            logits = np.concatenate([self._logits(item[None][_at(place)]) for item in padded])
            if sums is None:
                sums = np.zeros((len(batch), logits.shape[1], *padded.shape[2:]), np.float32)
            sums[_at(place)] += logits * weight
            seen[place] += weight
        return _softmax(sums / seen)[(slice(None), slice(None), *inside)]

    def _classes(self, batch: Floats, air: Sequence[float]) -> Floats:
        size = tuple(self.task["patch_size"])
        padded, _ = _padded(batch, size, air)
        places = _places(padded.shape[2:], size, self.task["overlap"])
        logits = np.concatenate(
            [self._logits(item[None][_at(place)]) for place in places for item in padded]
        )
        rows = 1 / (1 + np.exp(-logits)) if self.task["multi_label"] else _softmax(logits)
        return np.asarray(rows.mean(0), np.float32)


def _at(place: tuple[slice, ...]) -> tuple[slice, ...]:
    return (slice(None), slice(None), *place)


def _padded(
    batch: Floats, size: Sequence[int], air: Sequence[float]
) -> tuple[Floats, tuple[slice, ...]]:
    """Air on both sides until a window fits, and where the scan is in it."""
    shape = [max(s, n) for s, n in zip(size, batch.shape[2:], strict=True)]
    inside = tuple(
        slice((w - n) // 2, (w - n) // 2 + n) for w, n in zip(shape, batch.shape[2:], strict=True)
    )
    values = np.asarray(air, np.float32).reshape(1, -1, *(1,) * len(shape))
    whole = np.broadcast_to(values, (*batch.shape[:2], *shape)).copy()
    whole[_at(inside)] = batch
    return whole, inside


def _places(shape: Sequence[int], size: Sequence[int], overlap: float) -> list[tuple[slice, ...]]:
    """Windows that cover a volume, the last of each axis moved back inside."""
    starts = []
    for n, s in zip(shape, size, strict=True):
        step = s if s == n else max(1, int(s * (1 - overlap)))
        starts.append(sorted({min(first, n - s) for first in range(0, n, step)}))
    return [
        tuple(slice(first, first + s) for first, s in zip(corner, size, strict=True))
        for corner in product(*starts)
    ]


def _bump(size: Sequence[int], spread: float = 0.125) -> Floats:
    """The weight of a window's voxels: a Gaussian about its middle, an eighth of it wide."""
    out = np.ones((), np.float32)
    for n in size:
        x = np.arange(-(n - 1) / 2, (n - 1) / 2 + 1, dtype=np.float32)
        out = out[..., None] * np.exp(x**2 / (-2 * (spread * n) ** 2)).astype(np.float32)
    return np.asarray(np.maximum(out, max(float(out[out > 0].min()), 1e-3)), np.float32)


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True), np.float32)


def _subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def main(arguments: Sequence[str]) -> None:
    """``scan.npy result.npy [--prepared]``."""
    source, target = arguments[:2]
    model = Model(Path(__file__).parent)
    scan = np.load(source, allow_pickle=False)
    scan = scan[None] if scan.ndim == 3 else scan
    image = np.asarray(scan, np.float32) if "--prepared" in arguments else model.prepare(scan)
    segments = model.task["kind"] == "segmentation"
    np.save(target, model.segment(image) if segments else model.probabilities(image))


if __name__ == "__main__":
    main(sys.argv[1:])
