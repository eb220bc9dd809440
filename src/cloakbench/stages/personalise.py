"""The `personalise` stage: a model learns an identity, and its weights are kept."""

from __future__ import annotations

from pathlib import Path

from cloakbench.files.images import load_photos
from cloakbench.identity import Identity
from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.registry import Spec
from cloakbench.running.run import Run
from cloakbench.stages.inputs import dependencies, other_photos


def personalise(
    spec: Spec,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
    run: Run,
) -> None:
    """Teach a model an identity; `out` holds the trained weights."""
    trainer = trainers.build(spec)
    identity = training_images(trainer, prompts, instance, class_images)
    manifest = run.manifest("personalise", trainer.training_spec())
    work = [manifest, dependencies(__name__, trainer, model), prompts]
    job = run.job("personalise", work, *model.folders(), instance, class_images)
    if run.restored(job):
        return

    def finish(load: Loader) -> None:
        diffusion = load()
        trainer.fit(diffusion, identity, job)
        with run.output(job, manifest) as folder:
            diffusion.save(folder)

    with_model(finish, model, run.device)


def training_images(
    trainer: Trainer, prompts: Prompts, instance: Path, class_images: Path | None
) -> Identity:
    """What a trainer learns from: instance images and, if it uses them, class images.

    Raises:
        CloakBenchError: a folder is missing, or the two have photos of two sizes.
    """
    photos, prior = load_photos(instance), None
    if "class_images" in trainer.uses:
        prior = other_photos(class_images, "--class-images", trainer.name, photos, instance)
    return Identity(photos, prompts, class_images=prior)
