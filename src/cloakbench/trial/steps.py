"""A trial's steps, each of them a stage: what is there of an interrupted one is not done again."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.status import duration
from cloakbench.faces import FaceBackend, backends, largest
from cloakbench.files.images import changes, read_photo
from cloakbench.files.layout import prompt_folders
from cloakbench.files.outputs import MARKER, check_file, check_output
from cloakbench.files.text import write_text
from cloakbench.files.weights import sha256_of
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import Protection, protections
from cloakbench.running.run import Run
from cloakbench.stages.generate import generate
from cloakbench.stages.protect import protect
from cloakbench.trial.likeness import Embedding, Likeness
from cloakbench.trial.photos import Box, cut, cut_again, give_back, left_over

SETTINGS = "trial.json"
WORK = "work"
"""The folder, in a trial's, of what its steps leave for each other."""

CLEAN = "clean"
BASE = "none"  # the trainer that learns nothing
PROMPTS = Prompts(sample={"photo": "a photo of {identifier} {class_noun}"})


class Recipe(NamedTuple):
    """What a trial runs. Nothing needs class images, which take minutes more."""

    quick: dict[str, Any]
    strong: dict[str, Any]
    trainer: dict[str, Any]
    sampling: Sampling

    @classmethod
    def of(cls, miniature: bool, budget: int) -> Recipe:
        """One for the bundled miniature, and one for Stable Diffusion, of which LoRA needs less."""
        if miniature:
            strong, trainer, preset = "aspl", "dreambooth", {"preset": "mini"}
            sampling = Sampling(images=8, steps=25, guidance=2.0, sampler="dpmpp")
        else:
            strong, trainer, preset = "aspl_lora", "lora", {}
            sampling = Sampling(images=8, steps=50, sampler="dpmpp")
        alone = {"prior_weight": 0, **preset}
        return cls(
            {"method": "pid", "budget": budget, **preset},
            {"method": strong, "budget": budget, **alone},
            {"method": trainer, **alone},
            sampling,
        )

    @property
    def protections(self) -> list[Protection]:
        """The quick and the strong one."""
        return [protections.build(self.quick), protections.build(self.strong)]


@dataclass(frozen=True)
class Protected:
    """What came of a protection, or of none: `linf` in grey levels, `psnr` in dB.

    left: share of the perturbation that is left at the model's size. faces: samples with a face.
    likeness: see `Likeness`.
    """

    name: str
    photos: Path
    samples: list[Path]
    faces: int
    likeness: float = math.nan
    linf: int = 0
    psnr: float = 0.0
    left: float = 1.0

    def as_data(self) -> dict[str, Any]:
        """Plain data, of which machines make what they like."""
        return {
            "protection": self.name,
            "photos": str(self.photos),
            "linf": self.linf,
            "psnr": round(self.psnr, 2) if self.linf else None,
            "left": round(self.left, 3),
            "samples": len(self.samples),
            "faces": self.faces,
            "likeness": None if math.isnan(self.likeness) else round(self.likeness, 3),
        }


