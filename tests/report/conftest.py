"""One synthetic run and its report, made once for all tests of the observatory."""

from __future__ import annotations

from pathlib import Path

import pytest
import report_samples as samples

from situs.report.report import write_report

HOSTILE = "<script>window.hostile=1</script><img src=x onerror='window.hostile=2'>\"'&\x1b[31m"


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose every free string is hostile."""
    return samples.write_run(tmp_path_factory.mktemp("runs") / "first", hostile=HOSTILE)


@pytest.fixture(scope="session")
def report(run_folder: Path) -> Path:
    """Its report."""
    return write_report(run_folder)


@pytest.fixture(scope="session")
def light_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one sub-task and one observation, quick to draw."""
    folder = tmp_path_factory.mktemp("light") / "light"
    return samples.write_run(folder, steps=(200,), sections=1)
