"""What every family of diffusion models promises to methods, on a tiny random model of it.

A second family is a module in `models/families/` and a tiny model in `tiny.FAMILIES`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, RESOLUTION
from torch.utils._python_dispatch import TorchDispatchMode

from cloakbench.errors import CloakBenchError
from cloakbench.models import gradients
from cloakbench.models.base import DiffusionModel
from cloakbench.models.families import families
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.models.tokens import check_prompts
from cloakbench.models.tuning import FineTuner

PROMPTS = ["a photo of sks person", "a photo of person"]


@pytest.fixture(scope="module", params=families())
def spec(request, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("families") / request.param)
    return ModelSpec(path=str(folder), resolution=RESOLUTION)


@pytest.fixture
def model(spec: ModelSpec) -> DiffusionModel:
    return load_model(spec)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, RESOLUTION, RESOLUTION, generator=rng(1))


def state(model: DiffusionModel) -> list[torch.Tensor]:
    return [p.detach().clone() for network in model.networks for p in network.parameters()]


def trained(model: DiffusionModel, steps: int = 2) -> DiffusionModel:
    """After steps that move every thawed weight visibly."""
    tuner = FineTuner(model, PROMPTS[0], None, learning_rate=0.02)
    photos = model.posterior_once(pixels())
    for step in range(steps):
        tuner.step(photos, step, lambda *purpose: rng(len(purpose)))
    return model


def predictions(model: DiffusionModel) -> torch.Tensor:
    latents = model.mode(model.posterior_once(pixels()))
    with torch.no_grad():
        return model.predict(latents, torch.tensor([3, 700]), model.embed(PROMPTS))


def test_every_family_has_a_tiny_model():
    assert families() == sorted(FAMILIES)


def test_all_weights_are_frozen_and_float32_after_loading(model: DiffusionModel):
    assert not model.trainable()
    assert all(p.dtype == torch.float32 for network in model.networks for p in network.parameters())
    assert not any(network.training for network in model.networks)


def test_pixels_become_latents_and_pixels_again_with_gradients(model: DiffusionModel):
    given = pixels().requires_grad_(True)
    posterior = model.posterior(given)
    decoded = model.decode(model.mode(posterior))

    assert len(posterior) == 2
    assert posterior.mean.shape == posterior.std.shape
    assert (posterior.std > 0).all()
    assert decoded.shape == given.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    (gradient,) = torch.autograd.grad(decoded.sum(), given)
    assert gradient.abs().sum() > 0


def test_a_draw_is_the_mode_and_noise_of_the_posterior(model: DiffusionModel):
    posterior = model.posterior_once(pixels())
    noise = torch.randn(posterior.mean.shape, generator=rng())

    drawn = model.draw(posterior, rng())

    expected = model.mode(posterior) + model.scaled(posterior.std * noise) - model.scaled(0 * noise)
    torch.testing.assert_close(drawn, expected)


def test_photos_of_any_size_go_through_the_vae_and_back(model: DiffusionModel):
    odd = pixels()[..., : RESOLUTION - 3, : RESOLUTION - 5]

    assert model.round_trip(odd).shape == odd.shape
    padded = model.padded(odd)
    assert padded.shape[-1] >= odd.shape[-1]
    assert torch.equal(padded[..., : odd.shape[-2], : odd.shape[-1]], odd)
    model.posterior(padded)


def test_text_has_a_row_for_each_prompt_and_rows_can_be_repeated_and_taken(model: DiffusionModel):
    text = model.embed(PROMPTS)
    twice = text.repeated(2)

    assert len(text) == 2
    assert len(twice) == 4
    assert torch.equal(twice[0:1].embeddings, twice[1:2].embeddings)
    assert torch.equal(twice[2:4].embeddings[0], text.embeddings[1])
    assert not torch.equal(text.embeddings[0], text.embeddings[1])
    assert not text.trained


def test_the_residual_is_the_prediction_less_what_it_should_be(model: DiffusionModel):
    latents, text = model.mode(model.posterior_once(pixels())), model.embed(PROMPTS)
    noise = torch.randn(latents.shape, generator=rng())
    times = torch.tensor([0, model.horizon - 1])
    noisy = model.noised(latents, noise, times)

    with torch.no_grad():
        residual = model.residual(latents, text, rng(), times)
        towards = model.residual(latents, text, rng(), times, target=latents)
        losses = model.denoising_loss(latents, text, rng(), times)
        predicted = model.predict(noisy, times, text)

    target = model.target(latents, noise, times)
    torch.testing.assert_close(residual, predicted - target)
    torch.testing.assert_close(towards, predicted - latents)
    torch.testing.assert_close(losses, residual.square().mean((1, 2, 3)))


def test_more_noise_is_further_from_the_latents(model: DiffusionModel):
    latents = model.mode(model.posterior_once(pixels(1)))
    noise = torch.randn(latents.shape, generator=rng())
    steps = torch.linspace(0, model.horizon - 1, 5).long()
    noisy = [model.noised(latents, noise, step[None]) for step in steps]

    distances = [float((each - noise).norm()) for each in noisy]

    assert distances == sorted(distances, reverse=True)
    torch.testing.assert_close(noisy[0], latents, atol=0.3, rtol=0)


def test_the_loss_has_gradients_in_pixels_and_in_a_thawed_text_encoder(model: DiffusionModel):
    model.thaw("all")
    given, text = pixels().requires_grad_(True), model.embed(PROMPTS)
    assert text.trained

    latents = model.draw(model.posterior(given), rng())
    model.denoising_loss(latents, text, rng()).sum().backward()

    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.trainable())


def test_what_is_thawed_is_trained_and_nothing_else(model: DiffusionModel):
    model.thaw("attention", text_encoder=False)
    attention = model.trainable()
    model.thaw("all", text_encoder=False)
    denoiser = model.trainable()
    model.thaw("all")

    assert 0 < len(attention) < len(denoiser) < len(model.trainable())
    with model.frozen():
        assert not model.trainable()
    assert len(model.trainable()) > len(denoiser)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_lora_factors_change_nothing_at_first_and_are_all_that_is_trained(
    model: DiffusionModel, text_encoder
):
    before, global_state = predictions(model), torch.get_rng_state()
    model.add_lora(2, rng(), text_encoder=text_encoder)

    torch.testing.assert_close(predictions(model), before)
    assert torch.equal(torch.get_rng_state(), global_state)
    factors = {id(p) for p in model.trainable()}
    names = [n for net in model.networks for n, p in net.named_parameters() if id(p) in factors]
    assert names
    assert all("lora" in name for name in names)


def test_the_same_generator_draws_the_same_factors(spec: ModelSpec):
    models = [load_model(spec) for _ in range(2)]
    for each in models:
        each.add_lora(2, rng(5))

    pairs = zip(models[0].trainable(), models[1].trainable(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["all", "denoiser", "lora", "lora-text"])
def test_a_model_adopts_what_another_saved_and_merging_gives_the_same(
    spec: ModelSpec, kind: str, tmp_path: Path
):
    """What is sampled at once and what is sampled of kept weights are the same images."""
    model, fresh = load_model(spec), load_model(spec)
    before = predictions(model)
    match kind:
        case "all" | "denoiser":
            model.thaw("all", text_encoder=kind == "all")
        case _:
            model.add_lora(2, rng(), text_encoder=kind == "lora-text")
    trained(model)

    model.save(tmp_path)
    fresh.adopt(tmp_path)
    model.merge()

    assert not torch.allclose(predictions(fresh), before, atol=1e-4)
    assert torch.equal(predictions(fresh), predictions(model))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {
        ".safetensors",
        ".json",
    }


def test_an_image_is_the_same_whatever_batch_it_is_in(model: DiffusionModel):
    def images(*seeds: int) -> torch.Tensor:
        generators = [rng(seed) for seed in seeds]
        return model.generate(PROMPTS[0], generators, sampler="ddim", steps=2, guidance=2.0)

    together = images(1, 2)

    assert together.shape == (2, 3, RESOLUTION, RESOLUTION)
    torch.testing.assert_close(torch.cat([images(1), images(2)]), together, atol=2e-3, rtol=0)
    assert not torch.allclose(together[0], together[1])


def test_a_redrawn_photo_keeps_its_size_and_more_strength_changes_more(model: DiffusionModel):
    def redrawn(strength: float) -> torch.Tensor:
        given = pixels(1)
        drawn = model.redraw(given, PROMPTS[1], [rng()], strength=strength, steps=10, guidance=2.0)
        assert drawn.shape == given.shape
        return drawn

    assert not torch.allclose(redrawn(0.2), redrawn(0.9))


def test_the_ladder_has_a_step_for_every_timestep_and_does_not_clip(model: DiffusionModel):
    ladder = model.ladder()

    assert len(ladder.alphas_cumprod) == model.horizon
    assert not ladder.config.clip_sample


def test_weights_that_are_cast_once_make_the_same_images_with_fewer_operators(spec: ModelSpec):
    model = load_model(spec.model_copy(update={"precision": "bf16"}))

    def images() -> tuple[torch.Tensor, torch.Tensor, int]:
        with Operators() as counted:
            drawn = model.generate("a", [rng()], sampler="ddim", steps=4, guidance=2)
            latents = model.posterior(pixels())
        return drawn, latents.mean, counted.number

    drawn, encoded, many = images()
    with model.cast_once():
        drawn_so, encoded_so, few = images()

    assert torch.equal(drawn, drawn_so)
    assert torch.equal(encoded, encoded_so)
    assert few < 0.7 * many
    assert all(p.dtype == torch.float32 for net in model.networks for p in net.parameters())


class Operators(TorchDispatchMode):
    """Counts what is dispatched inside."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def test_the_last_layers_see_the_image(model: DiffusionModel):
    seen: list[torch.Tensor] = []
    for layer in model.last_layers:
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))

    predictions(model)

    assert len(seen) == len(model.last_layers) > 0
    assert all(len(output) == 2 for output in seen)


