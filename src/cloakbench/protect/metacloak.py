"""MetaCloak: a cloak that holds under transformations and against surrogates of any age."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from cloakbench.protect.base import protections
from cloakbench.protect.pgd import draws_of
from cloakbench.protect.surrogate import Denoising, SurrogateProtection
from cloakbench.running.jobs import Pixels, load, store

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job, Stateful


@protections.register("metacloak")
class MetaCloak(SurrogateProtection):
    """PGD through random transformations against checkpoints of a surrogate's training.

    A surrogate is trained on the photos themselves, and its weights are kept now and then. Each
    visit to such a checkpoint alternates PGD on transformed photos with training on the current
    ones. `faithful` repeats three quirks of the published script that ASPL's has, too (recipes
    1.12): bfloat16 weights, and for the steps of every round a new optimiser and the first class
    images again. Every photo has a flip and a blur of its own, where the script draws one for all.
    `lite` is our short form, a twentieth of the rounds after the same training; report it as
    "MetaCloak (lite)".
    """

    source = "Liu et al. 2024, MetaCloak, arXiv 2311.13127; methods_config.sh (recipes 1.12)"
    presets = {
        "paper": {"faithful": True},
        "lite": {"trials": 1, "checkpoints": 3, "rounds": 40},
        "mini": {
            "learning_rate": 2e-4,
            "training_steps": 200,
            "trials": 1,
            "rounds": 40,
            "blur": 0.5,
        },
        "tiny": {
            "training_steps": 2,
            "trials": 1,
            "checkpoints": 2,
            "rounds": 2,
            "pgd_steps": 1,
            "retraining_steps": 1,
        },
    }
    needs: ClassVar[frozenset[str]] = frozenset({"model", "class_images"})
    effort: ClassVar[tuple[str, ...]] = ("trials", "checkpoints", "rounds", "pgd_steps")

    training_steps: int = Field(1000, ge=0, description="DreamBooth steps of the surrogate")
    checkpoints: int = Field(6, ge=2, description="how often its weights are kept, start to end")
    trials: int = Field(4, ge=1, description="passes over the checkpoints")
    rounds: int = Field(100, ge=1, description="alternations in a visit to a checkpoint")
    pgd_steps: int = Field(6, ge=1, description="PGD steps in a round")
    retraining_steps: int = Field(2, ge=0, description="fine-tuning steps after them")
    blur: float = Field(2.0, ge=0.1, description="most blur of a transformation [px, sigma]")
    faithful: bool = Field(False, description="repeat the published script's quirks")
    smallest_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="least share of the side that a random central crop leaves before it is "
        "resized back; 1: none, as for photos of the reference's size",
    )

    @property
    def sparing(self) -> dict[str, bool]:
        return {"set its `faithful`": not self.faithful}

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        if self.faithful:
            model.cast_weights("bf16")
        original = identity.instance_images.pixels.to(model.device)
        tuner = self.tuner(model, identity, job)
        checkpoints = self.train(tuner, original, job)
        if self.faithful and tuner.prior is not None:
            first = tuner.prior.latents[: self.retraining_steps]
            tuner.prior = replace(tuner.prior, latents=first)
        perturbed = Pixels(original)
        total = self.trials * len(checkpoints) * self.rounds
        state: dict[str, Stateful] = {"surrogate": tuner, "pixels": perturbed}
        for number in job.steps("metacloak", total, state):
            visit, later = divmod(number, self.rounds)
            if not later:
                checkpoints.load(visit % len(checkpoints), tuner)
            loss = self.transformed(Denoising(model, tuner.prompt, job), job)
            steps = range(number * self.pgd_steps, (number + 1) * self.pgd_steps)
            perturbed.value = self.ascend(perturbed.value, original, model, loss, job, steps)
            protected = model.posterior_once(perturbed.value)
            retraining = range(number * self.retraining_steps, (number + 1) * self.retraining_steps)
            for step in retraining:
                tuner.step(protected, step, partial(job.rng, "perturbed"))
            if self.faithful:
                tuner.forget()
            tuner.check()
        return perturbed.value

    def train(self, tuner: FineTuner, photos: Tensor, job: Job) -> Checkpoints:
        """Train the surrogate on the photos and keep its weights at evenly spaced steps."""
        checkpoints = Checkpoints(job.scratch)
        gaps = self.checkpoints - 1
        kept_at = {round(i * self.training_steps / gaps) for i in range(self.checkpoints)}
        clean = tuner.model.posterior_once(photos)
        state: dict[str, Stateful] = {"checkpoints": checkpoints, "surrogate": tuner}
        for step in job.steps("surrogate", self.training_steps, state):
            if step in kept_at:
                checkpoints.keep(tuner)
            tuner.step(clean, step, job.rng)
        tuner.check()
        checkpoints.keep(tuner)
        return checkpoints

    def transformed(self, loss: Loss, job: Job) -> Loss:
        """The loss of randomly transformed pixels: one sample of the expectation per step."""

        def seen(pixels: Tensor, step: int, rows: slice) -> Tensor:
            rng = job.rng("eot", *draws_of(step, rows))
            return loss(self.transform(pixels, rng), step, rows)

        return seen

    def transform(self, pixels: Tensor, rng: Generator) -> Tensor:
        """Each image cropped, blurred and perhaps mirrored by draws of its own; differentiable."""
        import torch

        images = []
        for image in pixels.split(1):
            side = 1 - (1 - self.smallest_crop) * _uniform(rng)
            sigma = 0.1 + (self.blur - 0.1) * _uniform(rng)
            image = blurred(image if side == 1 else cropped(image, side), sigma)
            images.append(image.flip(-1) if _uniform(rng) < 0.5 else image)
        return torch.cat(images)


class Checkpoints:
    """Weights of a surrogate at some of its steps: files in a folder, or in the CPU's memory.

    They are gigabytes each at full scale and never change, so files are written once, and not with
    every checkpoint of the job.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: list[list[Tensor] | Path] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, tuner: FineTuner) -> None:
        """Keep a copy of the weights as they are now."""
        weights = [p.detach().to("cpu", copy=True) for p in tuner.parameters]
        if self._folder is None:
            self._kept.append(weights)
            return
        path = self._file(len(self))
        store(path, weights)
        self._kept.append(path)

    def load(self, index: int, tuner: FineTuner) -> None:
        """Make the surrogate what it was when the copy was made, with an optimiser that is new."""
        import torch

        weights = self._kept[index]
        if isinstance(weights, Path):
            weights = load(weights, mmap=True)
        with torch.no_grad():
            for parameter, kept in zip(tuner.parameters, weights, strict=True):
                parameter.copy_(kept)
        tuner.forget()

    def state_dict(self) -> dict[str, Any]:
        return {"count": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        files = [self._file(index) for index in range(state["count"])]
        for file in files:
            load(file, mmap=True)  # a damaged one is found while the training can be done again
        self._kept = [*files]

    def _file(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"weights-{index}.pt"


def cropped(image: Tensor, share: float) -> Tensor:
    """The central `share` of the sides of an image (1, 3, h, w), resized back (bilinear)."""
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    rows, columns = round(share * height), round(share * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    inner = image[..., top : top + rows, left : left + columns]
    return interpolate(inner, (height, width), mode="bilinear", antialias=True)


def blurred(image: Tensor, sigma: float, kernel: int = 7) -> Tensor:
    """Gaussian blur with a kernel of 7 px, edges mirrored, as the reference's transformation."""
    import torch
    from torch.nn.functional import conv2d

    offsets = torch.arange(kernel, device=image.device) - kernel // 2
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = (weights / weights.sum()).expand(image.shape[1], 1, 1, -1)
    padded = _mirrored(_mirrored(image, kernel // 2, -1), kernel // 2, -2)
    rows = conv2d(padded, weights, groups=image.shape[1])
    return conv2d(rows, weights.mT, groups=image.shape[1])


def _mirrored(image: Tensor, width: int, dim: int) -> Tensor:
    """Reflection padding on both ends of an axis; torch's own varies in its gradient on a GPU."""
    import torch

    side = image.shape[dim]
    before = image.narrow(dim, 1, width).flip(dim)
    after = image.narrow(dim, side - 1 - width, width).flip(dim)
    return torch.cat([before, image, after], dim)


def _uniform(rng: Generator) -> float:
    import torch

    return torch.rand((), generator=rng).item()
