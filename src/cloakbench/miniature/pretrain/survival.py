"""How much of a perturbation is left after the VAE: what it loses, nothing can learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cloakbench.files.images import Photos, load_photos
from cloakbench.identity import Identity
from cloakbench.models.base import DiffusionModel
from cloakbench.protect import protections


def noise_survival(model: DiffusionModel, pixels: Tensor) -> float:
    """Of random noise, the protection that is a control, on pixels (n, 3, h, w)."""
    photos = Photos(pixels, tuple(f"{number:04d}" for number in range(len(pixels))))
    return survival(model, pixels, protections.build("noise").protect(Identity(photos)).pixels)


def protections_survival(
    model: DiffusionModel, results: Path, people: Sequence[str]
) -> dict[str, float]:
    """Of every protection in a dataset's folder of results, means over these people by label."""
    found: dict[str, list[float]] = {}
    for protected in sorted(results.glob("*/seed_*/protected/*")):
        if protected.parents[2].name not in people:
            continue
        clean = load_photos(protected.parents[2] / "data" / "set_B").pixels
        changed = load_photos(protected).pixels
        if not torch.equal(clean, changed):
            found.setdefault(protected.name, []).append(survival(model, clean, changed))
    return {label: sum(values) / len(values) for label, values in found.items()}


@torch.no_grad()
def survival(model: DiffusionModel, clean: Tensor, changed: Tensor) -> float:
    """Mean cosine of perturbations before and after a round trip, of pixels (n, 3, h, w)."""
    pairs = zip(clean.split(4), changed.split(4), strict=True)
    after = [(model.round_trip(c) - model.round_trip(p)).cpu() for p, c in pairs]
    before = (changed - clean).flatten(1)
    return float(cosine_similarity(before, torch.cat(after).flatten(1)).mean())
