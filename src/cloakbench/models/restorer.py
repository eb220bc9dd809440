"""The miniature's face restorer: a small U-Net that stands in CodeFormer's place."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from cloakbench.errors import CloakBenchError, reason
from cloakbench.running.stopwatch import loads

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "cloakbench-restorer"


class Restorer(nn.Module):
    """Maps degraded portraits to clean ones, with a fidelity weight w in [0, 1] as CodeFormer has.

    The encoder's features of every level but the deepest join the decoder times w: at 0 a
    portrait is made from the deepest features alone (an eighth of its sides), at 1 all that the
    encoder saw is there. There are no normalisations, so pictures of any size and brightness work.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 112), blocks: int = 2) -> None:
        """
        Args:
            widths: channels of each level; the first has half of a picture's sides, the second a
                quarter, and so on.
            blocks: residual blocks of each level on each side.
        """
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "blocks": blocks}
        pairs = list(pairwise(widths))
        self.first = nn.Conv2d(12, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_stack(width, blocks) for width in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        self.skip = nn.ModuleList(nn.Conv2d(a, a, 1) for a, _ in pairs)
        self.decoder = nn.ModuleList(_stack(width, blocks) for width in widths)
        self.last = nn.Conv2d(widths[0], 12, 3, padding=1)

    def forward(self, pixels: Tensor, fidelity: Tensor | float) -> Tensor:
        """Restored pixels (n, 3, h, w) for pixels in [0, 1], not clamped.

        fidelity: one w for all or one for each picture, (n,).
        """
        height, width = pixels.shape[-2:]
        multiple = 2 ** len(self.encoder)
        padded = pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        weight = torch.as_tensor(fidelity, dtype=pixels.dtype, device=pixels.device)
        weight = weight.view(-1, 1, 1, 1)
        features = self.first(pixel_unshuffle(2 * padded - 1, 2))
        kept = []
        for level, stack in enumerate(self.encoder):
            features = stack(features)
            if level < len(self.down):
                kept.append(features)
                features = self.down[level](features)
        features = self.decoder[-1](features)
        for level in reversed(range(len(self.up))):
            features = pixel_shuffle(self.up[level](features), 2)
            features = self.decoder[level](features + weight * self.skip[level](kept[level]))
        restored = pixel_shuffle(self.last(features), 2)
        return (restored[..., :height, :width] + 1) / 2


class Block(nn.Module):
    """A residual block; it starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.outer.weight)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.outer(nn.functional.silu(self.inner(features)))


def _stack(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(blocks)))


def save_restorer(restorer: Restorer, folder: Path) -> None:
    """Write the settings and the weights, in fp16, into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"kind": KIND, **restorer.config}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {name: value.half().contiguous() for name, value in restorer.state_dict().items()}
    save_file(state, folder / WEIGHTS)


@loads
def load_restorer(folder: Path) -> Restorer:
    """Read what `save_restorer` wrote; the weights are float32 and frozen.

    Raises:
        CloakBenchError: a file is missing, damaged or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text())
        if config.pop("kind") != KIND:
            raise ValueError(f"kind is not {KIND}")
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            restorer = Restorer(tuple(config["widths"]), config["blocks"])
        restorer.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, SafetensorError) as error:
        raise CloakBenchError(
            f"{folder}: no restorer of the miniature ({reason(error)}). "
            "`cloakbench pretrain export` writes one."
        ) from error
    return restorer.float().requires_grad_(False).eval()
