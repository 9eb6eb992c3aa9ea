"""Run benchmarks: all, or those named.

``python -m benchmarks --list`` says which there are; ``python -m benchmarks store s2dc`` runs two.
With ``--page PAGE`` what they print is also kept there, in place of all that the last run left.
Each is a module with a ``main`` and can be run alone, with its own options. Numbers of different
machines or loads do not compare; the ratios within one run do.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._page import machine, put, said

USUAL = (
    "spatial",
    "planes",
    "sal",
    "s2dc",
    "slices",
    "store",
    "optimiser",
    "steps",
    "surfaces",
    "reading",
    "controls",
    "sums",
    "curves",
    "waiting",
)
"""What runs where nothing is named: all that needs no data, no GPU and no hour."""


def available() -> dict[str, str]:
    """Name → first line of what it says about itself."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[file.stem] = docstring.partition("\n")[0]
    return found


def echoed(line: str) -> str:
    """A line of a benchmark, shown as it comes."""
    print(line, end="", flush=True)
    return line


def main() -> int:
    known = available()
    asked = sys.argv[1:]
    if "--list" in asked or "--help" in asked:
        width = max(map(len, known))
        print("\n".join(f"{name:{width}s}  {text}" for name, text in known.items()))
        return 0
    page = None
    if "--page" in asked:
        at = asked.index("--page")
        page = Path(asked[at + 1])
        asked = asked[:at] + asked[at + 2 :]
    names = asked or list(USUAL)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    failed, kept = [], []
    for name in names:
        print(f"\n== {name}: {known[name]}", flush=True)
        # One thread, and a process each: peaks of memory and caches do not mix.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        begin = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
            lines = [echoed(line) for line in run.stdout or []]
        if run.returncode:
            failed.append(name)
        elif page is not None:
            minutes = (time.perf_counter() - begin) / 60
            title = f"### {name}\n\n{known[name]} ({minutes:.1f} minutes)"
            kept.append(f"{title}\n\n```text\n{''.join(lines).strip()}\n```")
            put(page, "cpu", "\n\n".join([f"{said(machine())}, one thread.", *kept]))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
