"""README as a package index shows it: no clone lies beside it, so links lead elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def absolute(readme: str, repository: str | None) -> str:
    """README with whole addresses for what lies in the clone.

    Args:
        readme: Its Markdown.
        repository: Address of the repository; None where it has none, and what would lead nowhere
            becomes plain text.
    """

    def link(found: re.Match[str]) -> str:
        picture, text, place = found.groups()
        if repository is None:
            return "" if picture else text
        view = "raw" if picture else "blob"
        return f"{picture}[{text}]({repository.rstrip('/')}/{view}/main/{place})"

    return _LINK.sub(link, readme)


class ReadmeHook(MetadataHookInterface):
    """Fills ``readme``; the address is that of ``Repository`` in ``[project.urls]``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put README into the metadata of a package that is built."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, repository),
        }
