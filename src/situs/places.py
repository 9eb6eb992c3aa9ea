"""Where data lie: in a folder of this machine, or behind a URL."""

from __future__ import annotations

import re
from pathlib import Path

from situs.errors import SitusError

# Two letters or more: one letter is a drive of Windows.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)


def url_of(place: str | Path) -> str | None:
    """The URL that a place is; None for a path of this machine.

    A URL may have gone through :class:`~pathlib.Path`, which leaves one slash after the colon.

    Examples:
        >>> url_of(Path("s3://bucket/store")), url_of("file:///data/store"), url_of("data/store")
        ('s3://bucket/store', 'file:///data/store', None)
    """
    found = _URL.fullmatch(str(place))
    if found is None:
        return None
    scheme, rest = found.groups()
    root = "/" if scheme in ("file", "local") else ""
    return f"{scheme}://{root}{rest.rstrip('/')}"


def spelled(place: str | Path) -> str:
    """A place as a user writes it."""
    return url_of(place) or str(place)


ON_DISK = (
    "Only 'situs scan' and 'situs prepare' read scans behind a URL: copy them here, or mount the "
    "place"
)
"""What to do with scans behind a URL."""


def check_local(place: str | Path, why: str) -> None:
    """Refuse a URL where only a path of this machine will do.

    Args:
        place: What was given.
        why: What to do instead, a sentence without its stop.

    Raises:
        SitusError: For a URL.
    """
    if url := url_of(place):
        raise SitusError(f"{url} is not on this machine. {why}")
