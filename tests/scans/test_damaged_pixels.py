"""Damage among the pixels of a DICOM slice that decoders pass over without an error."""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from pathlib import Path

import lossless_jpeg
import numpy as np
import pydicom
import pytest
from dicom_files import edit, jpeg_lossless, noise, write_series
from PIL import Image
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit
from refusing import refused

from situs.scans.read import read_scan
from situs.scans.readers import dicom_gdcm, dicom_lossless

SHAPE = (34, 33, 4)
END = b"\xff\xd9"


def stream_of(file: Path) -> bytes:
    return list(generate_fragments(pydicom.dcmread(file).PixelData))[1]


def put(file: Path, stream: bytes) -> None:
    ds = pydicom.dcmread(file)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(file)


def baseline(folder: Path) -> tuple[list[Path], np.ndarray]:
    """A series in lossy JPEG of 8 bits, and what Pillow makes of it."""
    files = write_series(folder, noise(SHAPE) % 200)
    seen = []
    for file in files:
        ds = pydicom.dcmread(file)
        packed = io.BytesIO()
        Image.fromarray(ds.pixel_array.astype(np.uint8)).save(packed, "JPEG", quality=90)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = encapsulate([packed.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        ds.save_as(file, enforce_file_format=True)
        seen.append(np.asarray(Image.open(packed)).T)
    return files, np.stack(seen, -1)


def test_a_damaged_lossless_jpeg_is_what_its_bits_say_or_refused(tmp_path: Path) -> None:
    """It carries no checksum: most changed bits are changed values, as valid as any.

    Of up to four bytes that are left libjpeg says nothing.
    """
    files = write_series(tmp_path, noise(SHAPE))
    for file in files:
        jpeg_lossless(file)
    whole = stream_of(files[0])
    coded = whole.index(b"\xff\xda") + 10
    rng = np.random.default_rng(3)
    outcomes = Counter()
    for _ in range(80):
        bad = bytearray(whole)
        for spot in rng.integers(coded, len(whole) - 4, rng.integers(1, 3)):
            bad[spot] ^= int(rng.integers(1, 256))
        put(files[0], bytes(bad))
        try:
            said = lossless_jpeg.decode(bytes(bad)).astype(np.int16)
        except ValueError:
            refused(tmp_path, "truncated-file")
            outcomes["refused"] += 1
        else:
            np.testing.assert_array_equal(read_scan(tmp_path).array[0, :, :, 0], said.T)
            outcomes["read"] += 1
    assert min(outcomes["read"], outcomes["refused"]) >= 4, outcomes


@pytest.mark.parametrize("predictor", range(1, 8))
def test_each_prediction_of_lossless_jpeg(predictor: int) -> None:
    rng = np.random.default_rng(0)
    for bits, point in ((8, 0), (12, 2), (16, 0)):
        samples = rng.integers(0, 2 ** (bits - point), (9, 7))
        frame = (samples << point).astype(np.uint16).view(np.int16)
        guess = [
            [lossless_jpeg.predicted(samples, y, x, predictor, 1 << (bits - point - 1))]
            for y in range(9)
            for x in range(7)
        ]
        expected = (samples - np.reshape(guess, samples.shape)) & 0xFFFF
        found = dicom_lossless._differences(frame, bits, predictor, point)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("zeros", [1, 6])
def test_zeros_before_the_end_of_a_jpeg_are_padding(tmp_path: Path, zeros: int) -> None:
    files = write_series(tmp_path, noise(SHAPE))
    for file in files:
        jpeg_lossless(file)
    whole = stream_of(files[0]).rstrip(b"\0").removesuffix(END)
    put(files[0], whole + bytes(zeros) + END)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))
    put(files[0], whole + b"\x17" * (zeros + 1) + END)
    assert refused(tmp_path).reason == "truncated-file"


def test_the_tables_of_one_segment_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """By the shorter codes of the first, which is not used here, bits would be left."""
    file = write_series(tmp_path, noise(SHAPE))[0]
    for other in sorted(tmp_path.iterdir()):
        jpeg_lossless(other)
    whole = stream_of(file)
    table, scan = whole.index(b"\xff\xc4"), whole.index(b"\xff\xda")
    unused = b"\x01" + whole[table + 5 : scan]
    of_five_bits = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = lossless_jpeg.decode(whole)
    bits = ""
    for change in dicom_lossless._differences(frame, 16, 1, 0).view(np.int16).ravel().tolist():
        size = abs(change).bit_length()
        more = change if change >= 0 else change + 2**size - 1
        bits += f"{size:05b}" + (f"{more:0{size}b}" if 0 < size < 16 else "")
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    said = b"\xff\xc4" + (2 + len(unused + of_five_bits)).to_bytes(2, "big")
    put(file, whole[:table] + said + unused + of_five_bits + whole[scan : scan + 10] + coded + END)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))


