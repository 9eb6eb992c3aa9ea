"""What the first touch of each door imports: heavy packages come when their work begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from situs.cli import app

HEAVY = {
    *("torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "tensorboard", "monai"),
    *("numpy", "pandas", "scipy", "sklearn", "matplotlib", "blosc2", "pydantic", "nibabel"),
    *("pydicom", "SimpleITK", "nilearn", "onnx", "torch._dynamo", "scipy.stats"),
}


def imported(code: str) -> set[str]:
    """Heavy packages that a fresh interpreter has after ``code``."""
    names = f"print('\\n', *[n for n in {sorted(HEAVY)!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{names}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def help_of(*verb: str) -> str:
    return (
        "from situs.cli import main\n"
        f"sys.argv = ['situs', *{verb!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )


@pytest.mark.parametrize(
    "code",
    ["import situs", help_of(), help_of("pretrain"), help_of("finetune"), help_of("scan")],
    ids=["import situs", "situs --help", "pretrain --help", "finetune --help", "scan --help"],
)
def test_imports_nothing_heavy(code: str) -> None:
    assert not imported(code) - {"pydantic"}  # typer's, for a verb's options


@pytest.mark.parametrize(
    "code",
    [
        "import situs; situs.read_scan; import situs.catalog.catalog",
        # What every process of a pool is forked from.
        "from situs.scans.parallel import _PRELOAD; [*map(__import__, _PRELOAD)]",
        "import situs.store",
    ],
    ids=["scan", "pool", "prepare"],
)
def test_preparing_scans_needs_no_network_and_no_drawing(code: str) -> None:
    needed = {"numpy", "pydicom", "nibabel", "pydantic", "pandas", "scipy", "SimpleITK", "blosc2"}
    assert not imported(code) & (HEAVY - needed)


@pytest.mark.slow
def test_first_touch_of_pretrain_brings_torch_alone() -> None:
    found = imported("import situs; situs.pretrain")
    assert "torch" in found
    assert not found - {"torch", "numpy", "scipy", "blosc2", "pydantic", "nibabel", "pydicom"}


@pytest.mark.slow
def test_methods_are_listed_without_what_trains_them() -> None:
    code = (
        "from situs.methods import available, method_class\n[method_class(n) for n in available()]"
    )
    assert not imported(code) & {"monai", "pytorch_lightning", "matplotlib", "sklearn"}


@pytest.mark.slow
def test_what_is_wrong_is_told_before_lightning_is_imported(tmp_path: Path) -> None:
    settings = {"data": "nowhere", "out": str(tmp_path / "run"), "steps": 3}
    code = "import situs\n"
    for wrong, more in (("stepz", {"stepz": 3}), ("nowhere", {})):
        code += (
            f"try:\n    situs.pretrain({settings | more!r})\n"
            f"except situs.SitusError as error:\n    assert {wrong!r} in str(error), error\n"
            "else:\n    raise AssertionError('accepted')\n"
        )
    assert not imported(code) & {"pytorch_lightning", "monai", "torchmetrics"}


def test_annotations_of_verbs_are_no_strings() -> None:
    # typer would evaluate each four times, a seventh of what `situs --help` takes.
    for verb in (info.callback for info in app.registered_commands):
        assert verb is not None
        assert not [name for name, what in verb.__annotations__.items() if isinstance(what, str)]
