"""Pretrain what a plan of nnU-Net will load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from situs.errors import ConfigError
from situs.weights.nnunet_plans import NnunetPlan


def like_plan(
    values: Mapping[str, Any], path: str | Path, configuration: str = ""
) -> dict[str, Any]:
    """Settings of a pretraining whose weights fit into nnU-Net's network of a data set.

    The backbone becomes the plan's network, with its axes in situs's order; scans that are not
    prepared yet get the plan's spacing. ``situs export --to nnunet --plan`` takes the same plan.

    Args:
        values: Of a :class:`~situs.pretraining.config.PretrainConfig`.
        path: The plans file.
        configuration: In it; ``3d_fullres`` where empty.

    Raises:
        ConfigError: If the plan cannot be read or followed, or ``values`` name another backbone.
    """
    plan = NnunetPlan.read(path, configuration or "3d_fullres")
    if not plan.reorients:
        raise ConfigError(plan.why_axes_are_unknown)
    config = plan.backbone().model_dump(mode="json")
    given = values.get("backbone") or {}
    if given.get("name", "nnunet") != "nnunet" or given.get("options"):
        raise ConfigError("--like-plan decides the backbone; give none, and no backbone.options")
    preprocessing = dict(values.get("preprocessing") or {})
    if plan.spatial_dims == 3:
        preprocessing.setdefault("spacing", list(plan.spacing))
    return {
        **values,
        "backbone": {**given, "name": "nnunet", "options": config["options"]},
        "preprocessing": preprocessing,
    }
