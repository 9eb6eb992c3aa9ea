"""The one record of who is trained on, who tunes a training, and who is tested."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part; no patient is in two of them.

    Attributes:
        train: Trained on; in a study, what each training set is drawn from.
        validation: Early stopping, best weights and tuning look at these.
        test: Scored at the end.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
