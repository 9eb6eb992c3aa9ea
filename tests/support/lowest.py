"""Prints the lowest versions that pyproject.toml allows, as constraints for pip (`make lowest`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BOUND = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)")
# Tools of the clone and not of the library; torch comes as constraints.txt has it, since older
# builds exist with CUDA alone, several gigabytes each.
_LEFT_OUT = {"docs", "dev"}
_NEWER = {"torch"}


def lowest() -> Iterator[tuple[str, str]]:
    """Name and lowest version of each package that situs or one of its extras asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    wanted += [text for extra in extras.keys() - _LEFT_OUT for text in extras[extra]]
    for text in sorted(wanted):
        bound = _BOUND.match(text)
        assert bound, f"{text}: has no lower bound"
        yield bound[1], bound[2]


if __name__ == "__main__":
    for name, version in lowest():
        if name not in _NEWER:
            print(f"{name}=={version}")  # noqa: T201 - a script
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.split("==")[0] in _NEWER:
            print(line)  # noqa: T201 - a script
