"""The `sample` and `class_images` stages."""

from __future__ import annotations

from pathlib import Path

from cloakbench.files.verified import verified
from cloakbench.models.device import with_model
from cloakbench.models.loading import Loader
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.running.run import Run
from cloakbench.stages.inputs import dependencies_of


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
    work = [manifest, dependencies_of(__name__, model), model]
    job = run.job("sample", work, *model.folders(), weights)
    if run.restored(job):
        return

    def generate(load: Loader) -> None:
        diffusion = load()
        if weights is not None:
            diffusion.adopt(verified(weights))
        with run.output(job, manifest) as folder:
            samples.write(diffusion, job, folder)

    with_model(generate, model, run.device)


def class_images(sampling: Sampling, *, model: ModelSpec, prompts: Prompts, run: Run) -> None:
    """Sample class images from the base model into `out/class/`."""
    texts = {"class": prompts.class_prompt}
    sample(sampling, model=model, prompts=texts, weights=None, run=run)
