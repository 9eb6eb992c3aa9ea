"""Run benchmarks: all, or those named.

``python -m benchmarks --list`` says which there are; ``python -m benchmarks store s2dc`` runs two.
Each is a module with a ``main`` and can be run alone, with its own options. Numbers of different
machines or loads do not compare; the ratios within one run do.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path


def available() -> dict[str, str]:
    """Name → first line of what it says about itself."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[file.stem] = docstring.partition("\n")[0]
    return found


def main() -> int:
    known = available()
    asked = sys.argv[1:]
    if "--list" in asked or "--help" in asked:
        width = max(map(len, known))
        print("\n".join(f"{name:{width}s}  {text}" for name, text in known.items()))
        return 0
    names = asked or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        print(f"\n== {name}: {known[name]}", flush=True)
        # One thread, and a process each: peaks of memory and caches do not mix.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
