"""The `sample` and `class_images` stages."""

from __future__ import annotations

from pathlib import Path

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.verified import load_manifest, verified
from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.running.record import Facts, Record
from cloakbench.running.run import Run


def facts(samples: Samples, model: ModelSpec, cache: Path | None = None) -> Facts:
    """What samples are made of, besides weights, seed and identity."""
    return Facts.of("sample", __name__, samples.settings(), model=model, cache=cache)


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
    record = run.record(facts(samples, model, run.digests), *model.folders(), weights=weights)
    if weights is not None:
        _check_base(weights, record)
    job = run.job(record)
    if run.restored(job, record):
        return

    def generate(load: Loader) -> None:
        diffusion = load()
        if weights is not None:
            diffusion.adopt(verified(weights))
        with run.output(job, record) as folder:
            samples.write(diffusion, job, folder)

    with_model(generate, model, run.device)


def _check_base(weights: Path, record: Record) -> None:
    """That weights are sampled with the base model that they were trained from."""
    said = (load_manifest(weights / MANIFEST) or {}).get("model") or {}
    base, given = said.get("weights"), (record.facts.model or {})["weights"]
    if base and base.keys() != given.keys():
        other = min(base.keys() - given.keys() or given.keys() - base.keys())
        raise CloakBenchError(
            f"{weights}: was trained from another model: {(base | given)[other]} differs. "
            "Name that model with --model."
        )


def class_images(sampling: Sampling, *, model: ModelSpec, prompts: Prompts, run: Run) -> None:
    """Sample class images from the base model into `out/class/`."""
    texts = {"class": prompts.class_prompt}
    sample(sampling, model=model, prompts=texts, weights=None, run=run)
