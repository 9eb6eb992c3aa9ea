"""Damage to the bytes of a file, as copying and storing do it."""

from __future__ import annotations

import numpy as np


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Bytes cut off, changed, doubled or added."""
    how, place = rng.integers(5), int(rng.integers(len(data) + 1))
    raw = bytearray(data)
    if how == 0 or not raw:
        return data[:place]
    if how == 1:
        for spot in rng.integers(0, len(raw), 3):
            raw[spot] ^= int(rng.integers(1, 256))
        return bytes(raw)
    if how == 2:
        return data + bytes(rng.integers(0, 256, 50, dtype=np.uint8))
    if how == 3:
        return data[:place] + data[place // 2 :]
    return data[:place] + b"\0" * 40 + data[place:]