def test_a_lossy_jpeg_is_read_as_pillow_reads_it_and_refused_where_it_ends_early(
    tmp_path: Path,
) -> None:
    files, expected = baseline(tmp_path)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], expected)
    whole = stream_of(files[1])
    put(files[1], whole[: len(whole) * 2 // 3] + END)  # Pillow fills up the rest in grey
    assert refused(tmp_path).reason == "truncated-file"


def test_what_others_say_meanwhile_is_passed_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The decoder's complaint alone is kept from standard error, which stays open."""
    with dicom_gdcm._complaints() as said:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nof another\n")
    os.write(2, b"afterwards\n")
    assert said == ["Corrupt JPEG data: bad Huffman code\n"]
    assert capfd.readouterr().err == "of another\nafterwards\n"


def test_nobody_need_listen_to_what_others_say() -> None:
    kept, (reading, writing) = os.dup(2), os.pipe()
    os.close(reading)
    os.dup2(writing, 2)
    try:
        with dicom_gdcm._complaints():
            os.write(2, b"of another\n")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)


@pytest.mark.parametrize("syntax", ["", "1.2.840.10008.1.2.1"])
def test_compressed_pixels_are_not_taken_for_plain_ones(tmp_path: Path, syntax: str) -> None:
    """Though they are long enough, where the transfer syntax is lost or another."""
    for file in write_series(tmp_path, np.repeat(noise(SHAPE), 2, 1)):
        jpeg_lossless(file)
        edit(file, Rows=SHAPE[1] // 3)
        named = b"1.2.840.10008.1.2.4.70"
        raw = file.read_bytes()
        if syntax:
            raw = raw.replace(named, syntax.encode().ljust(len(named), b"\0"))
        else:
            raw = raw.replace(b"\x02\0\x10\0UI", b"\x02\0\x11\0UI")
        file.write_bytes(raw)
    assert "transfer syntax" in str(refused(tmp_path, "unreadable-file"))


@pytest.mark.parametrize("deflated", [True, False])
def test_bytes_put_in_among_plain_pixels_are_refused(tmp_path: Path, deflated: bool) -> None:
    """The pixels then end too early, and what is left of them is no element."""
    file = write_series(tmp_path, noise(SHAPE))[1]
    raw = file.read_bytes()
    if deflated:
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(file, enforce_file_format=True)
        packed = file.read_bytes()
        start = 144 + int.from_bytes(packed[140:144], "little")
        inner = zlib.decompress(packed[start:], -15)
        place = inner.index(b"\xe0\x7f\x10\x00") + 500
        again = zlib.compressobj(wbits=-15)
        bad = inner[:place] + inner[place - 400 :]
        file.write_bytes(packed[:start] + again.compress(bad) + again.flush())
    else:
        place = raw.index(b"\xe0\x7f\x10\x00") + 500
        file.write_bytes(raw[:place] + raw[place - 400 :])
    assert refused(tmp_path).reason == "truncated-file"


@pytest.mark.parametrize("fewer", ["Rows", "Columns"])
def test_more_pixels_than_the_header_says_are_refused(tmp_path: Path, fewer: str) -> None:
    files = write_series(tmp_path, noise(SHAPE))
    for file in files:
        ds = pydicom.dcmread(file)
        ds.PixelData += bytes(100)
        ds.save_as(file)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))
    for file in files:
        edit(file, **{fewer: 32})
    assert "more pixels" in str(refused(tmp_path, "unreadable-file"))


def test_zeros_behind_a_file_are_padding(tmp_path: Path) -> None:
    for file in write_series(tmp_path, noise(SHAPE)):
        file.write_bytes(file.read_bytes() + bytes(512))
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))


def test_bytes_behind_compressed_pixels_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for file in write_series(tmp_path, noise(SHAPE)):
        jpeg_lossless(file)
        file.write_bytes(file.read_bytes() + rng.bytes(50))
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], noise(SHAPE))
