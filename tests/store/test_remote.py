"""Stores on object storage: the same voxels as on a disk, whatever is cut, flipped or evicted."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import nibabel as nib
import numpy as np
import pytest
import yaml
from command_line import here
from object_storage import s3_bucket
from remote_crops import read_all
from typer.testing import CliRunner

from situs import cli
from situs import remote as remote_module
from situs.cli.exits import Exit
from situs.errors import SitusError, StoreError
from situs.remote import Remote, Unreachable
from situs.store import Preprocessing, Store, prepare
from situs.store import cache as cache_module
from situs.store.cache import CachedArray, open_array
from situs.store.check import check_store
from situs.store.paths import HEAD, RECORDS, array_file, record_file, sums_file
from situs.store.room import ORIGIN, cache_bytes, make_room
from situs.store.upload import upload

RULES = Preprocessing(dtype="float32", spacing="native", crop=False)


def write_noise(folder: Path, count: int) -> None:
    """Scans that do not compress."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        noise = rng.normal(100, 20, (130, 100, 40)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), folder / f"scan_{number}.nii.gz")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Scans of several chunks each."""
    folder = tmp_path_factory.mktemp("local")
    write_noise(folder / "scans", 6)
    (folder / "scans" / "refused.nii.gz").touch()
    return prepare(folder / "scans", folder / "store", RULES, workers=0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server in this process; other processes reach it."""
    with s3_bucket("scans") as url:
        yield url


@pytest.fixture(scope="module")
def there(local: Store, bucket: str) -> str:
    """The store in the bucket."""
    upload(local.path, f"{bucket}/store")
    return f"{bucket}/store"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, as on a new machine."""
    monkeypatch.setenv("SITUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_module, "_WAITS_S", (0.0,))
    forget()
    return tmp_path / "cache"


@pytest.fixture
def no_credentials(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine on which nobody has given any."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else it asks a cloud's machine
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    connect_anew()
    yield
    connect_anew()


def connect_anew() -> None:
    """Connections know the credentials of when they were made."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    remote_module._system.cache_clear()


def forget() -> None:
    """What this process knows of the cache, as a new one does."""
    open_array.cache_clear()
    cache_module._origin.cache_clear()


def taken(cache: Path) -> int:
    """Bytes on the disk of voxels and their tables."""
    return sum(file.stat().st_blocks * 512 for file in cache.glob("stores/*/scans/*/*"))


def memory(name: str) -> str:
    """A URL of this process alone."""
    url = f"memory://{name}"
    fs, root = fsspec.core.url_to_fs(url)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    return url


def same(one: Store, two: Store) -> bool:
    return all(np.array_equal(a.array(), b.array()) for a, b in zip(one, two, strict=True))


def test_a_crop_fetches_its_chunks_and_gives_the_same_voxels(
    local: Store, there: str, cache: Path
) -> None:
    store = Store.open(there)
    assert (store.place, store.fingerprint) == (there, local.fingerprint)
    assert store.refused == local.refused
    assert taken(cache) == 0
    rng = np.random.default_rng(0)
    store[0].read((0, 0, 0), (8, 8, 8))
    assert 0 < taken(cache) < 0.7 * local[0].record.bytes
    for _ in range(20):
        number, size = rng.integers(len(local)), rng.integers(1, 60, 3)
        start = [rng.integers(-20, n) for n in local[number].shape]
        crops = [s[number].read(start, size) for s in (local, store)]
        assert np.array_equal(*crops)
    assert same(local, store)
    assert check_store(Path(there)) == []


@pytest.mark.slow
def test_the_same_training_as_with_the_store_on_the_disk(
    local: Store, there: str, tmp_path: Path
) -> None:
    """Loader processes fetch; the run remembers the URL and goes on with it."""
    values = {
        "method": "spatial",
        "steps": 3,
        "batch_size": 2,
        "workers": 2,
        "threads": 1,
        "log_every": 1,
        "observe_samples": 2,
        "checkpoint_every": 1,
        "options": {"view_size": [16] * 3, "chunk_size": [6] * 3, "width": 8},
        "backbone": {"name": "cnn", "options": {"channels": [4, 8]}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    options = ["--config", str(tmp_path / "run.yaml"), "--no-report", "--quiet"]
    losses = []
    for data, out in ((str(local.path), tmp_path / "disk"), (there, tmp_path / "s3")):
        words = ["pretrain", "--data", data, "--out", str(out), *options]
        ended = CliRunner().invoke(cli.app, words)
        assert ended.exit_code == 0, ended.output
        with (out / "metrics.csv").open() as table:
            losses.append([row["loss/total"] for row in csv.DictReader(table)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    assert yaml.safe_load((tmp_path / "s3/config.yaml").read_text())["data"] == [there]
    run, hub = str(tmp_path / "s3"), tmp_path / "hub"
    for words in (
        ["observe", run],
        ["pretrain", "--resume", run, "--quiet"],
        ["export", run, "--to", "hub", "--out", str(hub)],
    ):
        ended = CliRunner().invoke(cli.app, words)
        assert ended.exit_code == 0, ended.output
    check_card((hub / "DATA.md").read_text(), local)


def check_card(card: str, store: Store) -> None:
    """What there is, and no name."""
    for said in ("| scans | 6 |", "| voxels | 130 × 100 × 40 |", "| empty-file | 1 |"):
        assert said in card
    assert store.fingerprint in card
    for scan in store:
        assert scan.record.source not in card
        assert scan.key not in card


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_cache_that_is_too_small(
    method: str, local: Store, there: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2.2 * max(scan.record.bytes for scan in local)
    monkeypatch.setenv("SITUS_CACHE_GB", str(limit / 1e9))
    monkeypatch.setenv("LOCAL_STORE", str(local.path))
    store = Store.open(there)
    store[0].array()  # a process that is forked has a file open that others delete
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert all(pool.starmap(read_all, [(there, seed) for seed in range(6)]))
    assert same(local, store)
    # A file system gives room in blocks, and each process looks after a sixty-fourth of the bound.
    assert taken(cache) < 1.3 * limit
    assert make_room(cache, int(limit)) <= limit


def test_what_was_cut_off_or_flipped_here_is_fetched_again(
    local: Store, there: str, cache: Path
) -> None:
    scan = Store.open(there)[2]
    whole = scan.array()
    file = array_file(scan.store, scan.key)
    with file.open("r+b") as content:  # as a fetch that was killed, and a disk that forgets
        content.seek(file.stat().st_size // 2)
        content.write(bytes(2000))
    sums_file(file).write_bytes(b"cut")
    forget()
    assert np.array_equal(scan.array(), whole)
    assert np.array_equal(local[2].array(), whole)
    file.unlink()  # to make room, by another process, while this one has it open
    assert np.array_equal(scan.array(), whole)


@pytest.mark.parametrize("name", [HEAD, RECORDS, ORIGIN])
def test_an_index_that_changed_here_is_copied_again(name: str, local: Store, there: str) -> None:
    file = Store.open(there).path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    forget()
    store = Store.open(there)
    assert (store.records, store.place) == (local.records, there)


def test_room_is_made_of_copies_alone(local: Store, there: str, cache: Path) -> None:
    """Somebody's own store may lie in the same folder."""
    own = Path(shutil.copytree(local.path, cache / "stores" / "own"))
    copy = Store.open(there)
    copy[0].array()
    assert make_room(cache, 1) == 0
    assert not array_file(copy.path, copy[0].key).exists()
    assert same(local, Store.open(own))


def test_a_cache_that_is_deleted_while_it_is_in_use_is_no_damage(
    local: Store, there: str, cache: Path
) -> None:
    """Not to the process that reads, nor to one that begins to."""
    store = Store.open(there)
    store[0].read((0, 0, 0), (8, 8, 8))
    sent = pickle.dumps(store)
    shutil.rmtree(cache)
    assert np.array_equal(store[0].array(), local[0].array())
    shutil.rmtree(cache)
    forget()
    uses: list[Callable[[], object]] = [store[1].array, lambda: pickle.loads(sent)]
    for use in uses:
        with pytest.raises(SitusError, match="was deleted from the cache") as told:
            use()
        assert not isinstance(told.value, StoreError)  # a training goes on without such scans
    assert np.array_equal(Store.open(there)[1].array(), local[1].array())


def test_a_full_disk_is_told_with_the_file(
    there: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = Store.open(there)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=rf"No space left .*{store[0].key}\.b2nd"):
        store[0].array()


def test_where_files_cannot_be_read_in_parts_that_is_told(
    there: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    with pytest.raises(SitusError, match=f"{there} can be read on Linux and macOS only"):
        Store.open(there)
    assert not cache.exists()


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "no table"])
def test_what_is_damaged_there_is_never_used(local: Store, harm: str) -> None:
    url = memory("damaged")
    upload(local.path, url)
    scan = local[1]
    fs, root = fsspec.core.url_to_fs(url)
    name = f"{root}/{array_file(local.path, scan.key).relative_to(local.path).as_posix()}"
    content = bytearray(fs.cat_file(name))
    content[len(content) // 3] ^= 4
    if harm == "flipped":
        fs.pipe_file(name, bytes(content))
    elif harm == "cut":
        fs.pipe_file(name, bytes(content[: len(content) // 2]))
    else:
        fs.rm(name if harm == "gone" else name.replace(".b2nd", ".sums"))
    store = Store.open(url)
    with pytest.raises(StoreError, match=rf"store {url} is damaged .* 'situs upload --verify'"):
        store[1].array()
    assert np.array_equal(store[0].array(), local[0].array())
    (fault,) = check_store(Path(url))
    assert scan.key in fault.file
    upload(local.path, url, verify=True)
    assert check_store(Path(url)) == []
    assert same(local, store)


def test_an_upload_that_stopped_goes_on_and_is_no_store_before(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, real, puts = memory("half"), Remote.put, []

    def put(self: Remote, name: str, file: str) -> None:
        if len(puts) == 7:
            raise KeyboardInterrupt
        puts.append(name)
        real(self, name, file)

    monkeypatch.setattr(Remote, "put", put)
    monkeypatch.setattr("situs.store.upload._THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        upload(local.path, url)
    with pytest.raises(StoreError, match=r"not whole yet; 'situs upload' .* goes on"):
        Store.open(url)
    monkeypatch.setattr(Remote, "put", real)
    ended = CliRunner().invoke(cli.app, ["upload", str(local.path), url, "--json"])
    assert json.loads(ended.output) == {"url": url, "scans": 6, "copied": 4}
    assert same(local, Store.open(url))
    check_card(Remote(url).read("README.md").decode(), local)
    assert upload(local.path, url).copied == 0


def test_a_store_that_is_uploaded_anew_is_read_anew_and_others_are_left_alone(
    local: Store, tmp_path: Path
) -> None:
    url = memory("anew")
    upload(local.path, url)
    first = Store.open(url)
    write_noise(tmp_path / "more", 7)
    more = prepare(tmp_path / "more", tmp_path / "store", RULES, workers=0)
    assert upload(more.path, url).copied == 1
    assert (len(first), len(Store.open(url))) == (6, 7)
    assert same(more, Store.open(url))
    other = prepare(tmp_path / "more", tmp_path / "other", Preprocessing(), workers=0)
    with pytest.raises(StoreError, match="made with other settings"):
        upload(other.path, url)
    fs, root = fsspec.core.url_to_fs(memory("thesis"))
    fs.pipe_file(f"{root}/chapter.tex", b"1")
    with pytest.raises(StoreError, match=r"no store \(chapter.tex\)"):
        upload(local.path, "memory://thesis")


@pytest.mark.parametrize("file", [array_file, record_file])
def test_a_store_that_lacks_a_file_is_not_uploaded(
    file: Callable[[Path, str], Path], local: Store, tmp_path: Path
) -> None:
    url = memory("lacking")
    upload(local.path, url)
    part = Path(shutil.copytree(local.path, tmp_path / "store"))
    file(part, local[3].key).unlink()
    with pytest.raises(StoreError, match="is missing; 'situs prepare --verify'"):
        upload(part, url)


def test_no_store_is_prepared_at_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SitusError, match="must be a folder here"):
        prepare(tmp_path, "s3://scans/store", RULES, workers=0)
    assert not list(tmp_path.iterdir())


def test_a_copy_that_is_not_what_was_copied_is_told(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, real = memory("liar"), Remote.sha256
    monkeypatch.setattr(Remote, "sha256", lambda self, name: real(self, name)[::-1])
    with pytest.raises(StoreError, match="is not what was copied there"):
        upload(local.path, url)
    with pytest.raises(StoreError, match="not whole yet"):
        Store.open(url)


def test_an_index_of_another_upload_is_not_read(local: Store) -> None:
    url = memory("index")
    upload(local.path, url)
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{RECORDS}", fs.cat_file(f"{root}/{RECORDS}")[:-200])
    with pytest.raises(StoreError, match=f"{RECORDS} .* is damaged or of another upload"):
        Store.open(url)
    fs.pipe_file(f"{root}/{HEAD}", fs.cat_file(f"{root}/{HEAD}")[:-20])
    with pytest.raises(StoreError, match="cannot be read; delete what lies there, then 'situs up"):
        Store.open(url)


def test_a_store_without_checksums_is_fetched_scan_by_scan(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = local[0].record
    place = tmp_path / "cache" / "stores" / "old" / "scans" / "aa" / "x.b2nd"
    url = memory("old")
    upload(local.path, url)
    file = array_file(local.path, record.key).relative_to(local.path).as_posix()
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/scans/aa/x.b2nd", fs.cat_file(f"{root}/{file}"))
    args = (place, record.bytes, record.checksum, "", Remote(url), place.parents[2])
    whole = tuple(slice(0, n) for n in (record.channels, *record.shape))
    assert np.array_equal(CachedArray(*args)[whole], local[0].array())
    real = CachedArray._hold

    def deleted(self: CachedArray) -> None:
        monkeypatch.setattr(CachedArray, "_hold", real)
        place.unlink()  # to make room, by another process
        real(self)

    monkeypatch.setattr(CachedArray, "_hold", deleted)
    assert np.array_equal(CachedArray(*args)[whole], local[0].array())
    place.unlink()
    fs.pipe_file(f"{root}/scans/aa/x.b2nd", bytes(record.bytes))
    with pytest.raises(StoreError, match="checksum does not fit"):
        CachedArray(*args)


def test_a_plain_web_server_will_do(local: Store, tmp_path: Path) -> None:
    """It gives whole files where a part is asked for."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(local.path.parent))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert same(local, Store.open(f"http://127.0.0.1:{server.server_port}/store"))
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["scan", "s3://scans/raw"], "nothing lies at s3://scans/raw"),
        (["prepare", "x", "--out", "s3://scans/store"], "--out must be a folder here; 'situs upl"),
        (["prepare", "s3://scans/raw", "--out", "y"], "nothing lies at s3://scans/raw"),
        (["pretrain", "--data", "s3://scans/raw", "--out", "y"], "no store at s3://scans/raw. Of"),
        (["pretrain", "--data", "s3://nobody/raw", "--out", "y"], "no store at s3://nobody/raw"),
        (["pretrain", "--data", "nowhere://raw", "--out", "y"], "nowhere://raw cannot be read"),
        (["pretrain", "--data", "ftp://me:secret@x/raw", "--out", "y"], "holds a password"),
        (["finetune", "--data", "s3://scans/raw", "--out", "y"], "Only 'situs scan' and"),
        (["check", "s3://scans/raw"], "s3://scans/raw is nothing that can be checked"),
        (["upload", "STORE", "elsewhere"], "'elsewhere' is no URL"),
        (["upload", "STORE", "s3://nobody/store"], "s3://nobody/store cannot be used"),
    ],
)
def test_what_cannot_be_read_or_written_is_told_in_a_sentence(
    typed: list[str],
    said: str,
    local: Store,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [local.path if word == "STORE" else word for word in typed]
    told = here(Exit.REFUSED, *words)
    assert said in told
    assert "secret" not in told


def test_a_place_that_does_not_answer_is_no_damage(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scans are left out where they are damaged, not where a cable is."""
    url = memory("cable")
    upload(local.path, url)
    store, tries = Store.open(url), []

    def broken(*_: object, **__: object) -> None:
        tries.append(1)
        raise OSError("connection reset")

    fs, _ = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(type(fs), "cat_ranges", broken)
    with pytest.raises(Unreachable, match=rf"{url} cannot be reached \(2 tries\).*reset"):
        store[0].array()
    assert len(tries) == 2
    assert not issubclass(Unreachable, StoreError)
    monkeypatch.undo()


# Of a profile that nobody has logged in to yet, and of one that builds on another.
SIGN_ON = {
    "sso_start_url": "https://a.example/start",
    "sso_region": "eu-west-1",
    "sso_account_id": "012345678901",
    "sso_role_name": "reader",
}
BUILT = {"role_arn": "arn:aws:iam::012345678901:role/reader", "source_profile": "nobody"}


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "cannot be used: no usable credentials (Unable to locate credentials); name a "),
        ({"AWS_PROFILE": "nobody"}, "no usable credentials (The config profile (nobody) could"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "in env, missing: AWS_SECRET_ACCESS_KEY); name a profile"),
        (SIGN_ON, "example/start does not exist); name a profile of ~/.aws in AWS_PROFILE, after"),
        (BUILT, 'cannot be used: no usable credentials (The source_profile "nobody" referenced'),
        (
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
            | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "cannot be reached (2 tries): Could not connect to the endpoint URL: "
            '"http://127.0.0.1:9/scans?…"; see whether the network is there and AWS_ENDPOINT_URL',
        ),
    ],
)
def test_a_bucket_without_credentials_or_address_says_what_to_do(
    environment: dict[str, str],
    said: str,
    there: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = ["[default]"]
    for name, value in environment.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
        else:
            profile.append(f"{name} = {value}")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("\n".join(profile))
    told = here(Exit.REFUSED, "scan", there, "--out", str(tmp_path / "catalog.parquet"))
    assert said in told
    assert told.count("\n") == 1
    assert "Error:" not in told, "a sentence, no name of a class"


def test_a_public_bucket_needs_no_credentials_and_another_names_them(
    local: Store, there: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, root = fsspec.core.url_to_fs(there)
    assert owner.ls(root)  # connects, while there are credentials
    request.getfixturevalue("no_credentials")
    public: dict[str, dict[str, str]] = {}
    fsspec.config.set_conf_env(public, {"FSSPEC_S3_ANON": "true"})  # as it does when imported
    monkeypatch.setitem(fsspec.config.conf, "s3", public["s3"])
    said = r"cannot be used: access was refused \(Forbidden\); name a profile of .* AWS_PROFILE"
    with pytest.raises(Unreachable, match=said):
        Store.open(there)
    owner.chmod(root, "public-read", recursive=True)
    assert np.array_equal(Store.open(there)[0].array(), local[0].array())


def test_the_bound_of_the_cache_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITUS_CACHE_GB", "plenty")
    with pytest.raises(SitusError, match="SITUS_CACHE_GB must be a number of gigabytes"):
        cache_bytes()
