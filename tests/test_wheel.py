"""The source package builds the wheel, and the wheel goes its way where no clone is."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from situs.version import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
# What the package holds besides modules; a wheel without them imports and fails later.
_DATA = (".j2", ".css", ".js", ".yaml", ".typed")


def _run(*words: str | Path, folder: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source package, and the wheel that was built from it."""
    pytest.importorskip("hatchling", reason="the extra 'dev' has the build backend")
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def environment(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and sees this one's packages, but not the clone."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (wheel,) = packages.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python]
    _run(*pip, "install", "--no-deps", "--no-index", wheel, folder=folder)
    # A path file of one folder: the path files inside it, an editable clone's too, are not read.
    (site,) = folder.glob("lib/python3.*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def test_both_packages_hold_what_they_need_and_no_more(packages: Path) -> None:
    (wheel,), (source,) = packages.glob("*.whl"), packages.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = {
        f"situs/{file.relative_to(ROOT / 'src/situs').as_posix()}"
        for file in (ROOT / "src/situs").rglob("*")
        if file.suffix in (".py", *_DATA)
    }
    assert tracked <= names
    assert {name.split("/")[0] for name in names} == {"situs", f"situs-{__version__}.dist-info"}
    with tarfile.open(source) as archive:
        held = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/test_wheel.py"} <= held
    assert not any(name.startswith((".venv", "shared", "runs", "site/")) for name in held)


def test_an_index_shows_a_readme_without_dead_links(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        page = archive.read(name).decode("utf-8")
    shown = page.partition("\n\n")[2]
    assert "# situs" in shown
    assert len(shown) > 0.9 * len((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not re.search(r"\]\((?!https?://|#)", shown)
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["absolute"]
    text = "![A](docs/a.png) [b](docs/b.md#c) [d](https://e.org) [f](#g)"
    assert hook(text, "https://forge.example/situs/") == (
        "![A](https://forge.example/situs/raw/main/docs/a.png) "
        "[b](https://forge.example/situs/blob/main/docs/b.md#c) [d](https://e.org) [f](#g)"
    )
    assert hook(text, None) == " b [d](https://e.org) [f](#g)"


def test_the_wheel_leads_from_scans_to_a_report(environment: Path, tmp_path: Path) -> None:
    python, situs = environment / "bin/python", environment / "bin/situs"
    where = _run(python, "-c", "import situs; print(situs.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    assert _run(situs, "--version", folder=tmp_path).strip().endswith(__version__)

    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(4):
        voxels = rng.normal(100, 20, (28, 26, 24)).astype(np.float32)
        image = nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2, 1]))
        nib.save(image, tmp_path / "scans" / f"p{number}.nii.gz")
    alone = ("--workers", "0")  # processes of a pool are tested elsewhere
    _run(situs, "prepare", "scans", "--out", "store", *alone, folder=tmp_path)
    small = "--steps 2 --batch-size 2 --set backbone.options.channels=[4,8] --set workers=0"
    run = ["pretrain", "--method", "mae", "--data", "store", "--out", "run", *small.split()]
    _run(situs, *run, "--set", "observe_samples=2", folder=tmp_path)
    page = (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    assert "<style" in page  # templates, style and viewer lie inside the wheel
    assert "<script" in page
