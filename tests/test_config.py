"""Every mistake in a config is one line that names the key, before any work."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import Config, read
from cloakbench.experiment.experiment import Experiment
from cloakbench.experiment.tasks import all_tasks, inputs
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.score.base import build_metrics


@pytest.fixture
def config(dataset: Path) -> dict[str, Any]:
    return {
        "experiment": "test",
        "model": "mini",
        "models": {"mini": {"path": "resources/mini", "resolution": 128}},
        "dataset": "faces",
        "datasets": {"faces": {"path": str(dataset)}},
        "protections": ["clean", "aspl"],
        "purifications": ["none"],
        "trainers": ["dreambooth", "cdl"],
    }


@pytest.mark.parametrize("key", ["experiment", "model", "models", "protections", "trainers"])
def test_a_missing_key_is_named(key, config):
    del config[key]

    with pytest.raises(CloakBenchError, match=rf"the key '{key}' is missing"):
        Experiment.parse(config)


def test_a_valid_config_is_not_changed_by_parsing_it(config):
    before = copy.deepcopy(config)
    Experiment.parse(config)

    assert config == before


def test_the_grid_is_every_combination_identity_by_identity(config):
    cells = Experiment.parse(config).cells()

    assert len(cells) == len(set(cells)) == 2 * 2 * 1 * 2
    assert [cell.identity for cell in cells] == ["anna"] * 4 + ["bert"] * 4
    assert {cell.trainer for cell in cells} == {"dreambooth", "cdl"}


def test_ims_is_refused_with_dlib_before_the_run(config):
    with pytest.raises(CloakBenchError, match=r"'ims' is for face backends .* Choose relative_ims"):
        Experiment.parse(config | {"faces": "dlib", "metrics": ["ims"]})


def test_default_prompts_of_purifiers_follow_the_class_noun(config):
    own = {"name": "own", "method": "latent_diffpure", "prompt": "a person's house"}
    config |= {"purifications": ["latent_diffpure", own, ["jpeg", "superres"], "codesr", "jpeg"]}
    experiment = Experiment.parse(config | {"preset": None, "prompts": {"class_noun": "painting"}})

    made = {label: json.dumps(p.spec()) for label, p in experiment.purifiers.items()}
    assert "a photo of a painting, clear" in made["latent_diffpure"]
    assert "a person's house" in made["own"]
    assert all("A photo of a painting" in made[label] for label in ("jpeg+superres", "codesr"))
    assert Experiment.parse(config).purifiers["jpeg"] == experiment.purifiers["jpeg"]


def test_what_a_protection_looks_through_follows_the_class_noun(config):
    through = ["latent_diffpure", ["jpeg", "superres"]]
    entries = [{"name": "adaptive", "method": "advdm", "through": through}, "noise"]
    asked = {"preset": None, "protections": entries, "prompts": {"class_noun": "painting"}}

    made = Experiment.parse(config | asked).protections

    told = json.dumps(made["adaptive"].spec()["through"])
    assert "a photo of a painting, clear" in told
    assert "A photo of a painting" in told
    assert "a person" not in told


def test_results_among_the_photos_are_refused_before_anything_is_written(config, dataset):
    there = sorted(dataset.rglob("*"))

    with pytest.raises(CloakBenchError, match="would be written into"):
        Experiment.parse(config | {"results": str(dataset)}).check()

    assert sorted(dataset.rglob("*")) == there


def test_default_texts_of_metrics_follow_the_class_noun(config):
    own = {"method": "clip_iqac", "good": "a fresco", "bad": "a photo of a person"}
    asked = {"preset": None, "metrics": ["clip_prompt", "concept", "clip_margin", "q", own]}
    paintings = config | asked | {"prompts": {"class_noun": "painting"}}

    prompt, concepts, margin, q, kept = Experiment.parse(paintings).metrics
    assert prompt.prompt == "a photo of a painting"
    assert concepts.prompts == (
        "a photo of a painting", "a photo of noise", "a photo of an object",
    )  # fmt: skip
    assert (margin.good, q.clip_iqac.bad) == ("a good photo of painting", "a bad photo of painting")
    assert (kept.good, kept.bad) == ("a fresco", "a photo of a person")
    people = Experiment.parse(config | asked).metrics
    assert people[:4] == build_metrics(["clip_prompt", "concept", "clip_margin", "q"])


def test_the_floor_has_one_cell_per_person(config):
    experiment = Experiment.parse(config | {"trainers": ["none", "dreambooth"]})

    floor = [cell for cell in experiment.cells() if cell.trainer == "none"]
    assert [cell.identity for cell in floor] == ["anna", "bert"]
    assert len(experiment.cells()) == 2 * 2 * 1 + 2
    assert experiment.controls.floor == ("none",)


def test_snapshots_are_cells_that_share_a_training_and_compare_with_its_end(config):
    learning = {"method": "dreambooth", "steps": 400, "snapshots": [50, 100]}
    experiment = Experiment.parse(config | {"trainers": [learning, "cdl"], "identities": ["anna"]})

    tasks = all_tasks(experiment)
    labels = ["dreambooth@50", "dreambooth@100", "dreambooth", "cdl"]
    assert [experiment.trainers[label].steps for label in labels] == [50, 100, 400, 1000]
    assert [cell.trainer for cell in experiment.cells()] == labels * 2
    assert [task.label for task in tasks["personalise"]] == ["dreambooth", "cdl"] * 2
    assert experiment.controls.trainer == ("dreambooth",)
    early = inputs(tasks["score"][0], experiment)["samples"]
    assert early == (
        tasks["personalise"][0],
        Path("results/mini/faces/anna/seed_0/generated/clean/none/dreambooth/@50"),
    )


def test_identities_can_be_chosen_and_a_wrong_one_is_found_before_the_run(config):
    assert {c.identity for c in Experiment.parse(config | {"identities": ["bert"]}).cells()} == {
        "bert"
    }
    experiment = Experiment.parse(config | {"identities": ["brt"], "faces": "dlib"})
    with pytest.raises(CloakBenchError, match=r"unknown identity 'brt' .*did you mean 'bert'"):
        experiment.config.dataset_spec.sets("brt")


def test_identities_can_be_a_group_of_the_dataset(config, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "faces")
    (tmp_path / "faces" / "groups.json").write_text('{"tuning": {"people": ["bert"]}}')
    config["datasets"]["faces"]["path"] = str(tmp_path / "faces")

    cells = Experiment.parse(config | {"identities": "tuning"}).cells()

    assert {cell.identity for cell in cells} == {"bert"}


def test_checking_finds_a_missing_model_before_the_run(config, tmp_path):
    config["models"]["mini"]["path"] = str(tmp_path)

    with pytest.raises(CloakBenchError, match=r"no model_index\.json there"):
        Experiment.parse(config).check()


def test_checking_names_everything_that_is_missing(config, tmp_path):
    config["models"]["mini"]["path"] = str(tmp_path / "model")
    config["datasets"][config["dataset"]]["path"] = str(tmp_path / "photos")

    with pytest.raises(CloakBenchError) as raised:
        Experiment.parse(config).check()

    model, photos = str(raised.value).split("\nerror: ")
    assert model.startswith(f"model {tmp_path / 'model'}: ")
    assert photos.startswith(f"dataset {tmp_path / 'photos'}: ")


def test_checking_finds_a_photo_that_two_sets_share_and_hashes_none_twice(
    config, dataset, tiny_model, tmp_path, monkeypatch
):
    shutil.copytree(dataset, tmp_path / "d")
    config |= {"datasets": {"own": {"path": str(tmp_path / "d")}}, "dataset": "own"}
    config |= {"models": {"mini": {"path": tiny_model.path, "resolution": 64}}, "model": "mini"}
    config |= {"results": str(tmp_path / "results"), "faces": "dlib", "metrics": ["fdfr"]}
    Experiment.parse(config).check()
    monkeypatch.setattr("cloakbench.files.weights.sha256", None)
    Experiment.parse(config).check()
    monkeypatch.undo()
    shutil.copy(tmp_path / "d/bert/set_A/02.png", tmp_path / "d/bert/set_B/02.png")

    with pytest.raises(CloakBenchError, match=r"^\S+/bert/set_B/02\.png: is the same photo as"):
        Experiment.parse(config).check()


@pytest.mark.parametrize("name", ["liqe", "q"])
def test_checking_finds_a_metric_that_the_models_images_are_too_small_for(
    name, config, tiny_model, tiny_weights
):
    small = {"mini": {"path": tiny_model.path, "resolution": 64}}
    changes = {"models": small, "metrics": [{"method": name, "preset": "tiny"}]}

    with pytest.raises(CloakBenchError, match=rf"'{name}' needs images of 224 px or more.* 64 px"):
        Experiment.parse(config | changes).check()


def test_checking_passes_where_everything_is_there(config, tiny_model):
    config["models"]["mini"] = {"path": tiny_model.path, "resolution": 64}

    Experiment.parse(config).check()


def test_checking_looks_at_every_identity_of_the_dataset(config, tiny_model, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "photos")
    (tmp_path / "photos" / "carl").mkdir()
    config["models"]["mini"] = {"path": tiny_model.path, "resolution": 64}
    config["datasets"] = {config["dataset"]: {"path": str(tmp_path / "photos")}}

    with pytest.raises(CloakBenchError, match=r"carl \(set_A\): 0 photos"):
        Experiment.parse(config | {"identities": ["anna"]}).check()


def test_the_experiments_preset_reaches_the_links_of_a_chain_with_a_name(config):
    both = {"name": "both", "method": "chain", "steps": ["codesr", "jpeg"]}
    config |= {"preset": "mini", "purifications": [["codesr", "jpeg"], both]}
    built = Experiment.parse(config).purifiers

    assert built["both"] == built["codesr+jpeg"]


def test_the_experiments_preset_reaches_what_a_loss_looks_through(config):
    seen = ["codesr", ["resize", {"method": "jpeg", "quality": 9}]]
    entry = {"method": "pid", "through": seen}
    config |= {"preset": "mini", "protections": [entry], "purifications": seen}
    experiment = Experiment.parse(config)

    assert experiment.protections["pid"].purifiers == list(experiment.purifiers.values())
    assert experiment.purifiers["codesr"] != purifiers.build("codesr")


def test_methods_are_built_once(config):
    experiment = Experiment.parse(config)

    assert experiment.protections["aspl"] is experiment.methods()[1]
    assert experiment.faces is experiment.methods()[-1 - len(experiment.metrics)]


def test_only_purifications_are_chained(config):
    with pytest.raises(CloakBenchError, match=r"is a list; only purifications are chained"):
        Experiment.parse(config | {"protections": [["clean", "noise"]]})


def test_the_experiments_preset_is_used_where_a_method_has_it(config):
    config |= {"preset": "mini", "protections": ["clean", "aspl", {"name": "x", "method": "fsmg"}]}
    built = Experiment.parse(config).protections

    assert built["aspl"] == protections.build({"method": "aspl", "preset": "mini"})
    assert built["x"] == protections.build({"method": "fsmg", "preset": "mini"})
    assert built["x"] != protections.build("fsmg")
    assert built["clean"] == protections.build("clean")


def test_an_entrys_own_preset_and_settings_win(config):
    entry = {"name": "own", "method": "aspl", "preset": "tiny", "rounds": 7}
    own = Experiment.parse(config | {"preset": "mini", "protections": [entry]}).protections["own"]

    assert (own.rounds, own.pgd_steps) == (7, 1)
    plain = {"name": "own", "method": "aspl", "preset": None}
    own = Experiment.parse(config | {"preset": "mini", "protections": [plain]}).protections["own"]
    assert own.rounds == 50


def test_a_list_is_a_chain_labelled_by_its_links_with_the_preset_applied(config):
    config |= {"preset": "mini", "purifications": [["resize", {"method": "jpeg", "quality": 9}]]}
    (label,), (chain,) = zip(*Experiment.parse(config).purifiers.items(), strict=True)

    assert label == "resize+jpeg"
    assert chain.steps == [
        {"method": "resize", "factor": 2},
        {"method": "jpeg", "quality": 9},
    ]


def test_two_budgets_of_one_protection_are_two_labels(config):
    config["protections"] = [
        {"name": f"aspl-{levels}", "method": "aspl", "budget": f"{levels}/255"} for levels in (4, 8)
    ]
    built = Experiment.parse(config).protections

    assert {label: method.budget for label, method in built.items()} == {"aspl-4": 4, "aspl-8": 8}


def test_later_files_are_laid_over_earlier_ones_as_snakemake_does(config, tmp_path):
    """Mappings key by key, lists whole."""
    base, update = tmp_path / "base.yaml", tmp_path / "update.yaml"
    base.write_text(yaml.safe_dump(config | {"sampling": {"images": 3, "steps": 9}}))
    update.write_text(yaml.safe_dump({"sampling": {"steps": 4}, "trainers": ["lora"]}))

    experiment = Experiment.load(base, update)

    assert (experiment.config.sampling.images, experiment.config.sampling.steps) == (3, 4)
    assert list(experiment.trainers) == ["lora"]


def test_the_merge_equals_snakemakes(config, tmp_path):
    from snakemake.common.configfile import load_configfile
    from snakemake.utils import update_config

    update = {"sampling": {"steps": 4}, "models": {"big": {"path": "b"}}, "trainers": ["lora"]}
    for name, content in (("base", config), ("update", update)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    merged: dict[str, Any] = {}
    for name in ("base", "update"):
        update_config(merged, load_configfile(tmp_path / f"{name}.yaml"))

    ours = Experiment.load(tmp_path / "base.yaml", tmp_path / "update.yaml")

    assert ours.config == Config.parse(merged)


def test_a_config_as_json_means_the_same_as_a_file(config, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    assert read([json.dumps(config)]) == read([str(tmp_path / "config.yaml")]) == config


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(CloakBenchError, match=r"bad\.yaml: is not valid YAML"):
        Experiment.load(tmp_path / "bad.yaml")
