"""What results are made of: a key that any difference changes, and the difference in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Folders

from cloakbench.errors import CloakBenchError
from cloakbench.files.outputs import new_folder
from cloakbench.files.verified import Source, read_source, seal
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.purify import purifiers
from cloakbench.running.record import Facts, Record, difference
from cloakbench.running.run import Run
from cloakbench.stages import purify
from cloakbench.stages.personalise import personalise
from cloakbench.stages.sample import sample

FACTS = Facts(
    "protect",
    {"budget": "11/255", "through": [{"method": "jpeg", "quality": 75}]},
    code="c0de",
    weights={"aa": "net.onnx"},
    model={"precision": "fp32", "weights": {"bb": "mini/unet.safetensors"}},
    given={"prompts": {"instance": "a photo of sks person"}},
)
RECORD = Record(FACTS, {"identity": "anna", "seed": 0}, {"photos": Source("k", "c")})

CHANGES = {
    'settings: budget was "11/255", not "5/255"': {
        "facts": replace(FACTS, settings={**FACTS.settings, "budget": "5/255"})
    },
    "settings: through: 1: quality was 75, not 50": {
        "facts": replace(
            FACTS, settings={**FACTS.settings, "through": [{"method": "jpeg", "quality": 50}]}
        )
    },
    "other code": {"facts": replace(FACTS, code="ed17")},
    'weights: weights: 1 was "aa", not "ab"': {"facts": replace(FACTS, weights={"ab": "net"})},
    'model: precision was "fp32", not "bf16"': {
        "facts": replace(FACTS, model={**FACTS.model, "precision": "bf16"})
    },
    'prompts: instance was "a photo of sks person", not "a photo of xyz person"': {
        "facts": replace(FACTS, given={"prompts": {"instance": "a photo of xyz person"}})
    },
    "settings: target was absent, not null": {
        "facts": replace(FACTS, settings={**FACTS.settings, "target": None})
    },
    "seed was 0, not 1": {"who": {"identity": "anna", "seed": 1}},
    "its photos were made otherwise": {"inputs": {"photos": Source("other", "c")}},
}


def manifest(record: Record) -> dict:
    return json.loads(json.dumps(record.manifest(), default=str))


@pytest.mark.parametrize("words", CHANGES)
def test_any_difference_changes_the_key_and_is_said(words):
    wanted = replace(RECORD, **CHANGES[words])

    assert wanted.key != RECORD.key
    assert difference(wanted, manifest(RECORD)) == words
    assert difference(wanted, manifest(wanted)) == ""


def test_names_of_files_and_bytes_of_what_a_key_stands_for_do_not_count():
    moved = replace(FACTS, weights={"aa": "elsewhere/net.onnx"})
    again = Record(moved, RECORD.who, {"photos": Source("k", "other bytes")})

    assert again.key == RECORD.key
    assert difference(again, manifest(RECORD)) == ""


@pytest.mark.parametrize("key", ["settings", "inputs", "key", "model", "seed"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {}])
def test_a_manifest_that_was_changed_differs_and_never_fails(key, value):
    assert difference(RECORD, manifest(RECORD) | {key: value})


def test_a_study_may_be_moved_with_its_weights(tmp_path, tiny_model, monkeypatch):
    facts = []
    for place in ("here", "there"):
        shutil.copytree(tiny_model.path, tmp_path / place / "model")
        monkeypatch.chdir(tmp_path / place)
        model = ModelSpec(path=str(Path("model").absolute()), resolution=64)
        facts.append(purify.facts(purifiers.build("latent_diffpure"), model))

    assert facts[0].digest == facts[1].digest
    assert str(tmp_path) not in json.dumps(facts[0].data())


def test_what_a_stage_made_is_known_by_its_key_and_what_a_user_gave_by_its_bytes(tmp_path):
    with new_folder(tmp_path / "made", RECORD.manifest()) as folder:
        (folder / "set_B").mkdir()
        (folder / "set_B" / "01.png").write_bytes(b"photo")
    shutil.copytree(tmp_path / "made" / "set_B", tmp_path / "own" / "set_B")

    made, own = (read_source(tmp_path / name / "set_B") for name in ("made", "own"))
    assert (made.key, own.key) == (RECORD.key, None)
    (tmp_path / "own" / "set_B" / "01.png").write_bytes(b"other")
    assert read_source(tmp_path / "own" / "set_B") != own
    seal(tmp_path / "own" / "set_B" / "01.png", RECORD.manifest())
    assert read_source(tmp_path / "own" / "set_B" / "01.png").key == RECORD.key


def test_weights_are_sampled_with_the_base_that_they_were_trained_from(
    folders: Folders, tiny_model: ModelSpec, tmp_path: Path
):
    personalise(
        {"method": "lora", "preset": "tiny"},
        model=tiny_model,
        prompts=Prompts(),
        instance=folders.instance,
        class_images=folders.class_images,
        run=Run(tmp_path / "weights", "anna"),
    )
    other = tmp_path / "other"
    shutil.copytree(tiny_model.path, other)
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")

    def sampled(model: ModelSpec) -> None:
        sample(
            Sampling(images=1, steps=1, sampler="ddim"),
            model=model,
            prompts={"photo": "a photo of sks person"},
            weights=tmp_path / "weights",
            run=Run(tmp_path / "samples", "anna"),
        )

    with pytest.raises(CloakBenchError, match=r"weights: was trained from another model: \S*sched"):
        sampled(tiny_model.model_copy(update={"path": str(other)}))
    assert not (tmp_path / "samples").exists()
    sampled(tiny_model)
