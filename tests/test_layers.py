"""Data flows one way: what a module imports when it is imported lies below it."""

from __future__ import annotations

import ast
from pathlib import Path

import situs

# From the ground up; the parts of one line may know one another.
LAYERS = (
    {"__init__", "errors"},
    {"config", "observation", "geometry"},
    {"ledger", "words"},
    {"scans", "backbones"},
    {"store", "weights"},
    {"views", "methods"},
    {"training", "demo_studies"},
    {"transfer", "observe", "export", "planning"},
    {"study"},
    {"demo"},
    {"cli", "__main__"},
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}


def imported(path: Path) -> set[str]:
    """Parts of situs that a file imports at its top level, not inside a function."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "situs":
            parts = (node.module or "").split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("situs.")}
    return names & HEIGHT.keys()


def test_nothing_imports_what_lies_above_it() -> None:
    root = Path(situs.__file__).parent
    upward = []
    for path in root.rglob("*.py"):
        inside = path.relative_to(root)
        own = inside.parts[0].removesuffix(".py")
        assert own in HEIGHT, f"{own} has no place among the layers"
        upward += [f"{inside} imports {n}" for n in imported(path) if HEIGHT[n] > HEIGHT[own]]
    assert not upward
