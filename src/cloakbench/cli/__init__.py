"""The command line: `cloakbench --help`. Commands import what they need when they run."""

from cloakbench.cli.main import main

__all__ = ["main"]
