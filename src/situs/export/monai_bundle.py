"""A bundle of a fine-tuned segmentation: network, labels, preprocessing and inference for MONAI.

``monai.bundle.run(config_file="configs/inference.json", bundle_root=…)`` segments scans with MONAI
alone: neither situs nor ignite is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai
import torch

from situs.files import write_json
from situs.store.rules import Preprocessing
from situs.transfer.model import Task
from situs.weights import Card

_FORMAT = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
_FORMAT += "meta_schema_20240725.json"


def why_not(task: Task) -> str:
    """Why MONAI cannot apply a model as situs does, or an empty text where it can."""
    if task.kind != "segmentation":
        return "a bundle is written for segmentations"
    if task.slice_axis is not None:
        return "a bundle is written for 3D networks"
    if any(kind != "hounsfield" for kind in task.intensity or (None,)):
        return "a bundle is written where all scans were CT: z-scores of a body have no transform"
    return ""


def write_bundle(out: Path, description: dict[str, Any], task: Task, card: Card) -> None:
    """Write ``configs/metadata.json`` and ``configs/inference.json``.

    Axes, spacing, CT window, windows with Gaussian weights, flips and labels are the model's.
    What differs: MONAI neither smooths before it makes voxels larger, nor cuts air off.

    Args:
        out: Folder of the export, with ``model.safetensors``.
        description: MONAI's class (``_target_``) and its arguments.
        task: What the model predicts.
        card: Of its weights.
    """
    (out / "configs").mkdir()
    write_json(out / "configs" / "metadata.json", _metadata(task, card))
    write_json(out / "configs" / "inference.json", _inference(description, task))


def _metadata(task: Task, card: Card) -> dict[str, Any]:
    channels = card.backbone.in_channels
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": channels,
        "spatial_shape": ["*"] * 3,
        "dtype": "float32",
        "value_range": list(task.rules.ct_range),
        "is_patch_data": True,
        "channel_def": {str(c): "CT" for c in range(channels)},
    }
    labels = {
        **image,
        "format": "segmentation",
        "num_channels": len(task.classes),
        "value_range": [0, 1],
        "channel_def": {str(i): name for i, name in enumerate(task.classes.values())},
    }
    return {
        "schema": _FORMAT,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by situs"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": "1.26",
        "required_packages_version": {"nibabel": "5.2", "safetensors": "0.4.3"},
        "task": "segmentation",
        "description": f"{card.backbone.name} pretrained with {card.method}, fine-tuned by situs",
        "authors": "see the licence",
        "copyright": card.licence or "not stated",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": labels}},
    }


def _inference(description: dict[str, Any], task: Task) -> dict[str, Any]:
    values = [int(value) for value in task.classes]
    flips = [[a + 2 for a in axes] for axes in _subsets(task.flip_axes)]
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import torch",
            "$from safetensors.torch import load_file",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "files": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": description,
        "network": "$@network_def.to(@device).eval()",
        "weights": "$load_file(@bundle_root + '/model.safetensors')",
        "preprocessing": {"_target_": "Compose", "transforms": _before(task.rules)},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(task.patch_size),
            "sw_batch_size": 8,
            "overlap": task.overlap,
            "mode": "gaussian",
            "padding_mode": "constant",
            "cval": _air(task.rules),
            "sw_device": "@device",
            "device": "$torch.device('cpu')",
        },
        "flips": flips,
        "probabilities": (
            "$lambda x: sum(torch.flip(torch.softmax(@inferer(torch.flip(x, a), @network), 1), a) "
            "for a in @flips) / len(@flips)"
        ),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "orig_keys": "image",
                    "transform": "@preprocessing",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "MapLabelValued",
                    "keys": "pred",
                    "orig_labels": list(range(len(values))),
                    "target_labels": values,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "output_dtype": "$'int16'",
                    "separate_folder": False,
                    "print_log": False,
                },
            ],
        },
        "infer": (
            "$lambda item: @postprocessing("
            "{**item, 'pred': @probabilities(item['image'][None])[0]})"
        ),
        "run": [
            "$@network_def.load_state_dict(@weights)",
            "$torch.set_grad_enabled(False)",
            "$[@infer(@preprocessing({'image': file})) for file in @files]",
        ],
    }


def _air(rules: Preprocessing) -> float:
    """What lies outside a scan, -1000 HU, as the network sees it."""
    (low, high), (first, last) = rules.ct_window, rules.ct_range
    return first + (min(max(-1000.0, low), high) - low) / (high - low) * (last - first)


def _before(rules: Preprocessing) -> list[dict[str, Any]]:
    low, high = rules.ct_window
    first, last = rules.ct_range
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": first,
            "b_max": last,
            "clip": True,
        },
    ]
    if not isinstance(rules.spacing, str):
        steps.append(
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": list(rules.spacing),
                "mode": "bilinear" if rules.interpolation == "linear" else 3,
                "padding_mode": "border",
            }
        )
    return steps


def _subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for axis in axes:
        found += [(*chosen, axis) for chosen in found]
    return found
