"""A plain decoder of lossless JPEG, to compare with: one component, and every bit accounted for."""

from __future__ import annotations

import struct

import numpy as np


def decode(stream: bytes) -> np.ndarray:
    """The samples ``(rows, columns)`` of a lossless JPEG (ITU-T T.81, process 14).

    Raises:
        ValueError: If bits are missing, or no code of the stream's own table, or eight or more
            are left that are no zeros.
    """
    place, codes = 2, {}
    while True:
        marker, length = struct.unpack(">HH", stream[place : place + 4])
        body = stream[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == 0xFFC3:
            precision, rows, columns, components = struct.unpack(">BHHB", body[:6])
            if components != 1:
                raise ValueError("components")
        elif marker == 0xFFC4:
            codes[body[0]] = _codes(body[1:17], body[17:])
        elif marker == 0xFFDD:
            raise ValueError("restart intervals are not read")
        elif marker == 0xFFDA:
            table, predictor, point = codes[body[2]], body[3], body[5] & 15
            break
    coded, found, rest = stream[place:].rpartition(b"\xff\xd9")
    if not found or rest.strip(b"\0"):
        raise ValueError("end")
    if coded.count(b"\xff") != coded.count(b"\xff\x00"):
        raise ValueError("marker")
    coded = coded.replace(b"\xff\x00", b"\xff")
    bits = "".join(f"{byte:08b}" for byte in coded)
    samples = np.zeros((rows, columns), np.int64)
    spot = 0
    for y in range(rows):
        for x in range(columns):
            difference, spot = _difference(bits, spot, table)
            guess = predicted(samples, y, x, predictor, 1 << (precision - point - 1))
            samples[y, x] = (guess + difference) & 0xFFFF
    if "1" in bits[-(-spot // 8) * 8 :]:
        raise ValueError("bits are left")
    return samples << point


def _codes(counts: bytes, symbols: bytes) -> dict[str, int]:
    code, place, codes = 0, 0, {}
    for size, count in enumerate(counts, 1):
        for symbol in symbols[place : place + count]:
            codes[f"{code:0{size}b}"] = symbol
            code += 1
        place += count
        code <<= 1
    return codes


def _difference(bits: str, spot: int, table: dict[str, int]) -> tuple[int, int]:
    for size in range(1, 17):
        symbol = table.get(bits[spot : spot + size])
        if symbol is not None:
            break
    else:
        raise ValueError("code")
    spot += size
    if symbol in (0, 16):
        return (0 if symbol == 0 else 32768), spot
    more = bits[spot : spot + symbol]
    if len(more) < symbol:
        raise ValueError("bits are missing")
    value = int(more, 2)
    return (value if more[0] == "1" else value - (1 << symbol) + 1), spot + symbol


def predicted(samples: np.ndarray, y: int, x: int, predictor: int, first: int) -> int:
    if x == y == 0:
        return first
    if y == 0:
        return int(samples[0, x - 1])
    if x == 0:
        return int(samples[y - 1, 0])
    a, b, c = int(samples[y, x - 1]), int(samples[y - 1, x]), int(samples[y - 1, x - 1])
    return [0, a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) // 2][predictor]