def test_weights_can_be_stored_in_half_the_bits(model: DiffusionModel):
    model.cast_weights("bf16")

    assert all(p.dtype == torch.bfloat16 for net in model.networks for p in net.parameters())
    assert predictions(model).dtype == torch.float32
    assert torch.isfinite(predictions(model)).all()


def test_a_frugal_model_has_the_same_gradients(spec: ModelSpec):
    found = []
    for frugal in (False, True):
        model = load_model(spec, frugal=frugal)
        model.thaw("all", text_encoder=False)
        given = pixels().requires_grad_(True)
        latents = model.draw(model.posterior(given), rng())
        model.denoising_loss(latents, model.embed(PROMPTS), rng()).sum().backward()
        found.append(given.grad)

    assert torch.equal(*found)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frugal_model_trains_to_the_same_bytes(spec: ModelSpec, precision: str, monkeypatch):
    """At bf16 its gradients wait in half the bits, a few of them widened at a time."""
    monkeypatch.setattr(gradients, "CHUNK", 500)
    whole, frugal = (
        load_model(spec.model_copy(update={"precision": precision}), frugal=frugal)
        for frugal in (False, True)
    )
    for model in (whole, frugal):
        model.thaw("all")

    weights, as_frugal = state(trained(whole)), state(trained(frugal))

    assert all(map(torch.equal, weights, as_frugal))
    assert not all(map(torch.equal, weights, state(load_model(spec))))


