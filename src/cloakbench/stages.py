"""One function per stage that runs a model: read folders, run a method, write one folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cloakbench.errors import CloakBenchError
from cloakbench.identity import Identity
from cloakbench.images import (
    Photos,
    largest_change,
    load_photos,
    save_photos,
    to_images,
)
from cloakbench.jobs import Job, job_seed
from cloakbench.models import ModelSpec
from cloakbench.outputs import check_output, new_folder
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier
from cloakbench.registry import Spec
from cloakbench.sampling import Sampling

if TYPE_CHECKING:
    from cloakbench.diffusion import LatentDiffusion


@dataclass(frozen=True)
class Run:
    """How a stage runs, whatever its method.

    out: the folder to write. subject: the identity's name, for seeds. scratch: folder for
    checkpoints; None keeps none.
    """

    out: Path
    subject: str
    seed: int = 0
    device: str = "cpu"
    scratch: Path | None = None

    def job(self, stage: str, settings: Any, *inputs: Path | None) -> Job:
        """The job of this run, with a scratch folder that only the same work can resume.

        Checkpoints of the same output under other settings or inputs are deleted.

        Raises:
            CloakBenchError: the output would replace an input.
        """
        check_output(self.out, *inputs)
        own = None
        if self.scratch is not None:
            place = self.scratch / _digest(str(self.out.absolute()))
            own = place / _digest([settings, self.seed, self.device, *map(_contents, inputs)])
            for other in place.glob("*"):
                if other != own:
                    shutil.rmtree(other, ignore_errors=True)
        return Job(job_seed(self.seed, stage, self.subject), self.device, own)

    def manifest(self, stage: str, settings: Any) -> dict[str, Any]:
        """What `job.json` says of this run."""
        return {"stage": stage, "settings": settings, "identity": self.subject, "seed": self.seed}


def close_job(job: Job) -> None:
    """Forget a finished job's checkpoints."""
    if job.scratch is not None:
        shutil.rmtree(job.scratch, ignore_errors=True)


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
    identity = Identity(
        load_photos(instance),
        prompts,
        _wanted(surrogate, "surrogate_images" in protection.needs, protection.name, "--surrogate"),
        _wanted(
            class_images, "class_images" in protection.needs, protection.name, "--class-images"
        ),
    )
    settings = protection.spec()
    job = run.job("protect", [settings, model, prompts], instance, surrogate, class_images)
    photos = protection.protect(identity, lambda: _load(model, run), job)
    with new_folder(run.out, run.manifest("protect", settings)) as folder:
        save_photos(photos, folder)
        saved = to_images(load_photos(folder).pixels)
        change = largest_change(saved, to_images(identity.instance_images.pixels))
        if change > protection.budget:
            raise CloakBenchError(
                f"{run.out}: the saved photos differ by {change}/255 from the originals, the "
                f"budget is {protection.budget}/255. A bug in '{protection.name}'."
            )
    close_job(job)


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
    job = run.job("purify", [purifier.spec(), model], photos)
    cleaned = purifier.purify(load_photos(photos), lambda: _load(model, run), job)
    with new_folder(run.out, run.manifest("purify", purifier.spec())) as folder:
        save_photos(cleaned, folder)
    close_job(job)


def personalise(
    spec: Spec,
    *,
    model: ModelSpec,
    prompts: Prompts,
    instance: Path,
    class_images: Path | None,
    run: Run,
) -> None:
    """Teach a model an identity; `out` holds the trained weights only."""
    trainer = trainers.build(spec)
    wants_prior = trainer.prior_weight > 0
    identity = Identity(
        load_photos(instance),
        prompts,
        class_images=_wanted(class_images, wants_prior, trainer.name, "--class-images"),
    )
    settings = trainer.training_spec()
    job = run.job("personalise", [settings, model, prompts], instance, class_images)
    diffusion = _load(model, run)
    trainer.fit(diffusion, identity, job)
    with new_folder(run.out, run.manifest("personalise", settings)) as folder:
        trainer.save(diffusion, folder)
    close_job(job)


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
    texts = {key: text + suffix for key, text in prompts.items()}
    settings = sampling.model_dump(mode="json")
    settings |= {"prompts": texts, "negative_prompt": negative_prompt}
    job = run.job("sample", [settings, model], weights)
    diffusion = _load(model, run)
    if weights is not None:
        diffusion.adopt(weights)
    with new_folder(run.out, run.manifest("sample", settings)) as folder:
        kept = job.scratch or folder
        batches = [
            (key, indices) for key in texts for indices in _batches(sampling.images, sampling)
        ]
        for number in job.steps("sample", len(batches), {}):
            key, indices = batches[number]
            if all((kept / key / f"{index:03d}.png").exists() for index in indices):
                continue
            seeds = [job_seed(job.seed, "image", key, index) for index in indices]
            pixels = sampling.generate(diffusion, texts[key], seeds, negative_prompt)
            names = tuple(f"{index:03d}" for index in indices)
            (kept / key).mkdir(parents=True, exist_ok=True)
            save_photos(Photos(pixels, names), kept / key)
        for key in texts:
            if kept != folder:
                shutil.copytree(kept / key, folder / key)  # a kill here must lose nothing
    close_job(job)


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


def choose_device(name: str) -> str:
    """The device of a name: `auto` is cuda where a GPU is usable and else cpu."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def set_up_torch(threads: int | None) -> None:
    """Deterministic kernels, and as many CPU threads as the workflow grants."""
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)


def _batches(count: int, sampling: Sampling) -> list[range]:
    size = sampling.batch_size
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _wanted(folder: Path | None, wanted: bool, method: str, option: str) -> Photos | None:
    if not wanted:
        return None
    if folder is None:
        raise CloakBenchError(
            f"'{method}' needs {option} FOLDER. Give it, or choose another method."
        )
    return load_photos(folder)


def _load(model: ModelSpec, run: Run) -> LatentDiffusion:
    """Imported late: diffusers takes seconds to import, and not every method needs a model."""
    from cloakbench.diffusion import LatentDiffusion

    return LatentDiffusion.load(model, run.device)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contents(folder: Path | None) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files: cheap, and different after any change."""
    if folder is None:
        return []
    stats = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(p.relative_to(folder)), s.st_size, s.st_mtime_ns) for p, s in stats]


def prompts_of(texts: Sequence[str]) -> dict[str, str]:
    """Sampling prompts given as `key=text` on a command line.

    Raises:
        CloakBenchError: an entry without a key.
    """
    pairs = [text.partition("=") for text in texts]
    for key, sign, _ in pairs:
        if not sign:
            raise CloakBenchError(f"--prompt {key!r}: write it as KEY=TEXT.")
    return {key: text for key, _, text in pairs}
