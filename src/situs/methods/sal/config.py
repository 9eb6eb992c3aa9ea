"""Configuration of ``sal``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from situs.errors import ConfigError
from situs.methods.config import Preset
from situs.methods.slices import SliceConfig


class SalConfig(SliceConfig):
    """Everything that decides what ``sal`` looks at and asks for.

    Attributes:
        axes: Array axes that slices are taken along, 0 sagittal, 1 coronal, 2 axial; None takes
            the direction of the stack where there is one, and any axis otherwise.
        max_distance_mm: Largest distance between the two slices of a pair; where slices lie
            farther apart, neighbours are taken.
        pairs: Pairs drawn from a scan for each sample.
        shown: ``"inside"`` shows of every slice a disc of one size that lies wholly inside it,
            placed anew in each slice of a pair, so that neither the border of the scan nor the
            place in the view tells what matches; ``"all"`` shows slices whole. None takes
            ``"inside"`` where positions are matched or pixels placed, and ``"all"`` where slices
            are only placed along the scan.
        shown_mm: Diameter of the disc; None fits the data.
        elastic_mm: How far control points of an elastic deformation may move along rows and
            columns, in a view that is not enlarged; for slices that are only placed along the
            scan, since a deformed view no longer lies where its geometry says.
        features: Which of the network's features are matched position by position: the encoder's
            coarsest scale, as in the paper, or the decoder's, which are fine (ours).
        stride: Pixels between the positions that are matched, along rows and columns; None takes
            that of the encoder's coarsest scale, or 4 for the decoder's features. A smaller one
            takes the coarsest scale of the encoder that is fine enough.
        embedding: Channels of a position's embedding.
        window: Positions are matched inside windows of this many positions a side; None
            matches over the whole slice.
        frame: Whether a window lies over one place of the patient in both slices, or over one
            part of both images, which fits slices that are posed alike.
        position: How slices' places along the scan are learned.
        position_threshold: Slices at positions closer than this share of the scan are positives
            of ``contrast``. None fits the data: 0.35 for stacks of at most 20 slices, 0.1 for
            longer ones, which is what the paper took for short-axis MR and for CT. Slices of one
            scan within ``max_distance_mm`` are positives whatever their positions, since
            ``local`` pulls them together.
        temperature: Of ``contrast``.
        hardness: How much more the negatives of other scans that look alike count in
            ``contrast``; 0 counts all once, as the paper does.
        width: Channels of a slice's embedding.
        hidden: Hidden channels of its projection head.
        pixel_width: Hidden channels of the head of ``pixel``.
        weights: Of the terms; 1 for those not named, 0 switches one off. ``pixel`` is ours and
            off unless it is given a weight.
    """

    # Positional contrastive learning as arXiv 2106.09157 augments: mirrored, turned by any angle,
    # enlarged by 0.7 to 1.3 (here 0.77 to 1.3, evenly in logarithms), deformed. By how much it
    # deforms is not known; the 4 mm are ours.
    presets: ClassVar[Mapping[str, Preset]] = {
        "pcl": Preset(
            {
                "weights": {"local": 0.0, "spread": 0.0},
                "pose": {"rotation_deg": 180.0, "scale": 0.3, "mirror": 0.5},
                "elastic_mm": 4.0,
            }
        )
    }
    default_weights: ClassVar[dict[str, float]] = {
        "local": 1.0,
        "spread": 1.0,
        "global": 1.0,
        "pixel": 0.0,
    }
    axes: tuple[Literal[0, 1, 2], ...] | None = None
    max_distance_mm: PositiveFloat = 6.0
    pairs: PositiveInt = 2
    shown: Literal["inside", "all"] | None = None
    shown_mm: PositiveFloat | None = None
    elastic_mm: NonNegativeFloat = 0.0
    features: Literal["encoder", "decoder"] = "encoder"
    stride: PositiveInt | None = None
    embedding: PositiveInt = 64
    window: PositiveInt | None = None
    frame: Literal["patient", "image"] = "patient"
    position: Literal["contrast", "regress"] = "contrast"
    position_threshold: float | None = Field(None, gt=0, lt=1)
    temperature: PositiveFloat = 0.1
    hardness: NonNegativeFloat = 0.0
    width: PositiveInt = 64
    hidden: PositiveInt = 128
    pixel_width: PositiveInt = 32

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_runs(cls, values: Any) -> Any:
        """Configurations that runs saved before ``shown`` was there showed slices whole."""
        if isinstance(values, dict) and {"pairs", "embedding", "frame", "hidden"} <= set(values):
            return {"shown": "all", **values}
        return values

    @model_validator(mode="after")
    def _deformed_slices_are_only_placed(self) -> Self:
        asked = [term for term in ("local", "spread", "pixel") if self.weight(term)]
        if self.elastic_mm and asked:
            raise ValueError(
                "elastic_mm is for slices that are only placed along the scan: set "
                f"{' and '.join(f'weights.{term}' for term in asked)} to 0, or elastic_mm to 0"
            )
        return self

    @property
    def known(self) -> bool:
        """Whether all that decides what is looked at is there."""
        disc = self.shown == "all" or (self.shown is not None and self.shown_mm is not None)
        return disc and self.size is not None and self.spacing_mm is not None

    @property
    def radius_mm(self) -> float | None:
        """Of the disc that is shown; None where slices are shown whole."""
        if self.shown != "inside" or self.shown_mm is None:
            return None
        return self.shown_mm / 2

    @property
    def unit_mm(self) -> float:
        """Length of what a slice shows, which places of pixels are in units of."""
        radius = self.radius_mm
        return 2 * radius if radius else max(self.grid.size) * self.grid.spacing_mm

    @property
    def threshold(self) -> float:
        """``position_threshold`` once it is known.

        Raises:
            ConfigError: While it is left to the data.
        """
        if self.position_threshold is None:
            raise ConfigError(
                "'position_threshold' is left to the data: call resolve_for_data(sources) first"
            )
        return self.position_threshold
