"""Supervised losses, from MONAI, as named terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from situs.methods.distributed import mean_count, size

Terms = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Terms]
Kind = Literal["dice_ce", "dice_focal"]


def loss_of(
    task: str, kind: Kind, class_weights: Sequence[float] | None, multi_label: bool
) -> Loss:
    """The loss of a task, see :func:`segmentation_loss` and :func:`classification_loss`."""
    if task == "segmentation":
        return segmentation_loss(kind, class_weights)
    return classification_loss(kind, multi_label, class_weights)


def segmentation_loss(kind: Kind, class_weights: Sequence[float] | None = None) -> Loss:
    """Soft Dice over the batch's foreground classes plus cross-entropy or focal loss.

    Args:
        kind: Which companion soft Dice has.
        class_weights: One a class, background first; the background's does not enter Dice.

    Returns:
        A function of logits ``(B, K, *spatial)`` and labels ``(B, *spatial)`` to the terms
        ``dice``, ``ce`` or ``focal``, and ``total``.
    """
    weights = None if class_weights is None else torch.tensor(class_weights)
    dice = _Dice(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        weight=None if weights is None else weights[1:],
    )
    companion = _multiclass(kind, weights)

    def loss(logits: Tensor, labels: Tensor) -> Terms:
        terms = {"dice": dice(logits, labels[:, None]), **companion(logits, labels)}
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    return loss


def classification_loss(
    kind: Kind, multi_label: bool, class_weights: Sequence[float] | None = None
) -> Loss:
    """Cross-entropy or focal loss of scans; sigmoid for several labels a scan, else softmax.

    Returns:
        A function of logits ``(B, K)`` and labels ``(B,)`` (multi-label: ``(B, K)`` of 0 and 1)
        to the term ``ce`` or ``focal``, and ``total``.
    """
    weights = None if class_weights is None else torch.tensor(class_weights)
    if not multi_label:
        multiclass = _multiclass(kind, weights)

        def single(logits: Tensor, labels: Tensor) -> Terms:
            terms = multiclass(logits, labels)
            return {**terms, "total": next(iter(terms.values()))}

        return single

    def several(logits: Tensor, labels: Tensor) -> Terms:
        targets = labels.to(logits)
        terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        name = "ce"
        if kind == "dice_focal":
            terms, name = terms * (1 - torch.exp(-terms)) ** 2, "focal"
        if weights is not None:
            terms = terms * weights.to(terms)
        return {name: terms.mean(), "total": terms.mean()}

    return several


class _Dice(DiceLoss):
    """MONAI's soft Dice over the batch of all processes: sums first, then the quotient."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits ``(B, K, *spatial)`` and labels ``(B, 1, *spatial)`` to a scalar."""
        if size() == 1:
            return super().forward(input, target)
        shares = input.softmax(1)[:, 1:].transpose(0, 1).flatten(1)
        truth = F.one_hot(target[:, 0], input.shape[1]).movedim(-1, 0)[1:].flatten(1).to(shares)
        sums = [(shares * truth).sum(1), shares.sum(1), truth.sum(1)]
        both, predicted, true = all_reduce(torch.stack(sums))
        loss = 1 - (2 * both + self.smooth_nr) / (predicted + true + self.smooth_dr)
        weights = self.class_weight
        if weights is not None and len(loss) > 1:  # MONAI weighs several classes only
            loss = loss * weights.to(loss)
        return loss.mean()


def _multiclass(kind: Kind, weights: Tensor | None) -> Loss:
    if kind == "dice_ce" and weights is None:
        return lambda logits, labels: {"ce": F.cross_entropy(logits, labels)}
    if kind == "dice_ce" and weights is not None:
        return lambda logits, labels: {"ce": _weighted(logits, labels, weights.to(logits))}
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, weight=weights)
    # MONAI also averages over classes, all but one of which are zero at a voxel.
    return lambda logits, labels: {"focal": logits.shape[1] * focal(logits, labels[:, None])}


def _weighted(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy over the weights of all processes."""
    total = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
    return total / mean_count(weights[labels].sum()).to(total)
