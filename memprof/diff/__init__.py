"""Two stored runs compared: read, joined scenario by scenario, judged figure by figure. Nothing is run again."""

from memprof.diff.judge import diff
from memprof.diff.read import read_run, read_runs
from memprof.diff.tolerance import Tolerance

__all__ = ["Tolerance", "diff", "read_run", "read_runs"]
