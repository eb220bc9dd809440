"""How good the miniature is, on people that it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import CLIPModel, CLIPProcessor

from cloakbench.experiment.data import Dataset
from cloakbench.faces import backends
from cloakbench.faces.verification import embed_all, verification
from cloakbench.files.images import read_photo, resized, to_images, to_pixels
from cloakbench.miniature.pretrain.degrade import noise
from cloakbench.miniature.pretrain.naturalness import FAINT, judge_accuracy, naturalness, scores
from cloakbench.miniature.pretrain.survival import noise_survival, protections_survival
from cloakbench.models.base import DiffusionModel
from cloakbench.models.loading import load_model
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.score.metrics.brisque import Brisque
from cloakbench.score.metrics.clip_margin import ClipMargin
from cloakbench.score.metrics.psnr import PSNR
from cloakbench.score.metrics.ssim import SSIM

PROMPT = "a photo of person"
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
ZERO_SHOT = ("a photo of a person", "a photo of a person, noisy pattern")
SAMPLING = Sampling(
    images=1, steps=25, guidance=2.0, sampler="dpmpp", batch_size=16
)  # config.yaml's


def measure(
    folder: Path,
    people: Dataset,
    group: str,
    results: Path | None,
    samples: int,
    device: str,
) -> dict[str, dict[str, float]]:
    """Measure a model on people that it has not seen: figures by part and name.

    people: all of them, or those of a group. results: a dataset's folder of results with this
    model, whose protections are measured. samples: of the class prompt. Faces are found and
    compared by dlib. PSNR [dB] and SSIM are means over portraits.
    """
    model = load_model(ModelSpec(path=str(folder), resolution=128), device)
    who = people.group(group) if group else people.identities()
    files = [(name, file) for name in who for each in people.sets(name).values() for file in each]
    names, portraits = [name for name, _ in files], [read_photo(file) for _, file in files]
    drawn = sample(model, samples)
    result = {
        "vae": reconstruction(model, portraits, names),
        "bottleneck": bottleneck(portraits, names),
        "perturbation_kept": {
            **(protections_survival(model, results, who) if results else {}),
            "noise": noise_survival(model, to_pixels(portraits)),
        },
        "brisque": statistics(model, portraits, drawn),
        "samples": {
            "count": samples,
            "faces": share_found(embed_all(drawn, backends.build("dlib"))),
        },
        "clip": zero_shot(folder, portraits),
    }
    if (folder / "judge").is_dir():
        judge = ClipMargin(clip=str(folder / "judge"))
        result["judge"] = judge_accuracy(judge, portraits)
        result["judge_margin"] = {
            "originals": float(np.mean(scores(judge, portraits))),
            "reconstructions": float(np.mean(scores(judge, reconstructed(model, portraits)))),
            "samples": float(np.mean(scores(judge, drawn))),
        }
    return result


@torch.no_grad()
def reconstruction(
    model: DiffusionModel, portraits: list[Image.Image], names: list[str]
) -> dict[str, float]:
    """What survives the VAE: pixels, faces and identities."""
    decoded = reconstructed(model, portraits)
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


def bottleneck(portraits: list[Image.Image], names: list[str]) -> dict[str, float]:
    """Verification accuracy after portraits were shrunk by a factor and enlarged plainly, and the
    rule for restoration through a bottleneck: the largest factor that costs at most two points.

    At 512 px a quarter of the sides leaves a recogniser what it needs; at 128 px it may not.
    """
    pixels, backend = to_pixels(portraits), backends.build("dlib")
    size = pixels.shape[-2:]
    accuracy = {}
    for factor in FACTORS:
        small = resized(pixels, [int(side / factor) for side in size])
        faces = embed_all(to_images(resized(small, size)), backend)
        accuracy[factor] = verification(names, faces).get("accuracy", float("nan"))
    kept = [f for f in FACTORS if accuracy[f] >= accuracy[1.0] - 0.02]
    found = {f"verification_shrunk_by_{factor:g}": value for factor, value in accuracy.items()}
    return {**found, "factor": max(kept, default=float("nan"))}


def reconstructed(model: DiffusionModel, portraits: list[Image.Image]) -> list[Image.Image]:
    """Portraits after a round trip through the VAE."""
    batches = to_pixels(portraits).split(8)
    return to_images(torch.cat([model.round_trip(batch).cpu() for batch in batches]))


def statistics(
    model: DiffusionModel, portraits: list[Image.Image], drawn: list[Image.Image]
) -> dict[str, float]:
    """BRISQUE of portraits, reconstructions and samples, and of reconstructed textured portraits;
    and in what share of pairs a degraded portrait scores worse than it was.
    """
    rng = np.random.default_rng(0)
    clean, worse = naturalness(portraits)
    textured = {
        f"reconstructions_with_{kind}": reconstructed(
            model, to_images(texture(to_pixels(portraits), rng))
        )
        for kind, texture in FAINT.items()
    }
    means = {"reconstructions": reconstructed(model, portraits), "samples": drawn, **textured}
    return {
        "originals": float(np.mean(clean)),
        **{name: float(np.mean(scores(Brisque(), images))) for name, images in means.items()},
        **{
            f"pairs_ranked_{kind}": float(np.mean(np.greater(values, clean)))
            for kind, values in worse.items()
        },
    }


def sample(model: DiffusionModel, count: int) -> list[Image.Image]:
    """Samples of the class prompt."""
    seeds = list(range(count))
    size = SAMPLING.batch_size
    batches = [seeds[start : start + size] for start in range(0, count, size)]
    return to_images(torch.cat([SAMPLING.generate(model, PROMPT, batch) for batch in batches]))


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
