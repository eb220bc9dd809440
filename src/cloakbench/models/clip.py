"""CLIP as a judge: unit embeddings of images and texts."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from cloakbench.errors import CloakBenchError, reason
from cloakbench.files.weights import find_clip
from cloakbench.models.loading import load_frozen
from cloakbench.models.tokens import check_lengths

_OPENAI = {
    r"visual\.": "vision_model.",
    r"^(transformer|token_emb|positional_emb|ln_final)": r"text_model.\1",
    r"transformer\.resblocks": "encoder.layers",
    r"(class_embedding|token_embedding)": r"embeddings.\1",
    r"positional_embedding": "embeddings.position_embedding.weight",
    r"conv1": "embeddings.patch_embedding",
    r"attn\.": "self_attn.",
    r"mlp\.c_fc": "mlp.fc1",
    r"mlp\.c_proj": "mlp.fc2",
    r"ln_([12])": r"layer_norm\1",
    r"ln_pre": "pre_layrnorm",
    r"ln_post": "post_layernorm",
    r"ln_final": "final_layer_norm",
    r"vision_model\.proj$": "visual_projection.weight",
    r"^text_projection$": "text_projection.weight",
}
"""OpenAI's names of CLIP's weights, and transformers'; replaced in this order."""


BATCH = 32  # images that go through at once


@dataclass
class Clip:
    """A CLIP in evaluation mode, with its tokenizer and image processor; it remembers the images
    that it has just seen, since several metrics look at the same ones.

    device: where the network is; what comes out is on the CPU.
    """

    network: CLIPModel
    processor: CLIPProcessor
    device: str = "cpu"
    _seen: tuple[list[Image.Image], Tensor] | None = None

    @classmethod
    def load(
        cls, name: str, device: str = "cpu", adapt: Callable[[CLIPModel], None] = lambda _: None
    ) -> Clip:
        """From a folder or the hub's cache; `adapt` may put other weights in.

        Raises:
            CloakBenchError: it is missing, cannot be loaded, or lacks some of its weights.
        """
        folder = find_clip(name)
        try:
            network = load_frozen(CLIPModel, folder)
            processor = CLIPProcessor.from_pretrained(folder)
        except Exception as error:  # transformers raises what its parts and formats raise
            raise CloakBenchError(
                f"{name}: cannot be loaded as a CLIP ({reason(error)}). Get its files again."
            ) from error
        adapt(network)
        return cls(network.to(device), processor, device)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with before the softmax; 100 in OpenAI's models."""
        return self.network.logit_scale.exp().cpu()

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images, resized and cropped to the network's side, to unit vectors (n, width)."""
        if self._seen is not None:
            known, embedded = self._seen
            if len(known) == len(images) and all(map(operator.is_, known, images)):
                return embedded
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        embedded = torch.cat([self._embed(batch) for batch in batches])
        self._seen = [*images], embedded
        return embedded

    def _embed(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = self.processor.image_processor(list(images), return_tensors="pt")
        return self.embed_pixels(inputs["pixel_values"])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (n, 3, side, side) to unit vectors (n, width)."""
        pooled = self.network.vision_model(pixels.to(self.device)).pooler_output
        return normalize(self.network.visual_projection(pooled), dim=-1).cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Prompts to unit vectors (n, width).

        Raises:
            CloakBenchError: one is longer than the network reads.
        """
        check_lengths(self.processor.tokenizer, texts)
        tokens = self.processor.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.network.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        pooled = self.network.text_model(tokens.input_ids.to(self.device)).pooler_output
        return normalize(self.network.text_projection(pooled), dim=-1).cpu()


@cache
def load_clip(name: str, device: str = "cpu") -> Clip:
    """A CLIP with its own weights, loaded once in a process."""
    return Clip.load(name, device)


@cache
def _texts(name: str, texts: tuple[str, ...], device: str) -> Tensor:
    return load_clip(name, device).embed_texts(texts)


def cosines(
    name: str, texts: tuple[str, ...], images: Sequence[Image.Image], device: str = "cpu"
) -> Tensor:
    """Cosines of images to prompts, shape (images, texts)."""
    return load_clip(name, device).embed_images(images) @ _texts(name, texts, device).T


def similarity(
    name: str, texts: tuple[str, ...], images: Sequence[Image.Image], device: str = "cpu"
) -> Tensor:
    """The logits of CLIP's zero-shot classifier of images between prompts: scaled cosines.

    Source: Radford et al. 2021, CLIP, arXiv 2103.00020, section 3.1.
    """
    return load_clip(name, device).scale * cosines(name, texts, images, device)


def concept(
    name: str, texts: tuple[str, ...], images: Sequence[Image.Image], device: str = "cpu"
) -> Tensor:
    """That classifier's probabilities of the prompts, shape (images, texts)."""
    return similarity(name, texts, images, device).softmax(-1)


def from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of OpenAI's CLIP modules by the names, and in the shapes, of transformers'."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _OPENAI.items():
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = rows
        else:
            renamed[name] = value.T if "projection" in name else value
    return renamed


def load_openai(network: CLIPModel, path: Path, source: str) -> None:
    """Fill a CLIP from a file of the weights that OpenAI's code trains, in any precision.

    Raises:
        CloakBenchError: the file holds something else, or a CLIP of another size.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("params", state)
        state = {name.removeprefix("clip_model."): value.float() for name, value in state.items()}
        network.load_state_dict(from_openai(state))
    except Exception as error:  # torch raises pickle, zip, key and runtime errors here
        raise CloakBenchError(
            f"{path}: no weights of such a CLIP ({reason(error)}). Get the file from {source}."
        ) from error
