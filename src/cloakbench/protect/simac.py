"""SimAC: ASPL at the timesteps at which each photo's gradient is large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationInfo, field_validator

from cloakbench.protect.aspl import ASPL
from cloakbench.protect.base import protections
from cloakbench.protect.pgd import ascended, batches
from cloakbench.protect.surrogate import Denoising
from cloakbench.running.jobs import Pixels

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.protect.ascent import View
    from cloakbench.protect.pgd import Loss
    from cloakbench.running.jobs import Job, Stateful


Gradients = Callable[["Tensor", int, "Tensor"], "Tensor"]
"""Maps pixels (n, 3, h, w), the number of a round and timesteps (n, m) to the gradients of each
image's loss at each of its timesteps, (n, m, 3, h, w)."""


@protections.register("simac")
class SimAC(ASPL):
    """Simple anti-customisation: a greedy search for timesteps on the pre-trained model, then ASPL.

    Each round of the search draws candidates from what is left of a photo's timesteps, deletes the
    neighbourhood of the one with the smallest gradient and takes a PGD step with the largest; ASPL
    starts from the photos again. With a `feature_weight` PGD also drives what the last decoder
    block's residual layers make away from what they make of the clean photo, by the mean over
    layers; in the published script, which looks before the residual is added, this term has no
    gradient and compares with the photo at the start of a round (recipes 1.13).
    """

    source = "Wang et al. 2024, SimAC, arXiv 2312.07865, section 4; time_feature.py (recipes 1.13)"
    presets = {
        "paper": {"budget": "8/255", "relative_step": 0.08, "faithful": True},
        "mini": {"learning_rate": 2e-4, "rounds": 40},
        "tiny": {"rounds": 2, "pgd_steps": 1, "training_steps": 1, "search_rounds": 2},
    }

    search_rounds: int = Field(50, ge=0, description="most rounds of the search")
    candidates: int = Field(5, ge=2, description="timesteps tried in a round")
    neighbourhood: int = Field(20, ge=0, description="timesteps deleted on each side of the worst")
    enough: int = Field(100, ge=2, description="the search ends at this many timesteps or fewer")
    feature_weight: float = Field(0.0, ge=0, description="weight of the features' distance")

    @field_validator("enough")
    @classmethod
    def _some_remain(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("candidates", 0) + 2 * info.data.get("neighbourhood", 0)
        if value < least:
            raise ValueError(f"at least {least} are needed, so that a last round leaves some")
        return value

    def perturb(self, identity: Identity, model: DiffusionModel, job: Job) -> Tensor:
        original = identity.instance_images.pixels.to(model.device)
        kept = Timesteps(len(original), model.horizon)
        with model.frozen():
            self.search(self.tried(identity, model, job.part("search")), original, kept, job)
        return self.alternate(identity, model, job, partial(self.objective, kept, original))

    def tried(self, identity: Identity, model: DiffusionModel, job: Job) -> Gradients:
        """The gradients of the loss at candidates, which share a step's noise and its latents."""
        import torch

        from cloakbench.models.replay import launching

        denoising = Denoising(model, self.instance_prompt(identity.prompts), job)
        views = self.views(model, job)

        def of_view(view: View, pixels: Tensor, number: int, rows: slice, tried: Tensor) -> Tensor:
            pixels = pixels.detach().requires_grad_(True)
            with launching():  # whose gradient is taken several times
                encoded, rng = denoising.latents(view(pixels, number, rows), number, rows)
            latents, drawn = encoded.detach().requires_grad_(True), rng.get_state()
            found: list[Tensor] = []
            for column in tried.T:
                rng.set_state(drawn)
                loss = denoising.of_latents(latents, rng, column).sum()
                (outer,) = torch.autograd.grad(loss, latents)
                found += torch.autograd.grad(encoded, pixels, outer, retain_graph=True)
            return torch.stack(found, dim=1)

        def gradients(pixels: Tensor, number: int, tried: Tensor) -> Tensor:
            parts = []
            for part, rows in batches(pixels):
                seen = [of_view(view, part, number, rows, tried[rows]) for view in views]
                parts.append(torch.stack(seen).sum(0))
            return torch.cat(parts)

        return gradients

    def search(self, tried: Gradients, original: Tensor, kept: Timesteps, job: Job) -> None:
        """Delete from `kept` the timesteps at which the loss has small gradients.

        Raises:
            CloakBenchError: gradients became NaN, of which none is small.
        """
        import torch

        perturbed = Pixels(original)
        state: dict[str, Stateful] = {"pixels": perturbed, "kept": kept}
        for number in job.steps("search", self.search_rounds, state):
            searching = kept.counts() > self.enough
            if not searching.any():
                continue  # not break: a loop that ends is saved
            candidates = kept.candidates(self.candidates, job.rng("candidates", number))
            gradients = tried(perturbed.value, number, candidates)
            sizes = gradients.abs().flatten(2).sum(2)
            each = torch.arange(len(original))
            worst, best = sizes.argmin(1).cpu(), sizes.argmax(1).cpu()
            kept.delete(candidates[each, worst], self.neighbourhood, searching)
            pixels = perturbed.value
            steepest = gradients[each, best]
            moved = ascended(pixels, steepest, original, self.radius, self.step_size(number))
            moving = searching.view(-1, 1, 1, 1).to(original.device)
            perturbed.value = torch.where(moving, moved, pixels)
        self.check_finite(perturbed.value)

    def objective(
        self, kept: Timesteps, original: Tensor, model: DiffusionModel, prompt: str, job: Job
    ) -> Loss:
        """The denoising loss at kept timesteps, with the features' distance where it has weight."""
        plain = Denoising(model, prompt, job)

        def loss(pixels: Tensor, step: int, rows: slice) -> Tensor:
            return plain(pixels, step, rows, kept.draw(job.rng("timesteps", step))[rows])

        return loss if self.feature_weight == 0 else self._with_features(loss, original, model)

    def _with_features(self, plain: Loss, original: Tensor, model: DiffusionModel) -> Loss:
        import torch

        def loss(pixels: Tensor, step: int, rows: slice) -> Tensor:
            layers = model.last_layers
            with recorded(layers) as features:
                losses = plain(pixels, step, rows)
            with recorded(layers) as clean, torch.no_grad():  # the same draws: the photo differs
                plain(original[rows], step, rows)
            distances = [
                (ours - theirs).float().square().flatten(1).mean(1)
                for ours, theirs in zip(features, clean, strict=True)
            ]
            return losses + self.feature_weight * torch.stack(distances).mean(0)

        return loss


class Timesteps:
    """The timesteps that each of n images still has: a mask of shape (n, horizon)."""

    def __init__(self, images: int, horizon: int) -> None:
        import torch

        self.mask = torch.ones(images, horizon, dtype=torch.bool)

    def counts(self) -> Tensor:
        """How many are left for each image, shape (n,)."""
        return self.mask.sum(1)

    def candidates(self, count: int, rng: Generator) -> Tensor:
        """Different ones for each image, shape (n, count)."""
        import torch

        return torch.multinomial(self.mask.float(), count, generator=rng)

    def draw(self, rng: Generator) -> Tensor:
        """One for each image, shape (n,)."""
        return self.candidates(1, rng)[:, 0]

    def delete(self, centres: Tensor, width: int, where: Tensor) -> None:
        """Delete those within `width` of each image's centre (n,), for images in `where` (n,)."""
        import torch

        distances = (torch.arange(self.mask.shape[1]) - centres[:, None]).abs()
        self.mask &= ~((distances <= width) & where[:, None])

    def state_dict(self) -> dict[str, Any]:
        return {"mask": self.mask}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mask = state["mask"]


@contextmanager
def recorded(networks: Any) -> Iterator[list[Tensor]]:
    """The outputs of networks, in the order in which they are computed inside."""
    outputs: list[Tensor] = []
    hooks = [
        network.register_forward_hook(lambda _network, _inputs, output: outputs.append(output))
        for network in networks
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
