"""The label-efficiency study: is pretraining worth it, and which method?"""

from typing import TYPE_CHECKING, Any

from situs.study.arms import Arm
from situs.study.config import StudyConfig, Tuning
from situs.study.results import StudyResult
from situs.study.run import carry_out, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    run_study: Callable[..., StudyResult]

__all__ = ["Arm", "StudyConfig", "StudyResult", "Tuning", "carry_out", "describe", "run_study"]


def __getattr__(name: str) -> Any:
    # The entry that also draws the page lives with those who draw; here it is only named.
    if name == "run_study":
        import situs  # noqa: PLC0415 - which names it

        return situs.run_study
    raise AttributeError(f"module 'situs.study' has no attribute '{name}'")
