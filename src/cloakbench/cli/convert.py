"""Weights of other projects, in the format that methods read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloakbench.cli.results import ForceOption, check_new


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .pt file of guided-diffusion: an unconditional model.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    side: Annotated[int, typer.Option(help="Side of its images [px].", min=8)] = 256,
    head_width: Annotated[
        int, typer.Option(help="Channels of an attention head (num_head_channels).", min=1)
    ] = 64,
    force: ForceOption = False,
) -> None:
    """Bring a pixel-space diffusion model of guided-diffusion into diffusers' format.

    `diffpure`, `ddspure` and `gridpure` then take the folder as their `weights`. The defaults fit
    256x256_diffusion_uncond.pt, the ImageNet model that they are published with.

    Example: cloakbench convert 256x256_diffusion_uncond.pt --out imagenet-256
    """
    from cloakbench.files.outputs import new_folder
    from cloakbench.models.guided import convert

    check_new(out, force, checkpoint)
    facts = {"stage": "convert", "settings": {"side": side, "head_width": head_width}}
    with new_folder(out, facts) as folder:
        convert(checkpoint, folder, side=side, head_width=head_width)
    typer.echo(f"{out}/: name it as `weights` of diffpure, ddspure or gridpure")
