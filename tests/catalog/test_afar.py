"""Scans behind a URL: the same catalog and store as from a disk, and nothing left here."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from command_line import here
from dicom_files import noise, write_series
from fsspec.implementations.memory import MemoryFileSystem
from object_storage import copy_to, s3_bucket

from situs import remote
from situs.catalog.catalog import Catalog, build_catalog
from situs.datasets.dataset import DatasetOptions
from situs.errors import NotWritten, ScanRefused, SitusError
from situs.places import url_of
from situs.remote import Unreachable
from situs.scans import afar
from situs.store import Preprocessing, Store, prepare
from situs.studies.unlabelled import read_unlabelled

RULES = Preprocessing(spacing="native", crop=False)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, two that belong together, series in one folder and in its own, and what is none."""
    root = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    (root / "sub-01" / "anat").mkdir(parents=True)
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "b ü.nii"):
        voxels = rng.normal(100, 20, (20, 18, 16)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.5, 2.0, 1.0])), root / name)
    pair = sitk.GetImageFromArray(rng.normal(0, 9, (9, 10, 11)).astype(np.float32))
    sitk.WriteImage(pair, str(root / "c.mhd"))
    for seed, start in enumerate("ab"):
        names = [f"{start}{k}" for k in range(4)]
        write_series(root / "mixed", noise((8, 9, 4), seed), names=names)
    write_series(root / "own", noise((8, 9, 5), 2))
    (root / "cut.nii.gz").write_bytes((root / "sub-01/anat/sub-01_T1w.nii.gz").read_bytes()[:900])
    (root / "notes.txt").write_text("no scan")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "d.nii.gz").write_bytes(b"x")
    (root / "README.md").write_text("about")
    return root


@contextmanager
def served(kind: str, scans: Path) -> Iterator[str]:
    """The URL at which a copy of the scans lies."""
    if kind == "s3":
        with s3_bucket("hospital") as bucket:
            copy_to(scans, f"{bucket}/scans")
            yield f"{bucket}/scans"
        return
    copy_to(scans, "memory://scans")
    yield "memory://scans"
    MemoryFileSystem().rm("/scans", recursive=True)


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which copies are made."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# What lies in the memory of this process no other one sees.
@pytest.mark.parametrize(("kind", "workers"), [("memory", 0), ("s3", 2)])
def test_catalog_and_store_are_those_of_a_disk(
    kind: str, workers: int, scans: Path, copies: Path, tmp_path: Path
) -> None:
    # With processes, whose server is started here, before the environment names the bucket.
    beside = build_catalog(scans, workers=workers)
    assert len(beside.accepted) == 6
    assert {e.reason for e in beside.refused} == {"truncated-file", "not-an-image"}
    with served(kind, scans) as url:
        there = build_catalog(url, workers=workers)
        assert there.entries == beside.entries
        assert there.passed_over == (".hidden/d.nii.gz", "README.md", "c.raw")
        there.save(tmp_path / "catalog")
        again = Catalog.load(tmp_path / "catalog")
        assert again.root is not None
        assert url_of(again.root) == url
        prepared = prepare(again, tmp_path / "there", RULES, workers=workers)
    assert prepared.fingerprint == prepare(scans, tmp_path / "here", RULES, workers=0).fingerprint
    assert [r["reason"] for r in prepared.refused] == [e.reason for e in beside.refused]
    assert not list(copies.glob("situs-*"))


def test_commands_take_a_url_and_say_what_else_cannot(
    scans: Path, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with served("memory", scans) as url:
        here(1, "scan", url, "--out", "catalog.parquet", "--workers", 0)
        here(1, "prepare", url, "--out", "store", "--workers", 0)
        assert len(Store.open("store")) == 6
        assert "goes alone" in here(2, "scan", url, scans)
        assert "prepare memory://scans" in here(2, "pretrain", "--data", url, "--out", "run")
        assert "is a file" in here(2, "scan", f"{url}/b ü.nii")
        assert "nothing lies at" in here(2, "scan", f"{url}/absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "catalog.parquet",
        "catalog.root",
        "copies",
        "store",
    ]


@pytest.mark.parametrize("url", ["https://me:hush@host/scans", "https://host/scans?sig=hush"])
def test_a_url_with_a_secret_is_refused_and_not_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = here(2, "scan", url, "--out", "catalog.parquet")
    assert "give credentials as the provider's own tools take them" in " ".join(said.split())
    assert "hush" not in said
    assert not list(tmp_path.iterdir())


def test_a_name_that_leads_elsewhere_is_refused(copies: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(noise((8, 8, 8)), np.eye(4)), tmp_path / "a.nii")
    names = ["../../evil.nii", "b/../../evil.nii", "b//c.nii", "nul\0.nii", "ü" * 126 + ".nii"]
    names.append("good.nii")
    with served("memory", tmp_path) as url:
        file = MemoryFileSystem.store["/scans/a.nii"]
        MemoryFileSystem.store |= {f"/scans/{name}": file for name in names}
        try:
            catalog = build_catalog(url, workers=0)
        finally:
            for name in names:
                MemoryFileSystem.store.pop(f"/scans/{name}", None)
    assert [e.path for e in catalog.accepted] == ["a.nii", "good.nii"]
    assert len(catalog.refused) == 5
    assert {e.detail for e in catalog.refused} == {
        "its name is none that a file below a folder of this machine can have"
    }
    assert not list(copies.glob("situs-*"))
    assert not list(tmp_path.rglob("evil*"))


def test_what_is_gone_or_too_large_is_refused_by_name(
    scans: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served("memory", scans) as url:
        monkeypatch.setattr(afar, "MOST_BYTES", 10_000)
        MemoryFileSystem().pipe_file("/scans/other/c.x", bytes(10_000))  # not of c.mhd
        catalog = build_catalog(url, workers=0)
        large = {e.path for e in catalog.refused if e.reason == "too-large"}
        assert large == {"b ü.nii", "sub-01/anat/sub-01_T1w.nii.gz"}
        MemoryFileSystem().rm("/scans/c.mhd")
        entry = next(e for e in catalog.accepted if e.path == "c.mhd")
        with pytest.raises(ScanRefused, match="missing-file"):
            catalog.read(entry)
    assert not list(copies.glob("situs-*"))


def test_a_place_that_fails_and_a_full_disk_end_it_and_refuse_no_scan(
    scans: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_WAITS_S", (0.0,))

    def fail(error: OSError, *_: object, **__: object) -> None:
        raise error

    for error, seen, words in (
        (ConnectionError("cut"), Unreachable, "cannot be reached"),
        (ConnectionError("at 'https://host/x?sig=hush', cut"), Unreachable, r"x\?…', cut; see"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), NotWritten, "cannot write to"),
    ):
        with served("memory", scans) as url, monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "get_file", partial(fail, error))
            with pytest.raises(seen, match=words):
                build_catalog(url, workers=0)
        assert not list(copies.glob("situs-*"))


def test_a_plain_web_server_will_do(copies: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "scans").mkdir()
    for number in range(2):
        image = nib.Nifti1Image(noise((9, 8, 7), number), np.eye(4))
        nib.save(image, tmp_path / "scans" / f"a {number}.nii.gz")
    handler = partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        catalog = build_catalog(f"http://127.0.0.1:{server.server_port}/scans", workers=0)
        server.shutdown()
    assert [e.path for e in catalog.accepted] == ["a%200.nii.gz", "a%201.nii.gz"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_other_commands_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SitusError, match="Only 'situs scan' and 'situs prepare' read scans"):
        read_unlabelled([Path("s3://hospital/scans")], DatasetOptions(), tmp_path / "cache")
