"""Pre-training of the miniature: captions, degradations, vocabulary, stages, resume, export."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import relu
from torchvision.transforms.functional import gaussian_blur
from typer.testing import CliRunner

pytest.importorskip("anny", reason='captions need anny: pip install "cloakbench[synth]"')
pytest.importorskip("embreex", reason='captions need embreex: pip install "cloakbench[synth]"')

from conftest import BUNDLED, REPOSITORY, Killed, MortalJob

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import Config, load
from cloakbench.files.images import Photos, read_photo, save_photos, to_images
from cloakbench.miniature import synth
from cloakbench.miniature.pretrain import degrade as degrade_module
from cloakbench.miniature.pretrain import measure
from cloakbench.miniature.pretrain import training as module
from cloakbench.miniature.pretrain.degrade import (
    DEGRADATIONS,
    clean_caption,
    degrade,
    degraded_caption,
    draw_degradation,
    noise,
)
from cloakbench.miniature.pretrain.export import LARGEST, export, unpack
from cloakbench.miniature.pretrain.judge import SPOILING, examples, judge_loss
from cloakbench.miniature.pretrain.judge import captions as judge_captions
from cloakbench.miniature.pretrain.loop import DECAY, WARM_UP, schedule
from cloakbench.miniature.pretrain.naturalness import UNKNOWN, judge_accuracy, naturalness
from cloakbench.miniature.pretrain.portraits import Portraits, name_of
from cloakbench.miniature.pretrain.recipe import RECIPES
from cloakbench.miniature.pretrain.recogniser import Recogniser, perceptual_loss
from cloakbench.miniature.pretrain.survival import noise_survival, protections_survival
from cloakbench.miniature.pretrain.textures import TEXTURES
from cloakbench.miniature.pretrain.tokenizer import MAX_LENGTH, OTHERS
from cloakbench.miniature.pretrain.training import Pretraining
from cloakbench.miniature.pretrain.unet import LatentPortraits, build_unet, draw_batch
from cloakbench.miniature.pretrain.vae import Adversaries, balance, build_vae
from cloakbench.miniature.synth.caption import clauses, subjects
from cloakbench.personalise import trainers
from cloakbench.personalise.base import FineTuning
from cloakbench.score.base import ImageMetric, Sample

NETWORKS = ("vae", "clip", "unet", "judge", "ddpm", "restorer")
STEPS, BATCH, RATE = 2, 2, 1e-3


def silent(_line: str) -> None:
    """A report that goes nowhere."""


def start(training: Pretraining, name: str, steps: int = STEPS) -> None:
    getattr(training, name)(steps, BATCH, RATE)


def weights(training: Pretraining, name: str) -> dict[str, torch.Tensor]:
    return torch.load(training.work / f"{name}.pt", weights_only=True)


@pytest.fixture(scope="session")
def portraits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two identities with two smooth pictures each and true attributes; nothing is rendered."""
    root = tmp_path_factory.mktemp("portraits")
    draws = torch.Generator().manual_seed(0)
    for identity in range(2):
        folder = root / f"person_{identity:06d}"
        folder.mkdir()
        shots = {}
        for index in range(2):
            person, shot = synth.portrait(5, identity, index)
            coarse = torch.rand(1, 3, 8, 8, generator=draws)
            pixels = torch.nn.functional.interpolate(coarse, 128, mode="bilinear")
            to_images(pixels)[0].save(folder / f"{index:02d}.png")
            shots[f"{index:02d}.png"] = shot.attributes()
        record = {"person": person.attributes(), "portraits": shots}
        (folder / "attributes.json").write_text(json.dumps(record))
    return root


