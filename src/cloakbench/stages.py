"""One function per stage that runs a model: read folders, run a method, write one folder."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
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
from cloakbench.outputs import check_output, copy_folder, hold, new_folder, restore
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier, purifiers
from cloakbench.registry import Spec, code_digest
from cloakbench.sampling import Sampling

if TYPE_CHECKING:
    from cloakbench.diffusion import LatentDiffusion

log = logging.getLogger(__name__)

T = TypeVar("T")
Loader = Callable[[], "LatentDiffusion"]

SAMPLING_CODE = code_digest("cloakbench.sampling", "cloakbench.diffusion")


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


@dataclass(frozen=True)
class Samples:
    """The images that are wanted of a model, for every prompt.

    suffix: put after every prompt. negative_prompt: what guidance leads away from.
    """

    sampling: Sampling
    prompts: dict[str, str]
    suffix: str = ""
    negative_prompt: str = ""

    def settings(self) -> dict[str, Any]:
        """What `job.json` says of them."""
        prompts = {"prompts": self._texts(), "negative_prompt": self.negative_prompt}
        return self.sampling.model_dump(mode="json") | prompts

    def write(self, model: LatentDiffusion, job: Job, folder: Path) -> None:
        """Generate `folder/<key>/<index>.png`; batches that are finished survive a kill."""
        texts, kept = self._texts(), job.scratch or folder
        batches = [(key, indices) for key in texts for indices in self._batches()]
        for number in job.steps("sample", len(batches), {}):
            key, indices = batches[number]
            names = tuple(f"{index:03d}" for index in indices)
            if all((kept / key / f"{name}.png").exists() for name in names):
                continue
            seeds = [job_seed(job.seed, "image", key, index) for index in indices]
            pixels = self.sampling.generate(model, texts[key], seeds, self.negative_prompt)
            (kept / key).mkdir(parents=True, exist_ok=True)
            save_photos(Photos(pixels, names), kept / key)
        for key in texts:
            if kept != folder:
                copy_folder(kept / key, folder / key)  # a kill here must lose nothing

    def _texts(self) -> dict[str, str]:
        return {key: text + self.suffix for key, text in self.prompts.items()}

    def _batches(self) -> list[range]:
        count, size = self.sampling.images, self.sampling.batch_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


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
    identity = Identity(
        load_photos(instance),
        prompts,
        _wanted(surrogate, "surrogate_images" in protection.uses, protection.name, "--surrogate"),
        _wanted(class_images, "class_images" in protection.uses, protection.name, "--class-images"),
    )
    manifest = run.manifest("protect", protection.spec())
    work = [manifest, protections.digest(protection.name), model, prompts]
    job = run.job("protect", work, Path(model.path), instance, surrogate, class_images)
    if run.restored(job, manifest):
        return
    photos = _with_model(lambda load: protection.protect(identity, load, job), model, run)
    with run.output(job, manifest) as folder:
        save_photos(photos, folder)
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
    work = [manifest, [purifiers.digest(link.name) for link in purifier.links], model]
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
    wants_prior = trainer.prior_weight > 0
    identity = Identity(
        load_photos(instance),
        prompts,
        class_images=_wanted(class_images, wants_prior, trainer.name, "--class-images"),
    )
    samples = None
    if sampling is not None:
        samples = Samples(sampling, prompts.sample_prompts, **trainer.sampling())
    manifest = run.manifest("personalise", trainer.training_spec())
    work = [manifest, trainers.digest(trainer.name), model, prompts]
    if samples is not None:
        manifest = run.manifest("sample", samples.settings())
        work += [manifest, SAMPLING_CODE]
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
    work = [manifest, SAMPLING_CODE, model]
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
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports a compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _wanted(folder: Path | None, wanted: bool, method: str, option: str) -> Photos | None:
    if not wanted:
        return None
    if folder is None:
        raise CloakBenchError(
            f"'{method}' needs {option} FOLDER. Give it, or choose another method."
        )
    return load_photos(folder)


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
