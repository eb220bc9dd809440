"""What trainers share: how their model is sampled, DreamBooth's loop, CDL's three switches."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from cloakbench.errors import CloakBenchError, advising, some_of
from cloakbench.files.outputs import new_folder
from cloakbench.phrase import Contrastive, NoisePhrase
from cloakbench.prior import PriorPreservation
from cloakbench.registry import Registry, Spec

if TYPE_CHECKING:
    from cloakbench.files.weights import WeightFile
    from cloakbench.identity import Identity
    from cloakbench.models.base import DiffusionModel
    from cloakbench.models.tuning import FineTuner
    from cloakbench.prompts import Prompts
    from cloakbench.running.jobs import Job

SAMPLING_SETTINGS = frozenset({"suffix_in_sampling", "negative_in_sampling", "negative_prompt"})
"""Settings of a trainer that only the `sample` stage reads: changing them retrains nothing."""


class Trainer(NoisePhrase):
    """Teaches a diffusion model a person, and says how the model is sampled then.

    Sampling has two of the three switches of contrastive decoupling learning (CDL): the suffix that
    denies the noise phrase, and a negative prompt. Source: see `FineTuning`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    learns: ClassVar[bool] = True

    suffix_in_sampling: bool = Field(
        False, description="CDL: ', without <phrase>' after every sampling prompt"
    )
    negative_in_sampling: bool = Field(
        False, description="CDL: guide sampling away from the negative prompt"
    )
    negative_prompt: str = Field(
        "noisy, lowres, artifact, pattern", description="the negative prompt, where it is on"
    )

    def sampling(self) -> dict[str, str]:
        """What `sample` adds to each prompt (`suffix`) and guides away from (`negative_prompt`)."""
        return {
            "suffix": f", without {self.noise_phrase}" if self.suffix_in_sampling else "",
            "negative_prompt": self.negative_prompt if self.negative_in_sampling else "",
        }

    def training_spec(self) -> Spec:
        """The settings that training depends on."""
        return {k: v for k, v in self.spec().items() if k not in SAMPLING_SETTINGS}

    def training_prompts(self, prompts: Prompts) -> dict[str, str]:
        """The prompts that it trains on, by the images that they go with."""
        return {}

    def earlier(self) -> Mapping[int, Self]:
        """What its training is after fewer steps, at which samples are made, too, by their number.

        Of each, `fit` leaves weights at `snapshot`, if the job has a scratch folder.
        """
        return {}

    @abstractmethod
    def fit(self, model: DiffusionModel, identity: Identity, job: Job) -> None:
        """Train `model` in place on the identity's instance (and class) images."""


class FineTuning(Contrastive, PriorPreservation, Trainer):
    """DreamBooth with prior preservation; a child says which weights are trained.

    CDL is three independent switches: the noise phrase in the training prompts, its suffix at
    sampling, and a negative prompt at sampling.
    Sources: Ruiz et al. 2023 (arXiv 2208.12242); Liu et al. 2024 (arXiv 2406.18944), section 5.2,
    with the strings of its published code (recipes 3.2).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "class_images"})
    steps: int = Field(1000, ge=1, description="training steps")
    snapshots: tuple[int, ...] = Field(
        (), description="steps after which samples are made, too, as of trainers of so many steps"
    )
    learning_rate: float = Field(5e-7, gt=0, description="AdamW's learning rate")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    batch_size: int = Field(1, ge=1, description="instance images per step, and class images")
    prior_weight: float = Field(1.0, ge=0, description="weight of the class images' loss; 0: none")
    train_text_encoder: bool = Field(True, description="train the text encoder with the U-Net")
    eight_bit: bool = Field(
        False, description="AdamW's moments in 8 bits, by bitsandbytes: a quarter of their memory"
    )

    @model_validator(mode="after")
    def _snapshots_rise(self) -> Self:
        ends = (0, *self.snapshots, self.steps)
        if any(later <= sooner for sooner, later in pairwise(ends)):
            raise ValueError(
                f"snapshots rise, and lie between 0 and the last of {self.steps} steps"
            )
        return self

    def earlier(self) -> Mapping[int, Self]:
        return {
            step: self.model_copy(update={"steps": step, "snapshots": self.snapshots[:number]})
            for number, step in enumerate(self.snapshots)
        }

    @property
    def lighter(self) -> str:
        """What to do where memory runs out, as "choose ..."."""
        return some_of(
            {
                "lower its `batch_size`": self.batch_size > 1,
                "set its `eight_bit`": not self.eight_bit,
                "choose the trainer 'lora'": True,
            }
        )

    @property
    def is_control(self) -> bool:
        """Whether CDL is off, in all its parts."""
        return not (self.phrase_in_training or self.suffix_in_sampling or self.negative_in_sampling)

    def training_prompts(self, prompts: Prompts) -> dict[str, str]:
        texts = {"instance": self.instance_prompt(prompts), "class": self.class_prompt(prompts)}
        return {
            kind: text for kind, text in texts.items() if kind == "instance" or self.prior_weight
        }

    def files(self) -> Iterable[WeightFile]:
        if self.eight_bit and importlib.util.find_spec("bitsandbytes") is None:
            raise CloakBenchError(
                f"{self.name}: the package bitsandbytes, which has the 8-bit optimiser, is not "
                'installed. Run `pip install "cloakbench[eight-bit]"`, or set eight_bit to false.'
            )
        return ()

    def fit(self, model: DiffusionModel, identity: Identity, job: Job) -> None:
        """Train `model` in place on the identity's instance (and class) images.

        Raises:
            CloakBenchError: the loss became NaN, at most 50 steps after it did.
        """
        with advising(self.lighter):
            tuner = self.tuner(model, identity, job)
            instance = model.posterior_once(identity.instance_images.pixels)
            for step in job.steps("personalise", self.steps, {"tuner": tuner}):
                tuner.step(instance, step, job.rng)
                if step % 50 == 49:
                    tuner.check()
                if step + 1 in self.snapshots and job.scratch is not None:
                    with new_folder(
                        snapshot(job.scratch, step + 1), {"stage": "personalise"}
                    ) as kept:
                        model.save(kept)
            tuner.check()

    def tuner(self, model: DiffusionModel, identity: Identity, job: Job) -> FineTuner:
        """The model with what is trained of it, its optimiser, and class images."""
        from cloakbench.models.tuning import FineTuner

        prior = self.prior(model, identity.class_images, self.class_prompt(identity.prompts))
        self.prepare(model, job)
        return FineTuner(
            model,
            self.instance_prompt(identity.prompts),
            prior,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            eight_bit=self.eight_bit,
        )

    @abstractmethod
    def prepare(self, model: DiffusionModel, job: Job) -> None:
        """Thaw or add the weights that are trained; the model saves what was thawed or added."""


def snapshot(scratch: Path, step: int) -> Path:
    """Where a training leaves its weights after a number of steps, for the job that it is in."""
    return scratch / f"after-{step}"


trainers: Registry[Trainer] = Registry("trainer", "cloakbench.personalise", "cloakbench.trainers")
