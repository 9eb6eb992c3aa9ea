"""The ways to begin that a study compares, and which of them is held against which."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from situs.config import Config
from situs.weights import Card, load_card

SCRATCH = "none"


class Arm(Config):
    """One way to begin: a method, a composition, or ``none``.

    Attributes:
        name: In tables; by default the method's.
        method: A method or a sum of methods; ``"none"`` starts from random weights.
        init: A weights folder that the arm begins with, of ``situs import`` or a run, instead of a
            pretraining; network and preprocessing are those of its card.
        like: A weights folder whose network and preprocessing a scratch arm takes, with random
            weights: the fair reference of the arm that begins with them.
        options: The method's own; for a composition under each method's name.
        weights: Of a composition's parts.
        backbone: Changes to the study's backbone, for instance ``spatial_dims: 2``.
        against: The arm that this one is tested against; by default the scratch arm with the
            same backbone.
        labels: Of the study's label counts, those this arm is run with; by default all. A
            scratch arm with more of them tells how many labels an equal score takes.
        pretrain: Changes to the study's pretraining settings.
        finetune: Changes to the study's fine-tuning settings. An ``lr`` here is not tuned.
    """

    name: str = ""
    method: str = SCRATCH
    init: Path | None = None
    like: Path | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    backbone: dict[str, Any] = Field(default_factory=dict)
    against: str | None = None
    labels: tuple[PositiveInt, ...] = ()
    pretrain: dict[str, Any] = Field(default_factory=dict)
    finetune: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        given = [n for n in ("init", "like") if getattr(self, n) is not None]
        given += ["method"] if self.method != SCRATCH else []
        if len(given) > 1:
            raise ValueError(f"an arm begins in one way, not with {' and '.join(given)}")
        if given in (["init"], ["like"]) and self.backbone:
            raise ValueError(f"the backbone of an arm with '{given[0]}' is that of its card")
        return self

    @property
    def title(self) -> str:
        """Its name in tables."""
        if self.like is not None:
            return self.name or f"none like {self.like.name}"
        return self.name or (self.init.name if self.init is not None else self.method)

    @property
    def scratch(self) -> bool:
        """Whether it begins with random weights."""
        return self.method == SCRATCH and self.init is None

    @property
    def methods(self) -> list[str]:
        """Names of the methods that it is pretrained with."""
        return [name.strip() for name in self.method.split("+")]

    @property
    def card(self) -> Card | None:
        """Card of the weights that it begins with or is like, if there are any.

        Raises:
            TransferError: If there is no weights folder.
        """
        folder = self.init or self.like
        return None if folder is None else load_card(folder)


class Comparison(Config):
    """One arm beside another with so many labels, named before a study is run.

    Attributes:
        arm: The arm that is hoped to be better.
        against: The arm that it is tested against; by default the one of its gains.
        labels: With which of the study's label counts.
    """

    arm: str
    against: str | None = None
    labels: PositiveInt
