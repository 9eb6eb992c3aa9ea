"""The studies in ``examples/`` can be run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from situs.config import load_config
from situs.errors import ConfigError
from situs.studies import StudyConfig, describe
from situs.studies.arms import SCRATCH
from situs.studies.run import check_settings

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(
    file for kind in ("acdc", "chaos", "hippocampus") for file in FOLDER.glob(f"{kind}*.yaml")
)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_arm_has_valid_settings_and_a_scratch_arm_of_its_kind(file):
    study = load_config(StudyConfig, file)
    check_settings(study)
    for arm in study.arms:
        scratch = study.scratch_of(arm)
        assert (scratch is None) == (arm.method == SCRATCH)
        if scratch is not None:
            assert study.backbone_of(scratch) == study.backbone_of(arm)
            # What is done with weights that scratch does not have.
            start = {"load_decoder", "freeze_encoder", "l2_sp", "layer_decay", "head_warmup_steps"}
            own = {k: v for k, v in arm.finetune.items() if k not in start}
            assert own == scratch.finetune, "the same fine-tuning for both"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_data_that_a_clone_lacks_are_asked_for_in_words(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"data is not there: data/\w+.*images/NAME\.nii\.gz"):
        describe(file)
    assert not list(tmp_path.iterdir())
    assert "# Data: " in file.read_text() or "see there for where to get" in file.read_text()
