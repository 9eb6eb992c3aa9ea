"""Damaged scans on purpose: each is read as an independent reader reads it, or refused.

``python tests/support/campaign.py 10000`` runs as many and prints what became of them; the same
seed makes the same files. Every file is read in a child process with limits of time and memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import re
import resource
import shutil
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from campaign_dicom import dicom, dicom_readers, enhanced, enhanced_readers, packed
from damage import damaged

from situs.errors import ScanRefused
from situs.scans.parallel import isolated_map
from situs.scans.read import read_scan
from situs.scans.refusals import REASONS

LIMIT_S = 60.0
MEMORY = 6 * 2**30
SHAPE = (9, 8, 7)
AFFINE = np.array([[-0.8, 0, 0, 10], [0, 0.7, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1])
_PAIR = (("header", "*.hdr"), ("image", "*.img*"))
_READ = "situs-read-it"
ODD_NUMBERS = [0, -1, 1, 2, 3, 255, 32767, -32768, 1e-30, 1e30, np.nan, np.inf, -np.inf, 0.5, 1e9]
ODD_TEXT = ["", "0", "-1", "1", "nan", "1e30", "-0.7", "99999999999", "x" * 2000, "%s%n", "True"]
ODD_TEXT += ["9 8 7 1", "9 8", "7 8 9", "LOCAL", "../x", "int", "big", "\xff\xfe", "none none none"]


@dataclass(frozen=True)
class Job:
    """One file to be made, damaged and read."""

    kind: str
    seed: int
    folder: str


@cache
def volume(kind: str = "i2") -> np.ndarray:
    return np.random.default_rng(5).integers(0, 120, SHAPE).astype(kind)


def numbers(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Odd values of a header field, or its bits at random."""
    if rng.random() < 0.3:
        raw = rng.integers(0, 256, dtype.itemsize * int(np.prod(shape, dtype=int)), dtype=np.uint8)
        return raw.view(dtype).reshape(shape)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(rng.choice(ODD_NUMBERS, shape)).astype(dtype)


# --- NIfTI ---------------------------------------------------------------------------------


def nifti(rng: np.random.Generator, folder: Path) -> Path:
    """NIfTI-1 or -2, of one or two files, gzipped or not, with fields and bytes changed."""
    kinds = [np.int16, np.uint8, np.float32, np.int32, np.float64, np.uint16]
    array = volume().astype(kinds[rng.integers(len(kinds))])
    if rng.random() < 0.2:
        array = np.stack([array, array + 1], -1)
    two, pair = rng.random() < 0.3, rng.random() < 0.2
    if pair:
        image = (nib.Nifti2Pair if two else nib.Nifti1Pair)(array, AFFINE)
    else:
        image = (nib.Nifti2Image if two else nib.Nifti1Image)(array, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, int(rng.integers(2)))
    files = {key: io.BytesIO() for key in ("header", "image")}
    holders = {key: nib.FileHolder(fileobj=files[key if pair else "image"]) for key in files}
    image.to_file_map(holders)
    parts = {key: file.getvalue() for key, file in files.items()}
    dtype = nib.nifti2.header_dtype if two else nib.nifti1.header_dtype
    key = "header" if pair else "image"
    raw = bytearray(parts[key])
    for _ in range(rng.integers(4)):
        header = np.frombuffer(raw, dtype, count=1)
        name = str(rng.choice(dtype.names))
        field = header[name]
        if field.dtype.kind in "iuf":
            value = numbers(rng, field.dtype, field.shape)
            field.reshape(-1)[rng.integers(field.size)] = value.reshape(-1)[0]
        if rng.random() < 0.1:
            raw[: header.nbytes] = header.byteswap().tobytes()
    parts[key] = bytes(raw)
    if rng.random() < 0.3:
        parts["image"] = damaged(rng, parts["image"])
    packed = rng.random() < 0.5
    if packed:
        parts["image"] = gzip.compress(parts["image"], 1)
        if rng.random() < 0.3:
            parts["image"] = damaged(rng, parts["image"])
        elif rng.random() < 0.05:
            parts["image"] += gzip.compress(b"\0" * 2**26)
    if pair:
        (folder / "a.hdr").write_bytes(parts["header"])
        (folder / ("a.img.gz" if packed else "a.img")).write_bytes(parts["image"])
        return folder / "a.hdr"
    path = folder / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(parts["image"])
    return path


