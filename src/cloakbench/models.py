"""Models are data: which folder or hub id, at which resolution and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cloakbench.errors import CloakBenchError
from cloakbench.weights import find_folder, note

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


class ModelSpec(BaseModel):
    """A Stable Diffusion model in diffusers' format."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    path: str = Field(description="folder or hub id of a model in diffusers' format")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    resolution: int = Field(512, ge=64, multiple_of=8, description="side of its images [px]")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="autocast precision; trained weights stay fp32, and gradients are too small "
        "for fp16",
    )

    def folder(self) -> Path:
        """Where the files are: that folder, or the snapshot in the hub's cache.

        Raises:
            CloakBenchError: it is in neither place; nothing is downloaded.
        """
        try:
            return find_folder(self.path, self.revision)
        except CloakBenchError as error:
            raise CloakBenchError(f"model {error}") from None

    def check(self) -> None:
        """Find out before any work whether the model is here, and complete.

        Raises:
            CloakBenchError: the folder or one of its components is missing.
        """
        root = self.folder()
        if not (root / "model_index.json").is_file():
            raise CloakBenchError(
                f"model {self.path}: no model_index.json there. Give a folder in diffusers' "
                "format (StableDiffusionPipeline.save_pretrained writes one) or a hub id."
            )
        for component in COMPONENTS:
            if not (root / component).is_dir():
                raise CloakBenchError(
                    f"model {self.path}: the folder '{component}' is missing. "
                    "Copy the whole model, in diffusers' format."
                )
        for component in ("vae", "text_encoder", "unet"):
            if not list(note(root / component, root).glob("*.safetensors")):
                raise CloakBenchError(
                    f"model {self.path}: no safetensors weights in '{component}'. "
                    "Save the model with safe_serialization=True."
                )
