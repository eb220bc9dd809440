"""`python -m cloakbench` is the `cloakbench` command; what a fork runs is loaded by it alone."""

import sys

from cloakbench.running.forks import run_forked

if (status := run_forked(sys.argv[1:])) is not None:
    sys.exit(status)

from cloakbench.cli import main

main()
