"""The `personalise` stage: a model learns an identity, and its weights are kept."""

from __future__ import annotations

from pathlib import Path

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import load_photos
from cloakbench.identity import Identity
from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import Trainer, trainers
from cloakbench.prompts import Prompts
from cloakbench.registry import Spec
from cloakbench.running.record import Facts
from cloakbench.running.run import Run
from cloakbench.stages.inputs import other_photos


def facts(trainer: Trainer, model: ModelSpec, prompts: Prompts, cache: Path | None = None) -> Facts:
    """What trained weights are made of, besides photos, class images, seed and identity."""
    settings, texts = trainer.training_spec(), trainer.training_prompts(prompts)
    return Facts.of(
        "personalise", __name__, settings, trainer, model=model, cache=cache, prompts=texts
    )


def personalise(
    spec: Spec,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
    run: Run,
) -> None:
    """Teach a model an identity; `out` holds the trained weights.

    Raises:
        CloakBenchError: the trainer has snapshots, which are sampled at once.
    """
    trainer = trainers.build(spec)
    if trainer.earlier():
        raise CloakBenchError(
            f"'{trainer.name}' has snapshots, which are sampled: give --sampling."
        )
    identity = training_images(trainer, model, prompts, instance, class_images)
    record = run.record(
        facts(trainer, model, prompts, run.digests),
        *model.folders(),
        **learnt_from(trainer, instance, class_images),
    )
    job = run.job(record)
    if run.restored(job, record):
        return

    def finish(load: Loader) -> None:
        diffusion = load()
        trainer.fit(diffusion, identity, job)
        with run.output(job, record) as folder:
            diffusion.save(folder)

    with_model(finish, model, run.device)


def learnt_from(
    trainer: Trainer, instance: Path, class_images: Path | None
) -> dict[str, Path | None]:
    """The folders that go into what a trainer makes."""
    used = class_images if "class_images" in trainer.uses else None
    return {"instance": instance, "class_images": used}


def training_images(
    trainer: Trainer,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
) -> Identity:
    """What a trainer learns from: instance images and, if it uses them, class images.

    Raises:
        CloakBenchError: a folder is missing, the two have photos of two sizes, or the model makes
            images of another.
    """
    photos, prior = load_photos(instance), None
    (height, width), side = photos.pixels.shape[-2:], model.resolution
    if trainer.learns and (height, width) != (side, side):
        raise CloakBenchError(
            f"{instance}: photos of {width}x{height} px, but the model makes {side}x{side} px. Cut "
            "them with `cloakbench data`, or set the model's `resolution`."
        )
    if "class_images" in trainer.uses:
        prior = other_photos(class_images, "--class-images", trainer.name, photos, instance)
    return Identity(photos, prompts, class_images=prior)
