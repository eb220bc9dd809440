"""Trainers: methods that teach a diffusion model an identity from instance images."""

from cloakbench.personalise.base import Trainer, trainers

__all__ = ["Trainer", "trainers"]