# --- NRRD and MetaImage --------------------------------------------------------------------


def text_fields(rng: np.random.Generator, fields: dict[str, str], others: dict[str, str]) -> None:
    """Change, leave out, or add fields of a text header."""
    for _ in range(rng.integers(3)):
        key = str(rng.choice(list(fields)))
        how = rng.integers(4)
        if how == 0:
            del fields[key]
        elif how == 1:
            fields[key] = str(rng.choice(ODD_TEXT))
        elif how == 2:
            words = fields[key].split(" ")
            words[rng.integers(len(words))] = str(rng.choice(ODD_TEXT[:9]))
            fields[key] = " ".join(words)
        else:
            more = str(rng.choice(list(others)))
            fields[more] = others[more]
        if not fields:
            return


def nrrd(rng: np.random.Generator, folder: Path) -> Path:
    """NRRD in each encoding."""
    raw = volume().tobytes(order="F")
    text = " ".join(map(str, volume().reshape(-1, order="F"))).encode() + b"\n"
    forms = {
        "raw": raw,
        "gzip": gzip.compress(raw),
        "bzip2": bz2.compress(raw),
        "hex": raw.hex().encode(),
        "ascii": text,
    }
    encoding = str(rng.choice(list(forms)))
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "9 8 7",
        "space directions": "(0.8,0,0) (0,-0.7,0) (0,0,2.5)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": encoding,
        "space origin": "(-10,20,5)",
    }
    others = {"byte skip": "3", "line skip": "1", "space units": '"um" "um" "um"', "sizes ": "1"}
    others |= {"byteskip": "-1", "units": '"cm" "cm" "cm"', "data file": "a.raw", "type": "float"}
    others |= {"encoding": str(rng.choice(list(forms))), "endian": "big", "type ": "block"}
    text_fields(rng, fields, others)
    data = damaged(rng, forms[encoding]) if rng.random() < 0.3 else forms[encoding]
    head = "".join(f"{key}: {value}\n" for key, value in fields.items())
    detached = rng.random() < 0.15
    (folder / "a.raw").write_bytes(data)
    if detached:
        head += "data file: a.raw\n"
    whole = f"NRRD0005\n{head}\n".encode("latin-1", "replace") + (b"" if detached else data)
    path = folder / ("a.nhdr" if detached else "a.nrrd")
    path.write_bytes(damaged(rng, whole) if rng.random() < 0.15 else whole)
    return path


def meta(rng: np.random.Generator, folder: Path) -> Path:
    """MetaImage, compressed or not, in one or two files."""
    raw = volume().tobytes(order="F")
    packed, detached = rng.random() < 0.5, rng.random() < 0.3
    data = zlib.compress(raw) if packed else raw
    if rng.random() < 0.3:
        data = damaged(rng, data)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(packed),
        "TransformMatrix": "1 0 0 0 -1 0 0 0 1",
        "Offset": "-10 20 5",
        "ElementSpacing": "0.8 0.7 2.5",
        "DimSize": "9 8 7",
        "ElementType": "MET_SHORT",
    }
    if packed and rng.random() < 0.7:
        fields["CompressedDataSize"] = str(len(data))
    others = {"HeaderSize": "-1", "DistanceUnits": "um", "ElementType": "MET_FLOAT"}
    others |= {"CompressedDataSize": str(rng.choice(ODD_TEXT[:8])), "BinaryData": "False"}
    others |= {"ElementNumberOfChannels": "2", "CompressedData": str(not packed)}
    others |= {"ElementToIntensityFunctionSlope": "2", "ElementSize": "1 1 1", "Comment": "x" * 900}
    text_fields(rng, fields, others)
    (folder / "a.raw").write_bytes(data)
    head = "".join(f"{key} = {value}\n" for key, value in fields.items())
    head += f"ElementDataFile = {'a.raw' if detached else 'LOCAL'}\n"
    whole = head.encode("latin-1", "replace") + (b"" if detached else data)
    path = folder / ("a.mhd" if detached else "a.mha")
    path.write_bytes(damaged(rng, whole) if rng.random() < 0.15 else whole)
    return path


