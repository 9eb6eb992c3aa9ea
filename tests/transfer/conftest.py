"""The small labelled collection that most tests of this folder use."""

from __future__ import annotations

from pathlib import Path

import pytest
from collections_made import write_collection


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))
