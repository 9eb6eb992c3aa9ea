"""Every setting of a study, tried before the first job starts."""

from __future__ import annotations

from typing import Any

from situs.backbones import Backbone, BackboneConfig, build
from situs.config import validate
from situs.errors import ConfigError
from situs.methods.base import Method
from situs.methods.composition import compose
from situs.pretraining.config import PretrainConfig
from situs.studies.arms import SCRATCH, Arm
from situs.studies.config import StudyConfig
from situs.transfer.config import FinetuneConfig

# What methods call the size of what goes through the network.
_INPUT_SIZES = ("view_size", "crop_size", "size")


def check_settings(study: StudyConfig) -> None:
    """Validate the settings of every arm, and that its views and patches fit its network.

    Raises:
        ConfigError: Naming the arm.
    """
    built: dict[str, Backbone] = {}
    for arm in study.arms:
        try:
            wanted = study.backbone_of(arm)
            key = wanted.model_dump_json()
            if key not in built:
                built[key] = build(wanted)
            _check_arm(study, arm, wanted, built[key])
        except ConfigError as error:
            raise ConfigError(f"arm '{arm.title}': {error}") from None


def _check_arm(study: StudyConfig, arm: Arm, config: BackboneConfig, network: Backbone) -> None:
    init = "none" if arm.scratch else "run"
    values: dict[str, Any] = {"data": "d", "out": "o", "train": 1, "test": 1, "init": init}
    finetune = validate(FinetuneConfig, {**values, **study.finetune, **arm.finetune})
    if finetune.patch_size is not None:
        _check_size(network, finetune.patch_size, "patch_size")
    if arm.method == SCRATCH:
        return
    settings = {**study.pretrain, **arm.pretrain, "backbone": config}
    validate(PretrainConfig, {"data": "d", "out": "o", **settings})
    for part in compose(arm.method, study.options_of(arm), arm.weights).parts.values():
        _check_views(network, part)
        part.build_heads(network)


def _check_views(network: Backbone, method: Method) -> None:
    for name in _INPUT_SIZES:
        size = getattr(method.config, name, None)
        if isinstance(size, tuple):
            _check_size(network, size, name)


def _check_size(network: Backbone, size: tuple[int, ...], name: str) -> None:
    if len(size) != len(network.divisor):
        raise ConfigError(
            f"{name} {size} has {len(size)} axes, the network takes {len(network.divisor)}"
        )
    try:
        network.check_size(size)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
