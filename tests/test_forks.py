"""Processes that tests fork do what programs do that are started, and so do those they start."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from small_runs import forked, start

pytestmark = pytest.mark.slow

TOLD = """
import os, signal, subprocess, sys
print(__name__, sys.argv, sys.path[0], os.getcwd(), os.environ["WORDS"], len(os.environ))
print(os.getpgid(0) == os.getpid() == os.getsid(0), sys.stdout.isatty())
print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
if "child" not in sys.argv:
    child = [sys.executable, __file__, "child"]
    child = subprocess.Popen(child, stdout=subprocess.PIPE, text=True, env={**os.environ})
    print(child.stdout.read(), child.wait())
sys.stdout.flush()
"""
ENDS = {
    "last line": "",
    "code": "sys.exit(3)",
    "words": "sys.exit('no more of it')",
    "error": "raise KeyError('gone')",
    "signal": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_tells_and_ends_as_one_that_is_started(end: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TOLD + end)
    (out, err, code), wanted = (
        (*process.communicate(timeout=600), process.returncode)
        for process in (
            by(script, "a", WORDS="said") for by in (partial(forked, children=1), start)
        )
    )
    assert (out, code) == (wanted[0], wanted[2])
    assert err.splitlines()[-1:] == wanted[1].splitlines()[-1:]
