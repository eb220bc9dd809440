"""Protections: methods that alter instance images so that personalisation on them fails."""

from cloakbench.protect.base import Protection, protections

__all__ = ["Protection", "protections"]
