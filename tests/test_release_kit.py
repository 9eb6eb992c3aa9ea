"""What packages situs for others says what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from situs.version import __version__

ROOT = Path(__file__).resolve().parents[1]
# Where conda calls a package otherwise than the index does.
CONDA = {
    "torch": "pytorch",
    "blosc2": "python-blosc2",
    "matplotlib": "matplotlib-base",
    "isal": "python-isal",
}


def test_the_conda_recipe_asks_for_the_packages_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"python " + project["requires-python"]}
    for text in project["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", text).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA.get(name, name.lower())} {bounds}")
    recipe = (ROOT / "conda" / "meta.yaml").read_text()
    recipe = re.sub(r"\{%.*?%\}", "", recipe).replace("{{ PYTHON }}", "python")
    described = yaml.safe_load(recipe.replace("{{ text.group(1) }}", __version__))
    assert set(described["requirements"]["run"]) == wanted
    assert described["about"]["license"] == project["license"]


def test_the_image_leaves_out_what_a_clone_does_not_need() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".venv", "runs"} <= ignored