@dataclass(frozen=True)
class Trial:
    """One person's photos, and how they are tried.

    named: the photos; see `gather`. out: the folder of all that is written.
    """

    named: Mapping[str, Path]
    out: Path
    model: ModelSpec
    recipe: Recipe
    seed: int = 0
    device: str = "cpu"

    def check(self, force: bool) -> bool:
        """See that all is there that a trial needs, and that its folder is its own, which may lie
        beside the photos.

        Returns:
            Whether the folder holds a part of this very trial.

        Raises:
            CloakBenchError: photos or weights are missing; or the folder lies in what is read,
                holds something else, or another trial that is not to be replaced.
        """
        self.model.check()
        for method in (*self.recipe.protections, self.trainer):
            method.check()
        said, wanted = self._said(), self._settings()
        check_file(self.out / SETTINGS, *self.model.folders(), option="--out")
        if said is None and self.out.is_dir() and any(self.out.iterdir()):
            raise CloakBenchError(f"{self.out}: holds other files. Choose another --out.")
        if said not in (None, wanted) and self._made() and not force:
            raise CloakBenchError(
                f"{self.out}: holds a trial of other photos or settings. Add --force to replace "
                "it, or choose another --out."
            )
        if said not in (None, wanted):
            for made in (path for folder in self._made() for path in folder.rglob(MARKER)):
                check_output(made.parent, *self.named.values())
        return said == wanted

    def begin(self) -> None:
        """Make the folder this trial's, without what another one left there."""
        if self._said() not in (None, self._settings()):
            for folder in self._made():
                shutil.rmtree(folder, ignore_errors=True)
        write_text(self.out / SETTINGS, json.dumps(self._settings(), indent=2) + "\n")

    def _made(self) -> list[Path]:
        """The folders that a trial made here."""
        names = [name for name in protections.names() if (self.out / name / MARKER).is_file()]
        return [path for path in (self.out / WORK, *map(self.out.joinpath, names)) if path.is_dir()]

    def _said(self) -> Any:
        try:
            return json.loads((self.out / SETTINGS).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _settings(self) -> dict[str, Any]:
        """What tells this trial from others in its folder."""
        digests = sha256_of(self.named.values())
        methods = (*self.recipe.protections, self.trainer)
        return {
            "photos": {name: digests[path] for name, path in self.named.items()},
            "model": self.model.model_dump(mode="json"),
            "methods": [method.spec() for method in methods],
            "seed": self.seed,
        }

    def run(self) -> list[Protected]:
        """Run all steps; see `Protected`.

        Raises:
            CloakBenchError: see the stages.
        """
        backend = backends.build("dlib")
        named, squares = self.named, self.out / WORK / "photos"
        steps = _Steps(gradients(self))
        steps.begin(f"cuts {len(named)} photos to squares around the faces")
        boxes = cut(named, squares, self.model.resolution, backend)
        for protection in self.recipe.protections:
            steps.begin(f"{protection.name} protects {len(named)} photos")
            self._protect(protection, named, boxes)
        steps.begin("the model draws before it has seen a photo")
        strangers = self._draw(BASE, trainers.build(BASE), squares)
        photos = [squares / f"{name}.png" for name in named]
        scale = Likeness(_embedded(photos, backend), _embedded(strangers, backend))
        found = []
        for name in (CLEAN, *(each.name for each in self.recipe.protections)):
            what = "as they are" if name == CLEAN else f"protected by {name}"
            steps.begin(f"a model learns the photos {what}")
            found.append(self._learn(name, named, backend, scale))
        return found

    def _protect(
        self, protection: Protection, named: Mapping[str, Path], boxes: Mapping[str, Box]
    ) -> None:
        """Protect the squares, give the photos back, and cut them as a trainer would."""
        work, name = self.out / WORK, protection.name
        protect(
            protection.spec(),
            model=self.model,
            prompts=PROMPTS,
            instance=work / "photos",
            surrogate=work / "photos",
            class_images=None,
            run=self._run(work / "protected" / name),
        )
        squares, protected = work / "photos", work / "protected" / name
        give_back(named, boxes, squares, protected, self.out / name, protection.budget)
        cut_again(self.out / name, boxes, work / "again" / name, self.model.resolution)

    def _learn(
        self, name: str, named: Mapping[str, Path], backend: FaceBackend, scale: Likeness
    ) -> Protected:
        """Personalise the model on squares, sample it, and look for the person in the samples."""
        work = self.out / WORK
        squares = work / "photos" if name == CLEAN else work / "again" / name
        samples = self._draw(name, self.trainer, squares)
        vectors = _embedded(samples, backend)
        faces, likeness = sum(each is not None for each in vectors), scale.of(vectors)
        if name == CLEAN:
            return Protected(name, work / "photos", samples, faces, likeness)
        given_back = {key: self.out / name / f"{key}.png" for key in named}
        linf, psnr = changes((read_photo(given_back[k]), read_photo(named[k])) for k in named)
        left = left_over(work / "photos", work / "protected" / name, squares)
        return Protected(name, self.out / name, samples, faces, likeness, linf, psnr, left)

    def _draw(self, name: str, trainer: Trainer, squares: Path) -> list[Path]:
        """Samples of the model after a trainer has had the squares."""
        out = self.out / WORK / "samples" / name
        generate(
            trainer.spec(),
            self.recipe.sampling,
            model=self.model,
            prompts=PROMPTS,
            instance=squares,
            class_images=None,
            run=self._run(out),
        )
        [prompt] = prompt_folders(out)
        return sorted(prompt.glob("*.png"))

    @property
    def trainer(self) -> Trainer:
        """What learns the photos."""
        return trainers.build(self.recipe.trainer)

    def _run(self, out: Path) -> Run:
        scratch = self.out / WORK / ".scratch"
        return Run(out, "trial", self.seed, self.device, scratch, resume=True)


def _embedded(images: Sequence[Path], backend: FaceBackend) -> list[Embedding]:
    faces = [largest(backend.faces(read_photo(path))) for path in images]
    return [None if face is None else face.embedding for face in faces]


def expected_seconds(trial: Trial) -> float:
    """About how long a trial takes here, by the time of one gradient of the model's loss."""
    return sum(gradients(trial)) * _seconds_of_gradient(trial.model, trial.device)


def gradients(trial: Trial) -> list[float]:
    """About how many gradients each step of a trial takes.

    A step of training or of a protection is taken for one gradient per image, and a step of
    sampling, which goes through the U-Net twice, for half of one.
    """
    photos, sampling, trainer = len(trial.named), trial.recipe.sampling, trial.trainer.spec()
    quick, strong = (protection.spec() for protection in trial.recipe.protections)
    each_round = 2 * strong["training_steps"] + strong["pgd_steps"] * photos
    drawing = sampling.steps * sampling.images / 2
    learning = trainer["steps"] * trainer["batch_size"] + drawing
    protecting = [quick["steps"] * photos, strong["rounds"] * each_round]
    return [0, *protecting, drawing, *[learning] * (1 + len(protecting))]


def _seconds_of_gradient(spec: ModelSpec, device: str) -> float:
    import torch

    from cloakbench.models.loading import load_model

    model = load_model(spec, device)
    side, rng = spec.resolution, torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, side, side, generator=rng).to(device).requires_grad_(True)
    text = model.embed([PROMPTS.instance_prompt])
    for _ in range(2):  # the first one sets things up
        begun = time.monotonic()
        latents = model.draw(model.posterior(pixels), rng)
        loss = model.denoising_loss(latents, text, rng).sum()
        (gradient,) = torch.autograd.grad(loss, pixels)
        float(gradient.sum())  # a GPU is waited for
        seconds = time.monotonic() - begun
    return seconds


class _Steps:
    """Says which step begins, and how long it will be to the end by those that were done.

    work: of each step, in any unit. Steps that were there already take no time, and say nothing.
    """

    def __init__(self, work: Sequence[float]) -> None:
        self.work = work
        self.number, self.done, self.spent, self.begun = 0, 0.0, 0.0, time.monotonic()

    def begin(self, what: str) -> None:
        took = time.monotonic() - self.begun
        if took > 1 and self.number and (last := self.work[self.number - 1]):
            self.done, self.spent = self.done + last, self.spent + took
        left = self.spent / self.done * sum(self.work[self.number :]) if self.done else 0
        more = f" (about {duration(left)} left)" if left else ""
        self.number, self.begun = self.number + 1, time.monotonic()
        print(f"[{self.number}/{len(self.work)}] {what}{more}", file=sys.stderr, flush=True)
