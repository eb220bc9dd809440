"""Trainers: methods that teach a diffusion model an identity from instance images."""

from cloakbench.personalise.base import FineTuning, Trainer, trainers

__all__ = ["FineTuning", "Trainer", "trainers"]
