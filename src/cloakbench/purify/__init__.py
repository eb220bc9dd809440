"""Purifications: methods that try to remove a perturbation from photos."""

from cloakbench.purify.base import ModelPurifier, PhotoPurifier, Purifier, purifiers

__all__ = ["ModelPurifier", "PhotoPurifier", "Purifier", "purifiers"]
