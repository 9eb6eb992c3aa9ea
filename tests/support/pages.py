"""What README and docs tell a reader to type: blocks of commands and code, from the text itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# `{ .python }` is a block that ruff shall not format: a snippet of another file.
_FENCE = re.compile(r"^ *```(?: ?\{ ?\.)?(\w*)(?: ?\})?\s*$")
_MARKER = re.compile(r"^ *<!-- not run: (.+?) -->\s*$")
_SNIPPET = re.compile(r'--8<-- "(.+)"\n')
_INLINE = re.compile(r"(?<!`)`(situs [a-z][^`]*)`")
# Four spaces make a block, too, in which nothing would be looked at.
_INDENTED = re.compile(r"^ {4,}(situs|python|pip|make|torchrun|srun|#SBATCH) ")
_STEPS = re.compile(r"(--steps |--subjects |[\"']steps[\"']: )\d+")
_FEW = {"--steps ": "2", "--subjects ": "3"}
_LARGE = "view_size=[96,96,96]"


@dataclass(frozen=True)
class Block:
    """A fenced block; ``reason`` says why it is not run, where the text has such a marker."""

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> Path | None:
        """The file of the repository that the block shows whole."""
        shown = _SNIPPET.fullmatch(self.text)
        return ROOT / shown[1] if shown else None

    def commands(self) -> list[list[str]]:
        """The words of each command."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            for both, words in groupby(shlex.split(line, comments=True), lambda word: word == "&&"):
                if not both:
                    found.append(list(words))
        return found


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    language, start, reason = None, 0, ""
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language, start, inside = fence[1], number, []
        elif language is not None and fence:
            text = dedent("\n".join(inside)) + "\n"  # in a list blocks are indented
            yield Block(page, start, language, text, reason)
            language, reason = None, ""
        elif language is not None:
            inside.append(line)
        elif marker := _MARKER.match(line):
            reason = marker[1]
        elif line.strip():
            reason = ""


def unfenced(page: Path) -> list[str]:
    """Commands in blocks without a fence, which no test would see."""
    fenced, found = False, []
    for line in page.read_text(encoding="utf-8").splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and _INDENTED.match(line):
            found.append(line.strip())
    return found


def inline_commands(page: Path) -> list[str]:
    """Commands within the prose, which may hold names in capitals for what a reader has."""
    return _INLINE.findall(re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8")))


def shortened(text: str) -> str:
    """Two steps, three subjects and small views instead of what a reader needs."""
    text = text.replace(_LARGE, _LARGE.replace("96", "32"))
    return _STEPS.sub(lambda match: match[1] + _FEW.get(match[1], "2"), text)
