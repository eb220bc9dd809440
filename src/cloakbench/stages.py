"""One function per stage that runs a model: read folders, run a method, write one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cloakbench.device import Loader, with_model
from cloakbench.errors import CloakBenchError
from cloakbench.identity import Identity
from cloakbench.images import (
    Photos,
    largest_change,
    load_photos,
    save_photos,
    to_images,
)
from cloakbench.models import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier, code_of
from cloakbench.registry import Spec
from cloakbench.run import Run, seen
from cloakbench.sampling import Samples, Sampling, sampling_code
from cloakbench.weights import Checked, weight_files


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
        return _others(folder, option, protection.name, photos, instance)

    identity = Identity(
        photos,
        prompts,
        others("surrogate_images", surrogate, "--surrogate"),
        others("class_images", class_images, "--class-images"),
    )
    manifest = run.manifest("protect", protection.spec())
    work = [manifest, protections.digest(protection.name), model, prompts]
    work += _weights(protection, *([model] if "model" in protection.uses else []))
    job = run.job("protect", work, Path(model.path), instance, surrogate, class_images)
    if run.restored(job, manifest):
        return
    protected = with_model(lambda load: protection.protect(identity, load, job), model, run.device)
    with run.output(job, manifest) as folder:
        save_photos(protected, folder)
        saved = to_images(load_photos(folder).pixels)
        change = largest_change(saved, to_images(identity.instance_images.pixels))
        if change > protection.budget:
            raise CloakBenchError(
                f"{run.out}: the saved photos differ by {change}/255 from the originals, the "
                f"budget is {protection.budget}/255. A bug in '{protection.name}'."
            )


def purify(
    spec: Spec | str | list[Spec | str],
    *,
    model: ModelSpec,
    photos: Path,
    run: Run,
) -> None:
    """Purify a folder of photos.

    model: used by purifications that need it, and by none other.
    """
    purifier = build_purifier(spec)
    manifest = run.manifest("purify", purifier.spec())
    work = [manifest, code_of(purifier), model]
    work += _weights(purifier, *([model] if "model" in purifier.uses else []))
    job = run.job("purify", work, Path(model.path), photos)
    if run.restored(job, manifest):
        return
    given = load_photos(photos)
    cleaned = with_model(lambda load: purifier.purify(given, load, job), model, run.device)
    with run.output(job, manifest) as folder:
        save_photos(cleaned, folder)


def personalise(
    spec: Spec,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
    run: Run,
    sampling: Sampling | None = None,
) -> None:
    """Teach a model an identity; `out` holds the trained weights.

    sampling: sample from the model at once; `out` holds the images, which are those that `sample`
        makes of the weights, and the weights are written nowhere.
    """
    trainer = trainers.build(spec)
    photos, prior = load_photos(instance), None
    if trainer.prior_weight > 0:
        prior = _others(class_images, "--class-images", trainer.name, photos, instance)
    identity = Identity(photos, prompts, class_images=prior)
    samples = None
    if sampling is not None:
        samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
    manifest = run.manifest("personalise", trainer.training_spec())
    work = [manifest, trainers.digest(trainer.name), model, prompts, *_weights(model)]
    if samples is not None:
        manifest = run.manifest("sample", samples.settings())
        work += [manifest, sampling_code()]
    job = run.job("personalise", work, Path(model.path), instance, class_images)
    if run.restored(job, manifest):
        return

    def finish(load: Loader) -> None:
        diffusion = load()
        trainer.fit(diffusion, identity, job)
        with run.output(job, manifest) as folder:
            if samples is None:
                trainer.save(diffusion, folder)
            else:
                trainer.merge(diffusion)
                samples.write(diffusion, replace(job, seed=run.job_seed("sample")), folder)

    with_model(finish, model, run.device)


def sample(
    sampling: Sampling,
    *,
    model: ModelSpec,
    prompts: dict[str, str],
    weights: Path | None,
    run: Run,
    suffix: str = "",
    negative_prompt: str = "",
) -> None:
    """Generate images for every prompt, `out/<key>/<index>.png`; finished batches survive a kill.

    weights: what `personalise` wrote; None samples the base model. An image's noise depends on the
    seed, the identity, the prompt's key and its index alone.
    """
    samples = Samples(sampling, prompts, suffix, negative_prompt)
    manifest = run.manifest("sample", samples.settings())
    work = [manifest, sampling_code(), model, *_weights(model)]
    job = run.job("sample", work, Path(model.path), weights)
    if run.restored(job, manifest):
        return

    def generate(load: Loader) -> None:
        diffusion = load()
        if weights is not None:
            diffusion.adopt(weights)
        with run.output(job, manifest) as folder:
            samples.write(diffusion, job, folder)

    with_model(generate, model, run.device)


def class_images(
    sampling: Sampling,
    *,
    model: ModelSpec,
    prompts: Prompts,
    run: Run,
) -> None:
    """Sample class images from the base model into `out/class/`."""
    sample(
        sampling,
        model=model,
        prompts={"class": prompts.class_prompt},
        weights=None,
        run=run,
    )


def _others(folder: Path | None, option: str, method: str, photos: Photos, of: Path) -> Photos:
    """The other photos that a method needs beside `photos`, the instance images of a folder."""
    if folder is None:
        raise CloakBenchError(
            f"'{method}' needs {option} FOLDER. Give it, or choose another method."
        )
    others = load_photos(folder)
    if others.pixels.shape[1:] != photos.pixels.shape[1:]:
        (height, width), (h, w) = (each.pixels.shape[-2:] for each in (others, photos))
        raise CloakBenchError(
            f"{folder}: photos of {width}x{height} px, but {of} has {w}x{h} px. Bring them to one "
            "size: `cloakbench data` for photos, --model for class images."
        )
    return others


def _weights(*checked: Checked) -> list[tuple[str, int, int]]:
    """What `Run.job` says, of the weight files behind methods and models."""
    return [seen(path) for path in sorted(weight_files(*checked))]
