"""Unconditional checkpoints of guided-diffusion, such as its ImageNet model, in diffusers' format.

Source: Dhariwal & Nichol 2021, arXiv 2105.05233, appendix: the residual blocks that scale and shift
by the timestep, that also halve and double the sides, and the attention between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError, reason
from cloakbench.files.weights import TORCH, check_weights

if TYPE_CHECKING:
    from torch import Tensor

RELEASES = "https://github.com/openai/guided-diffusion"
STEPS, GROUPS = 1000, 32  # of its ladder, and of channels in a norm

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}

State = dict[str, "Tensor"]


def convert(checkpoint: Path, folder: Path, *, side: int, head_width: int) -> None:
    """Write a checkpoint as a pipeline of diffusers, which `PixelDenoiser` loads.

    side: of the images [px]. head_width: channels of an attention head. Neither is in the file.

    Raises:
        CloakBenchError: it is missing, or no checkpoint of such a network.
    """
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    state = _load(checkpoint)
    try:
        config = _config(state, side, head_width)
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            unet = UNet2DModel(**config)
        unet.load_state_dict(_renamed(state, config), assign=True)
    except (LookupError, ValueError, RuntimeError) as error:
        raise CloakBenchError(
            f"{checkpoint}: no unconditional network of guided-diffusion with scale-shift norms "
            f"and residual blocks that resample ({reason(error)}). Get one from {RELEASES}."
        ) from error
    variance = "learned_range" if config["out_channels"] > config["in_channels"] else "fixed_large"
    scheduler = DDPMScheduler(STEPS, beta_schedule="linear", variance_type=variance)
    DDPMPipeline(unet, scheduler).save_pretrained(folder)


def _load(checkpoint: Path) -> State:
    import torch

    check_weights(checkpoint, TORCH, RELEASES)
    try:
        state: State = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return {name: weights.float() for name, weights in state.items()}
    except Exception as error:  # torch raises pickle, zip and runtime errors here
        raise CloakBenchError(
            f"{checkpoint}: cannot be read ({reason(error)}). Get it again from {RELEASES}."
        ) from error


def _config(state: Mapping[str, Tensor], side: int, head_width: int) -> dict[str, Any]:
    """The network's sizes, read from its weights.

    A block of the decoder that ends a level has another residual block in it, which doubles the
    sides; the first one's number says how many blocks a level has.
    """
    if "label_emb.weight" in state:
        raise ValueError("it is told of classes")
    ends = [i for i in range(len(state)) if _doubling(state, i)]
    layers = ends[0]
    starts = [1 + level * (layers + 1) for level in range(len(ends) + 1)]
    widths = [len(state[f"input_blocks.{i}.0.out_layers.3.weight"]) for i in starts]
    attends = [f"input_blocks.{i}.1.qkv.weight" in state for i in starts]
    down = ["AttnDownBlock2D" if each else "ResnetDownsampleBlock2D" for each in attends]
    up = ["AttnUpBlock2D" if each else "ResnetUpsampleBlock2D" for each in reversed(attends)]
    return {
        "sample_size": side,
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": len(state["out.2.weight"]),
        "layers_per_block": layers,
        "block_out_channels": tuple(widths),
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "attention_head_dim": head_width,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
    }


def _doubling(state: Mapping[str, Tensor], number: int) -> str | None:
    """The residual block that doubles the sides at the end of a decoder's block, if one does."""
    names = (f"output_blocks.{number}.{place}" for place in (1, 2))
    return next((name for name in names if f"{name}.in_layers.0.weight" in state), None)


def _renamed(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> State:
    """The weights by diffusers' names.

    Raises:
        KeyError: some are not there.
        ValueError: there are others.
    """
    found: State = {}
    used: set[str] = set()
    for old, new, names in _blocks(state, config):
        for part, renamed in names.items():
            for kind in ("weight", "bias"):
                if (name := f"{old}{part}.{kind}") in state or part != "skip_connection":
                    found[f"{new}{renamed}.{kind}"] = _linear(state[name], part)
                    used.add(name)
        if names is _ATTENTION:
            used |= {f"{old}qkv.weight", f"{old}qkv.bias"}
            found |= _queries_keys_values(state, old, new, config["attention_head_dim"])
    if left := sorted(state.keys() - used):
        raise ValueError(f"{len(left)} weights have no place, such as {left[0]}")
    return found


def _blocks(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Old and new prefix of every block, and its parts' names."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    yield "", "", _ENDS
    for level in range(levels):
        for layer in range(layers):
            old = f"input_blocks.{1 + level * (layers + 1) + layer}"
            yield from _layer(state, old, f"down_blocks.{level}", layer)
        if level + 1 < levels:
            old = f"input_blocks.{(level + 1) * (layers + 1)}.0."
            yield old, f"down_blocks.{level}.downsamplers.0.", _RESNET
    yield "middle_block.0.", "mid_block.resnets.0.", _RESNET
    yield "middle_block.1.", "mid_block.attentions.0.", _ATTENTION
    yield "middle_block.2.", "mid_block.resnets.1.", _RESNET
    for level in range(levels):
        for layer in range(layers + 1):
            number = level * (layers + 1) + layer
            yield from _layer(state, f"output_blocks.{number}", f"up_blocks.{level}", layer)
            if (doubling := _doubling(state, number)) is not None:
                yield f"{doubling}.", f"up_blocks.{level}.upsamplers.0.", _RESNET


def _layer(
    state: Mapping[str, Tensor], old: str, new: str, number: int
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """A residual block, and the attention after it, if there is one."""
    yield f"{old}.0.", f"{new}.resnets.{number}.", _RESNET
    if f"{old}.1.qkv.weight" in state:
        yield f"{old}.1.", f"{new}.attentions.{number}.", _ATTENTION


def _linear(weights: Tensor, part: str) -> Tensor:
    """Attention's convolutions of width 1 are linear layers in diffusers."""
    return weights.squeeze(-1) if part == "proj_out" else weights


def _queries_keys_values(state: Mapping[str, Tensor], old: str, new: str, head_width: int) -> State:
    """Queries, keys and values, which lie together head by head: those of the first, and so on."""
    found: State = {}
    for kind in ("weight", "bias"):
        heads = state[f"{old}qkv.{kind}"].unflatten(0, (-1, 3, head_width))
        for place, name in enumerate(("to_q", "to_k", "to_v")):
            weights = heads[:, place].flatten(0, 1)
            found[f"{new}{name}.{kind}"] = weights.squeeze(-1).contiguous()
    return found
