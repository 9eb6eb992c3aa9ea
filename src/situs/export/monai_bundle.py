"""A bundle of a fine-tuned segmentation: network, labels, preprocessing and inference for MONAI.

``monai.bundle.run(config_file="configs/inference.json", bundle_root=…)`` segments scans with MONAI
alone: neither situs nor ignite is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai
import torch

from situs.files import write_file, write_json
from situs.store import intensity
from situs.store.preprocessing import Preprocessing
from situs.transfer.model import Task
from situs.weights import Card

_FORMAT = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
_FORMAT += "meta_schema_20240725.json"

# What stands in the script instead of an import of situs, and behind its own functions.
_PREPROCESSING = "from types import SimpleNamespace as Preprocessing\n"
_CALL = """

def scale(image):
    \"\"\"An image (C, X, Y, Z) of MONAI, towards R, A, S, as the network was trained on it.\"\"\"
    preprocessing = Preprocessing(**{preprocessing})
    kinds, spacing = {kinds}, image.pixdim.tolist()
    array = image.numpy()
    start, stop = (0, 0, 0), array.shape[1:]
    if {crop}:  # statistics are those of the body's box
        start, stop = foreground_box(array, spacing, kinds, {margin})
    box = tuple(map(slice, start, stop))
    for channel, kind, target in zip(array, kinds, image):
        how = scaling(channel[box], spacing, kind, preprocessing)
        target[...] = target.new_tensor(how.apply(channel))
    return image
"""


def why_not(task: Task) -> str:
    """Why MONAI cannot apply a model as situs does, or an empty text where it can."""
    if task.kind != "segmentation":
        return "a bundle is written for segmentations"
    if not task.intensity or None in task.intensity:
        return "a bundle is written where all cases' values were read in one way"
    return ""


def write_bundle(out: Path, description: dict[str, Any], task: Task, card: Card) -> None:
    """Write ``configs/metadata.json`` and ``configs/inference.json``.

    Axes, spacing, intensities, windows with Gaussian weights, flips and labels are the model's.
    Where not all channels are CT, ``scripts/intensity.py`` is situs's own module, which needs
    numpy and scipy. What differs: MONAI neither smooths before it makes voxels larger, nor cuts
    air off, and beyond an MR lies its least value.

    Args:
        out: Folder of the export, with ``model.safetensors``.
        description: MONAI's class (``_target_``) and its arguments.
        task: What the model predicts.
        card: Of its weights.
    """
    (out / "configs").mkdir()
    write_json(out / "configs" / "metadata.json", _metadata(task, card))
    write_json(out / "configs" / "inference.json", _inference(description, task))
    if not _hounsfield(task):
        (out / "scripts").mkdir()
        write_file(out / "scripts" / "intensity.py", _script(task))


def _metadata(task: Task, card: Card) -> dict[str, Any]:
    channels = card.backbone.in_channels
    image = {
        "type": "image",
        "format": "hounsfield" if _hounsfield(task) else "magnitude",
        "modality": next(iter(_modalities(task)), "n/a"),
        "num_channels": channels,
        "spatial_shape": ["*"] * 3,
        "dtype": "float32",
        "value_range": list(task.preprocessing.ct_range) if _hounsfield(task) else [],
        "is_patch_data": True,
        "channel_def": dict(enumerate(_modalities(task)[:channels])),
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
            "$import runpy",
            "$import monai.inferers",
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
        "preprocessing": {"_target_": "Compose", "transforms": _before(task)},
        "inferer": _inferer(task),
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


def _air(preprocessing: Preprocessing) -> float:
    """What lies outside a scan, -1000 HU, as the network sees it."""
    (low, high), (first, last) = preprocessing.ct_window, preprocessing.ct_range
    return first + (min(max(-1000.0, low), high) - low) / (high - low) * (last - first)


def _hounsfield(task: Task) -> bool:
    """Whether all channels are CT, for which MONAI has a transform."""
    return all(kind == "hounsfield" for kind in task.intensity)


def _modalities(task: Task) -> list[str]:
    known = {"hounsfield": "CT", "relative": "n/a"}
    named = task.modalities or (None,) * len(task.intensity)
    return [m or known[str(kind)] for m, kind in zip(named, task.intensity, strict=True)]


def _inferer(task: Task) -> str:
    """Windows over volumes, or over slices for a 2D network; around a scan lies air."""
    kind = "SlidingWindowInferer" if task.slice_axis is None else "SliceInferer"
    given = {"roi_size": list(task.patch_size), "sw_batch_size": 8, "overlap": task.overlap}
    given |= {"mode": "gaussian", "padding_mode": "constant"}
    if task.slice_axis is not None:
        given["spatial_dim"] = task.slice_axis
    air = str(_air(task.preprocessing)) if _hounsfield(task) else "float(x.min())"
    devices = "sw_device=@device, device=torch.device('cpu')"
    return (
        f"$lambda x, network: monai.inferers.{kind}(**{given}, cval={air}, {devices})(x, network)"
    )


def _script(task: Task) -> str:
    """The module of intensities as a file of its own, and how MONAI calls it."""
    own = Path(intensity.__file__).read_text(encoding="utf-8")
    alone = own.replace("from situs.store.preprocessing import Preprocessing\n", _PREPROCESSING)
    preprocessing = task.preprocessing.model_dump(
        mode="json", include={"ct_window", "ct_range", "percentiles"}
    )
    called = {
        "preprocessing": preprocessing,
        "kinds": task.intensity,
        "crop": task.preprocessing.crop,
    }
    return alone + _CALL.format(margin=task.preprocessing.margin_mm, **called)


def _before(task: Task) -> list[dict[str, Any]]:
    preprocessing = task.preprocessing
    low, high = preprocessing.ct_window
    first, last = preprocessing.ct_range
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    ]
    if _hounsfield(task):
        ends = {"a_min": low, "a_max": high, "b_min": first, "b_max": last}
        steps.append({"_target_": "ScaleIntensityRanged", "keys": "image", **ends, "clip": True})
    else:
        scale = "$runpy.run_path(@bundle_root + '/scripts/intensity.py')['scale']"
        steps.append({"_target_": "Lambdad", "keys": "image", "func": scale})
    if not isinstance(preprocessing.spacing, str):
        steps.append(
            {
                "_target_": "Spacingd",
                "keys": "image",
                "pixdim": list(preprocessing.spacing),
                "mode": "bilinear" if preprocessing.interpolation == "linear" else 3,
                "padding_mode": "border",
            }
        )
    return steps


def _subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for axis in axes:
        found += [(*chosen, axis) for chosen in found]
    return found
