"""Whether lossless JPEG was decoded to its last bit, of which libjpeg says nothing if few are left.

Lossless JPEG (ITU-T T.81, annex H) writes of each sample the difference from a prediction: a
Huffman code of the number of its bits, and these. So the samples tell how many bits they took.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_SOF3, _DHT, _SOS = 0xC3, 0xC4, 0xDA
_BITS = np.frexp(np.abs(np.arange(2**16, dtype=np.uint16).view(np.int16).astype(float)))[1]
"""How many bits each difference modulo 2¹⁶ has."""


def bytes_are_left(stream: bytes, frame: npt.NDArray[Any]) -> bool:
    """Whether a stream holds more than its samples took: then some of them are not its own.

    Zeros at its end are padding. Streams in several components, of several tables or with restart
    intervals are not looked at.

    Args:
        stream: From its first marker on.
        frame: What was decoded of it, ``(rows, columns)``.
    """
    parts, place = segments(stream)
    kinds = [kind for kind, _ in parts]
    if [kinds.count(kind) for kind in (_SOF3, _DHT, _SOS, 0xDD)] != [1, 1, 1, 0]:
        return False
    of = dict(parts)
    coded, end, _ = stream[place:].rpartition(b"\xff\xd9")
    alone = of[_SOF3][5] == 1 and coded.count(b"\xff") == coded.count(b"\xff\0")
    shape = (int.from_bytes(of[_SOF3][1:3], "big"), int.from_bytes(of[_SOF3][3:5], "big"))
    predictor, point = of[_SOS][3], of[_SOS][5] & 15
    if not (end and alone and shape == frame.shape and 1 <= predictor <= 7):
        return False
    counts, symbols = of[_DHT][1:17], of[_DHT][17:]
    sizes = [size for size, count in enumerate(counts, 1) for _ in range(count)]
    # One segment may hold several tables.
    if len(sizes) != len(symbols) or max(symbols, default=0) > 16:
        return False
    taken = np.zeros(17, np.uint8)
    for symbol, size in zip(symbols, sizes, strict=True):
        taken[symbol] = size + (symbol if symbol < 16 else 0)
    bits = taken[_BITS].take(_differences(frame, of[_SOF3][0], predictor, point))
    if not bits.all():
        return False
    whole = (int(bits.sum()) + 7) // 8
    return bool(coded.replace(b"\xff\0", b"\xff")[whole:].strip(b"\0"))


def segments(stream: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Markers of a JPEG before its coded samples with what they say, and where these begin."""
    found: list[tuple[int, bytes]] = []
    place = 2
    while place + 4 < len(stream) and stream[place] == 0xFF:
        kind, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        if kind == 0xFF:  # markers may have fill bytes before them
            place += 1
            continue
        found.append((kind, stream[place + 4 : place + 2 + length]))
        place += 2 + length
        if kind == _SOS:
            break
    return found, place


def _differences(
    frame: npt.NDArray[Any], precision: int, predictor: int, point: int
) -> npt.NDArray[np.uint16]:
    """The difference of each sample from its prediction, modulo 2¹⁶ (T.81, table H.1)."""
    samples = (frame.astype(np.uint16) & np.uint16(2**precision - 1)) >> np.uint16(point)
    guess = np.empty_like(samples)
    guess[0, 0] = 2 ** (precision - point - 1)
    guess[0, 1:] = samples[0, :-1]
    guess[1:, 0] = samples[:-1, 0]
    # Halves need more than 16 bits.
    wide = samples.astype(np.int32) if predictor > 4 else samples
    left, above, both = wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    inner = {
        2: lambda: above,
        3: lambda: both,
        4: lambda: left + above - both,
        5: lambda: left + ((above - both) >> 1),
        6: lambda: above + ((left - both) >> 1),
        7: lambda: (left + above) >> 1,
    }.get(predictor, lambda: left)
    guess[1:, 1:] = inner()
    return samples - guess