MAKERS = {"nifti": nifti, "nrrd": nrrd, "meta": meta}
MAKERS |= {"dicom": dicom, "packed": packed, "enhanced": enhanced}


# --- What became of it ---------------------------------------------------------------------


def examine(job: Job) -> str:
    """``read``, ``refused CODE``, or ``WRONG …`` where no independent reader agrees."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.disable(logging.CRITICAL)
    sitk.ProcessObject.GlobalWarningDisplayOff()
    folder = _folder(job)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = MAKERS[job.kind](np.random.default_rng([job.seed, len(job.kind)]), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scan = read_scan(path, "all")
        except ScanRefused as error:
            said = f"refused {error.reason}" if error.reason in REASONS else "WRONG code"
        except Exception as error:
            said = f"WRONG {type(error).__name__}"
        else:
            (folder / _READ).touch()
            agreed = any(_agrees(scan, other) for other in READERS[job.kind](path, scan))
            said = "read" if agreed else f"WRONG unconfirmed {scan} {scan.provenance.notes}"
    if not said.startswith("WRONG"):
        shutil.rmtree(folder)
    return said


def _agrees(scan, other: tuple[np.ndarray, np.ndarray]) -> bool:
    values, affine = other
    if values.shape != scan.array.shape:
        return False
    with np.errstate(all="ignore"):
        close = np.isclose(scan.array, values.astype(np.float64), rtol=1e-4, atol=1e-3).all()
    scale = max(1.0, float(np.abs(affine).max()))
    return bool(close and np.allclose(scan.affine, affine, rtol=1e-3, atol=1e-3 * min(scale, 100)))


def _channels_first(values: np.ndarray) -> np.ndarray:
    values = values.reshape(values.shape + (1,) * (3 - values.ndim))
    return np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0)


def _by_itk(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with suppress(Exception):
        image = sitk.ReadImage(str(path))
        n = image.GetDimension()
        affine = np.eye(4)
        direction = np.array(image.GetDirection()).reshape(n, n) * image.GetSpacing()
        m = min(n, 3)
        affine[:m, :m], affine[:m, 3] = direction[:m, :m], image.GetOrigin()[:m]
        values = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            values = np.moveaxis(values, -1, 0)
        yield (
            _channels_first(values.T if values.ndim < 4 else values.transpose(3, 2, 1, 0)),
            (LPS @ affine),
        )


def _unit(header) -> float:
    return {1: 1000.0, 3: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)


def _by_nibabel(path: Path):
    """An image of nibabel, which looks for no ``.img.gz`` beside a ``.hdr``."""
    if path.suffix != ".hdr":
        return nib.load(path, mmap=False)
    files = {key: nib.FileHolder(str(next(path.parent.glob(pattern)))) for key, pattern in _PAIR}
    kind = nib.Nifti2Pair if path.stat().st_size >= 540 else nib.Nifti1Pair
    return kind.from_file_map(files, mmap=False)


def nifti_readers(path: Path, scan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """ITK's values and nibabel's with either's geometry: each mends some headers in its way."""
    places, stored = [], []
    for values, affine in _by_itk(path):
        stored.append(values)
        places.append(affine)
    with suppress(Exception):
        image = _by_nibabel(path)
        scale = np.diag([*[_unit(image.header)] * 3, 1.0])
        places += [scale @ image.affine, scale @ image.header.get_best_affine()]
        for form in (image.header.get_sform, image.header.get_qform):
            with suppress(Exception):
                places.append(scale @ form())
        zooms = np.diag([*(list(image.header.get_zooms())[:3] + [1.0] * 3)[:3], 1.0])
        places += [scale @ zooms, scale @ image.affine @ zooms]
        stored.append(_channels_first(np.asanyarray(image.dataobj)))
    with suppress(Exception):
        stored.append(_behind_header(path))
    for values in stored:
        for place in places:
            yield values, place


def _behind_header(path: Path) -> np.ndarray:
    """The values that fill a file from its header to its last byte, where vox_offset is 0.

    ITK and nibabel believe the 0, and take the header for voxels.
    """
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    two = 540 in (int.from_bytes(raw[:4], order) for order in ("little", "big"))
    size, kind = (540, nib.Nifti2Header) if two else (348, nib.Nifti1Header)
    header = kind(raw[:size], check=False)
    assert header["vox_offset"] == 0
    assert header["scl_slope"] == 1
    assert header["scl_inter"] == 0
    values = np.frombuffer(raw[size + 4 :], header.get_data_dtype())
    return _channels_first(values.reshape(header.get_data_shape(), order="F"))


