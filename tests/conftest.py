"""Shared by all tests: tiny models, smooth random photos, identities, and jobs that die."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from tiny import (
    RESOLUTION,
    make_lpips,
    make_tiny_clip,
    make_tiny_ddpm,
    make_tiny_liqe,
    make_tiny_model,
    make_tiny_restorer,
    make_tiny_x4,
)

from cloakbench.models.spec import ModelSpec
from cloakbench.running import jobs
from cloakbench.running.jobs import Job

if TYPE_CHECKING:
    from cloakbench.files.images import Photos
    from cloakbench.identity import Identity
    from cloakbench.models.families.stable_diffusion import StableDiffusion

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist runs a process on every core

settings.register_profile("cloakbench", deadline=None)  # machines may be slow or busy
settings.load_profile("cloakbench")

REPOSITORY = Path(__file__).resolve().parents[1]
ALL = slice(0, None)  # which of all photos a loss is given, if all at once
BUNDLED = REPOSITORY / "resources" / "identities"


class Killed(BaseException):
    """Ends a loop as SIGKILL would: nothing may catch it."""


@dataclass(frozen=True)
class MortalJob(Job):
    """A job that saves after every step and is killed before step number `lives`, over all loops.

    `seen` collects the steps that ran.
    """

    save_every: float = 0.0
    lives: float = float("inf")
    seen: list[tuple[str, int]] = field(default_factory=list)

    def steps(self, name: str, total: int, state: Any) -> Iterator[int]:
        with patch.object(jobs, "DISK", math.inf):  # what is saved costs nothing
            for step in super().steps(name, total, state):
                if len(self.seen) >= self.lives:
                    raise Killed
                self.seen.append((name, step))
                yield step


def smooth_photos(count: int, seed: int, resolution: int = RESOLUTION) -> Photos:
    """Smooth random pictures on whole grey levels; some values touch 0 and 255."""
    import torch

    from cloakbench.files.images import Photos

    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(1.4 * coarse - 0.2, resolution, mode="bilinear")
    levels = (pixels.clamp(0, 1) * 255).round()
    return Photos(levels / 255, tuple(f"{number:02d}" for number in range(1, count + 1)))


def complete(registry: Any) -> list[str]:
    """The names of methods whose settings all have defaults: not those that read a folder."""
    required = {m.name for m in registry for f in m.model_fields.values() if f.is_required()}
    return [name for name in registry.names() if name not in required]


def tiny_spec(registry: Any, name: str, **settings: Any) -> dict[str, Any]:
    """A method's cheapest spec: its preset `tiny`, where it has one."""
    preset = {"preset": "tiny"} if "tiny" in registry[name].presets else {}
    return {"method": name, **preset, **settings}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    return ModelSpec(path=str(folder), resolution=RESOLUTION)


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny_v", "v_prediction")
    return ModelSpec(path=str(folder), resolution=RESOLUTION)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights by the names that presets `tiny` use, where a user's weights are sought."""
    folder = tmp_path_factory.mktemp("weights")
    make_tiny_ddpm(folder / "tiny_ddpm")
    make_tiny_restorer(folder / "tiny_restorer")
    make_tiny_x4(folder / "tiny_x4.pth")
    make_tiny_clip(folder / "tiny_clip")
    make_tiny_liqe(folder / "tiny_liqe.pt")
    make_lpips(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOAKBENCH_WEIGHTS", str(folder))
        yield folder


@pytest.fixture
def diffusion(tiny_model: ModelSpec) -> StableDiffusion:
    """A freshly loaded tiny model, for tests that may change it."""
    from cloakbench.models.loading import load_model

    return load_model(tiny_model)


@pytest.fixture(scope="session")
def identity() -> Identity:
    """Two instance, two surrogate and three class images with the default prompts."""
    from cloakbench.identity import Identity
    from cloakbench.prompts import Prompts

    return Identity(smooth_photos(2, 0), Prompts(), smooth_photos(2, 1), smooth_photos(3, 2))


@dataclass(frozen=True)
class Folders:
    """An identity's images as the stages read them."""

    instance: Path
    surrogate: Path
    class_images: Path


@pytest.fixture(scope="session")
def folders(identity: Identity, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    from cloakbench.files.images import save_photos

    root = tmp_path_factory.mktemp("photos")
    made = Folders(root / "set_B", root / "set_A", root / "class")
    photos = (identity.instance_images, identity.surrogate_images, identity.class_images)
    for folder, images in zip(vars(made).values(), photos, strict=True):
        folder.mkdir()
        save_photos(images, folder)
    return made


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two identities with two photos in each of the three sets."""
    from cloakbench.files.images import save_photos
    from cloakbench.files.layout import SETS

    root = tmp_path_factory.mktemp("dataset")
    for number, name in enumerate(("anna", "bert")):
        for offset, photo_set in enumerate(SETS):
            folder = root / name / photo_set
            folder.mkdir(parents=True)
            save_photos(smooth_photos(2, 10 * number + offset), folder)
    return root


@dataclass(frozen=True)
class Workflow:
    """A folder in which the workflow runs, with the config that is laid over the default one.

    said: what the run printed that made what is there.
    """

    folder: Path
    config: dict[str, Any]
    said: str = ""

    def snakemake(self, *options: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        config = self.folder / "tiny.yaml"
        config.write_text(yaml.safe_dump(self.config | changes))
        command = [
            str(Path(sys.executable).with_name("snakemake")),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)),
            *("--configfile", str(config), "--cores", "2", *options),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def planned(self, *options: str, **changes: Any) -> dict[str, int]:
        """How many jobs of each rule a run would start."""
        run = self.snakemake("--dry-run", "--quiet", "rules", *options, **changes)
        output = run.stdout + run.stderr
        assert run.returncode == 0, output
        if "othing to be done" in output:
            return {}
        jobs = re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)
        assert jobs, output
        return {rule: int(count) for rule, count in jobs if rule not in {"all", "total"}}


@pytest.fixture(scope="session")
def workflow(tiny_model, tiny_weights, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished run: one of two identities, two protections and two trainers, an image each.

    One process runs it, and each has a copy: results say themselves what made them.
    """
    identities = sorted(BUNDLED.glob("*/"))[:2] if BUNDLED.is_dir() else []
    if len(identities) < 2:
        pytest.skip(f"{BUNDLED} has no two identities, and the scores need faces")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    said = shared / "said.json"
    with FileLock(shared.with_suffix(".lock")):
        if not said.exists():
            shutil.rmtree(shared, ignore_errors=True)
            run = _finish(shared, identities, tiny_model)
            said.write_text(json.dumps([run.config, run.said]))
    folder = tmp_path_factory.mktemp("workflow") / "study"
    shutil.copytree(shared, folder, ignore=shutil.ignore_patterns(".snakemake"))
    config, output = json.loads(said.read_text())
    return Workflow(folder, config | _places(folder), output)


def _places(folder: Path) -> dict[str, Any]:
    """The keys of a study whose photos and model are in its own folder."""
    return {
        "models": {"mini": {"path": str(folder / "model"), "resolution": 128}},
        "datasets": {"bundled": {"path": str(folder / "identities")}},
    }


def _finish(folder: Path, identities: list[Path], tiny_model: ModelSpec) -> Workflow:
    for identity in identities:
        shutil.copytree(identity, folder / "identities" / identity.name)
    shutil.copy(REPOSITORY / "config.yaml", folder)
    shutil.copytree(tiny_model.path, folder / "model")
    workflow = Workflow(
        folder,
        {
            **_places(folder),
            "experiment": "tiny",
            "identities": [identities[0].name],
            "preset": "tiny",
            "protections": ["clean", "noise"],
            "purifications": ["none"],
            "trainers": ["dreambooth", "cdl"],
            "prompts": {"sample": {"photo": "a photo of {identifier} {class_noun}"}},
            "class_images": {"images": 2, "steps": 2, "sampler": "ddim"},
            "sampling": {"images": 1, "steps": 2, "sampler": "ddim"},
            "keep_weights": True,
        },
    )
    run = workflow.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    return replace(workflow, said=run.stdout)
