"""Make a store: preprocess scans in parallel, go on after an interruption, leave nothing half."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from situs.catalog.measure import Entry, read_entry
from situs.catalog.patients import burned_in_warning
from situs.config import Config
from situs.errors import NotWritten, ScanRefused, SitusError, StoreError, not_writable, setting
from situs.files import check_writable, remove_leftovers, sha256, write_file
from situs.locks import holding, is_empty
from situs.remote import Unreachable
from situs.scans.parallel import LIMIT_S, isolated_map
from situs.scans.quality import check_prepared
from situs.scans.refusals import refuse
from situs.store.chunks import write_array
from situs.store.estimate import estimate_bytes, median_spacing, prepared_shape
from situs.store.index import index_bytes
from situs.store.paths import HEAD, INDEX, RECORDS, REFUSED, array_file, record_file
from situs.store.preprocess import LARGEST_VOXELS, preprocess
from situs.store.preprocessing import Preprocessing, Spacing
from situs.store.record import Head, Record, fingerprint, is_sealed, sealed
from situs.store.store import Refusal, Store, check_preprocessing, is_whole, read_head
from situs.text import size

if TYPE_CHECKING:
    from situs.catalog.catalog import Catalog, Progress

_LOG = logging.getLogger(__name__)

# A PET scan of 4 mm becomes 64 times as many voxels of 1 mm; a unit that is wrong, 10⁹ times.
_MOST_GROWTH = 1000
_MANY_VOXELS = 2**27


@dataclass(frozen=True)
class _Job:
    """One scan to prepare; picklable."""

    root: Path
    entry: Entry
    planes: bool
    preprocessing: Preprocessing
    spacing_mm: Spacing | None
    store: Path


@dataclass(frozen=True)
class _Done:
    """What became of a job: a record, a refusal, or an error that ends the preparation."""

    record: Record | None = None
    refusal: Refusal | None = None
    fatal: str = ""


def prepare(
    data: Catalog | str | Path | Iterable[str | Path],
    out: str | Path,
    preprocessing: Preprocessing | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    verify: bool = False,
) -> Store:
    """Preprocess the scans of a catalog into a store.

    A second call does only what is missing, changed, or damaged. The store then holds exactly
    the catalog's scans, each once. A spacing of ``"median"`` is fixed by the first call.

    Args:
        data: A catalog, a saved one's path, or files and folders to look for scans in, or one URL.
        out: The store's folder.
        preprocessing: Preprocessing; the defaults where None.
        workers: Processes; None for all cores, 0 for this process alone.
        progress: Told what is under way, how many are done, and of how many.
        verify: Also compare the checksums of every scan that is there already.

    Raises:
        SitusError: If nothing can be written at ``out``.
        StoreError: If ``out`` holds something else or a store with other settings, the disk
            would be full, or no scan can be used.
        NotWritten: If the disk is full; what was prepared is kept.
        RunError: If another process prepares a store in ``out``.
        Unreachable: If scans lie behind a URL that does not answer; what was prepared is kept.
    """
    check_writable(out, folder=True)  # as it was given: a URL would become a folder here
    out = Path(os.path.abspath(out))
    preprocessing = preprocessing or Preprocessing()
    with holding(out, "situs prepare"):
        return _prepare(data, out, preprocessing, workers, progress, verify)


def _prepare(
    data: Catalog | str | Path | Iterable[str | Path],
    out: Path,
    preprocessing: Preprocessing,
    workers: int | None,
    progress: Progress | None,
    verify: bool,
) -> Store:
    head = _begun(out, preprocessing)
    catalog = _catalog(data, out, workers, progress)
    if catalog.root is None:
        raise StoreError("the catalog does not know where its scans are; load it with root=…")
    entries = catalog.unique
    if told := burned_in_warning((e.path, e.burned_in) for e in entries):
        _LOG.warning(told)
    if head is None:
        spacing = median_spacing(entries) if entries and preprocessing.spacing == "median" else None
        head = Head(rules=preprocessing, spacing_mm=spacing)
    refused = [Refusal(source=e.path, reason=e.reason, detail=e.detail) for e in catalog.refused]

    kept = _kept(out, entries, verify)
    missing = []
    for entry in (e for e in entries if e.key not in kept):
        absurd = _absurd_size(entry, head)
        if absurd:
            refused.append(Refusal(source=entry.path, reason="absurd-spacing", detail=absurd))
        else:
            missing.append(entry)
    if not kept and not missing:  # before a head is written that no later call could go on with
        raise _nothing_usable(refused)
    _check_space(out, missing, head)
    _write_head(out, head.model_copy(update={"complete": False}))
    remove_leftovers(out, "scans/*/")
    jobs = [
        _Job(catalog.root, e, catalog.planes, head.rules, head.spacing_mm, out) for e in missing
    ]
    work = isolated_map(
        _prepare_one,
        jobs,
        crashed=_crashed,
        timed_out=_timed_out,
        limit_s=LIMIT_S,
        workers=workers,
    )
    for number, (_, done) in enumerate(work, 1):
        if done.fatal:
            raise NotWritten(done.fatal)
        if done.record is not None:
            kept[done.record.key] = done.record
        if done.refusal is not None:
            refused.append(done.refusal)
        if progress is not None:
            progress("scans to prepare", number, len(jobs))
    return _finish(out, head, [kept[e.key] for e in entries if e.key in kept], refused)


def _begun(out: Path, preprocessing: Preprocessing) -> Head | None:
    """The head of a store that is there already, which must have been prepared alike."""
    if Store.is_store(out):
        head = read_head(out)
        check_preprocessing(out, head, preprocessing)
        return head
    if not is_empty(out):
        raise StoreError(f"{out} exists and is no store; choose another folder")
    return None


def _catalog(
    data: Catalog | str | Path | Iterable[str | Path],
    out: Path,
    workers: int | None,
    progress: Progress | None,
) -> Catalog:
    from situs.catalog.catalog import Catalog, build_catalog  # noqa: PLC0415 - pandas, pyarrow

    if isinstance(data, Catalog):
        return data
    paths = [Path(data)] if isinstance(data, str | Path) else [Path(p) for p in data]
    if len(paths) == 1 and _is_catalog(paths[0]):
        return Catalog.load(paths[0])
    return build_catalog(paths, workers=workers, progress=progress, skip=[out])


def _is_catalog(path: Path) -> bool:
    return path.suffix in (".parquet", ".json") or (path / "catalog.parquet").is_file()


def _origin(entry: Entry) -> str:
    """Changes with the voxels and with the geometry."""
    geometry = json.dumps([round(v, 6) for v in entry.affine])
    text = f"{entry.content}\n{geometry}\n{entry.modality}"
    return sha256(text, digits=32)


def _kept(out: Path, entries: Sequence[Entry], verify: bool) -> dict[str, Record]:
    """Records of scans that are in the store already, whole and unchanged."""
    kept = {}
    for entry in entries:
        try:
            text = record_file(out, entry.key).read_bytes()
            record = Record.model_validate_json(text)
            size = array_file(out, entry.key).stat().st_size
        except (OSError, ValidationError):
            continue
        if record.key != entry.key or record.origin != _origin(entry) or record.bytes != size:
            continue
        if not is_sealed(text) or (verify and not is_whole(out, record)):
            continue
        # What the catalog says besides the voxels may have changed since.
        kept[entry.key] = record.model_copy(update=_described(entry))
    return kept


def _described(entry: Entry) -> dict[str, str]:
    return {
        "source": entry.path,
        "description": entry.description,
        "series": entry.series,
        "study": entry.study,
        "patient": entry.patient,
        "near_duplicate_of": entry.near_duplicate_of,
    }


def _check_space(out: Path, entries: Sequence[Entry], head: Head) -> None:
    folder = next(p for p in (out, *out.parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    # Compression saves 30 to 60 % of real scans; count on little, and crop on none.
    least = 1.0 if head.rules.compression == "none" else 0.8
    needed = int(least * estimate_bytes(entries, head.rules, head.spacing_mm))
    if needed > free:
        raise StoreError(
            f"the store would take about {size(needed)} and the disk of {out} has {size(free)} "
            "free; choose another disk or a larger spacing"
        )


def _absurd_size(entry: Entry, head: Head) -> str:
    """What is wrong where a voxel size can only be in another unit; empty where nothing is."""
    shape = prepared_shape(entry, head.rules, head.spacing_mm)
    voxels, own = math.prod(shape), math.prod(entry.shape)
    grown = voxels > _MANY_VOXELS and voxels > _MOST_GROWTH * own
    shrunk = voxels * _MOST_GROWTH < own and min(entry.shape) > 1
    if not grown and not shrunk and voxels <= LARGEST_VOXELS:
        return ""
    size, made = ("×".join(map(str, s)) for s in (entry.shape, shape))
    spacing = "×".join(f"{s:.3g}" for s in entry.spacing)
    return f"its {size} voxels of {spacing} mm would become {made}"


def _prepare_one(job: _Job) -> _Done:
    """Read, preprocess and write one scan; no scan raises anything, so that one stops no run.

    Raises:
        NotWritten: If a scan behind a URL finds no room here.
        Unreachable: If the URL does not answer.
    """
    try:
        return _Done(record=_stored(job))
    except (NotWritten, Unreachable):
        raise
    except ScanRefused as error:
        return _Done(refusal=_refusal(job, error))
    except OSError as error:
        if not_writable(error) or error.errno == errno.EACCES:
            return _Done(fatal=f"cannot write to {job.store}: {error.strerror}")
        problem = type(error).__name__
    except MemoryError:
        problem = "not enough memory"
    except SitusError as error:
        problem = str(error)
    except Exception as error:
        # The text of a foreign error may quote a header.
        problem = type(error).__name__
    return _Done(refusal=_refusal(job, refuse("not-prepared", job.entry.path, problem)))


def _stored(job: _Job) -> Record:
    entry = job.entry
    scan = read_entry(entry, job.root, planes=job.planes)
    prepared = preprocess(scan, job.preprocessing, spacing_mm=job.spacing_mm)
    check_prepared(prepared.array, entry.path)
    file = array_file(job.store, entry.key)
    voxels = prepared.array.astype(job.preprocessing.dtype)
    size, digest, sums = write_array(file, voxels, job.preprocessing.compression)
    _, x, y, z = prepared.array.shape
    values = Record(
        key=entry.key,
        origin=_origin(entry),
        channels=prepared.array.shape[0],
        shape=(x, y, z),
        spacing=prepared.spacing,
        affine=tuple(prepared.affine.reshape(-1).tolist()),
        modality=prepared.modality,
        intensity="+".join(dict.fromkeys(prepared.intensity)),
        change=prepared.change,
        # Rounded as the voxels are, so that padding continues them without a step.
        background=tuple(np.array(prepared.background, job.preprocessing.dtype).tolist()),
        bytes=size,
        checksum=digest,
        sums=sums,
        **_described(entry),
    )
    write_file(record_file(job.store, entry.key), sealed(values))
    return values


def _crashed(job: _Job) -> _Done:
    return _Done(refusal=_refusal(job, refuse("crashed", job.entry.path)))


def _timed_out(job: _Job) -> _Done:
    return _Done(refusal=_refusal(job, refuse("timed-out", job.entry.path)))


def _refusal(job: _Job, error: ScanRefused) -> Refusal:
    return Refusal(source=job.entry.path, reason=error.reason, detail=error.detail)


def _choices(reasons: Sequence[str]) -> str:
    """What a catalog can be made with, for scans that are refused unless one says what to take."""
    # Frames of a cine are often single slices, which is seen only once they are told apart.
    options = {"one-voxel-thick": "--planes", "four-dimensional": "--planes --volumes each"}
    wanted = max((options.get(reason, "") for reason in reasons), key=len, default="")
    made = f"'situs scan FOLDER {wanted} --out CATALOG'"
    return f"; to use them, {made} and prepare the catalog" if wanted else ""


def _nothing_usable(refused: Sequence[Refusal]) -> StoreError:
    reasons = sorted({r.reason for r in refused})
    told = ", ".join(reasons) or "none was found"
    more = f"'situs scan' says more{_choices(reasons)}"
    if reasons == ["absurd-spacing"]:  # which is found here alone
        first = refused[0]
        more = f"of {first.source} {first.detail}; choose another {setting('spacing')}"
    return StoreError(f"no scan can be used ({told}); {more}")


def _finish(out: Path, head: Head, records: Sequence[Record], refused: Sequence[Refusal]) -> Store:
    if not records:
        raise _nothing_usable(refused)
    listed, left_out = _json_lines(records), _json_lines(refused)
    head = head.model_copy(
        update={
            "complete": True,
            "fingerprint": fingerprint(head.rules.resolved(head.spacing_mm), records),
            "scans": len(records),
            "refused": len(refused),
            "records_checksum": sha256(listed),
            "refused_checksum": sha256(left_out),
        }
    )
    write_file(out / RECORDS, listed)
    write_file(out / INDEX, index_bytes(listed.encode(), [record.key for record in records]))
    write_file(out / REFUSED, left_out)
    _write_head(out, head)
    return Store.open(out)


def _json_lines(rows: Sequence[Config]) -> str:
    return "".join(f"{row.model_dump_json()}\n" for row in rows)


def _write_head(out: Path, head: Head) -> None:
    write_file(out / HEAD, sealed(head, indent=1))
