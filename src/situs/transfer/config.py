"""What a fine-tuning run is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from situs.backbones import BackboneConfig
from situs.config import Accelerator, Config, Precision, Seed, Strategy, renamed
from situs.datasets.dataset import DatasetOptions
from situs.errors import setting
from situs.store import Preprocessing

Share = Annotated[float, Field(gt=0, lt=1)]
Cases = int | Share | tuple[str, ...] | None
"""Cases by number, as a share of the patients, by name, or None for all that no other part took.

Numbers and shares are drawn by seed.
"""

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
"""Of the patients, where nothing is said of training and test cases."""


class Augmentation(Config):
    """Random changes of training patches; the ranges are symmetric about no change.

    Attributes:
        rotation_deg: Largest rotation about each axis (in the plane for slices).
        scale: Largest relative change of size.
        flip_axes: Array axes (0 is left-right) flipped with probability 1/2. ``"auto"`` flips
            left-right only, and not even that where the name of a class or of a case has a side
            ("left kidney"), or where the pretext task of the weights used position: flipping the
            other axes makes anatomy that does not exist.
        contrast: Largest relative change of contrast.
        brightness: Largest shift, in standard deviations of the patch.
        noise: Largest standard deviation of Gaussian noise, in those of the patch.
        gamma: Largest logarithm of the exponent of a gamma curve.
        probability: Of each change, for each patch.
    """

    rotation_deg: float = Field(15.0, ge=0, le=180)
    scale: float = Field(0.15, ge=0, lt=1)
    flip_axes: Literal["auto"] | tuple[Literal[0, 1, 2], ...] = "auto"
    contrast: float = Field(0.25, ge=0, lt=1)
    brightness: float = Field(0.2, ge=0)
    noise: float = Field(0.1, ge=0)
    gamma: float = Field(0.25, ge=0)
    probability: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _as_called_today(cls, values: Any) -> Any:
        return renamed(values, {"rotation_degrees": "rotation_deg"})

    @field_validator("flip_axes", mode="before")
    @classmethod
    def _none_was_auto(cls, given: Any) -> Any:
        return "auto" if given is None else given

    @property
    def flips(self) -> tuple[int, ...]:
        """The axes that are flipped; none as long as the data has not been asked."""
        return () if self.flip_axes == "auto" else self.flip_axes

    @classmethod
    def off(cls) -> Augmentation:
        """No change at all."""
        return cls(flip_axes=(), probability=0)


class FinetuneConfig(Config):
    """Everything that a fine-tuning run depends on.

    Attributes:
        task: ``"segmentation"`` of voxels or ``"classification"`` of scans.
        data: A labelled data set (Decathlon, nnU-Net, CSV, …).
        dataset: What the files of ``data`` do not say by themselves: who the patient is, classes,
            layout, BIDS suffix, whether some images have no label.
        out: The result folder; must be empty or absent unless ``overwrite``.
        init: A run or weights folder, or ``none`` for random weights.
        load_decoder: Take the decoder along where the pretext task trained it.
        allow_partial: Accept weights of which less than 90 % fit the encoder.
        backbone: Network for ``init: none``; otherwise the weights' card says.
        preprocessing: Rules for the scans; by default those of the weights' card, for ``none``
            those of a new store.
        slice_axis: For 2D networks, the array axis slices are perpendicular to; ``"auto"`` takes
            that of the stack, and cuts isotropic scans into axial slices.
        train: Labelled cases to train on; by default all that no other part takes.
        validation: Cases for early stopping and for choosing the best weights; 0 for neither.
        test: Cases to score at the end, by default all others. Where neither ``train`` nor
            ``test`` is given, a fifth of the patients (or the cases that the data set declares)
            are tested, a tenth are for validation, and the rest is trained on.
        steps: Optimiser steps.
        batch_size: Patches a step and device.
        patch_size: Voxels along each axis; by default the cases' median size, at most 96 (of
            slices: 256), made a multiple of what the network needs.
        lr: Peak learning rate of the head, and of the rest before ``layer_decay``.
        weight_decay: Of AdamW.
        layer_decay: Each earlier encoder block learns this many times as fast as the next.
        l2_sp: Pull of what came from the weights back to them, in place of weight decay towards 0;
            0 for none. See :class:`~situs.transfer.optim.PullToWeights`.
        warmup_steps: Linear warm-up, then cosine to zero.
        freeze_encoder: Train decoder and head only.
        head_warmup_steps: For so many steps only what did not come from the weights is trained.
        loss: Soft Dice plus cross-entropy, or plus focal loss. Classification uses
            cross-entropy or focal.
        class_weights: One a class, in the order of the data set's classes.
        foreground_share: Of patches centred near a labelled voxel, its class drawn evenly.
        augmentation: Random changes of training patches.
        test_flips: Average predictions over flips of ``augmentation.flip_axes``.
        overlap: Of neighbouring windows in sliding-window inference.
        surface_tolerance_mm: Of normalised surface Dice.
        validate_every: Steps between validations.
        patience: Validations without progress before training stops; 0 never stops early.
        checkpoint_every: Steps between states that a stopped fine-tuning can go on from.
        save_predictions: Write one NIfTI a test case.
        save_model: Write the weights.
        precision: ``"auto"`` takes bf16 or fp16 mixed precision on a GPU that has it.
        workers: Loader processes; 0 draws patches in the main process. The numbers are the same.
        threads: CPU threads of torch on each device; None takes the cores that are free.
        devices: Devices of each machine that train one network; on a CPU, processes. Each reads
            all cases; the first one validates and tests.
        num_nodes: Machines, started by srun or torchrun.
        strategy: ``"ddp"`` (a copy of the network on each device), which is also what ``"auto"``
            takes for more than one.
        accelerator: ``"auto"`` takes a GPU where there is one.
        compile: Compile the encoder with ``torch.compile``.
        loggers: ``"wandb"`` (offline unless WANDB_MODE=online) or ``"mlflow"`` (a folder of the
            result unless MLFLOW_TRACKING_URI is set), besides the files; extras of the same names.
        seed: Seed of everything random.
        overwrite: Replace an earlier result in ``out``.
    """

    data: Path
    dataset: DatasetOptions = Field(default_factory=DatasetOptions)
    out: Path
    task: Literal["segmentation", "classification"] = "segmentation"
    init: str = "none"
    load_decoder: bool = True
    allow_partial: bool = False
    backbone: BackboneConfig | None = None
    preprocessing: Preprocessing | None = None
    slice_axis: Literal["auto", 0, 1, 2] = "auto"

    train: Cases = None
    validation: Cases = 0
    test: Cases = None

    steps: int = Field(400, ge=1)
    batch_size: int = Field(2, ge=1)
    patch_size: tuple[int, ...] | None = None
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    l2_sp: float = Field(0.0, ge=0)
    warmup_steps: int = Field(20, ge=0)
    freeze_encoder: bool = False
    head_warmup_steps: int = Field(0, ge=0)
    loss: Literal["dice_ce", "dice_focal"] = "dice_ce"
    class_weights: tuple[float, ...] | None = None
    foreground_share: float = Field(0.67, ge=0, le=1)
    augmentation: Augmentation = Field(default_factory=Augmentation)

    test_flips: bool = False
    overlap: float = Field(0.5, ge=0, lt=1)
    surface_tolerance_mm: float = Field(1.0, gt=0)
    validate_every: int = Field(50, ge=1)
    patience: int = Field(0, ge=0)

    checkpoint_every: int = Field(100, ge=1)
    save_predictions: bool = True
    save_model: bool = True
    precision: Precision = "auto"
    workers: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    devices: PositiveInt = 1
    num_nodes: PositiveInt = 1
    strategy: Strategy = "auto"
    accelerator: Accelerator = "auto"
    compile: bool = False
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    seed: Seed = 0
    overwrite: bool = False

    @property
    def world_size(self) -> int:
        """Devices in all."""
        return self.devices * self.num_nodes

    @model_validator(mode="before")
    @classmethod
    def _hold_out(cls, values: Any) -> Any:
        """Fit to a collection of which nothing is known but where it lies."""
        if not isinstance(values, dict):
            return values
        if values.get("train") is None and values.get("test") is None:
            return {"validation": VALIDATION_SHARE, **values, "test": TEST_SHARE}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.init != "none" and self.backbone is not None:
            raise ValueError(
                f"{setting('backbone')} is for {setting('init')} none; a run's card names its own "
                "network"
            )
        if self.freeze_encoder and self.init == "none":
            raise ValueError(
                f"{setting('freeze_encoder')} would freeze random weights; give {setting('init')} "
                "a run"
            )
        if self.l2_sp and self.init == "none":
            raise ValueError(
                f"{setting('l2_sp')} would pull to random weights; give {setting('init')} a run"
            )
        if self.patience and self.validation == 0:
            raise ValueError(
                f"{setting('patience')} needs validation cases; give {setting('validation')}"
            )
        return self
