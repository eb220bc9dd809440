"""Protections by projected gradient ascent: their step, and what they look through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator

from cloakbench.phrase import Contrastive
from cloakbench.protect.base import ModelProtection
from cloakbench.protect.pgd import draws_of, pgd
from cloakbench.purify.base import Purifier, build_purifier, complete_specs

if TYPE_CHECKING:
    from torch import Tensor

    from cloakbench.models.base import DiffusionModel
    from cloakbench.protect.pgd import Loss
    from cloakbench.registry import Part
    from cloakbench.running.jobs import Job

View = Callable[["Tensor", int, slice], "Tensor"]
"""Maps what a `Loss` is given to the pixels (n, 3, h, w) that it sees."""

FEW = 5  # denoising steps that a gradient goes through, of a purification by diffusion


class Ascent(ModelProtection):
    """Shared by all protections that ascend a loss of the pixels; they write the loss.

    With `through`, the loss is that of purified pixels: the protection adapts to who purifies. The
    gradient is exact where a purification has one and passes straight through it elsewhere, as in
    Athalye et al. 2018, arXiv 1802.00420, section 4.1. Of several purifications the mean loss
    counts, whichever will be chosen; random ones draw anew at every step (section 4.2), and one
    that is named k times is a mean over k draws. A purification that needs the experiment's model
    runs on the one whose loss is ascended: where that one is trained, `latent_diffpure` is not the
    purifier's to the letter; and where its weights are bfloat16, `impress` descends so.
    """

    variants: ClassVar = {
        "adaptive-codesr": {"through": ["codesr"]},
        "adaptive-all": {
            "through": ["none", "jpeg", "codesr", {"method": "diffpure", "steps": FEW}]
        },
    }

    relative_step: float = Field(0.1, gt=0, le=1, description="PGD step as a share of the budget")
    through: list[dict[str, Any]] = Field(
        [], description="purifications over which the loss is averaged; a list in it is a chain"
    )

    _complete_through = field_validator("through", mode="before")(complete_specs)

    @property
    def purifiers(self) -> list[Purifier]:
        """What the loss looks through."""
        return [build_purifier(spec) for spec in self.through]

    @property
    def parts(self) -> Sequence[Part]:
        return [*super().parts, *self.purifiers]

    def of_class(self, noun: str) -> Self:
        through = [purifier.of_class(noun).spec() for purifier in self.purifiers]
        return super().of_class(noun).model_copy(update={"through": through})

    def plain(self) -> Self:
        """The same protection, which does not adapt to anybody."""
        return self.model_copy(update={"through": []})

    def step_size(self, step: int) -> float:
        """The length of a PGD step, in units of [0, 1]."""
        return self.relative_step * self.radius

    def ascend(
        self,
        pixels: Tensor,
        original: Tensor,
        model: DiffusionModel,
        loss: Loss,
        job: Job,
        steps: range,
    ) -> Tensor:
        """Steps of PGD on a loss of the model, whose weights stay as they are."""
        with model.frozen():
            return pgd(
                *(pixels, original, self.adaptive(loss, model, job)),
                radius=self.radius,
                step_size=self.step_size,
                steps=steps,
            )

    def adaptive(self, loss: Loss, model: DiffusionModel, job: Job) -> Loss:
        """The mean loss of what each purification makes of the pixels; the loss itself without any.

        Of several, the activations of one are there at a time.
        """
        import torch

        from cloakbench.models.gradients import recomputed

        views = self.views(model, job)

        def seen_through(view: View, pixels: Tensor, step: int, rows: slice) -> Tensor:
            return loss(view(pixels, step, rows), step, rows)

        def mean(pixels: Tensor, step: int, rows: slice) -> Tensor:
            losses = [recomputed(seen_through, view, pixels, step, rows) for view in views]
            return torch.stack(losses).mean(0)

        return mean if len(views) > 1 else partial(seen_through, views[0])

    def views(self, model: DiffusionModel, job: Job) -> list[View]:
        """What the loss sees of pixels: one for each purification; the pixels without any."""

        def view(number: int, purifier: Purifier) -> View:
            def purified(pixels: Tensor, step: int, rows: slice) -> Tensor:
                draws = job.part("through", number, *draws_of(step, rows))
                return purifier.through(pixels, model, draws)

            return purified

        found = [view(number, purifier) for number, purifier in enumerate(self.purifiers)]
        return found or [lambda pixels, step, rows: pixels]


class PromptedAscent(Contrastive, Ascent):
    """Shared by those whose loss is the denoiser's under a prompt.

    With `phrase_in_training` it is the prompt of CDL's training, and surrogates are trained so.
    """

    variants: ClassVar = {**Ascent.variants, "adaptive-cdl": {"phrase_in_training": True}}

    def plain(self) -> Self:
        return super().plain().model_copy(update={"phrase_in_training": False})
