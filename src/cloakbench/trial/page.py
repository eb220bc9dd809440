"""A trial on one page, which needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cloakbench import __version__
from cloakbench.files.images import read_photo
from cloakbench.files.text import write_text
from cloakbench.report.page import templates
from cloakbench.report.pictures import GAIN, PREVIEW, data_uri, magnify
from cloakbench.running.record import without_places
from cloakbench.tables.display import number
from cloakbench.tables.findings import FACELESS, LEARNT
from cloakbench.trial.steps import CLEAN, Protected, Trial

SIDE = 512  # px, longest side of a photo on the page; a perturbation is lost in smaller ones
QUALITY = 90

LABORATORY = (
    "The miniature is a laboratory animal: it says what a method does, not what your photos are "
    "worth on Stable Diffusion."
)
ELSEWHERE = (
    "This is one model, one way to train it and {samples} pictures; another model, a purification "
    "or more photos may undo what a protection did here."
)


def write_page(trial: Trial, miniature: bool, found: Sequence[Protected]) -> Path:
    """Write `index.html` into a trial's folder: photos, protected photos, samples, what holds."""
    named = trial.named
    methods = {protection.name: protection for protection in trial.recipe.protections}
    path = trial.out / "index.html"
    page = templates(Path(__file__).parent).get_template("page.html")
    text = page.render(
        version=__version__,
        sentences=sentences(found, miniature),
        model=without_places(trial.model.path),
        resolution=trial.model.resolution,
        small=trial.model.resolution < PREVIEW,  # the page enlarges samples
        trainer=trial.trainer.name,
        gain=GAIN,
        methods=methods,
        photos=[_photo(name, path, found) for name, path in named.items()],
        renamed=[path.name for name, path in named.items() if path.name != f"{name}.png"],
        rows=[(each, [_embedded(read_photo(sample)) for sample in each.samples]) for each in found],
        clean=CLEAN,
    )
    write_text(path, text)
    return path


def sentences(found: Sequence[Protected], miniature: bool) -> list[str]:
    """What holds, and what that is worth."""
    clean, *protected = found
    samples = len(clean.samples)
    after = ", ".join(f"{each.faces} after {each.name}" for each in protected)
    said = [f"Of {samples} pictures each, a face is found in {clean.faces} before, and in {after}."]
    if not math.isnan(clean.likeness):
        then = ", ".join(f"{number(each.likeness, '.2f')} after {each.name}" for each in protected)
        said.append(
            f"Likeness is {number(clean.likeness, '.2f')} before, and {then}: 0 is whom the model "
            "draws without your photos, or no face, and 1 another photo of yours."
        )
    said.append(_verdict(clean, protected))
    return [*said, LABORATORY if miniature else ELSEWHERE.format(samples=samples)]


def _verdict(clean: Protected, protected: Sequence[Protected]) -> str:
    """By likeness where it was measured, else by faces."""
    if math.isnan(clean.likeness):
        learnt = clean.faces >= FACELESS * len(clean.samples)
        hidden = [each.name for each in protected if each.faces < clean.faces / 2]
        what = "kept the model from drawing a face in most of them"
        neither = (
            "Neither kept the model from drawing faces; whether they are yours, and what else it "
            "learnt"
        )
    else:
        learnt = clean.likeness >= LEARNT
        hidden = [each.name for each in protected if each.likeness < clean.likeness / 2]
        what = "took more than half of the likeness away"
        neither = "Neither took half of the likeness away; what else the model learnt"
    if not learnt:
        return "The model learnt too little of the photos as they are for that to mean anything."
    return f"{' and '.join(hidden)} {what}." if hidden else f"{neither}, is to be seen on the page."


def _photo(name: str, path: Path, found: Sequence[Protected]) -> dict[str, Any]:
    """A photo and what was made of it, as the page shows it."""
    original = _small(read_photo(path))
    made = {
        each.name: _small(read_photo(each.photos / f"{name}.png"))
        for each in found
        if each.name != CLEAN
    }
    return {
        "name": path.name,
        "original": _embedded(original),
        "made": [
            (method, _embedded(image), _embedded(magnify(image, original)))
            for method, image in made.items()
        ],
    }


def _embedded(image: Image.Image) -> str:
    return data_uri(image, QUALITY)


def _small(image: Image.Image) -> Image.Image:
    copy = image.copy()
    copy.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return copy
