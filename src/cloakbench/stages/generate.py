"""The `personalise` stage without weights to keep: a model learns an identity and is sampled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.registry import Spec
from cloakbench.running.run import Run
from cloakbench.stages.inputs import dependencies
from cloakbench.stages.personalise import training_images


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
    """
    trainer = trainers.build(spec)
    identity = training_images(trainer, prompts, instance, class_images)
    samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
    manifest = run.manifest("sample", samples.settings())
    training = run.manifest("personalise", trainer.training_spec())
    work = [training, manifest, dependencies(__name__, trainer, model), prompts]
    job = run.job("personalise", work, *model.folders(), instance, class_images)
    if run.restored(job):
        return

    def finish(load: Loader) -> None:
        diffusion = load()
        trainer.fit(diffusion, identity, job)
        with run.output(job, manifest) as folder:
            diffusion.merge()
            samples.write(diffusion, replace(job, seed=run.job_seed("sample")), folder)

    with_model(finish, model, run.device)
