"""The label-efficiency study: is pretraining worth it, and which method?"""

from situs.study.config import Arm, StudyConfig, Tuning
from situs.study.results import StudyResult
from situs.study.run import describe, run_study

__all__ = ["Arm", "StudyConfig", "StudyResult", "Tuning", "describe", "run_study"]
