"""Where :class:`situs.store.Preprocessing` was imported from before it moved."""

from situs.store.preprocessing import Preprocessing

__all__ = ["Preprocessing"]