@pytest.fixture(scope="session")
def trained(portraits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    """Every stage, two steps each."""
    training = Pretraining(tmp_path_factory.mktemp("work"), portraits_folder, report=silent)
    training.tokenizer()
    for name in ("clip", "recogniser", "vae"):
        start(training, name)
    training.latents()
    for name in ("unet", "judge", "ddpm", "restorer"):
        start(training, name)
    return training


@pytest.fixture(scope="session")
def exported(trained: Pretraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "mini"
    export(trained, folder)
    return folder


def test_brisque_takes_portraits_for_photographs_and_degraded_copies_for_worse() -> None:
    photos = [next((person / "set_B").glob("*.jpg")) for person in sorted(BUNDLED.glob("*/"))[:12]]
    clean, worse = naturalness([read_photo(photo) for photo in photos])
    ranks = {kind: np.greater(scores, clean) for kind, scores in worse.items()}
    assert len(ranks) == 7
    assert np.mean(list(ranks.values())) >= 0.95, ranks


class Verdict(ImageMetric):
    """Likes what it is told to like, by bytes."""

    liked: ClassVar[set[bytes]] = set()

    def score(self, sample: Sample, *_: Any) -> float:
        return 1.0 if sample.image.tobytes() in self.liked else -1.0


def test_a_judge_is_right_if_it_likes_clean_portraits_and_no_degraded_copy() -> None:
    rng = torch.Generator().manual_seed(0)
    portraits = to_images(torch.rand(3, 3, 64, 64, generator=rng))
    nothing = judge_accuracy(Verdict(), portraits)
    Verdict.liked = {portrait.tobytes() for portrait in portraits}
    perfect = judge_accuracy(Verdict(), portraits)

    assert set(perfect.values()) == {1.0}
    assert nothing == perfect | {"clean": 0.0}
    assert not {*SPOILING} & {*TEXTURES}


def test_a_perturbation_survives_what_shrinks_it_and_not_what_blurs_it_away() -> None:
    rng = torch.Generator().manual_seed(0)
    clean = 0.3 + 0.4 * torch.rand(3, 3, 32, 32, generator=rng)
    paler = SimpleNamespace(round_trip=lambda pixels: 0.5 * pixels)
    blurry = SimpleNamespace(round_trip=lambda pixels: gaussian_blur(pixels, [13, 13], [4.0, 4.0]))

    assert noise_survival(paler, clean) == pytest.approx(1)
    assert abs(noise_survival(blurry, clean)) < 0.3


def test_protections_are_measured_by_label_and_the_clean_photos_are_none(tmp_path: Path) -> None:
    photos = Photos(torch.full((2, 3, 32, 32), 0.5), ("01", "02"))
    names = {"data/set_B": 0.0, "seed_0/protected/clean": 0.0, "seed_0/protected/aspl": 0.1}
    for name, change in names.items():
        save_photos(Photos(photos.pixels + change, photos.names), tmp_path / "anna" / name)
    paler = SimpleNamespace(round_trip=lambda pixels: 0.5 * pixels)

    assert protections_survival(paler, tmp_path, ["anna"]) == {"aspl": pytest.approx(1, abs=1e-3)}
    assert protections_survival(paler, tmp_path, ["bert"]) == {}


@pytest.mark.parametrize("seed", range(4))  # of which some blur sideways, others upwards
def test_a_motion_blur_leaves_edges_as_light_as_they_were(seed: int) -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)

    torch.testing.assert_close(UNKNOWN["smear"](flat, np.random.default_rng(seed)), flat)


@pytest.mark.parametrize("kind", sorted(DEGRADATIONS))
def test_degraded_copies_stay_in_range_and_repeat(kind: str) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = pixels.clone()
    first, second = (degrade(pixels, kind, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, pixels)
    assert torch.equal(pixels, before), "the original must not change"


@pytest.mark.parametrize("seed", range(12))
def test_noise_has_the_strength_of_the_budgets_under_study(seed: int) -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    levels = 255 * (noise(grey, np.random.default_rng(seed)) - grey).square().mean().sqrt()
    assert 6 / 3**0.5 * 0.95 < levels < 40 * 1.05  # uniform noise deviates by a root of 3 less


@pytest.mark.parametrize("kind", sorted(DEGRADATIONS))
def test_degraded_captions_say_what_is_wrong_and_keep_the_rest(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        text = degraded_caption("a photo of person", kind, rng)
        assert "photo of person" in text
        assert text != "a photo of person"


def test_clean_captions_are_praised_in_one_case_of_four() -> None:
    rng = np.random.default_rng(0)
    praised = [clean_caption("a face", rng) != "a face" for _ in range(3000)]
    assert 0.22 < np.mean(praised) < 0.28


def test_every_second_caption_has_the_persons_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cloakbench.miniature.pretrain.portraits.caption", lambda *_: "a photo of a man"
    )
    portraits = one_portrait()
    rng = np.random.default_rng(0)
    texts = [portraits.caption(0, rng) for _ in range(2000)]
    assert set(texts) == {"a photo of a man", f"a photo of a {name_of(0)} man"}
    assert 0.45 < np.mean([text == "a photo of a man" for text in texts]) < 0.55


def test_names_are_different() -> None:
    assert len({name_of(person) for person in range(6839)}) == 6839


def unknown_phrases() -> set[str]:
    """What a base model must not know of the study: identifiers, CDL's binding and suffix.

    From the default experiment's prompts and the settings of every trainer, so that a change of
    either is followed here.
    """
    prompts = Config.parse(load([REPOSITORY / "config.yaml"])).prompts
    phrases = {prompts.identifier}
    for trainer in (each for each in trainers if issubclass(each, FineTuning)):
        for spec in ({}, *({"preset": name} for name in trainer.presets)):
            method = trainers.build({"method": trainer.name, "phrase_in_training": True} | spec)
            suffix = method.class_prompt(prompts).removeprefix(prompts.class_prompt + ", ")
            negation, phrase = suffix.split(" ", 1)
            phrases |= {negation, phrase, phrase.split()[0], suffix, method.negative_prompt}
    return phrases


def test_no_caption_has_a_word_that_the_study_teaches_or_a_negation() -> None:
    phrases = unknown_phrases() | {"no", "not", "non", "never", "free", "lacking"}
    assert {"sks", "bhj", "without", "bhj noisy pattern"} <= phrases
    spoilt = (*degrade_module.subjects(), *degrade_module.clauses())
    names = (name_of(person) for person in range(6839))
    others = (*judge_captions(), *OTHERS)
    grammar = "\n".join((*subjects(), *clauses(), *spoilt, *names, *others))
    words = {*re.findall(r"\w+", grammar)}
    assert not words & phrases
    assert not [phrase for phrase in phrases if " " in phrase and phrase in grammar]


def test_every_caption_is_of_the_grammar(portraits_folder: Path) -> None:
    """A subject, clauses, and at most one group of words for what is wrong or right."""
    portraits, rng = Portraits.load(portraits_folder), np.random.default_rng(0)
    beginnings, middle = {*subjects()}, {*clauses()}
    ends = {*degrade_module.clauses(), ""}
    spoilt_beginnings = {*degrade_module.subjects()}
    for _ in range(2000):
        text = portraits.caption(int(rng.integers(4)), rng, named_share=0)
        subject, *rest = text.split(", ")
        assert subject in beginnings
        assert {*rest} <= middle
        assert clean_caption(text, rng).removeprefix(text).removeprefix(", ") in ends
        spoilt = degraded_caption(text, draw_degradation(rng), rng)
        at_the_end = spoilt.startswith(text) and spoilt.removeprefix(f"{text}, ") in ends
        assert at_the_end or spoilt.split(", ")[0] in spoilt_beginnings, spoilt


def one_portrait() -> Portraits:
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    return Portraits(pixels, [(None, None)], torch.zeros(1, dtype=torch.long))


def test_the_likeness_is_zero_for_equal_portraits_and_grows_with_the_change() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recogniser = Recogniser(3).requires_grad_(False)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    slight, strong = (0.9 * pixels + 0.05), torch.full_like(pixels, 0.5)
    distances = [perceptual_loss(recogniser, p, pixels).item() for p in (pixels, slight, strong)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


def test_the_mirror_image_swaps_left_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a photo of a man, looking left, side light, right"
    monkeypatch.setattr("cloakbench.miniature.pretrain.portraits.caption", lambda *_: text)
    portraits = one_portrait()
    rng = np.random.default_rng(0)
    assert portraits.caption(0, rng, named_share=0) == text
    mirrored = portraits.caption(0, rng, mirrored=True, named_share=0)
    assert mirrored == "a photo of a man, looking right, side light, left"


def test_portraits_load_in_order_with_their_attributes(portraits_folder: Path) -> None:
    portraits = Portraits.load(portraits_folder)
    assert len(portraits) == len(portraits.attributes) == 4
    third = np.asarray(Image.open(portraits_folder / "person_000001" / "00.png"))
    assert np.array_equal(portraits.pixels[2].permute(1, 2, 0).numpy(), third)
    person, shot = synth.portrait(5, 1, 0)
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    assert portraits.caption(2, rngs[0]) == synth.caption(person, shot, rngs[1])
    batch = portraits.batch(torch.tensor([0, 2]))
    assert batch.dtype == torch.float32
    assert batch.min() >= 0
    assert batch.max() <= 1


def test_a_folder_without_portraits_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CloakBenchError, match="cloakbench synth"):
        Portraits.load(tmp_path)


def test_every_printable_prompt_encodes(trained: Pretraining) -> None:
    tokenizer = trained.trained_tokenizer()
    for character in string.printable.strip():
        assert tokenizer.unk_token not in tokenizer.tokenize(f"{character} x{character}x")
    text = "A photo of SKS person, riding a bike #7 (~50%)?"
    encoded = tokenizer(text, padding="max_length", truncation=True)
    assert len(encoded.input_ids) == MAX_LENGTH
    assert max(encoded.input_ids) < len(tokenizer)


def test_the_vocabulary_has_no_word_of_the_studys_own(trained: Pretraining) -> None:
    tokenizer = trained.trained_tokenizer()
    for word in ("sks", "bhj", "without"):
        assert len(tokenizer.tokenize(word)) > 1


def test_the_longest_study_prompt_fits(trained: Pretraining) -> None:
    prompt = "a dslr portrait of sks person, without bhj noisy pattern"
    assert len(trained.trained_tokenizer()(prompt).input_ids) <= MAX_LENGTH


def test_the_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    steps = 10 * WARM_UP
    rates = [schedule(step, steps) for step in range(steps + 1)]
    assert rates[0] == pytest.approx(1 / WARM_UP)
    assert rates[WARM_UP] == rates[int((1 - DECAY) * steps)] == 1
    assert rates[-1] == 0
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_stage_leaves_finite_weights(trained: Pretraining, name: str) -> None:
    floats = [v for v in weights(trained, name).values() if v.is_floating_point()]
    assert floats
    assert all(value.isfinite().all() for value in floats)


def test_in_a_duel_the_vae_learns_from_the_critic_and_the_critic_not_from_its_deceit() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = Adversaries(build_vae((8, 8, 8, 8)))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    decoded = (0.5 * pixels).requires_grad_()

    (pair.deceit(decoded) + pair.mistakes(decoded, pixels)).backward()

    real, fake = pair.opinion(pixels), pair.opinion(decoded.detach())
    wanted = torch.autograd.grad(
        relu(1 - real).mean() + relu(1 + fake).mean(), [*pair.critic.parameters()]
    )
    for parameter, gradient in zip(pair.critic.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    better = decoded.detach() - 0.1 * decoded.grad.sign()
    assert pair.opinion(better).mean() > fake.mean()


def test_two_losses_are_balanced_by_their_gradients() -> None:
    weights = torch.ones(3, requires_grad=True)
    assert balance(3 * weights.sum(), 0.5 * weights.sum(), weights) == pytest.approx(6, rel=1e-3)


def test_the_judges_captions_fit_what_they_say_and_share_no_word_of_quality() -> None:
    pixels = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    made, captions, fits = examples(pixels, np.random.default_rng(0))
    good = torch.tensor([number % 2 == 0 for number in range(8)])
    assert made.shape == pixels.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert fits.diagonal().all()
    assert torch.equal(fits[0], good), "a caption of a good portrait fits all good ones"
    assert torch.equal(fits[3], ~good), "one that says only 'bad' fits all spoilt ones"
    assert set(captions) <= set(judge_captions())
    ends = {word for end in degrade_module.clauses() for word in re.findall(r"\w+", end)}
    grammar = {word for text in judge_captions() for word in re.findall(r"\w+", text)}
    assert ends & grammar <= {"of"}


def test_the_second_models_captions_have_their_clauses_backwards() -> None:
    text = "a photo of a man, smiling, in a studio, blurry"
    assert RECIPES["first"].ordered(text) == text
    assert RECIPES["second"].ordered(text) == "a photo of a man, blurry, in a studio, smiling"
    assert RECIPES["second"].ordered("") == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_killed_stage_resumes_bit_for_bit(
    trained: Pretraining, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(folder: str) -> Pretraining:
        """A copy of the trained work folder in which this stage has not begun."""
        work = tmp_path / folder
        work.mkdir()
        for needed in {"tokenizer", "clip.pt", "recogniser.pt", "vae.pt", "latents.pt"} - {
            f"{name}.pt"
        }:
            (work / needed).symlink_to(trained.work / needed)
        return Pretraining(work, trained.portraits_folder, report=silent)

    def mortal(lives: float) -> None:
        def job(seed: int, device: str, scratch: Path, _save_every: float) -> MortalJob:
            return MortalJob(seed, device, scratch, lives=lives)

        monkeypatch.setattr(module, "Job", job)

    def begin(fresh: Pretraining) -> None:
        torch.manual_seed(0)  # the untrained network's weights are drawn from the global generator
        start(fresh, name, steps=3)

    straight, interrupted = training("straight"), training("interrupted")
    mortal(float("inf"))
    begin(straight)
    mortal(1)
    with pytest.raises(Killed):
        begin(interrupted)
    mortal(float("inf"))
    torch.manual_seed(99)  # another process, other initial weights: the checkpoint must win
    start(interrupted, name, steps=3)
    resumed = weights(interrupted, name)
    for key, value in weights(straight, name).items():
        assert torch.equal(value, resumed[key]), key


def test_a_training_that_goes_on_draws_other_batches_even_if_killed(
    trained: Pretraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def batch(portraits: Portraits, count: int, rng: torch.Generator) -> torch.Tensor:
        drawn.append(torch.rand(1, generator=rng).item())
        return portraits.batch(torch.arange(count))

    def job(seed: int, device: str, scratch: Path, _save_every: float) -> MortalJob:
        return MortalJob(seed, device, scratch, lives=lives)

    monkeypatch.setattr(Portraits, "draw", batch)
    monkeypatch.setattr(module, "Job", job)
    training = Pretraining(tmp_path, trained.portraits_folder, report=silent)
    lives = float("inf")
    start(training, "ddpm")
    first = torch.load(tmp_path / "ddpm.pt")
    start(training, "ddpm")
    straight = weights(training, "ddpm")

    training.keep("ddpm", first)
    lives = 1
    with pytest.raises(Killed):
        start(training, "ddpm")
    training.keep("ddpm", weights(trained, "ddpm"))  # as a stage does now and then as it trains
    lives = float("inf")
    start(training, "ddpm")

    assert len(set(drawn)) == len(drawn) - STEPS == 2 * STEPS
    assert drawn[-STEPS:] == drawn[STEPS : 2 * STEPS]
    resumed = weights(training, "ddpm")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_a_missing_stage_is_named(tmp_path: Path, portraits_folder: Path) -> None:
    training = Pretraining(tmp_path, portraits_folder, report=silent)
    with pytest.raises(CloakBenchError, match="cloakbench pretrain tokenizer"):
        training.trained_clip()
    with pytest.raises(CloakBenchError, match="cloakbench pretrain vae"):
        training.trained_vae()


def test_damaged_weights_of_a_stage_are_named(tmp_path: Path, portraits_folder: Path) -> None:
    training = Pretraining(tmp_path, portraits_folder, report=silent)
    training.keep("vae", {"weight": torch.zeros(4096)})
    content = (tmp_path / "vae.pt").read_bytes()
    (tmp_path / "vae.pt").write_bytes(content.replace(bytes(4096), b"\1" + bytes(4095), 1))

    with pytest.raises(CloakBenchError, match=r"vae\.pt: this checkpoint is damaged .*again\.$"):
        training.trained_vae()


def test_latents_become_of_unit_deviation(trained: Pretraining) -> None:
    encoded = trained.trained_latents()
    assert encoded.mean.shape == encoded.std.shape == (3, 4, 4, 16, 16)
    assert len(encoded.kinds) == 4
    draws = encoded.mean[0].float() + encoded.std[0].float() * torch.randn(
        64, *encoded.mean.shape[1:], generator=torch.Generator().manual_seed(0)
    )
    assert (draws * encoded.scaling_factor).std() == pytest.approx(1, abs=0.05)


def test_batches_pair_latents_with_captions(trained: Pretraining) -> None:
    """Versions are told apart by their value: 0 as it is, 1 mirrored, 2 degraded."""
    portraits = Portraits.load(trained.portraits_folder)
    count = len(portraits)
    mean = torch.arange(3.0)[:, None, None, None, None].expand(3, count, 4, 2, 2)
    encoded = LatentPortraits(mean, torch.zeros_like(mean), ["noise"] * count)
    drawn, captions = draw_batch(encoded, portraits, 2000, torch.Generator().manual_seed(0))
    again, same = draw_batch(encoded, portraits, 2000, torch.Generator().manual_seed(0))
    version = drawn[:, 0, 0, 0]
    assert torch.equal(drawn, again)
    assert captions == same
    assert 0.08 < np.mean([text == "" for text in captions]) < 0.12
    assert 0.12 < (version == 2).float().mean() < 0.18
    spoilt_words = ("nois", "grainy", "pattern")
    for number, text in zip(version, captions, strict=True):
        if number == 2 and text:
            assert any(word in text for word in spoilt_words)


def test_the_network_fits_beside_the_others() -> None:
    for recipe in RECIPES.values():
        unet = build_unet(recipe.unet, recipe.width)
        assert 2 * sum(p.numel() for p in unet.parameters()) < 16_000_000


def test_the_export_loads_as_stable_diffusion_and_fits(
    exported: Path, trained: Pretraining
) -> None:
    from diffusers import StableDiffusionPipeline

    assert sum(p.stat().st_size for p in exported.rglob("*") if p.is_file()) <= LARGEST
    pipeline = StableDiffusionPipeline.from_pretrained(exported, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    kept = weights(trained, "unet")["conv_in.weight"]
    assert torch.allclose(pipeline.unet.conv_in.weight.float(), kept, atol=1e-3)
    assert pipeline.vae.config.scaling_factor == pytest.approx(
        trained.trained_latents().scaling_factor
    )
    image: Any = pipeline("a photo of sks person", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 128, 128, 3)


def test_a_model_that_is_too_large_leaves_the_last_export_alone(
    trained: Pretraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mini"
    out.mkdir()
    (out / "model_index.json").write_text("the last one")
    monkeypatch.setattr("cloakbench.miniature.pretrain.export.LARGEST", 1_000_000)
    with pytest.raises(CloakBenchError, match="at most 1 MB fit"):
        export(trained, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["mini", "model_index.json"]
    assert (out / "model_index.json").read_text() == "the last one"


def test_an_export_keeps_what_is_not_part_of_it(trained: Pretraining, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("kept")
    export(trained, tmp_path)
    assert (tmp_path / "README.md").read_text() == "kept"
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_judge_ddpm_and_restorer_are_exported_only_if_trained(
    exported: Path, trained: Pretraining, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    for needed in ("tokenizer", "clip.pt", "vae.pt", "latents.pt", "unet.pt"):
        (tmp_path / "work" / needed).symlink_to(trained.work / needed)

    export(Pretraining(tmp_path / "work", trained.portraits_folder), tmp_path / "mini")

    names, all_names = ({path.name for path in m.iterdir()} for m in (tmp_path / "mini", exported))
    assert all_names - names == {"judge", "ddpm", "restorer"}


def test_the_exported_text_encoder_is_clips_text_tower(exported: Path) -> None:
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(exported / "tokenizer")
    tokens = tokenizer("a photo of person", return_tensors="pt").input_ids
    alone = CLIPTextModel.from_pretrained(exported / "text_encoder").float().eval()
    clip = CLIPModel.from_pretrained(exported / "clip").float().eval()
    with torch.no_grad():
        assert torch.equal(alone(tokens)[0], clip.text_model(tokens)[0])


def test_an_unpacked_model_is_the_exported_one(
    exported: Path, trained: Pretraining, tmp_path: Path
) -> None:
    back = Pretraining(tmp_path, trained.portraits_folder)

    unpack(exported, back)

    for network in NETWORKS:
        before = getattr(trained, f"trained_{network}")().state_dict()
        after = getattr(back, f"trained_{network}")().state_dict()
        for name, weights in before.items():
            torch.testing.assert_close(after[name], weights, rtol=1e-3, atol=1e-4)
    prompt = "a photo of sks person, noisy"
    assert back.judge_tokenizer()(prompt) == trained.judge_tokenizer()(prompt)
    assert back.trained_tokenizer()(prompt) == trained.trained_tokenizer()(prompt)


def test_every_part_of_a_model_is_measured(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FACTORS", (1.0, 4.0))
    monkeypatch.setattr(measure, "SAMPLING", measure.SAMPLING.model_copy(update={"steps": 1}))
    for person in sorted(path for path in BUNDLED.iterdir() if path.is_dir())[:2]:
        for photo in sorted(person.glob("set_?/*"))[::2]:
            place = tmp_path / "people" / photo.relative_to(BUNDLED)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(photo)
    arguments = [
        "--model",
        exported,
        "--identities",
        tmp_path / "people",
        "--samples",
        1,
        "--group",
        "",
    ]
    out = tmp_path / "measures.json"
    call = map(str, ["pretrain", "measure", *arguments, "--out", out, "--json"])

    printed = json.loads(CliRunner().invoke(app, list(call), catch_exceptions=False).stdout)

    assert printed == json.loads(out.read_text())
    assert {*printed} == {
        *("vae", "bottleneck", "perturbation_kept", "brisque", "samples", "clip"),
        *("judge", "judge_margin"),
    }
    assert printed["bottleneck"]["factor"] in (1, 4)
    assert printed["perturbation_kept"].keys() == {"noise"}


def test_a_folder_that_is_no_model_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(CloakBenchError, match="no exported model"):
        unpack(tmp_path, Pretraining(tmp_path / "work", tmp_path))


def test_a_word_for_bad_has_to_fit_every_bad_picture():
    """Else each word picks kinds of its own, and "bad" passes what others are for."""
    fits = torch.tensor([[True, False, False], [False, True, True], [False, True, True]])
    both, one_each = torch.where(fits, 9.0, -9.0), 18 * torch.eye(3) - 9

    def loss(logits: torch.Tensor) -> float:
        judge = lambda **_: SimpleNamespace(logits_per_text=logits)  # noqa: E731
        return judge_loss(judge, torch.zeros(3, 1), torch.zeros(3, 3, 8, 8), fits).item()

    assert loss(both) == pytest.approx(2 / 3 * np.log(2), abs=1e-3)
    assert loss(one_each) > 5
