"""Fine-tuned results beside training from scratch, paired for the one account of what helped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from situs.evaluation.gains import Account, account
from situs.evaluation.measures import METRICS
from situs.report.folder import Transfer

COUNTS = frozenset({"cases", "hd95_undefined"})
_NAMES = {"hd95_undefined": "HD95 undefined"}


@dataclass(frozen=True)
class Comparison:
    """Pretrained beside scratch, on the same labelled and the same test cases.

    Attributes:
        pretrained: The better-initialised arm.
        scratch: The other.
        account: What they say, metric by metric.
    """

    pretrained: Transfer
    scratch: Transfer
    account: Account

    @property
    def sentence(self) -> str:
        """The result in words, every metric of it."""
        return self.account.sentence

    @property
    def verdict(self) -> str:
        """``"helped"``, ``"harmed"``, ``"mixed"`` or ``"unclear"``: how a page colours it."""
        return self.account.verdict


def compare(transfers: Sequence[Transfer]) -> list[Comparison]:
    """Every pretrained result with the scratch result that has the same task and labels."""
    scratch = {_key(t): t for t in transfers if t.result.scratch}
    found = []
    for one in transfers:
        other = scratch.get(_key(one))
        if one.result.scratch or other is None:
            continue
        said = account(one.cases, other.cases, one.result.task, one.labelled)
        if said is not None:
            found.append(Comparison(one, other, said))
    return found


def name_of(score: str) -> str:
    """A score's name for readers."""
    if score in METRICS:
        return METRICS[score].name
    return _NAMES.get(score, score.replace("_", " "))


def _key(transfer: Transfer) -> tuple[object, ...]:
    result = transfer.result
    return (result.task, *(tuple(sorted(result.cases_of(part))) for part in ("train", "test")))
