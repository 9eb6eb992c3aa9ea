"""What nnU-Net's plans (version 2) say about a network and its images, in situs's axis order.

nnU-Net reads an image as (Z, Y, X) and then reorders its axes by ``transpose_forward``; patch
size, spacing, strides and kernels of a configuration are given in that order.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situs.backbones.base import BackboneConfig
from situs.backbones.nnunet import NnunetOptions
from situs.backbones.options import per_step
from situs.config import unknown_name, validate
from situs.errors import ConfigError
from situs.files import parse_json
from situs.weights.axes import inverse, reordered

_PACKAGE = "dynamic_network_architectures.architectures.unet."
_CLASSES = {"ResidualEncoderUNet": "residual", "PlainConvUNet": "plain"}
_REORIENTING_READER = "NibabelIOWithReorient"
"""nnU-Net's reader that turns NIfTI files to R, A, S first, as situs does; its others keep the
axes as the file has them."""


@dataclass(frozen=True)
class NnunetPlan:
    """One configuration of nnU-Net's plans.

    Attributes:
        values: The whole plans file.
        name: Of the configuration, ``"3d_fullres"``.
    """

    values: Mapping[str, Any]
    name: str

    @classmethod
    def read(cls, path: str | Path, name: str = "3d_fullres") -> NnunetPlan:
        """Read a plans file.

        Args:
            path: ``nnUNetPlans.json``, ``nnUNetResEncUNetMPlans.json``, …
            name: Of the configuration.

        Raises:
            ConfigError: If it is no plans file of version 2, or has no such configuration.
        """
        path = Path(path)
        try:
            values = parse_json(path.read_bytes())
        except FileNotFoundError:
            raise ConfigError(
                f"the plans {path} are not there; 'nnUNetv2_plan_and_preprocess' writes them into "
                "the data set's folder under nnUNet_preprocessed"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as nnU-Net plans: {error}") from None
        return cls.of(values, name, str(path))

    @classmethod
    def of(cls, values: Any, name: str, source: str) -> NnunetPlan:
        """Check plans that were read; as :meth:`read`.

        Raises:
            ConfigError: If they are no plans of nnU-Net v2, or lack the configuration.
        """
        if not isinstance(values, dict) or not isinstance(values.get("configurations"), dict):
            raise ConfigError(f"{source} is not a plans file of nnU-Net v2: no 'configurations'")
        if name not in values["configurations"]:
            raise unknown_name("nnU-Net configuration", name, list(values["configurations"]))
        plan = cls(values, name)
        if not {"architecture", "patch_size", "spacing"} <= set(plan.configuration):
            raise ConfigError(
                f"{source}: configuration '{name}' lacks an architecture, patch size or spacing; "
                "plan the data set with nnunetv2 2.4 or later"
            )
        return plan

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration; what it inherits from another is filled in."""
        own: dict[str, Any] = self.values["configurations"][self.name]
        parent = own.get("inherits_from")
        if parent is None:
            return own
        return {**NnunetPlan(self.values, parent).configuration, **own}

    @property
    def reorients(self) -> bool:
        """Whether images are turned to R, A, S when they are read.

        Otherwise (Z, Y, X) stands for the axes of the files, whatever their directions, and what
        the plans say of axes holds for files that are stored along R, A, S (or L, P, S) alone.
        """
        return self.values.get("image_reader_writer") == _REORIENTING_READER

    @property
    def why_axes_are_unknown(self) -> str:
        """What to say, and to do, where :attr:`reorients` is false."""
        return (
            f"the plans read images with {self.values.get('image_reader_writer')}, along the axes "
            "of the files: weights that know R, A, S would see them turned or mirrored. Put "
            f'"overwrite_image_reader_writer": "{_REORIENTING_READER}" into dataset.json (NIfTI '
            "files), and plan the data set again"
        )

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.configuration["patch_size"])

    @property
    def order(self) -> tuple[int, ...]:
        """Which axis of situs's images becomes each axis of nnU-Net's.

        3D: axes 0, 1, 2 are X, Y, Z. 2D: nnU-Net slices along its first axis; 0 and 1 are what
        remains of X, Y, Z, in this order.
        """
        axes = [2 - axis for axis in self.values.get("transpose_forward", (0, 1, 2))]
        if self.spatial_dims == 3:
            return tuple(axes)
        inside = axes[1:]
        return tuple(sorted(inside).index(axis) for axis in inside)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres along situs's axes."""
        return tuple(reordered([float(s) for s in self.configuration["spacing"]], self._back))

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels along situs's axes."""
        return tuple(reordered([int(n) for n in self.configuration["patch_size"]], self._back))

    @property
    def _back(self) -> tuple[int, ...]:
        return inverse(self.order)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Rules for situs that prepare scans as nnU-Net does, as far as situs can.

        ``CTNormalization`` of the first channel is met exactly; z-scores are those of the body,
        not of the whole image.
        """
        preprocessing: dict[str, Any] = {
            "spacing": self.spacing if self.spatial_dims == 3 else "native"
        }
        schemes = self.configuration.get("normalization_schemes") or [""]
        known = self.values.get("foreground_intensity_properties_per_channel", {}).get("0", {})
        if schemes[0] == "CTNormalization" and known.get("std"):
            window = (float(known["percentile_00_5"]), float(known["percentile_99_5"]))
            mean, std = float(known["mean"]), float(known["std"])
            preprocessing["ct_window"] = window
            preprocessing["ct_range"] = tuple((value - mean) / std for value in window)
        return preprocessing

    def backbone(self, in_channels: int = 1) -> BackboneConfig:
        """The ``nnunet`` backbone that this configuration will load.

        Raises:
            ConfigError: For an architecture that the backbone cannot be.
        """
        return backbone_of(self.configuration["architecture"], self._back, in_channels)


def backbone_of(
    architecture: Mapping[str, Any], back: tuple[int, ...], in_channels: int
) -> BackboneConfig:
    """The ``nnunet`` backbone of an ``architecture`` in plans.

    Args:
        architecture: Class name and ``arch_kwargs``.
        back: Which of nnU-Net's axes becomes each axis of situs.
        in_channels: Channels of the images.

    Raises:
        ConfigError: For an architecture that the backbone cannot be; says what.
    """
    kind = str(architecture.get("network_class_name", "")).rpartition(".")[2]
    if kind not in _CLASSES:
        raise ConfigError(f"the plans ask for '{kind}'; situs has {', '.join(_CLASSES)}")
    given = architecture["arch_kwargs"]
    stages = int(given["n_stages"])
    decoder = given["n_conv_per_stage_decoder"]
    decoder = decoder if isinstance(decoder, list) else [decoder]
    strides = [_per_axis(s, len(back)) for s in _each(given["strides"], stages)]
    norm = given.get("norm_op_kwargs") or {}
    odd = {
        "conv_bias other than true": not given.get("conv_bias", False),
        "dropout": given.get("dropout_op") is not None,
        "another normalisation than instance": "InstanceNorm" not in str(given.get("norm_op")),
        "normalisation without weights": not norm.get("affine", False),
        "a stride in the first stage": any(s != 1 for s in strides[0]),
        "decoder stages of different length": len(set(decoder)) != 1,
        "another activation than LeakyReLU": not str(given.get("nonlin")).endswith("LeakyReLU"),
    }
    if any(odd.values()):
        found = ", ".join(name for name, wrong in odd.items() if wrong)
        raise ConfigError(f"situs's 'nnunet' cannot be this architecture, which has {found}")
    blocks = given["n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage"]
    kernels = [_per_axis(k, len(back)) for k in _each(given["kernel_sizes"], stages)]
    return BackboneConfig(
        name="nnunet",
        spatial_dims=len(back),
        in_channels=in_channels,
        options={
            "encoder": _CLASSES[kind],
            "channels": list(_each(given["features_per_stage"], stages)),
            "blocks": list(_each(blocks, stages)),
            "strides": [reordered(s, back) for s in strides[1:]],
            "kernels": [reordered(k, back) for k in kernels],
            "decoder_convs": int(decoder[0]),
        },
    )


def architecture_of(config: BackboneConfig, order: tuple[int, ...]) -> dict[str, Any]:
    """The ``architecture`` of a configuration in nnU-Net's plans, for a ``nnunet`` backbone.

    Args:
        config: Of the backbone.
        order: Which axis of situs's images becomes each axis of nnU-Net's.
    """
    options = validate(NnunetOptions, config.options)
    dims, stages = config.spatial_dims, len(options.channels)
    steps = per_step(options.strides, stages - 1, dims, "strides")
    kernels = per_step(options.kernels, stages, dims, "kernels")
    kind = next(name for name, encoder in _CLASSES.items() if encoder == options.encoder)
    blocks = "n_blocks_per_stage" if options.encoder == "residual" else "n_conv_per_stage"
    return {
        "network_class_name": _PACKAGE + kind,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": options.channels,
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [reordered(k, order) for k in kernels],
            "strides": [[1] * dims, *(reordered(s, order) for s in steps)],
            blocks: options.blocks,
            "n_conv_per_stage_decoder": [options.decoder_convs] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def patched(
    plan: NnunetPlan, config: BackboneConfig, preprocessing: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Plans with which nnU-Net builds the backbone and prepares scans as situs did.

    What changes: the architecture; the spacing, where pretraining had one; the patch size, up to
    the next multiple that the network takes; for channels under ``CTNormalization``, the
    clipping and scaling, to pretraining's window. What stays nnU-Net's own: z-scores of other
    channels, and interpolation.

    Args:
        plan: Of the data set.
        config: Of the backbone.
        preprocessing: The card's.
        name: Of the new plans.

    Raises:
        ConfigError: If nnU-Net would read the images without turning them to R, A, S.
    """
    if not plan.reorients:
        raise ConfigError(plan.why_axes_are_unknown)
    values = copy.deepcopy(dict(plan.values))
    own = copy.deepcopy(plan.configuration)
    own.pop("inherits_from", None)
    own["architecture"] = architecture_of(config, plan.order)
    own["data_identifier"] = f"{name}_{plan.name}"
    spacing = preprocessing.get("spacing")
    if isinstance(spacing, list | tuple):
        along = [2 - axis for axis in values.get("transpose_forward", (0, 1, 2))]
        own["spacing"] = [float(spacing[axis]) for axis in along[-plan.spatial_dims :]]
    options = validate(NnunetOptions, config.options)
    steps = per_step(options.strides, len(options.channels) - 1, plan.spatial_dims, "strides")
    divisor = reordered([_product(s) for s in zip(*steps, strict=True)], plan.order)
    own["patch_size"] = [
        -(-int(n) // d) * d for n, d in zip(own["patch_size"], divisor, strict=True)
    ]
    low, high = preprocessing.get("ct_window", (-1000.0, 1000.0))
    first, last = preprocessing.get("ct_range", (-1.0, 1.0))
    spread = (high - low) / (last - first)
    for channel, scheme in enumerate(own.get("normalization_schemes", [])):
        if scheme == "CTNormalization":
            known = values.setdefault("foreground_intensity_properties_per_channel", {})
            known[str(channel)] = {
                **known.get(str(channel), {}),
                "mean": low - first * spread,
                "std": spread,
                "percentile_00_5": low,
                "percentile_99_5": high,
            }
    values["plans_name"] = name
    values["configurations"] = {plan.name: own}
    return values


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _per_axis(value: Any, dims: int) -> list[int]:
    return [int(v) for v in _each(value, dims)]


def _product(values: tuple[int, ...]) -> int:
    total = 1
    for value in values:
        total *= value
    return total
