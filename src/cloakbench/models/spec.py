"""Models are data: which folder or hub id, at which resolution and precision."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cloakbench.errors import CloakBenchError
from cloakbench.files.weights import WeightFile, find_folder, weights_in
from cloakbench.models.families import families, family_module
from cloakbench.settings import Settings

INDEX = "model_index.json"
NEEDED = ("vae", "text_encoder", "tokenizer", "scheduler")
DENOISERS = ("unet", "transformer")
UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
_WEIGHTS = re.compile(r"\w+(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors")


class ModelSpec(Settings):
    """A latent diffusion model in diffusers' format, of a family in `models.families`."""

    path: str = Field(description="folder or hub id of a model in diffusers' format")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    variant: str | None = Field(
        None, description='which of several weights: "fp16" reads `*.fp16.safetensors`'
    )
    resolution: int = Field(
        512, ge=64, le=4096, multiple_of=8, description="side of its images [px]"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="fp32, without TF32; or bf16: autocast in training, where weights stay fp32, "
        "and bfloat16 weights where pixels ascend (but fp32 for a loss of the encoder alone)",
    )

    @classmethod
    def at(cls, path: str) -> ModelSpec:
        """A model by its path alone, at the resolution that it was trained at."""
        made = cls(path=path)
        return made.model_copy(update={"resolution": made._native_resolution()})

    def folder(self) -> Path:
        """Where the files are: that folder, or the snapshot in the hub's cache.

        Raises:
            CloakBenchError: it is in neither place, where nothing is downloaded; it is a file, or a
                folder with a revision.
        """
        if Path(self.path).expanduser().is_file():
            raise CloakBenchError(
                f"model {self.path}: is a single file. Convert it to a folder: diffusers' "
                "StableDiffusionPipeline.from_single_file(...).save_pretrained(folder)."
            )
        try:
            found = find_folder(self.path, self.revision)
        except CloakBenchError as error:
            raise CloakBenchError(f"model {error}") from None
        if self.revision is not None and found.parent.name != "snapshots":
            raise CloakBenchError(
                f"model {self.path}: is a folder here, and has no revisions. Leave out `revision`."
            )
        return found

    def folders(self) -> list[Path]:
        """Its folder, if it is here: what no output may replace."""
        try:
            return [self.folder()]
        except CloakBenchError:
            return []

    @property
    def module(self) -> str:
        """The module of its family.

        Raises:
            CloakBenchError: it is of a family that is not known here, or no model at all.
        """
        if (module := family_module(self.pipeline)) is None:
            raise CloakBenchError(
                f"model {self.path}: is a {self.pipeline}, a family that CloakBench does not know. "
                f"Known: {', '.join(families())}."
            )
        return module

    @property
    def pipeline(self) -> str:
        """The class that diffusers has for it."""
        return str(self._index().get("_class_name"))

    @property
    def uses(self) -> frozenset[str]:
        return frozenset()

    def made_of(self) -> Iterator[ModelSpec]:
        yield self

    def files(self) -> Iterable[WeightFile]:
        """Weights and settings of its parts, found without loading them.

        Raises:
            CloakBenchError: the folder or one of its parts is missing, or is not what
                model_index.json says; weights of the variant are missing; the family is not known.
        """
        root, index = self.folder(), self._index()
        found = [] if self.module is None else [*weights_in(root / INDEX, root)]
        parts = {name: kind for name, kind in index.items() if _is_part(name, kind)}
        for name in NEEDED:
            self._need(name in parts, f"its {INDEX} names no '{name}'.")
        self._need(any(name in parts for name in DENOISERS), f"its {INDEX} names no denoiser.")
        for name, (_, kind) in parts.items():
            self._need((root / name).is_dir(), f"the folder '{name}' is missing.")
            self._check_kind(root / name, kind)
            self._check_variant(root / name)
            if name == "unet":
                self._check_channels(root)
            found += weights_in(root / name, root)
        return found

    def check(self) -> None:
        """Find out before any work whether the model is here, and complete.

        Raises:
            CloakBenchError: see `files`.
        """
        list(self.files())

    def _index(self) -> dict[str, Any]:
        path = self.folder() / INDEX
        if not path.is_file():
            raise CloakBenchError(
                f"model {self.path}: no {INDEX} there. Give a folder in diffusers' "
                "format (StableDiffusionPipeline.save_pretrained writes one) or a hub id."
            )
        index = _read_json(path)
        self._need(isinstance(index, dict), f"its {INDEX} is damaged.")
        return dict(index)

    def _check_kind(self, folder: Path, kind: str) -> None:
        """That a network is of the class that model_index.json says."""
        if not (folder / "config.json").is_file():
            self._need("config.json" not in _usual_files(kind), f"'{folder.name}' has no config.")
            return
        config = _read_json(folder / "config.json")
        self._need(isinstance(config, dict), f"'{folder.name}/config.json' is damaged.")
        kinds = [config.get("_class_name"), *(config.get("architectures") or [])]
        self._need(
            kind in kinds or not any(kinds),
            f"'{folder.name}' holds a {next((k for k in kinds if k), None)}, not a {kind}.",
        )

    def _check_channels(self, root: Path) -> None:
        """That the U-Net takes the VAE's latents, and nothing else, as one for inpainting does."""
        said = ((root / "unet", "in_channels"), (root / "vae", "latent_channels"))
        takes, makes = ((_read_json(at / "config.json") or {}).get(key, 4) for at, key in said)
        if takes != makes:
            raise CloakBenchError(
                f"model {self.path}: its U-Net takes {takes} channels, and its VAE makes {makes}. "
                "Name a model that makes images from text alone, none for inpainting or the like."
            )

    def _check_variant(self, folder: Path) -> None:
        """That a network has weights of the variant."""
        if not (folder / "config.json").is_file():
            return
        names = [match for path in folder.iterdir() if (match := _WEIGHTS.fullmatch(path.name))]
        variants = {match["variant"] for match in names}
        if not variants:
            raise CloakBenchError(
                f"model {self.path}: no safetensors weights in '{folder.name}'. "
                "Save the model with safe_serialization=True."
            )
        if self.variant not in variants:
            wanted = f"of the variant '{self.variant}'" if self.variant else "but of a variant"
            others = " or ".join(sorted(map(repr, variants - {None}))) or "null"
            raise CloakBenchError(
                f"model {self.path}: '{folder.name}' has no weights {wanted}. Set the model's "
                f"`variant` to {others}, or get those weights."
            )

    def _native_resolution(self) -> int:
        """The resolution that the model was trained at [px]; 512 where its files do not say."""
        try:
            folder = self.folder()
            unet, vae = (_read_json(folder / name / "config.json") for name in ("unet", "vae"))
            return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        except (CloakBenchError, ValueError, LookupError, TypeError):
            return 512

    def _need(self, held: bool, else_: str) -> None:
        if not held:
            raise CloakBenchError(
                f"model {self.path}: {else_} Copy the whole model, in diffusers' format."
            )


def _is_part(name: str, kind: object) -> bool:
    """Whether an entry of model_index.json names a part that is there and is used."""
    return name not in UNUSED and isinstance(kind, list) and None not in kind


def _usual_files(kind: str) -> set[str]:
    return set() if kind.endswith(("Tokenizer", "TokenizerFast", "Scheduler")) else {"config.json"}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
