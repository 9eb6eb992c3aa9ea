"""Metrics in other tools: written offline, with nothing sent, or refused by the extra's name."""

from __future__ import annotations

import importlib.util
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import finetuning
from typer.testing import CliRunner

from situs.cli import app
from situs.errors import SitusError
from situs.training.loggers import loggers


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where anything but this machine is spoken to."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_only_tensorboard_unless_asked_for(tmp_path: Path) -> None:
    (only,) = loggers((), tmp_path)
    assert type(only).__name__ == "TensorBoardLogger"


@pytest.mark.slow
def test_weights_and_biases_writes_into_the_run_and_nowhere_else(
    offline: None, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    _, logger = loggers(("wandb",), tmp_path / "first")
    logger.log_metrics({"loss/total": 1.5}, 3)
    logger.experiment.finish()  # type: ignore[attr-defined]
    (file,) = (tmp_path / "first").glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 600  # a process of its own writes, and may still be at it
    while b"loss/total" not in file.read_bytes():
        assert time.monotonic() < end, "what was logged never reached the file"
        time.sleep(0.05)


def test_mlflow_writes_into_the_run_and_nowhere_else(offline: None, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    _, logger = loggers(("mlflow",), tmp_path / "first")
    logger.log_metrics({"loss/total": 1.5}, 3)
    logger.finalize("success")
    (file,) = (tmp_path / "first" / "mlflow").glob("*/*/metrics/loss/total")
    assert file.read_text().split()[1:3] == ["1.5", "3"]


def test_a_fine_tuning_tells_them_what_it_writes(offline: None, tmp_path: Path) -> None:
    """Offline, into its own folder, which may be replaced afterwards."""
    for package in ("wandb", "mlflow"):
        pytest.importorskip(package)
    config = finetuning(tmp_path, steps=2, validate_every=2, init="none")
    words = ["finetune", "--config", str(config), "--out", str(tmp_path / "result"), "--quiet"]
    ended = CliRunner().invoke(app, [*words, "--set", "loggers=[wandb,mlflow]"])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    (found,) = (tmp_path / "result/mlflow").glob("*/*/metrics/loss/total")
    assert [line.split()[2] for line in found.read_text().splitlines()] == ["1", "2"]
    assert (found.parents[1] / "score/validation").is_file()
    first = list((tmp_path / "result/wandb").glob("offline-run-*"))
    ended = CliRunner().invoke(app, [*words, "--set", "loggers=[wandb]", "--overwrite"])
    assert ended.exit_code == 0, (ended.output, ended.exception)
    second = list((tmp_path / "result/wandb").glob("offline-run-*"))
    assert len(first) == len(second) == 1
    assert first != second


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_one_that_is_not_installed_names_its_extra(
    name: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SitusError, match=rf"pip install 'situs\[{name}\]'"):
        loggers((name,), tmp_path)
