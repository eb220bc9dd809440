"""The `purify` stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cloakbench.files.images import load_photos, save_photos
from cloakbench.models.device import with_model
from cloakbench.models.spec import ModelSpec
from cloakbench.purify.base import Purifier, build_purifier
from cloakbench.registry import Spec
from cloakbench.running.record import Facts
from cloakbench.running.run import Run


def facts(purifier: Purifier, model: ModelSpec, cache: Path | None = None) -> Facts:
    """What purified photos are made of, besides photos, seed and identity."""
    used = model if "model" in purifier.uses else None
    return Facts.of("purify", __name__, purifier.recorded(), purifier, model=used, cache=cache)


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
    known = facts(purifier, model, run.digests)
    record = run.record(known, *model.folders(), photos=photos, **purifier.folders)
    job = run.job(record)
    if run.restored(job, record):
        return
    given = load_photos(photos)
    work = partial(purifier.purify, given, job=job)
    cleaned = with_model(work, model, run.device, vae_alone=purifier.vae_alone)
    with run.output(job, record) as folder:
        save_photos(cleaned, folder)
