"""StableDiffusion and sampling against diffusers' parts used directly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Killed
from safetensors.torch import load_file, save_file

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.data import Dataset
from cloakbench.files.outputs import MANIFEST
from cloakbench.models.base import Latents
from cloakbench.models.families.stable_diffusion import SAMPLERS
from cloakbench.models.loading import load_model
from cloakbench.models.sampling import Samples, Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.running.jobs import KEPT
from cloakbench.running.run import Run
from cloakbench.stages import sample as stage

QUICK = Sampling(images=3, steps=3, sampler="ddim", guidance=3.0, batch_size=2)
PROMPT = "a photo of sks person"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_denoising_loss_equals_the_papers_formula(kind, tiny_model, tiny_v_model):
    model = load_model(tiny_model if kind == "epsilon" else tiny_v_model)
    latents = torch.randn((3, 4, 8, 8), generator=generator(1))
    text = model.embed(["one", "two", "three"])
    timesteps = torch.tensor([0, 400, 999])

    losses = model.denoising_loss(latents, text, generator(2), timesteps)

    noise = torch.randn((3, 4, 8, 8), generator=generator(2))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[timesteps].float().view(3, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    target = noise if kind == "epsilon" else velocity
    predicted = model.unet(noisy, timesteps, encoder_hidden_states=text.embeddings).sample
    torch.testing.assert_close(losses, (predicted - target).square().mean((1, 2, 3)))


def test_the_two_prediction_types_are_told_apart(tiny_model, tiny_v_model):
    latents = torch.randn((1, 4, 8, 8), generator=generator())

    losses = []
    for spec in (tiny_model, tiny_v_model):
        model = load_model(spec)
        losses.append(model.denoising_loss(latents, model.embed(["x"]), generator(1)))

    assert not torch.equal(*losses)


def test_an_unknown_prediction_type_is_an_error(diffusion):
    diffusion.scheduler.register_to_config(prediction_type="sample")

    with pytest.raises(CloakBenchError, match=r"'sample' is not supported\. Use an epsilon"):
        diffusion.denoising_loss(torch.zeros(1, 4, 8, 8), diffusion.embed(["x"]), generator())


def test_timesteps_cover_the_whole_horizon(diffusion, monkeypatch):
    seen = []
    add_noise = diffusion.scheduler.add_noise

    def spy(latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.extend(timesteps.tolist())
        return add_noise(latents, noise, timesteps)

    monkeypatch.setattr(diffusion.scheduler, "add_noise", spy)
    text = diffusion.embed(["x"]).repeated(256)
    for seed in range(8):
        diffusion.denoising_loss(torch.zeros(256, 4, 8, 8), text, generator(seed))

    assert min(seen) < 10
    assert max(seen) > 989
    assert max(seen) <= 999


def test_noise_comes_from_the_cpu_generator_alone(diffusion):
    latents, text = torch.zeros(2, 4, 8, 8), diffusion.embed(["x"]).repeated(2)
    torch.manual_seed(1)
    first = diffusion.denoising_loss(latents, text, generator(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = diffusion.denoising_loss(latents, text, generator(5))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_images_loss_does_not_depend_on_its_neighbours(diffusion):
    latents, text = torch.randn((2, 4, 8, 8), generator=generator()), diffusion.embed(["x", "y"])
    timesteps = torch.tensor([10, 500])

    both = diffusion.denoising_loss(latents, text, generator(1), timesteps)
    alone = diffusion.denoising_loss(latents[:1], text[:1], generator(1), timesteps[:1])

    torch.testing.assert_close(both[:1], alone)


def test_the_posterior_is_the_vaes_of_pixels_between_minus_one_and_one(diffusion, identity):
    pixels = identity.instance_images.pixels

    posterior = diffusion.posterior(pixels)

    expected = diffusion.vae.encode(pixels * 2 - 1).latent_dist
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.std, expected.std)
    batched = diffusion.posterior_once(pixels, batch_size=1)
    torch.testing.assert_close(batched.mean, expected.mean)
    assert posterior.mean.shape == (2, 4, 8, 8)


def test_a_drawn_latent_is_mean_plus_noise_times_std_scaled(diffusion):
    latents = Latents(torch.full((1, 4, 8, 8), 2.0), torch.full((1, 4, 8, 8), 3.0))

    drawn = diffusion.draw(latents, generator(4))

    normal = torch.randn((1, 4, 8, 8), generator=generator(4))
    torch.testing.assert_close(drawn, (2 + 3 * normal) * 0.18215)


def test_pixels_can_be_differentiated_through_the_encoder(diffusion, identity):
    pixels = identity.instance_images.pixels.clone().requires_grad_(True)

    diffusion.posterior(pixels).mean.square().sum().backward()

    assert pixels.grad is not None
    assert pixels.grad.abs().min(0).values.mean() > 0
    assert all(p.grad is None for p in diffusion.vae.parameters())


def test_decoded_pixels_are_the_vaes_in_zero_to_one(diffusion):
    latents = 3 * torch.randn((2, 4, 8, 8), generator=generator())

    pixels = diffusion.decode(latents)

    expected = diffusion.vae.decode(latents / 0.18215).sample.add(1).div(2)
    torch.testing.assert_close(pixels, expected.clamp(0, 1))
    assert pixels.shape == (2, 3, 64, 64)


def test_bf16_is_a_precision_of_the_same_model(tiny_model, diffusion):
    half = load_model(tiny_model.model_copy(update={"precision": "bf16"}))
    latents = torch.randn((2, 4, 8, 8), generator=generator())

    exact = diffusion.denoising_loss(latents, diffusion.embed(["x", "y"]), generator(1))
    rounded = half.denoising_loss(latents, half.embed(["x", "y"]), generator(1))

    assert half.unet.dtype == torch.float32
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_an_image_depends_on_its_seed_and_not_on_its_batch(sampler, diffusion):
    sampling = QUICK.model_copy(update={"sampler": sampler, "steps": 4})

    batch = sampling.generate(diffusion, PROMPT, [7, 8, 9])
    alone = sampling.generate(diffusion, PROMPT, [8])
    turned = sampling.generate(diffusion, PROMPT, [9, 8])

    torch.testing.assert_close(batch[1:2], alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(batch[2:3], turned[:1], rtol=0, atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.01
    assert batch.shape == (3, 3, 64, 64)
    assert batch.min() >= 0
    assert batch.max() <= 1


def test_samples_of_a_model_that_diverged_are_refused(diffusion):
    with torch.no_grad():
        diffusion.unet.conv_out.bias.fill_(torch.nan)

    with pytest.raises(CloakBenchError, match=r"a sample of .* NaN .* Lower .* learning_rate"):
        QUICK.generate(diffusion, PROMPT, [1])


def test_a_negative_prompt_without_guidance_is_refused():
    with pytest.raises(CloakBenchError, match="'noisy' does nothing without guidance"):
        Samples(QUICK.model_copy(update={"guidance": 1.0}), {}, negative_prompt="noisy")


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_no_sampler_clips_latents(sampler, diffusion):
    """A model that was saved with another scheduler does not say that latents are not clipped."""
    diffusion.scheduler.register_to_config(clip_sample=True)

    assert not diffusion._pipeline(sampler).scheduler.config.clip_sample


def test_prompt_negative_prompt_and_guidance_matter(diffusion):
    def image(prompt: str = PROMPT, negative: str = "", guidance: float = 3.0) -> torch.Tensor:
        sampling = QUICK.model_copy(update={"guidance": guidance})
        return sampling.generate(diffusion, prompt, [1], negative)

    usual = image()
    for other in (image("a dog"), image(negative="noisy"), image(guidance=6.0), image(guidance=1)):
        assert (usual - other).abs().max() > 1e-4
    torch.testing.assert_close(image(PROMPT, PROMPT, 5.0), image(guidance=1), rtol=0, atol=1e-4)


def test_unguided_and_guided_sampling_equal_ddim_written_by_hand(diffusion):
    scheduler = diffusion.scheduler
    kept = scheduler.alphas_cumprod
    text, empty = diffusion.embed([PROMPT]), diffusion.embed([""])
    with torch.no_grad():
        x = torch.randn((1, 4, 8, 8), generator=generator(3))
        for step in (667, 334, 1):  # 3 leading steps of 333 with an offset of 1
            t = torch.tensor([step])
            conditional = diffusion.unet(x, t, text.embeddings).sample
            free = diffusion.unet(x, t, empty.embeddings).sample
            noise = free + 3.0 * (conditional - free)
            before = kept[step - 333] if step > 333 else torch.tensor(1.0)
            clean = (x - (1 - kept[step]).sqrt() * noise) / kept[step].sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * noise
        expected = diffusion.decode(x)

    image = QUICK.generate(diffusion, PROMPT, [3])

    torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)


def sample(out: Path, model: ModelSpec, **changes) -> dict[str, bytes]:
    run = Run(out, "anna", scratch=changes.pop("scratch", None))
    options = {"prompts": {"photo": PROMPT, "dslr": "a dslr portrait"}, "weights": None} | changes
    stage.sample(QUICK, model=model, run=run, **options)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.png"))}


def dying(monkeypatch: pytest.MonkeyPatch, lives: int) -> list[list[int]]:
    """Make sampling die after a number of batches; the list collects the batches that ran."""
    batches: list[list[int]] = []
    generate = Sampling.generate

    def mortal(self, model, prompt, seeds, negative_prompt=""):
        if len(batches) >= lives:
            raise Killed
        batches.append(list(seeds))
        return generate(self, model, prompt, seeds, negative_prompt)

    monkeypatch.setattr(Sampling, "generate", mortal)
    return batches


def test_a_killed_sampling_goes_on_with_the_missing_batches(tiny_model, tmp_path, monkeypatch):
    expected = sample(tmp_path / "expected", tiny_model)
    assert list(expected) == [f"{k}/{i:03d}.png" for k in ("dslr", "photo") for i in range(3)]

    scratch = tmp_path / "scratch"
    first = dying(monkeypatch, lives=3)
    with pytest.raises(Killed):
        sample(tmp_path / "out", tiny_model, scratch=scratch)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    second = dying(monkeypatch, lives=9)
    resumed = sample(tmp_path / "out", tiny_model, scratch=scratch)

    assert resumed == expected
    assert len(first) == 3
    assert len(second) == 1
    assert not [p for p in scratch.rglob("*.png") if KEPT not in str(p)]


def test_a_sampling_killed_while_it_gathers_its_images_loses_none(
    tiny_model, tmp_path, monkeypatch
):
    expected = sample(tmp_path / "expected", tiny_model)
    scratch = tmp_path / "scratch"

    write = Path.write_text

    def full(path: Path, *text: str, **options: str) -> int:
        if path.name == MANIFEST:  # which is written last
            raise Killed
        return write(path, *text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Killed):
        sample(tmp_path / "out", tiny_model, scratch=scratch)
    monkeypatch.undo()
    batches = dying(monkeypatch, lives=9)

    assert sample(tmp_path / "out", tiny_model, scratch=scratch) == expected
    assert batches == []


def test_other_weights_or_models_do_not_resume_anothers_samples(
    tiny_model, tiny_v_model, tmp_path, monkeypatch
):
    expected = sample(tmp_path / "expected", tiny_v_model)
    scratch = tmp_path / "scratch"
    dying(monkeypatch, lives=3)
    with pytest.raises(Killed):
        sample(tmp_path / "out", tiny_model, scratch=scratch)
    monkeypatch.undo()

    assert sample(tmp_path / "out", tiny_v_model, scratch=scratch) == expected


def test_an_image_depends_on_seed_identity_key_and_index_but_not_on_how_many_there_are(
    tiny_model, tmp_path
):
    both = sample(tmp_path / "both", tiny_model)
    one = sample(tmp_path / "one", tiny_model, prompts={"photo": PROMPT})
    renamed = sample(tmp_path / "renamed", tiny_model, prompts={"other": PROMPT})

    assert one == {key: both[key] for key in both if key.startswith("photo/")}
    assert one["photo/000.png"] != one["photo/001.png"]
    assert one["photo/000.png"] != renamed["other/000.png"]


def test_the_suffix_and_the_negative_prompt_reach_the_sampler(tiny_model, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Sampling,
        "generate",
        lambda self, model, prompt, seeds, negative_prompt="": (
            seen.append((prompt, negative_prompt)) or torch.zeros(len(seeds), 3, 64, 64)
        ),
    )
    sample(
        tmp_path / "out",
        tiny_model,
        prompts={"photo": PROMPT},
        suffix=", without bhj noisy pattern",
        negative_prompt="noisy",
    )

    assert set(seen) == {("a photo of sks person, without bhj noisy pattern", "noisy")}


def copy_of(model: ModelSpec, folder: Path) -> ModelSpec:
    shutil.copytree(model.path, folder)
    return model.model_copy(update={"path": str(folder)})


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_a_missing_part_of_a_model_is_named_before_any_work(part, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)

    with pytest.raises(CloakBenchError, match=rf"the folder '{part}' is missing"):
        model.check()


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_missing_weights_are_named_before_any_work(part, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path / "model")
    for file in (tmp_path / "model" / part).glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))

    with pytest.raises(CloakBenchError, match=rf"no safetensors weights in '{part}'"):
        model.check()


def test_a_folder_that_is_no_model_says_what_it_should_be(tmp_path):
    with pytest.raises(CloakBenchError, match=r"no model_index\.json there\. Give a folder"):
        ModelSpec(path=str(tmp_path)).check()


def test_a_model_for_inpainting_is_named_before_any_work(tiny_model, tmp_path):
    folder = tmp_path / "inpainting"
    shutil.copytree(tiny_model.path, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))

    with pytest.raises(CloakBenchError, match="its U-Net takes 9 channels, and its VAE makes 4"):
        ModelSpec(path=str(folder)).check()


def test_a_typo_in_a_models_path_is_found_before_any_work():
    with pytest.raises(CloakBenchError, match=r"model resources/mni: no such folder of weights"):
        ModelSpec(path="resources/mni").check()


def test_a_model_of_the_hub_is_loaded_from_its_cache_and_never_downloaded(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tiny_model.model_copy(update={"path": "somebody/model", "revision": "v1"})
    with pytest.raises(CloakBenchError, match=r"`hf download somebody/model --revision v1`"):
        model.check()

    entry = tmp_path / "models--somebody--model"
    shutil.copytree(tiny_model.path, entry / "snapshots" / "abc")
    (entry / "refs").mkdir()
    (entry / "refs" / "v1").write_text("abc")
    model.check()
    assert load_model(model).spec.path == "somebody/model"


def test_a_path_may_begin_with_the_home_folder(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    copy_of(tiny_model, tmp_path / "model")

    ModelSpec(path="~/model").check()
    assert Dataset(path=Path("~/photos")).path == tmp_path / "photos"


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_truncated_weights_are_one_clear_error(part, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path / "model")
    (file,) = (tmp_path / "model" / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(CloakBenchError, match=rf"cannot be loaded \('{part}'.*Check the path"):
        load_model(model)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_weights_of_another_network_are_one_clear_error(part, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path / "model")
    (file,) = (tmp_path / "model" / part).glob("*.safetensors")
    save_file({f"other.{k}": v for k, v in load_file(file).items()}, file, {"format": "pt"})

    with pytest.raises(CloakBenchError, match=rf"cannot be loaded \('{part}': its file lacks"):
        load_model(model)


def test_personalised_weights_that_are_missing_or_broken_are_named(diffusion, tmp_path):
    with pytest.raises(CloakBenchError, match=r"no personalised weights\. Run"):
        diffusion.adopt(tmp_path)

    diffusion.unet.save_pretrained(tmp_path / "unet")
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CloakBenchError, match=r"cannot be loaded"):
        diffusion.adopt(tmp_path)


@pytest.mark.parametrize("key", ["nonsense.weight", "unet.other.lora_A.weight"])
def test_lora_weights_of_another_model_are_named(key, diffusion, tmp_path):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({key: torch.zeros(3, 3)}, file, {"format": "pt"})

    with pytest.raises(CloakBenchError, match=r"cannot be loaded"):
        diffusion.adopt(tmp_path)


def test_loaded_networks_are_frozen_and_in_eval_mode(diffusion):
    for network in (diffusion.vae, diffusion.text_encoder, diffusion.unet):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_the_pipeline_shares_the_models_weights(diffusion):
    pipeline = diffusion._pipeline()

    assert pipeline.unet is diffusion.unet
