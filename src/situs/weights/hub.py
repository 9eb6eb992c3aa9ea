"""Weights from the Hugging Face Hub, where a name is given that no local path has."""

from __future__ import annotations

import re
from pathlib import Path

from situs.errors import TransferError, require

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ["card.json", "*.safetensors", "README.md"]
"""What is fetched: nothing that could be pickled or run."""


def is_hub_name(path: str | Path) -> bool:
    """Whether ``path`` can only be ``owner/name``: nothing local is called so, nor its owner."""
    text = path if isinstance(path, str) else path.as_posix()
    path = Path(path)
    return bool(_NAME.fullmatch(text)) and not path.exists() and not path.parent.exists()


def fetch(name: str) -> Path:
    """Fetch a weights folder that ``situs export --to hub`` wrote, or find it in the cache.

    Args:
        name: ``owner/name`` of a model on the Hub.

    Returns:
        The local folder.

    Raises:
        SitusError: Where huggingface_hub is not installed.
        TransferError: If there is no such model, or no way to it.
    """
    require("huggingface_hub", "hub")
    import huggingface_hub  # noqa: PLC0415 - an extra

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # its HTTP library's own errors come through, and it changes
        reason = str(error).strip().partition("\n")[0]
        raise TransferError(
            f"there is no folder '{name}' here, and it cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {reason}). Check the name and the network, or copy the "
            "model's folder and give its path."
        ) from None
