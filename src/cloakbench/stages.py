"""One function per stage that runs a model: read folders, run a method, write one folder."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cloakbench.errors import CloakBenchError, is_out_of_memory
from cloakbench.gpu import claim_gpu
from cloakbench.identity import Identity
from cloakbench.images import (
    Photos,
    largest_change,
    load_photos,
    save_photos,
    to_images,
)
from cloakbench.jobs import KEPT, LOCK, Job, job_seed
from cloakbench.models import ModelSpec
from cloakbench.outputs import check_output, hold, new_folder, restore
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier, code_of
from cloakbench.registry import Spec
from cloakbench.sampling import Samples, Sampling, sampling_code
from cloakbench.weights import Checked, weight_files

if TYPE_CHECKING:
    from cloakbench.diffusion import LatentDiffusion

log = logging.getLogger(__name__)

T = TypeVar("T")
Loader = Callable[[], "LatentDiffusion"]


@dataclass(frozen=True)
class Run:
    """How a stage runs, whatever its method.

    out: the folder to write. subject: the identity's name, for seeds. scratch: folder for
    checkpoints; None keeps none.

    In `scratch`, every output has a folder with a lock, the checkpoints of the work in progress
    and, under a second name, its finished files: Snakemake does over what it did not see ending,
    which is every job that ends after Snakemake was killed.
    """

    out: Path
    subject: str
    seed: int = 0
    device: str = "cpu"
    scratch: Path | None = None

    def job(self, stage: str, work: Any, *inputs: Path | None) -> Job:
        """The job of this run, with a scratch folder that only the same work can resume.

        Waits for another process that writes the same output. Checkpoints of the same output
        under other settings, code or inputs are deleted, and so is what the jobs that made the
        inputs kept.

        work: all that the output depends on besides seed, device and inputs.

        Raises:
            CloakBenchError: the output would replace an input.
        """
        check_output(self.out, *inputs)
        own = None
        if self.scratch is not None:
            place = self._place(self.out)
            self._wait(place / LOCK)
            own = place / _digest([work, self.seed, self.device, *map(_contents, inputs)])
            for other in place.glob("*"):
                if other.name not in {LOCK, own.name, own.name + KEPT}:
                    shutil.rmtree(other, ignore_errors=True)
            for folder in filter(None, inputs):
                for kept in self._place(folder).glob(f"*{KEPT}"):
                    shutil.rmtree(kept, ignore_errors=True)
        return Job(self.job_seed(stage), self.device, own)

    def job_seed(self, stage: str) -> int:
        """The seed of this run's job of a stage."""
        return job_seed(self.seed, stage, self.subject)

    def manifest(self, stage: str, settings: Any) -> dict[str, Any]:
        """What `job.json` says of this run."""
        return {"stage": stage, "settings": settings, "identity": self.subject, "seed": self.seed}

    def restored(self, job: Job, manifest: dict[str, Any]) -> bool:
        """Put the output back if this very job has ended before, unseen."""
        kept = _kept(job)
        return kept is not None and restore(kept, self.out, manifest)

    @contextmanager
    def output(self, job: Job, manifest: dict[str, Any]) -> Iterator[Path]:
        """The folder to write the output into; the checkpoints are forgotten when it is whole."""
        with new_folder(self.out, manifest, _kept(job)) as folder:
            yield folder
        close_job(job)

    def _place(self, folder: Path) -> Path:
        assert self.scratch is not None
        return self.scratch / _digest(str(folder.absolute()))

    def _wait(self, lock: Path) -> None:
        said = False
        while (holder := hold(lock)) is not None:
            if not said:
                log.warning("%s: %s writes this output; waiting until it ends.", self.out, holder)
            said = True
            time.sleep(1)


def close_job(job: Job) -> None:
    """Forget a finished job's checkpoints."""
    if job.scratch is not None:
        shutil.rmtree(job.scratch, ignore_errors=True)


def _kept(job: Job) -> Path | None:
    return job.scratch and job.scratch.with_name(job.scratch.name + KEPT)


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
    protected = _with_model(lambda load: protection.protect(identity, load, job), model, run)
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
    cleaned = _with_model(lambda load: purifier.purify(given, load, job), model, run)
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

    _with_model(finish, model, run)


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

    _with_model(generate, model, run)


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
    """The device of a name: `auto` is cuda where a GPU is usable and else cpu.

    Of several GPUs this process takes one for itself.
    """
    if name == "auto":
        claim_gpu()
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def set_up_torch(threads: int | None) -> None:
    """Deterministic kernels, and as many CPU threads as the workflow grants."""
    if threads:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may vary
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports a compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


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


def _with_model(work: Callable[[Loader], T], model: ModelSpec, run: Run) -> T:
    """Do work that loads a model; where memory runs out, once more with a frugal model.

    The second try goes on from the last checkpoint, and its results are the same (see
    `LatentDiffusion`).

    Raises:
        CloakBenchError: memory ran out twice.
    """
    try:
        return work(lambda: _load(model, run))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    log.warning(
        "%s: out of memory; once more with gradient checkpointing and one sample at a time: "
        "slower, with the same results.",
        run.device,
    )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return work(lambda: _load(model, run, frugal=True))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise CloakBenchError(
            f"{run.device}: out of memory, also with gradient checkpointing and one sample at a "
            "time. Set the model's precision to bf16, lower the method's batch_size, choose the "
            "trainer 'lora', or use a device with more memory; then run the same command again."
        ) from None


def _load(model: ModelSpec, run: Run, *, frugal: bool = False) -> LatentDiffusion:
    """Imported late: diffusers takes seconds to import, and not every method needs a model."""
    from cloakbench.diffusion import LatentDiffusion

    return LatentDiffusion.load(model, run.device, frugal)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights(*checked: Checked) -> list[tuple[str, int, int]]:
    """What `_contents` says, of the weight files behind methods and models."""
    return [_seen(path) for path in sorted(weight_files(*checked))]


def _contents(folder: Path | None) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files: cheap, and different after any change."""
    if folder is None:
        return []
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [(str(path.relative_to(folder)), *_seen(path)[1:]) for path in files]


def _seen(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns
