"""Train the miniature model: `cloakbench pretrain --help`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from cloakbench.miniature.pretrain.training import Pretraining

app = typer.Typer(
    help="Train the miniature model from rendered portraits. In order: tokenizer, clip, "
    "recogniser, vae, latents, unet, then judge, ddpm, restorer, export, measure. A killed stage "
    "resumes when it is run again; a finished one goes on from its weights, and `unpack` brings "
    "back those of an exported model. Example: cloakbench pretrain tokenizer portraits",
    no_args_is_help=True,
)

Portraits = Annotated[
    Path, typer.Argument(help="Portraits: cloakbench synth FOLDER --no-sets --seed 1 ...")
]
Work = Annotated[Path, typer.Option(help="Folder for checkpoints and trained weights.")]
Steps = Annotated[
    int, typer.Option(help="Training steps; the rate decays over the last quarter.", min=1)
]
BatchSize = Annotated[int, typer.Option(help="Portraits per step.", min=1)]
Rate = Annotated[float, typer.Option(help="AdamW's learning rate.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Root of all draws.")]
BaseModel = Annotated[
    Literal["first", "second"],
    typer.Option(
        "--recipe", help="Which base model: sizes of its networks, order of its captions."
    ),
]

WORK = Path("pretraining")


@app.command()
def tokenizer(portraits: Portraits, work: Work = WORK, seed: Seed = 0) -> None:
    """Learn the vocabulary from the portraits' captions (seconds)."""
    _training(portraits, work, "cpu", seed).tokenizer()


@app.command()
def vae(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 6_000,
    batch_size: BatchSize = 8,
    learning_rate: Rate = 5e-4,
    device: Device = "auto",
    seed: Seed = 0,
    recipe: BaseModel = "first",
) -> None:
    """Train the VAE, with the recogniser's features in its loss."""
    _training(portraits, work, device, seed, recipe).vae(steps, batch_size, learning_rate)


@app.command()
def clip(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 6_000,
    batch_size: BatchSize = 64,
    learning_rate: Rate = 5e-4,
    device: Device = "auto",
    seed: Seed = 0,
    recipe: BaseModel = "first",
) -> None:
    """Train CLIP; its text tower becomes the U-Net's text encoder."""
    _training(portraits, work, device, seed, recipe).clip(steps, batch_size, learning_rate)


@app.command()
def latents(
    portraits: Portraits,
    work: Work = WORK,
    device: Device = "auto",
    seed: Seed = 0,
    recipe: BaseModel = "first",
) -> None:
    """Encode all portraits once, for the U-Net."""
    _training(portraits, work, device, seed, recipe).latents()


@app.command()
def recogniser(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 3_000,
    batch_size: BatchSize = 64,
    learning_rate: Rate = 1e-3,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Train a recogniser of the portraits' people: part of the VAE's loss, not exported."""
    _training(portraits, work, device, seed).recogniser(steps, batch_size, learning_rate)


@app.command()
def unet(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 60_000,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 6e-4,
    device: Device = "auto",
    seed: Seed = 0,
    recipe: BaseModel = "first",
) -> None:
    """Train the U-Net on the latents."""
    _training(portraits, work, device, seed, recipe).unet(steps, batch_size, learning_rate)


@app.command()
def judge(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 3_000,
    batch_size: BatchSize = 48,
    learning_rate: Rate = 5e-4,
    device: Device = "auto",
    seed: Seed = 1,
) -> None:
    """Train the judge of quality, a CLIP with captions of its own; needs no other stage."""
    _training(portraits, work, device, seed).judge(steps, batch_size, learning_rate)


@app.command()
def ddpm(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 20_000,
    batch_size: BatchSize = 16,
    learning_rate: Rate = 5e-4,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Train the pixel-space DDPM of diffpure, ddspure and gridpure; needs no other stage."""
    _training(portraits, work, device, seed).ddpm(steps, batch_size, learning_rate)


@app.command()
def restorer(
    portraits: Portraits,
    work: Work = WORK,
    steps: Steps = 20_000,
    batch_size: BatchSize = 8,
    learning_rate: Rate = 5e-4,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Train the face restorer in CodeFormer's place; needs no other stage."""
    _training(portraits, work, device, seed).restorer(steps, batch_size, learning_rate)


@app.command()
def export(
    portraits: Portraits,
    work: Work = WORK,
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("resources/mini"),
    recipe: BaseModel = "first",
) -> None:
    """Write the weights so far as a Stable Diffusion model in fp16 safetensors."""
    from cloakbench.miniature.pretrain.export import export as write

    size = write(_training(portraits, work, "cpu", 0, recipe), out)
    typer.echo(f"{out}: {size / 1e6:.1f} MB")


@app.command()
def unpack(
    model: Annotated[Path, typer.Option(help="Exported model folder.")] = Path("resources/mini"),
    work: Work = WORK,
) -> None:
    """Put an exported model's weights into the work folder, to go on training from them."""
    from cloakbench.miniature.pretrain.export import unpack as read

    read(model, _training(Path(), work, "cpu", 0))
    typer.echo(f"{work}: weights of {model}; run `cloakbench pretrain latents` next")


@app.command()
def measure(
    model: Annotated[Path, typer.Option(help="Model folder.")] = Path("resources/mini"),
    identities: Annotated[Path, typer.Option(help="People that it has not seen.")] = Path(
        "resources/identities"
    ),
    group: Annotated[
        str, typer.Option(help="A group of their groups.json; empty: everybody.")
    ] = "tuning",
    results: Annotated[
        Path | None,
        typer.Option(
            help="Results with this model, as results/mini/bundled: measure their protections, too."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("docs/miniature.json"),
    samples: Annotated[int, typer.Option(help="Images of 'a photo of person'.", min=1)] = 64,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the model on unseen people: VAE, samples, CLIP, BRISQUE and the judge."""
    import json

    from cloakbench.experiment.data import Dataset
    from cloakbench.files.outputs import new_file
    from cloakbench.miniature.pretrain.measure import measure as measure_model
    from cloakbench.miniature.pretrain.measure import print_measures
    from cloakbench.models.device import choose_device

    people = Dataset(path=identities)
    result = measure_model(model, people, group, results, samples, choose_device(device))
    text = json.dumps(result, indent=2)
    with new_file(out) as part:
        part.write_text(text + "\n")
    if as_json:
        typer.echo(text)
    else:
        print_measures(result)


def _training(
    portraits: Path, work: Path, device: str, seed: int, recipe: str = "first"
) -> Pretraining:
    import torch

    from cloakbench.miniature.pretrain.recipe import RECIPES
    from cloakbench.miniature.pretrain.training import Pretraining
    from cloakbench.models.device import choose_device

    torch.manual_seed(seed)  # untrained weights are drawn from the global generator
    return Pretraining(work, portraits, choose_device(device), seed, typer.echo, RECIPES[recipe])
