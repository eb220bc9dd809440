"""Protections: methods that alter instance images so that personalisation on them fails."""

from cloakbench.protect.base import ModelProtection, PhotoProtection, Protection, protections

__all__ = ["ModelProtection", "PhotoProtection", "Protection", "protections"]
