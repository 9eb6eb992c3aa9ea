"""Ready settings of ``s2dc``: ``options.preset``."""

from __future__ import annotations

from typing import Any

from situs.methods.config import Preset

_IN_PLANE: dict[str, Any] = {
    "plane": "axial",
    "rotation_deg": 30.0,
    "scale": (0.9, 1.2),
    "translation": 0.25,
}

PRESETS: dict[str, Preset] = {
    # The paper's: 4×4 crops of 96³ in one slab, moved within the axial plane, tokens matched
    # slice by slice, cosines without temperature against a dustbin fixed at 1; for the global
    # term one query an image, vectors as they are at temperature 0.9, and a queue of 90 unmoved
    # crops. Its optimiser: AdamW, lr 3e-4, weight decay
    # 0.1, 500 warm-up steps, cosine; teacher momentum 0.999; SwinUNETR with feature size 48.
    "reference": Preset(
        {
            "grid": (4, 4, 1),
            "crop_size": (96, 96, 96),
            "stage": -1,
            "per_slice": True,
            "motion": _IN_PLANE,
            "copy_of": "region",
            "temperature": 1.0,
            "dustbin": 1.0,
            "hidden": 2048,
            "features": 512,
            "global_crops": 1,
            "global_temperature": 0.9,
            "global_unit": False,
            "queue_size": 90,
            "queue_of": "unmoved",
        },
        {
            "teacher": {"momentum": 0.999},
            "optimiser": {"lr": 3e-4, "weight_decay": 0.1, "warmup_steps": 500},
        },
    ),
    # In three dimensions, for a CPU; fits scans of 32 voxels.
    "small": Preset({"grid": (2, 2, 2), "crop_size": (16, 16, 16)}),
    # The paper's geometry at a sixth of its size.
    "slab": Preset({"grid": (3, 3, 1), "crop_size": (16, 16, 16), "motion": _IN_PLANE}),
}
