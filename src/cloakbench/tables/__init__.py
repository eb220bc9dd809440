"""Tables of an experiment: scores of images, identities and cells, with confidence intervals."""

from cloakbench.tables.adaptive import expected_means
from cloakbench.tables.compare import compare, read_run
from cloakbench.tables.experiment import (
    Tables,
    make_tables,
    rows_so_far,
    scored,
    verdicts_so_far,
)
from cloakbench.tables.inference import Interval, mean_interval
from cloakbench.tables.markdown import (
    print_comparison,
    print_expected,
    print_summary,
    print_verdicts,
)
from cloakbench.tables.pooled import Elsewhere, read_elsewhere
from cloakbench.tables.purifiers import purifier_costs, write_purifiers
from cloakbench.tables.reported import write_reported
from cloakbench.tables.write import records, write_expected, write_tables

__all__ = [
    "Elsewhere",
    "Interval",
    "Tables",
    "compare",
    "expected_means",
    "make_tables",
    "mean_interval",
    "print_comparison",
    "print_expected",
    "print_summary",
    "print_verdicts",
    "purifier_costs",
    "read_elsewhere",
    "read_run",
    "records",
    "rows_so_far",
    "scored",
    "verdicts_so_far",
    "write_expected",
    "write_purifiers",
    "write_reported",
    "write_tables",
]
