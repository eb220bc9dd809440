"""Models are data: which folder or hub id, at which resolution and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.units import Settings
from cloakbench.weights import find_folder, note

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


class ModelSpec(Settings):
    """A Stable Diffusion model in diffusers' format."""

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
            note(root / component, root)
        for component in ("vae", "text_encoder", "unet"):
            if not list((root / component).glob("*.safetensors")):
                raise CloakBenchError(
                    f"model {self.path}: no safetensors weights in '{component}'. "
                    "Save the model with safe_serialization=True."
                )


def load_frozen(kind: Any, folder: Path, **options: Any) -> Any:
    """A network of diffusers or transformers with its weights in float32, frozen.

    kind: its class. options: of its `from_pretrained`.

    Raises:
        ValueError: the file lacks weights, which the library would make random. The libraries
            raise more (see `diffusion.one_line`).
    """
    import torch

    network, loading = kind.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"its file lacks {len(missing)} weights, such as {missing[0]}")
    return network.requires_grad_(False).eval()
