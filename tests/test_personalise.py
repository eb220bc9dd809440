"""What every trainer promises, on a tiny model; new files are tested unasked."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Killed, MortalJob, tiny_spec
from safetensors.torch import load_file

from cloakbench.errors import CloakBenchError
from cloakbench.files.digest import _reached, code_digest
from cloakbench.identity import Identity
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.gradients import clip
from cloakbench.models.loading import load_model
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tuning import FineTuner, Prior
from cloakbench.personalise import FineTuning, trainers
from cloakbench.prompts import Prompts
from cloakbench.registry import modules_of
from cloakbench.running import jobs
from cloakbench.running.jobs import KEPT, Job
from cloakbench.running.run import Run
from cloakbench.stages.generate import generate
from cloakbench.stages.personalise import personalise
from cloakbench.stages.sample import sample

ALL = [trainer.name for trainer in trainers if issubclass(trainer, FineTuning)]
FULL = ["dreambooth", "cdl"]
SAMPLING = Sampling(images=1, steps=2, sampler="ddim", guidance=2.0)
State = dict[str, torch.Tensor]


def build(name: str, **settings: Any) -> FineTuning:
    """A fast learner, so that two steps leave a trace."""
    return trainers.build(tiny_spec(trainers, name, **{"learning_rate": 1e-2, **settings}))


def fit(
    name: str, model: ModelSpec, identity: Identity, job: Job | None = None, **settings: Any
) -> StableDiffusion:
    diffusion = load_model(model)
    build(name, **settings).fit(diffusion, identity, job or Job(0))
    return diffusion


def states(diffusion: StableDiffusion) -> dict[str, State]:
    parts = ("unet", "text_encoder", "vae")
    return {part: dict(getattr(diffusion, part).state_dict()) for part in parts}


def changed(before: State, after: State) -> set[str]:
    """Weights that differ, or that only one side has."""
    both = before.keys() & after.keys()
    return before.keys() ^ after.keys() | {k for k in both if not torch.equal(before[k], after[k])}


def saved_bytes(diffusion: StableDiffusion, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    diffusion.save(folder)
    files = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("size", [1e-4, 0.999999, 1.0, 1.000002, 30.0, math.nan, math.inf])
def test_gradients_are_clipped_as_torch_clips_them(size: float):
    drawn = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    drawn *= size / drawn.norm()
    ours, theirs = (
        [torch.nn.Parameter(torch.zeros(50)) for _ in range(3)] for _ in range(2)
    )  # the last of them without a gradient
    for parameters in (ours, theirs):
        for parameter, gradient in zip(parameters, drawn, strict=False):
            parameter.grad = gradient.clone()

    clip(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)

    for own, other in zip(ours[:2], theirs, strict=False):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("text_encoder", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_only_the_weights_that_should_be_trained_change(
    name, text_encoder, tiny_model, identity, diffusion
):
    before = states(diffusion)
    after = states(fit(name, tiny_model, identity, train_text_encoder=text_encoder))

    assert changed(before["unet"], after["unet"])
    assert bool(changed(before["text_encoder"], after["text_encoder"])) == text_encoder
    assert not changed(before["vae"], after["vae"])


@pytest.mark.parametrize("name", FULL)
def test_full_fine_tuning_moves_nearly_every_weight(name, tiny_model, identity, diffusion):
    before = states(diffusion)
    after = states(fit(name, tiny_model, identity))

    for part in ("unet", "text_encoder"):
        assert len(changed(before[part], after[part])) > 0.9 * len(before[part])


@pytest.mark.parametrize("text_encoder", [True, False])
def test_lora_only_adds_factors(text_encoder, tiny_model, identity, diffusion):
    before = states(diffusion)
    after = states(fit("lora", tiny_model, identity, train_text_encoder=text_encoder, rank=3))

    for part in ("unet", "text_encoder"):
        frozen = {
            k.replace(".base_layer", ""): v for k, v in after[part].items() if "lora" not in k
        }
        factors = {k: v for k, v in after[part].items() if "lora" in k}
        assert not changed(before[part], frozen)
        assert bool(factors) == (part == "unet" or text_encoder)
        assert all(3 in factor.shape for factor in factors.values())
        assert all(factor.any() for factor in factors.values())


@pytest.mark.parametrize("text_encoder", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_saved_weights_generate_what_the_trained_model_generates(
    name, text_encoder, tiny_model, identity, diffusion, tmp_path
):
    trained = fit(name, tiny_model, identity, train_text_encoder=text_encoder)
    base = SAMPLING.generate(diffusion, "a photo of sks person", [1])
    saved_bytes(trained, tmp_path)
    trained.merge()
    expected = SAMPLING.generate(trained, "a photo of sks person", [1])

    diffusion.adopt(tmp_path)
    again = SAMPLING.generate(diffusion, "a photo of sks person", [1])

    assert torch.equal(again, expected)
    assert (again - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_trains_the_same_bytes_and_another_seed_others(
    name, tiny_model, identity, tmp_path
):
    first, again, other = (
        saved_bytes(fit(name, tiny_model, identity, Job(seed)), tmp_path / str(number))
        for number, seed in enumerate((3, 3, 4))
    )

    assert first == again
    assert first != other


@pytest.mark.parametrize("name", ALL)
def test_a_killed_training_resumes_bit_for_bit(name, tiny_model, identity, tmp_path):
    def finish(folder: str, **job: Any) -> dict[str, bytes]:
        trained = fit(name, tiny_model, identity, MortalJob(5, **job), steps=3)
        return saved_bytes(trained, tmp_path / folder)

    expected = finish("whole")
    scratch = tmp_path / "scratch"
    with pytest.raises(Killed):
        finish("killed", scratch=scratch, lives=2)
    seen: list[tuple[str, int]] = []
    resumed = finish("resumed", scratch=scratch, seen=seen)

    assert resumed == expected
    assert 0 < len(seen) < 3


@pytest.mark.parametrize("name", ALL)
def test_global_random_state_is_neither_used_nor_changed(name, tiny_model, identity, tmp_path):
    torch.manual_seed(1)
    first = saved_bytes(fit(name, tiny_model, identity), tmp_path / "first")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = saved_bytes(fit(name, tiny_model, identity), tmp_path / "second")

    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_loss_is_one_clear_error(name, identity, diffusion):
    with torch.no_grad():
        diffusion.unet.conv_in.weight.fill_(float("nan"))

    with pytest.raises(CloakBenchError, match=r"NaN or infinite\. Lower learning_rate \(0\.01\)"):
        build(name).fit(diffusion, identity, Job(0))


def test_a_loss_that_was_nan_before_a_kill_is_still_an_error(identity, diffusion, tmp_path):
    good = diffusion.unet.conv_in.weight.clone()
    diffusion.unet.conv_in.weight.fill_(float("nan"))
    scratch = tmp_path / "scratch"
    with pytest.raises(Killed):
        build("dreambooth").fit(diffusion, identity, MortalJob(0, scratch=scratch, lives=1))
    with torch.no_grad():
        diffusion.unet.conv_in.weight.copy_(good)

    with pytest.raises(CloakBenchError, match="NaN"):
        build("dreambooth").fit(diffusion, identity, MortalJob(0, scratch=scratch))


def test_learning_lowers_the_loss_on_the_instance_images(tiny_model, identity, diffusion):
    def loss(model: StableDiffusion) -> float:
        with torch.no_grad():
            latents = model.posterior(identity.instance_images.pixels)
            text = model.embed(["a photo of sks person"] * 2)
            draws = [torch.Generator().manual_seed(seed) for seed in range(20)]
            values = [model.denoising_loss(model.draw(latents, rng), text, rng) for rng in draws]
        return float(torch.stack(values).mean())

    trained = fit("dreambooth", tiny_model, identity, steps=30, learning_rate=3e-3)

    assert loss(trained) < 0.97 * loss(diffusion)


def test_one_step_descends_the_loss_written_out_by_hand(diffusion, identity):
    """AdamW's first step moves a weight by the rate against its gradient's sign."""
    images = diffusion.posterior_once(identity.instance_images.pixels)
    classes = diffusion.posterior_once(identity.class_images.pixels)
    diffusion.thaw("all")
    rate = 1e-4
    tuner = FineTuner(
        diffusion, "sks", Prior(classes, "person", 0.7), learning_rate=rate, weight_decay=0.0
    )
    job = Job(9)
    pick, pick_class = tuner._pick(2, 0, job.rng)[0], tuner._pick(3, 0, job.rng, "class")[0]

    rng = job.rng("train", 0)
    scale = diffusion.vae.config.scaling_factor
    both = []
    for latents, index in ((images, pick), (classes, pick_class)):
        normal = torch.randn((1, 4, 8, 8), generator=rng)
        both.append((latents.mean[[index]] + latents.std[[index]] * normal) * scale)
    noise = torch.randn((2, 4, 8, 8), generator=rng)
    timesteps = torch.randint(0, 1000, (2,), generator=rng)
    noisy = diffusion.scheduler.add_noise(torch.cat(both), noise, timesteps)
    text = diffusion.embed(["sks", "person"])
    error = (
        (diffusion.unet(noisy, timesteps, text.embeddings).sample - noise).square().mean((1, 2, 3))
    )
    gradients = torch.autograd.grad(error[0] + 0.7 * error[1], tuner.parameters)
    before = [p.detach().clone() for p in tuner.parameters]

    tuner.step(images, 0, job.rng)

    for old, new, gradient in zip(before, tuner.parameters, gradients, strict=True):
        clear = gradient.abs() > 1e-4
        moved = (new.detach() - old)[clear]
        torch.testing.assert_close(moved, -rate * gradient[clear].sign(), rtol=0, atol=0.02 * rate)


@pytest.mark.parametrize(("count", "batch_size"), [(2, 1), (3, 2), (4, 3), (5, 7)])
@pytest.mark.parametrize("shuffled", [True, False])
def test_every_image_is_used_equally_often(count, batch_size, shuffled, diffusion):
    diffusion.thaw("all")
    tuner = FineTuner(diffusion, "x", None, 1e-3, batch_size=batch_size, shuffled=shuffled)

    picked = [i for step in range(count * 4) for i in tuner._pick(count, step, Job(0).rng)]

    assert Counter(picked) == dict.fromkeys(range(count), 4 * batch_size)
    for start in range(0, len(picked), count):
        assert sorted(picked[start : start + count]) == list(range(count))


def test_shuffling_differs_between_passes_and_between_instance_and_class(diffusion):
    diffusion.thaw("all")
    tuner = FineTuner(diffusion, "x", None, 1e-3)

    def order(first: int, *what: str) -> list[int]:
        return [tuner._pick(6, first + step, Job(0).rng, *what)[0] for step in range(6)]

    assert order(0) != order(6)
    assert order(0) != order(0, "class")
    assert order(0) == order(0)


def test_cdl_trains_on_the_published_prompts_to_the_letter():
    cdl = trainers.build("cdl")

    assert cdl.instance_prompt(Prompts()) == "a photo of sks person, bhj noisy pattern"
    assert cdl.class_prompt(Prompts()) == "a photo of person, without bhj noisy pattern"
    assert cdl.sampling() == {
        "suffix": ", without bhj noisy pattern",
        "negative_prompt": "noisy, lowres, artifact, pattern",
    }


def test_dreambooth_adds_nothing_to_any_prompt():
    dreambooth = trainers.build("dreambooth")

    assert dreambooth.instance_prompt(Prompts()) == "a photo of sks person"
    assert dreambooth.class_prompt(Prompts()) == "a photo of person"
    assert dreambooth.sampling() == {"suffix": "", "negative_prompt": ""}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("suffix", [True, False])
@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_the_three_switches_are_independent(name, training, suffix, negative):
    trainer = build(
        name,
        phrase_in_training=training,
        suffix_in_sampling=suffix,
        negative_in_sampling=negative,
    )

    assert ("bhj" in trainer.instance_prompt(Prompts())) == training
    assert ("bhj" in trainer.class_prompt(Prompts())) == training
    assert ("bhj" in trainer.sampling()["suffix"]) == suffix
    assert bool(trainer.sampling()["negative_prompt"]) == negative


def test_switches_of_sampling_retrain_nothing():
    plain, sampled = build("cdl"), build("cdl", suffix_in_sampling=False, negative_prompt="blurry")

    assert plain.training_spec() == sampled.training_spec()
    assert plain.training_spec() != build("cdl", phrase_in_training=False).training_spec()


def test_the_prompts_of_a_trainer_reach_the_text_encoder(identity, diffusion, monkeypatch):
    seen: list[str] = []
    embed = StableDiffusion.embed
    monkeypatch.setattr(
        StableDiffusion, "embed", lambda self, prompts: seen.extend(prompts) or embed(self, prompts)
    )

    build("cdl", steps=1).fit(diffusion, identity, Job(0))

    assert seen == [
        "a photo of sks person, bhj noisy pattern",
        "a photo of person, without bhj noisy pattern",
    ]


def stage(tiny_model, folders, out, spec, class_images, scratch=None, sampling=None) -> None:
    options = {
        "model": tiny_model,
        "prompts": Prompts(),
        "instance": folders.instance,
        "class_images": class_images,
        "run": Run(out, "anna", scratch=scratch),
    }
    if sampling is None:
        personalise(spec, **options)
    else:
        generate(spec, sampling, **options)


@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_photos_of_another_size_than_the_model_makes_are_refused(
    sampling, tiny_model, folders, tmp_path
):
    """They would be learnt at one size and sampled at another."""
    larger = tiny_model.model_copy(update={"resolution": 128})
    spec = {"method": "lora", "preset": "tiny", "prior_weight": 0}

    with pytest.raises(CloakBenchError, match="photos of 64x64 px, but the model makes 128x128"):
        stage(larger, folders, tmp_path / "out", spec, None, sampling=sampling)
    assert not (tmp_path / "out").exists()


def images(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", ALL)
def test_sampling_at_once_makes_the_images_of_the_saved_weights(
    name, tiny_model, folders, tmp_path
):
    spec = tiny_spec(trainers, name, learning_rate=1e-2)
    stage(tiny_model, folders, tmp_path / "weights", spec, folders.class_images)
    sample(
        SAMPLING,
        model=tiny_model,
        prompts=Prompts().sample_prompts,
        weights=tmp_path / "weights",
        run=Run(tmp_path / "later", "anna"),
        **trainers.build(spec).sampling(),
    )

    stage(tiny_model, folders, tmp_path / "at_once", spec, folders.class_images, None, SAMPLING)

    assert images(tmp_path / "at_once") == images(tmp_path / "later")
    assert "photo/000.png" in images(tmp_path / "later")


def test_the_floor_is_the_base_model_whatever_the_photos(tiny_model, folders, tmp_path):
    prompts = Prompts().sample_prompts
    run = Run(tmp_path / "base", "anna")
    sample(SAMPLING, model=tiny_model, prompts=prompts, weights=None, run=run)

    stage(tiny_model, folders, tmp_path / "at_once", {"method": "none"}, None, None, SAMPLING)
    stage(tiny_model, folders, tmp_path / "weights", {"method": "none"}, None)
    run = Run(tmp_path / "later", "anna")
    kept = tmp_path / "weights"
    sample(SAMPLING, model=tiny_model, prompts=prompts, weights=kept, run=run)

    assert images(tmp_path / "base") == images(tmp_path / "at_once") == images(tmp_path / "later")


def test_one_that_is_killed_while_it_samples_neither_trains_nor_samples_twice(
    tiny_model, folders, tmp_path, monkeypatch
):
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: 0.0))  # saving is free
    monkeypatch.setattr(jobs, "DISK", math.inf)
    monkeypatch.setattr("cloakbench.running.run.Job", partial(Job, save_every=0.0))
    spec, classes = tiny_spec(trainers, "cdl"), folders.class_images
    stage(tiny_model, folders, tmp_path / "calm", spec, classes, None, SAMPLING)
    scratch = tmp_path / "scratch"
    drawn: list[str] = []
    draw = Sampling.generate

    def mortal(self, model, prompt, *rest):
        if len(drawn) == 1:
            drawn.append("killed")
            raise Killed
        drawn.append(prompt)
        return draw(self, model, prompt, *rest)

    monkeypatch.setattr(Sampling, "generate", mortal)
    with pytest.raises(Killed):
        stage(tiny_model, folders, tmp_path / "out", spec, classes, scratch, SAMPLING)
    monkeypatch.setattr(FineTuner, "step", None)
    stage(tiny_model, folders, tmp_path / "out", spec, classes, scratch, SAMPLING)

    assert images(tmp_path / "out") == images(tmp_path / "calm")
    assert len(drawn) == len(Prompts().sample_prompts) + 1
    assert not [p for p in scratch.rglob("*.png") if KEPT not in str(p)]


def learning(name: str, **settings: Any) -> dict[str, Any]:
    return tiny_spec(trainers, name, learning_rate=1e-2, steps=3, **settings)


@pytest.mark.parametrize("name", ALL)
def test_samples_of_a_snapshot_are_those_of_a_training_of_so_many_steps(
    name, tiny_model, folders, tmp_path
):
    for steps, snapshots in ((1, ()), (2, ()), (3, (1, 2))):
        spec = {**learning(name), "steps": steps, "snapshots": snapshots}
        out = tmp_path / str(steps)
        stage(tiny_model, folders, out, spec, folders.class_images, None, SAMPLING)

    first, second, last = (images(tmp_path / str(steps)) for steps in (1, 2, 3))
    assert {k: v for k, v in last.items() if "@" not in k}.keys() == first.keys()
    assert images(tmp_path / "3" / "@1") == first
    assert images(tmp_path / "3" / "@2") == second
    assert len({pictures["photo/000.png"] for pictures in (first, second, last)}) == 3


@pytest.mark.parametrize("lives", [1, 2, 3])
def test_a_training_with_snapshots_that_is_killed_goes_on_with_the_same_images(
    lives, tiny_model, folders, tmp_path, monkeypatch
):
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: 0.0))  # saving is free
    spec, classes = learning("dreambooth", snapshots=(1, 2)), folders.class_images
    stage(tiny_model, folders, tmp_path / "calm", spec, classes, None, SAMPLING)
    scratch = tmp_path / "scratch"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("cloakbench.running.run.Job", partial(MortalJob, lives=lives))
        stage(tiny_model, folders, tmp_path / "out", spec, classes, scratch, SAMPLING)
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("cloakbench.running.run.Job", partial(MortalJob, seen=seen))
    stage(tiny_model, folders, tmp_path / "out", spec, classes, scratch, SAMPLING)

    assert images(tmp_path / "out") == images(tmp_path / "calm")
    assert [step for name, step in seen if name == "personalise"] == [*range(lives, 3)]
    assert not list(scratch.rglob("*.safetensors"))


def test_weights_alone_have_no_snapshots(tiny_model, folders, tmp_path):
    spec = learning("dreambooth", snapshots=(1,))

    with pytest.raises(CloakBenchError, match=r"'dreambooth' has snapshots, .* give --sampling"):
        stage(tiny_model, folders, tmp_path / "out", spec, folders.class_images)


@pytest.mark.parametrize("name", ALL)
def test_class_images_are_needed_unless_the_prior_weighs_nothing(
    name, tiny_model, folders, tmp_path
):
    with pytest.raises(CloakBenchError, match=rf"'{name}' needs --class-images FOLDER"):
        stage(tiny_model, folders, tmp_path / "out", tiny_spec(trainers, name), None)

    spec = tiny_spec(trainers, name, prior_weight=0)
    stage(tiny_model, folders, tmp_path / "without", spec, None)
    stage(tiny_model, folders, tmp_path / "with", spec, folders.class_images)

    weights = [load_all(tmp_path / folder) for folder in ("without", "with")]
    assert weights[0]
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def load_all(folder) -> State:
    files = folder.rglob("*.safetensors")
    return {f"{p.relative_to(folder)} {k}": v for p in files for k, v in load_file(p).items()}


def test_cdl_depends_on_the_code_that_it_inherits():
    cdl, dreambooth = (modules_of(trainers.build(name)) for name in ("cdl", "dreambooth"))

    assert _reached(set(dreambooth)) < _reached(set(cdl))
    assert code_digest(*cdl) != code_digest(*dreambooth)


def test_8_bit_moments_without_their_package_are_one_clear_error_at_planning(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    for name in ("dreambooth", "lora"):
        trainers.build({"method": name}).check()
        with pytest.raises(CloakBenchError, match=rf"{name}: the package bitsandbytes, .* install"):
            trainers.build({"method": name, "eight_bit": True}).check()


def test_8_bit_moments_are_those_of_the_package(monkeypatch, diffusion):
    made = []

    def optimiser(parameters, **settings):
        made.append((parameters, settings))

    package = SimpleNamespace(AdamW8bit=optimiser)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package)
    diffusion.thaw("all")
    tuner = FineTuner(diffusion, "a photo", None, 1e-3, weight_decay=0.1, eight_bit=True)

    assert made == [(tuner.parameters, {"lr": 1e-3, "weight_decay": 0.1})]
