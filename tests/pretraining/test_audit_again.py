"""An audit that was stopped goes on, and one of a run that began with weights begins with them."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import here
from tiny import smooth_sources

import situs
from situs.cli.exits import Exit
from situs.errors import ConfigError
from situs.pretraining import audit as module
from situs.pretraining.audit import audit

pytestmark = pytest.mark.slow


def pretrained(folder: Path, scans: Path, init: Path | None = None) -> Path:
    config = {
        "method": "mae",
        "data": str(scans),
        "out": str(folder),
        "options": {"view_size": [8, 8, 8], "block_size": [4, 4, 4]},
        "backbone": {"options": {"channels": [4, 8]}},
        **{"steps": 2, "batch_size": 2, "held_out": 0.34, "observe_samples": 2},
        **{"workers": 0, "threads": 1},
    }
    situs.pretrain(config, init=init, quiet=True)
    return folder


def test_a_stopped_audit_goes_on_and_weights_are_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for i, source in enumerate(smooth_sources(6, (12, 12, 12))):
        nib.save(nib.Nifti1Image(source.array[0], np.eye(4)), scans / f"p{i}.nii.gz")
    run = pretrained(tmp_path / "run", scans)
    shutil.copytree(run, tmp_path / "whole")
    fit, fits = module._fit, []

    step = module.Pretraining.training_step

    def counted(*arguments: object) -> None:
        fits.append(arguments)
        fit(*arguments)  # type: ignore[arg-type]

    def interrupted(self: object, *arguments: object) -> object:
        if len(fits) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_fit", counted)
    monkeypatch.setattr(module.Pretraining, "training_step", interrupted)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job
    said = here(Exit.INTERRUPTED, "audit", "run", "--steps-share", "1", "--quiet")
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler
    left = "what was done is kept; go on with: situs audit run --steps-share 1 --quiet"
    assert said.splitlines()[-1] == f"stopped by Ctrl-C; {left}"
    assert not (run / "audit.json").exists()
    again = audit(run, 1.0, quiet=True)
    assert len(fits) == 3  # the first control was not trained again
    assert again == audit(tmp_path / "whole", 1.0, quiet=True)
    assert not (run / "audit-unfinished.json").exists()

    later = pretrained(tmp_path / "later", scans, init=run)
    with pytest.raises(ConfigError, match="began with weights, 'run'"):
        audit(later, 1.0, quiet=True)
    with pytest.raises(ConfigError, match="other weights"):
        audit(later, 1.0, init=later, quiet=True)
    with pytest.raises(ConfigError, match="leave out"):
        audit(run, 1.0, init=run, quiet=True)
    assert set(audit(later, 1.0, init=run, quiet=True)) == set(again)
