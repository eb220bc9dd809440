"""Families of diffusion models, one module each.

A module is called as its family's pipeline in diffusers, in lower case and without "Pipeline"; in
it is a `DiffusionModel` of the pipeline's name without "Pipeline". So a family is found by what a
model's model_index.json says, and adding one edits nothing else.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import re


def family_module(pipeline: str) -> str | None:
    """The module of a pipeline's family, found without importing it; None where there is none."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", pipeline.removesuffix("Pipeline")).lower()
    module = f"{__name__}.{name}"
    known = name.isidentifier() and importlib.util.find_spec(module) is not None
    return module if known else None


def families() -> list[str]:
    """The names of all families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
