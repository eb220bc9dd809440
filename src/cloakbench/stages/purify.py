"""The `purify` stage."""

from __future__ import annotations

from pathlib import Path

from cloakbench.files.images import load_photos, save_photos
from cloakbench.models.device import with_model
from cloakbench.models.spec import ModelSpec
from cloakbench.purify.base import build_purifier
from cloakbench.registry import Spec
from cloakbench.running.run import Run
from cloakbench.stages.inputs import dependencies


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
    job = run.job(
        "purify", [manifest, dependencies(__name__, purifier, model)], *model.folders(), photos
    )
    if run.restored(job):
        return
    given = load_photos(photos)
    cleaned = with_model(lambda load: purifier.purify(given, load, job), model, run.device)
    with run.output(job, manifest) as folder:
        save_photos(cleaned, folder)