def test_what_training_at_bf16_saves_of_memory_changes_no_byte(spec: ModelSpec, monkeypatch):
    """Activations that are computed again, and narrow gradients, against neither."""
    monkeypatch.setattr(gradients, "CHUNK", 500)
    spared, plain = (load_model(spec.model_copy(update={"precision": "bf16"})) for _ in range(2))
    for model in (spared, plain):
        model.thaw("all")
    assert spared.networks[0].is_gradient_checkpointing
    weights = state(trained(spared))

    plain.networks[0].disable_gradient_checkpointing()
    monkeypatch.setattr(FineTuner, "descend", descended_plainly)

    assert all(map(torch.equal, weights, state(trained(plain))))


def descended_plainly(tuner: FineTuner, losses: list[torch.Tensor]) -> None:
    for loss in losses:
        loss.backward()
    torch.nn.utils.clip_grad_norm_(tuner.parameters, 1.0)
    tuner.optimiser.step()
    tuner.optimiser.zero_grad()


def test_loading_and_predicting_leave_the_global_generator_alone(spec: ModelSpec):
    before = torch.get_rng_state()

    predictions(load_model(spec))

    assert torch.equal(torch.get_rng_state(), before)


def test_a_prompt_that_is_not_read_whole_is_refused(model: DiffusionModel, spec: ModelSpec):
    """What is cut off is not learnt, and two settings would be one."""
    long = " ".join(["portrait"] * 400)
    refused = r"prompt 'portrait .*': has \d+ tokens, and the model reads \d+, .* Shorten it"

    for use in (
        lambda: model.embed([PROMPTS[0], long]),
        lambda: model.generate(long, [rng()], sampler="ddim", steps=1, guidance=1),
        lambda: check_prompts(spec, [PROMPTS[0], long]),
    ):
        with pytest.raises(CloakBenchError, match=refused):
            use()
    check_prompts(spec, PROMPTS)
