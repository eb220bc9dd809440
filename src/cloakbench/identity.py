"""What a stage knows of one identity."""

from __future__ import annotations

from typing import NamedTuple

from cloakbench.files.images import Photos
from cloakbench.prompts import Prompts


class Identity(NamedTuple):
    """Instance images (set_B), clean surrogate images (set_A), class images and prompts.

    Stages that need no surrogate or class images leave these None.
    """

    instance_images: Photos
    prompts: Prompts = Prompts()
    surrogate_images: Photos | None = None
    class_images: Photos | None = None
