"""How good the miniature is, on identities that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPModel, CLIPProcessor

from cloakbench.faces import backends
from cloakbench.faces.verification import embed_all, verification
from cloakbench.files.images import to_images, to_pixels
from cloakbench.files.outputs import new_file
from cloakbench.miniature.pretrain.degrade import noise
from cloakbench.models.base import DiffusionModel
from cloakbench.models.loading import load_model
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.score.metrics.psnr import PSNR
from cloakbench.score.metrics.ssim import SSIM

PROMPT = "a photo of person"
ZERO_SHOT = ("a photo of a person", "a photo of a person, noisy pattern")
SAMPLING = Sampling(
    images=1, steps=25, guidance=2.0, sampler="dpmpp", batch_size=16
)  # config.yaml's


def measure(
    folder: Path, identities: Path, out: Path, samples: int, device: str
) -> dict[str, dict[str, float]]:
    """Measure VAE, samples and CLIP, and write the figures to a JSON file.

    Faces are found and compared by dlib. PSNR [dB] and SSIM are means over portraits.
    """
    spec = ModelSpec(path=str(folder), resolution=128)
    model = load_model(spec, device)
    files = sorted(identities.glob("*/set_*/*.png"))
    portraits = [Image.open(path).convert("RGB") for path in files]
    names = [path.parts[-3] for path in files]
    result = {
        "vae": reconstruction(model, portraits, names),
        "samples": sample_faces(model, samples),
        "clip": zero_shot(folder, portraits),
    }
    with new_file(out) as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
    return result


@torch.no_grad()
def reconstruction(
    model: DiffusionModel, portraits: list[Image.Image], names: list[str]
) -> dict[str, float]:
    """What survives the VAE: pixels, faces and identities."""
    batches = to_pixels(portraits).split(8)
    decoded = to_images(
        torch.cat([model.decode(model.mode(model.posterior(batch))).cpu() for batch in batches])
    )
    pairs = list(zip(decoded, portraits, strict=True))
    backend = backends.build("dlib")
    before, after = embed_all(portraits, backend), embed_all(decoded, backend)
    return {
        "psnr": float(np.mean([PSNR().compare(*pair) for pair in pairs])),
        "ssim": float(np.mean([SSIM().compare(*pair) for pair in pairs])),
        "faces_in_originals": share_found(before),
        "faces_in_reconstructions": share_found(after),
        "verification_of_originals": verification(names, before).get("accuracy", float("nan")),
        "verification_of_reconstructions": verification(names, after).get("accuracy", float("nan")),
    }


def sample_faces(model: DiffusionModel, count: int) -> dict[str, float]:
    """Share of samples of the class prompt in which a face is found."""
    seeds = list(range(count))
    size = SAMPLING.batch_size
    batches = [seeds[start : start + size] for start in range(0, count, size)]
    pixels = torch.cat([SAMPLING.generate(model, PROMPT, batch) for batch in batches])
    return {
        "count": count,
        "faces": share_found(embed_all(to_images(pixels), backends.build("dlib"))),
    }


@torch.no_grad()
def zero_shot(folder: Path, portraits: list[Image.Image]) -> dict[str, float]:
    """Accuracy of CLIP between portraits and noise-degraded copies, half and half."""
    clip = CLIPModel.from_pretrained(folder / "clip").float().eval()
    processor = CLIPProcessor.from_pretrained(folder / "clip")
    pixels, rng = to_pixels(portraits), np.random.default_rng(0)
    noisy = torch.cat([noise(p[None], rng).clamp(0, 1) for p in pixels])

    def says_noisy(images: torch.Tensor) -> torch.Tensor:
        inputs = processor(
            text=list(ZERO_SHOT),
            images=to_images(images),
            return_tensors="pt",
            padding="max_length",
            max_length=clip.config.text_config.max_position_embeddings,
        )
        return clip(**inputs).logits_per_image.argmax(1) == 1

    right = torch.cat([~says_noisy(pixels), says_noisy(noisy)])
    return {"accuracy": float(right.float().mean())}


def share_found(embeddings: list[Any]) -> float:
    """Share of images in which a face was found."""
    return sum(e is not None for e in embeddings) / max(1, len(embeddings))


def print_measures(result: dict[str, dict[str, float]]) -> None:
    """The figures as a table in the terminal."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("part", "measure", "value"):
        table.add_column(heading)
    for part, values in result.items():
        for name, value in values.items():
            table.add_row(part, name.replace("_", " "), f"{value:.3f}")
    Console().print(table)
