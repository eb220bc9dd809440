"""The `protect` stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cloakbench.errors import CloakBenchError, every
from cloakbench.files.images import (
    Photos,
    largest_change,
    load_photos,
    save_photos,
    to_images,
)
from cloakbench.identity import Identity
from cloakbench.models.device import with_model
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.protect import Protection, protections
from cloakbench.registry import Spec
from cloakbench.running.record import Facts
from cloakbench.running.run import Run
from cloakbench.stages.inputs import other_photos


def facts(
    protection: Protection, model: ModelSpec, prompts: Prompts, cache: Path | None = None
) -> Facts:
    """What protected photos are made of, besides photos, class images, seed and identity."""
    settings = protection.recorded()
    if "model" not in protection.uses:
        return Facts.of("protect", __name__, settings, protection, cache=cache)
    texts = {"instance": prompts.instance_prompt, "class": prompts.class_prompt}
    return Facts.of(
        "protect", __name__, settings, protection, model=model, cache=cache, prompts=texts
    )


def protect(
    spec: Spec,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    surrogate: Path | None,
    class_images: Path | None,
    run: Run,
) -> None:
    """Protect an identity's instance images and check the budget on the saved files.

    Raises:
        CloakBenchError: a folder that the protection needs is not given, or see `Protection`.
    """
    protection = protections.build(spec)
    photos = load_photos(instance)

    def others(what: str, folder: Path | None, option: str) -> Photos | None:
        if what not in protection.uses:
            return None
        return other_photos(folder, option, protection.name, photos, instance)

    needed = (
        partial(others, "surrogate_images", surrogate, "--surrogate"),
        partial(others, "class_images", class_images, "--class-images"),
    )
    identity = Identity(photos, prompts, *every(needed))
    record = run.record(
        facts(protection, model, prompts, run.digests),
        *model.folders(),
        instance=instance,
        surrogate=surrogate if "surrogate_images" in protection.uses else None,
        class_images=class_images if "class_images" in protection.uses else None,
        **protection.folders,
    )
    job = run.job(record)
    if run.restored(job, record):
        return
    work = partial(protection.protect, identity, job=job)
    protected = with_model(work, model, run.device, vae_alone=protection.vae_alone)
    with run.output(job, record) as folder:
        save_photos(protected, folder)
        _check_budget(protection, photos, load_photos(folder), run.out)


def _check_budget(protection: Protection, photos: Photos, saved: Photos, out: Path) -> None:
    change = largest_change(to_images(saved.pixels), to_images(photos.pixels))
    if change > protection.budget:
        raise CloakBenchError(
            f"{out}: the saved photos differ by {change}/255 from the originals, the "
            f"budget is {protection.budget}/255. A bug in '{protection.name}'."
        )
