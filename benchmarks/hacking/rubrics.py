"""The rubrics of the fixed arms: the long one, and the whole catalogue; the one-line one is the task pack's own."""

from benchmarks.attacks import with_checks
from benchmarks.essays import RUBRIC as LONG_CRITERIA
