"""Tables of an experiment: scores of images, identities and cells, with confidence intervals."""

from cloakbench.tables.experiment import Tables, make_tables, write_tables
from cloakbench.tables.inference import Interval, mean_interval
from cloakbench.tables.markdown import print_summary

__all__ = [
    "Interval",
    "Tables",
    "make_tables",
    "mean_interval",
    "print_summary",
    "write_tables",
]
