"""A server of this machine that speaks as S3 does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from situs import remote


@contextmanager
def s3_bucket(name: str) -> Iterator[str]:
    """An empty bucket, and the environment in which this process and its children find it.

    Yields:
        Its URL.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fs, _ = fsspec.core.url_to_fs(f"s3://{name}")
        fs.clear_instance_cache()
        remote._system.cache_clear()
        fs, _ = fsspec.core.url_to_fs(f"s3://{name}")
        fs.mkdir(name)
        yield f"s3://{name}"
    fs.clear_instance_cache()
    remote._system.cache_clear()
    server.stop()


def copy_to(folder: Path, url: str) -> None:
    """Copy what lies below a folder to where a URL points."""
    fs, top = fsspec.core.url_to_fs(url)
    fs.put(f"{folder}/", f"{top}/", recursive=True)
