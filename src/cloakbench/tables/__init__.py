"""Tables of an experiment: scores of images, identities and cells, with confidence intervals."""

from cloakbench.tables.bootstrap import Interval, mean_interval
from cloakbench.tables.experiment import Tables, make_tables, write_tables
from cloakbench.tables.markdown import print_summary
from cloakbench.tables.plan import Plan

__all__ = [
    "Interval",
    "Plan",
    "Tables",
    "make_tables",
    "mean_interval",
    "print_summary",
    "write_tables",
]