def text_readers(path: Path, scan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """ITK, with the unit that the header names; or what was written, where ITK does not read."""
    noted = " ".join(scan.provenance.notes)
    units = [1e-3, 10.0, 1000.0] if "multiplied" in noted else [1.0]
    slopes = [2.0] if "slope" in noted else [1.0]
    found = [*_by_itk(path), (volume()[None], AFFINE)]
    # ITK knows no bzip2, and believes lengths: then the values are those that were written.
    stored = [*(values for values, _ in found), volume().byteswap()[None]]
    places = [affine for _, affine in found]
    sizes, lengths = _said(path, "sizes: |DimSize = "), _said(path, "ElementSpacing = ")
    if sizes is not None and sizes.prod() == volume().size:
        flat = volume().reshape(-1, order="F")
        stored.append(flat.reshape(sizes.astype(int), order="F")[None])
    # Where a field is left out, its default.
    named = np.sign(AFFINE[:3, :3]) * (1 if lengths is None else lengths)
    for spacing in (AFFINE[:3, :3], named, LPS[:3, :3]):
        for origin in (AFFINE[:3, 3:], np.zeros((3, 1))):
            places.append(np.vstack([np.hstack([spacing, origin]), [0, 0, 0, 1]]))
    for unit in units:
        for values in stored:
            for affine in places:
                yield values * slopes[0], np.diag([unit, unit, unit, 1.0]) @ affine


def _said(path: Path, key: str) -> np.ndarray | None:
    """Three numbers that stand behind a key of a text header."""
    found = re.search(rf"^(?:{key})([\d. ]+)$", path.read_bytes().decode("latin-1"), re.MULTILINE)
    numbers = np.array(found[1].split(), float) if found else np.empty(0)
    return numbers if len(numbers) == 3 else None


READERS = {"nifti": nifti_readers, "nrrd": text_readers, "meta": text_readers}
READERS |= {"dicom": dicom_readers, "packed": dicom_readers, "enhanced": enhanced_readers}


def _folder(job: Job) -> Path:
    return Path(job.folder) / f"{job.kind}-{job.seed}"


def _crashed(job: Job) -> str:
    # situs itself had read the file, and the reader to compare with ended the process.
    return "other reader crashed" if (_folder(job) / _READ).exists() else "WRONG crashed"


def _timed_out(job: Job) -> str:
    return "other reader hung" if (_folder(job) / _READ).exists() else "WRONG timed out"


def run(
    count: int,
    folder: Path,
    workers: int = 2,
    first: int = 0,
    told: Callable[[dict[str, Counter[str]]], None] = lambda outcomes: None,
) -> dict[str, Counter[str]]:
    """Make, damage and read ``count`` files, as many of each format: what became of them."""
    kinds = list(MAKERS)
    jobs = [Job(kinds[n % len(kinds)], first + n // len(kinds), str(folder)) for n in range(count)]
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for job, said in isolated_map(
        examine,
        jobs,
        crashed=_crashed,
        timed_out=_timed_out,
        limit_s=LIMIT_S,
        workers=workers,
        chunk=8,
    ):
        outcomes[job.kind][f"{said} [{job.seed}]" if said.startswith("WRONG") else said] += 1
        if sum(counts.total() for counts in outcomes.values()) % 100 == 0:
            told(outcomes)
    return outcomes


def main() -> None:
    """Print the counts, and keep the files that were neither read rightly nor refused."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))

    def told(outcomes: dict[str, Counter[str]]) -> None:
        counts = {kind: dict(count.most_common()) for kind, count in outcomes.items()}
        (folder / "counts.json").write_text(json.dumps(counts, indent=1))

    workers = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    told(run(count, folder, workers, first, told))
    sys.stdout.write((folder / "counts.json").read_text())
    sys.stdout.write(f"\nfiles that need a look: {folder}\n")


if __name__ == "__main__":
    import campaign  # child processes find it by this name

    campaign.main()
