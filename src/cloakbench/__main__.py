"""`python -m cloakbench` is the `cloakbench` command."""

from cloakbench.cli import main

main()
