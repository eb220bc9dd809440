"""The `personalise` stage without weights to keep: a model learns an identity and is sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cloakbench.files.layout import SNAPSHOT
from cloakbench.files.verified import verified
from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.personalise.base import snapshot
from cloakbench.prompts import Prompts
from cloakbench.registry import Spec
from cloakbench.running.record import Facts
from cloakbench.running.run import Run
from cloakbench.stages.personalise import learnt_from, training_images

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel
    from cloakbench.running.jobs import Job


def facts(
    trainer: Trainer,
    sampling: Sampling,
    model: ModelSpec,
    prompts: Prompts,
    cache: Path | None = None,
) -> Facts:
    """What samples are made of, besides photos, class images, seed and identity."""
    samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
    settings = {"training": trainer.training_spec(), "sampling": samples.settings()}
    texts = trainer.training_prompts(prompts)
    return Facts.of(
        "personalise", __name__, settings, trainer, model=model, cache=cache, prompts=texts
    )


def generate(
    spec: Spec,
    sampling: Sampling,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
    run: Run,
) -> None:
    """Teach a model an identity and sample it at once; `out` holds the images, which are those that
    `sample` makes of the weights, and the weights are written nowhere.

    Of a trainer's snapshots there are as many folders more, `@<steps>/<key>/<index>.png`: just what
    a trainer of so many steps makes.
    """
    trainer = trainers.build(spec)
    identity = training_images(trainer, model, prompts, instance, class_images)
    samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
    record = run.record(
        facts(trainer, sampling, model, prompts, run.digests),
        *model.folders(),
        **learnt_from(trainer, instance, class_images),
    )
    job = run.job(record)
    if run.restored(job, record):
        return

    def finish(load: Loader, scratch: Path) -> None:
        diffusion = load()
        own = replace(job, scratch=scratch) if trainer.earlier() else job
        trainer.fit(diffusion, identity, own)
        drawing = replace(job, seed=run.job_seed("sample"))
        with run.output(job, record) as folder:
            diffusion.merge()
            samples.write(diffusion, drawing, folder)
            del diffusion  # before another one is loaded
            for step in trainer.earlier():
                place = folder / f"{SNAPSHOT}{step}"
                _write_beside(samples, load(), snapshot(scratch, step), drawing, place)

    with TemporaryDirectory() as temporary:
        scratch = job.scratch or Path(temporary)
        with_model(lambda load: finish(load, scratch), model, run.device)


def _write_beside(
    samples: Samples, model: DiffusionModel, weights: Path, job: Job, folder: Path
) -> None:
    """Write samples with weights into a folder of their own, with checkpoints of their own."""
    model.adopt(verified(weights))
    folder.mkdir()
    samples.write(model, replace(job, scratch=job.scratch and job.scratch / folder.name), folder)
