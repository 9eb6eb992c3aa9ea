"""Puts what a benchmark found into a page, between two comments that name it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from situs.files import write_file
from situs.version import __version__


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
        ValueError: If the page has no such place.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not (begin and end):
        raise ValueError(f"{page} has no place '<!-- {name} -->' … '<!-- end of {name} -->'")
    write_file(page, f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def machine() -> dict[str, str]:
    """What the numbers hold for."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = named[0] if named else processor
    has_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if has_gpu else processor or "CPU",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "situs": __version__,
    }


def said(of: dict[str, str]) -> str:
    """The machine in one line."""
    return ", ".join(value if key == "device" else f"{key} {value}" for key, value in of.items())


def busy() -> str:
    """How many others want the cores, which times of the wall clock depend on."""
    return f"load {os.getloadavg()[0]:.1f} on {machine()['cores']} cores"
