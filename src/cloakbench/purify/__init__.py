"""Purifications: methods that try to remove a perturbation from photos."""

from cloakbench.purify.base import Purifier, purifiers

__all__ = ["Purifier", "purifiers"]
