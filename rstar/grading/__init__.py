"""Are two mathematical answers equal? Strict, time-bounded, with a reason. The rules: docs/grading.md."""

from rstar.grading.grader import Grader, GraderConfig
from rstar.grading.judges import NoReferenceJudge, ReferenceJudge
from rstar.grading.normalise import normalise
from rstar.grading.verdict import Verdict, VerdictReason

__all__ = [
    "Grader",
    "GraderConfig",
    "NoReferenceJudge",
    "ReferenceJudge",
    "Verdict",
    "VerdictReason",
    "normalise",
]
