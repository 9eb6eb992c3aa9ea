"""The label-efficiency study: is pretraining worth it, and which method?"""

from situs.studies.arms import Arm
from situs.studies.config import StudyConfig, Tuning
from situs.studies.results import StudyResult
from situs.studies.run import carry_out, describe

__all__ = ["Arm", "StudyConfig", "StudyResult", "Tuning", "carry_out", "describe"]
