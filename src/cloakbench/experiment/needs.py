"""What an experiment's jobs take, counted on tensors without data (see `cloakbench.counting`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError, reason
from cloakbench.experiment.tasks import Task, model_of
from cloakbench.files.digest import code_digest, digest
from cloakbench.files.outputs import new_file
from cloakbench.identity import Identity
from cloakbench.registry import Method

if TYPE_CHECKING:
    from cloakbench.counting import CountedJob, Weightless
    from cloakbench.experiment.experiment import Experiment
    from cloakbench.files.images import Photos
    from cloakbench.models.sampling import Sampling
    from cloakbench.models.spec import ModelSpec

CLASS_IMAGES = 8  # that are encoded: more are a small share of a training's work, but much to count
CACHE = "needs.json"

Work = Callable[["Weightless", "CountedJob"], Any]


@dataclass(frozen=True)
class Need:
    """What one job takes: FLOPs, and bytes of tensors on its device and in the host's memory.

    single: of the FLOPs, those in float32. moved: bytes between device and host. written: bytes of
    the files that it keeps while it works. checkpoint: bytes of what it saves now and then, in a
    long run or if it is interrupted. weights: bytes of what was trained. operators: about as many
    kernels.
    """

    flops: float
    device: int
    host: int
    moved: float = 0.0
    written: float = 0.0
    checkpoint: int = 0
    weights: int = 0
    operators: float = 0.0
    single: float = 0.0

    @property
    def scratch(self) -> float:
        """Bytes that it may hold on disk beside its result."""
        return self.written + self.checkpoint


class Needs:
    """The needs of an experiment's jobs; those that were counted before are remembered.

    large: on cards whose memory need not be spared, see `running.gpu.LARGE`.
    """

    def __init__(self, experiment: Experiment, *, large: bool = False) -> None:
        self.experiment, self.large = experiment, large
        self.config = experiment.config
        self._path = experiment.layout.scratch / CACHE
        self._trained = 0

    def of(self, task: Task, *, frugal: bool = False) -> Need | None:
        """What a job takes, in its first try or in a frugal one; None if it runs no network.

        Raises:
            CloakBenchError: the model is not here and not known, or of another family; or the
                method, such as a plug-in's, looks at data, which counting has none of.
        """
        if (work := self._work(task)) is None:
            return None
        key = self._key(task, frugal)
        if key not in self._known:
            self._known[key] = self._count(work, task, frugal)
            with suppress(OSError), new_file(self._path) as part:
                part.write_text(json.dumps({k: asdict(need) for k, need in self._known.items()}))
        return self._known[key]

    @cached_property
    def photos(self) -> dict[str, int]:
        """How many photos an identity has, by set; all as many as the first."""
        first = self.config.chosen_identities[0]
        return {name: len(files) for name, files in self.config.dataset_spec.sets(first).items()}

    @cached_property
    def _known(self) -> dict[str, Need]:
        try:
            return {key: Need(**need) for key, need in json.loads(self._path.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _key(self, task: Task, frugal: bool) -> str:
        config = self.config
        method = self._method(task)
        model = config.models[model_of(task, self.experiment)]
        modules = [__name__, "cloakbench.counting", *([method.module] if method else [])]
        said = [path.read_text() for each in model.folders() for path in each.glob("*/config.json")]
        facts = {
            "stage": task.stage,
            "method": method and method.spec(),
            "model": [model.model_dump(mode="json"), sorted(said)],
            "sampling": [each.model_dump(mode="json") for each in self._samplings(task)],
            "prompts": self._prompts(task),
            "photos": [self.photos, self._prior, config.model_spec.resolution],
            "frugal": frugal,
            "large": self.large,
            "code": code_digest(*modules),
        }
        return digest(facts)

    def _method(self, task: Task) -> Method | None:
        stages: dict[str, Mapping[str, Method]] = {
            "protect": self.experiment.protections,
            "purify": self.experiment.purifiers,
            "personalise": self.experiment.trainers,
        }
        return stages[task.stage][task.label] if task.stage in stages else None

    def _samplings(self, task: Task) -> list[Sampling]:
        """How a job samples, if it does."""
        match task.stage:
            case "class_images":
                return [self.config.class_images]
            case "sample":
                return [self.config.sampling]
            case "personalise" if not self.config.keep_weights:
                return [self.config.sampling] * (1 + self._snapshots(task))
        return []

    def _snapshots(self, task: Task) -> int:
        """How many times a training's weights are kept for samples of fewer steps."""
        trains = task.stage == "personalise"
        return len(self.experiment.trainers[task.label].earlier()) if trains else 0

    def _work(self, task: Task) -> Work | None:
        if task.stage in {"class_images", "sample"}:
            return lambda model, job: self._sample(task, model, job)
        if (method := self._method(task)) is None or not method.uses & {"model", "gpu"}:
            return None

        def work(model: Weightless, job: CountedJob) -> None:
            identity = self._identity()
            match task.stage:
                case "protect":
                    self.experiment.protections[task.label].apply(identity, lambda: model, job)
                case "purify":
                    pixels = identity.instance_images.pixels
                    self.experiment.purifiers[task.label].apply(pixels, lambda: model, job)
                case "personalise":
                    self.experiment.trainers[task.label].fit(model, identity, job)
                    self._trained = sum(each.nbytes for each in model.trainable())
                    model.merge()
                    self._sample(task, model, job)

        return work

    def _identity(self) -> Identity:
        a, b = self.photos["set_A"], self.photos["set_B"]
        prior = self._images(self._prior)
        return Identity(self._images(b), self.config.prompts, self._images(a), prior)

    @property
    def _prior(self) -> int:
        """How many class images a training is counted with."""
        return min(CLASS_IMAGES, self.config.class_images.images)

    def _prompts(self, task: Task) -> int:
        """How many prompts a job samples, if it does."""
        return 1 if task.stage == "class_images" else len(self.config.prompts.sample)

    def _images(self, number: int) -> Photos:
        import torch

        from cloakbench.files.images import Photos

        side = self.config.model_spec.resolution
        blank = torch.zeros(1, 3, side, side).expand(number, -1, -1, -1)
        return Photos(blank, tuple(map(str, range(number))))

    def _sample(self, task: Task, model: Weightless, job: CountedJob) -> None:
        """Two short batches; what all take follows from their difference.

        With DDIM: other samplers take as many passes of the denoiser, and look at data.
        """
        for sampling in self._samplings(task):
            batch = min(sampling.batch_size, sampling.images)

            def run(steps: int, sampling: Sampling = sampling, batch: int = batch) -> None:
                short = sampling.model_copy(update={"steps": steps, "sampler": "ddim"})
                short.generate(model, "", range(batch))

            job.counts.stretch(run, sampling.steps, self._prompts(task) * sampling.images / batch)

    def _model(self, task: Task) -> ModelSpec:
        family = "cloakbench.models.families.stable_diffusion"
        spec = self.config.models[model_of(task, self.experiment)]
        if spec.folders() and spec.module != family:
            raise CloakBenchError(f"model {spec.path}: a {spec.pipeline} cannot be counted.")
        return spec

    def _count(self, work: Work, task: Task, frugal: bool) -> Need:
        from cloakbench.counting import count

        self._trained, method = 0, self._method(task)
        spec = self._model(task) if method is None or "model" in method.uses else None
        alone = method is not None and method.vae_alone
        try:
            counts = count(spec, work, frugal=frugal, vae_alone=alone, large=self.large)
        except CloakBenchError:
            raise
        except Exception as error:
            name = f"{task.stage} {task.label}"
            raise CloakBenchError(f"{name}: cannot be counted ({reason(error)}).") from error
        return Need(
            counts.flops,
            counts.gpu,
            counts.host,
            counts.moved,
            counts.disk + self._trained * self._snapshots(task),
            counts.checkpoint,
            self._trained,
            counts.operators,
            counts.single,
        )
