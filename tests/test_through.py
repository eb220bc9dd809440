"""Protections that look through purifications: gradients, draws, and what they add to a method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import ALL, REPOSITORY, complete, smooth_photos, tiny_spec

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.config import load as load_config
from cloakbench.experiment.experiment import Experiment
from cloakbench.files.digest import code_digest
from cloakbench.files.images import Photos, resized
from cloakbench.identity import Identity
from cloakbench.models import denoiser
from cloakbench.models.base import DiffusionModel
from cloakbench.models.denoiser import PixelDenoiser
from cloakbench.models.loading import load_frozen, load_model
from cloakbench.models.restorer import load_restorer
from cloakbench.personalise import trainers
from cloakbench.phrase import Contrastive
from cloakbench.prompts import Prompts
from cloakbench.protect import pgd, protections
from cloakbench.protect.ascent import Ascent
from cloakbench.protect.pgd import ascended
from cloakbench.protect.photowise import mean_square
from cloakbench.purify import codeformer, superres
from cloakbench.purify.base import Purifier, build_purifier, purifiers
from cloakbench.registry import modules_of, weight_files
from cloakbench.running.jobs import Job

TINY_DDPM = {"method": "diffpure", "weights": "tiny_ddpm", "depth": 30}
EXACT = {
    "none": "none",
    "gaussian": {"method": "gaussian", "sigma": 1.0},
    "resize": {"method": "resize", "factor": 2},
    "noising": "noising",
    "chain": [{"method": "gaussian", "sigma": 1.0}, {"method": "resize", "factor": 2}],
    "tvm": {"method": "tvm", "iterations": 30},
    "vae_roundtrip": {"method": "vae_roundtrip", "weights": None},
    "restorer": {"method": "codeformer", "preset": "tiny"},
    "superres": {"method": "superres", "backend": "spandrel", "weights": "tiny_x4.pth"},
    "diffpure": {**TINY_DDPM, "depth": 4, "tiled": True},
    "few-step diffpure": {**TINY_DDPM, "steps": 3},
    "ddspure": {"method": "ddspure", "preset": "tiny"},
    "gridpure": {"method": "gridpure", "preset": "tiny"},
}
STRAIGHT = ["jpeg", {"method": "superres", "backend": "ncnn"}]
ASCENTS = [method.name for method in protections if issubclass(method, Ascent)]
JOB = Job(seed=3)


def purified(purifier: Purifier, pixels: torch.Tensor, model: DiffusionModel) -> torch.Tensor:
    return purifier.apply(pixels, lambda: model, JOB).detach().clamp(0, 1)


@pytest.fixture
def in_double_precision(diffusion: DiffusionModel, tiny_weights, monkeypatch) -> Any:
    """The model, and every network that purifications load, in float64."""
    diffusion.vae.double()

    def doubled(*given: Any, **options: Any) -> torch.nn.Module:
        return load_frozen(*given, **options).double()

    kept = PixelDenoiser.load, superres.load_spandrel
    [function.cache_clear() for function in kept]
    monkeypatch.setattr(denoiser, "load_frozen", doubled)
    monkeypatch.setattr(codeformer, "_restorer", lambda path, _: load_restorer(path).double())
    torch.set_default_dtype(torch.float64)
    yield diffusion
    torch.set_default_dtype(torch.float32)
    [function.cache_clear() for function in kept]


@pytest.mark.parametrize("spec", EXACT.values(), ids=EXACT)
def test_an_exact_gradient_is_that_of_finite_differences(spec, in_double_precision):
    purifier, diffusion = build_purifier(spec), in_double_precision
    photos = 0.2 + 0.6 * smooth_photos(1, 4, 32).pixels.double()  # far from the clamp's corners
    weights = torch.rand(photos.shape, generator=torch.Generator().manual_seed(1)).double()
    direction = torch.rand(photos.shape, generator=torch.Generator().manual_seed(2)).double() - 0.5

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return (weights * purifier.through(pixels, diffusion, JOB).square()).sum()

    given = photos.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(given), given)

    with torch.no_grad():
        step = 1e-5 * direction
        slope = (loss(photos + step) - loss(photos - step)) / 2e-5
    found = (gradient * direction).sum()
    assert abs(found) > 1e-3
    torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", complete(purifiers))
def test_what_a_loss_sees_is_what_the_purification_makes(
    name: str, diffusion: DiffusionModel, tiny_weights
):
    """And a gradient comes back to every photo, whether or not the purification has one."""
    purifier = purifiers.build(tiny_spec(purifiers, name))
    photos = smooth_photos(1, 5).pixels

    given = photos.clone().requires_grad_(True)
    seen = purifier.through(given, diffusion, JOB)

    torch.testing.assert_close(seen.detach(), purified(purifier, photos, diffusion))
    (gradient,) = torch.autograd.grad(seen.sum(), given)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("spec", STRAIGHT, ids=["jpeg", "ncnn"])
def test_looking_straight_through_a_purification_raises_the_loss_after_it(spec, diffusion):
    """More than a protection that does not look through it."""
    photos = smooth_photos(1, 9, 32).pixels
    clean = diffusion.posterior_once(photos)

    def shift(pixels: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        return mean_square(diffusion.posterior(pixels).mean - clean.mean)

    def after(**settings: Any) -> float:
        pid = protections.build({"method": "pid", "budget": "16/255", **settings})
        found = pid.ascend(photos, photos, diffusion, shift, JOB, range(12))
        return float(shift(purified(build_purifier(spec), found, diffusion), 0, ALL))

    assert after(through=[spec]) > 1.05 * after()


@pytest.mark.parametrize("spec", ["none", ["none", "none"]], ids=str)
def test_looking_through_nothing_is_not_looking_even_where_photos_are_white(spec, diffusion):
    photos = smooth_photos(2, 6).pixels
    photos[..., 32:] = 1.0
    photos[..., :8] = 0.0

    def moved(**settings: Any) -> torch.Tensor:
        pid = protections.build({"method": "pid", "budget": "16/255", **settings})
        clean = diffusion.posterior_once(photos)
        return pid.ascend(
            photos,
            photos,
            diffusion,
            lambda pixels, step, rows: mean_square(diffusion.posterior(pixels).mean - clean.mean),
            JOB,
            range(3),
        )

    assert torch.equal(moved(through=[spec]), moved())


@pytest.mark.parametrize("size", [(32, 32), (96, 96)])
def test_white_photos_have_a_gradient_through_another_size(size):
    given = torch.ones(1, 3, 64, 64, requires_grad=True)

    resized(given, size).sum().backward()

    assert given.grad is not None
    assert given.grad.abs().sum() > 0


def test_where_there_is_no_gradient_it_passes_straight_through(diffusion: DiffusionModel):
    given = smooth_photos(2, 6).pixels.requires_grad_(True)
    weights = torch.rand(given.shape, generator=torch.Generator().manual_seed(1))

    seen = build_purifier("jpeg").through(given, diffusion, JOB)
    (gradient,) = torch.autograd.grad((weights * seen).sum(), given)

    assert torch.equal(gradient, weights)


def test_looking_through_keeps_no_checkpoint_that_a_job_could_find(
    diffusion: DiffusionModel, tiny_weights, tmp_path
):
    job = Job(seed=3, scratch=tmp_path, save_every=0.0)
    photos = smooth_photos(1, 5).pixels
    diffpure = purifiers.build(tiny_spec(purifiers, "diffpure"))

    first = diffpure.through(photos, diffusion, job)

    assert torch.equal(diffpure.through(photos, diffusion, job), first)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ASCENTS)
def test_every_ascent_can_look_through_a_purification(name, identity, tiny_model):
    """It keeps its budget, and the photos come out other than without."""
    from cloakbench.models.loading import load_model

    def protected(**settings):
        method = protections.build(tiny_spec(protections, name, **settings))
        return method, method.protect(identity, lambda: load_model(tiny_model), JOB).pixels

    _, plain = protected()
    method, adaptive = protected(through=[{"method": "resize", "factor": 4}])

    change = (adaptive - identity.instance_images.pixels).abs().max()
    assert change <= method.radius + 1e-6
    assert not torch.equal(adaptive, plain)


def test_a_random_purification_is_drawn_anew_at_every_step(diffusion: DiffusionModel):
    method = protections.build({"method": "pid", "preset": "tiny", "through": ["noising"]})
    seen: list[torch.Tensor] = []

    def loss(pixels: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        seen.append(pixels)
        return pixels.flatten(1).mean(1)

    photos = smooth_photos(1, 7).pixels
    looking = method.adaptive(loss, diffusion, JOB)
    for step in (0, 1, 0):
        looking(photos, step, ALL)

    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_a_photos_draws_do_not_tell_how_many_stand_behind_it(tiny_model):
    """Of five photos four are a batch, as they are alone."""
    method = protections.build({"method": "pid", "preset": "tiny", "through": ["noising"]})

    def perturbed(count: int) -> torch.Tensor:
        photos = smooth_photos(5, 7)
        few = Photos(photos.pixels[:count], photos.names[:count])
        identity = Identity(few, Prompts())
        return method.protect(identity, lambda: load_model(tiny_model), JOB).pixels

    torch.testing.assert_close(perturbed(5)[:4], perturbed(4))


def test_of_several_purifications_the_mean_loss_counts(diffusion: DiffusionModel):
    """And each name of a random one is another draw."""
    blur, chain = {"method": "gaussian", "sigma": 1.0}, ["resize", "noising"]

    def loss(pixels: torch.Tensor, step: int, rows: slice) -> torch.Tensor:
        return pixels.square().flatten(1).mean(1)

    def gradient(*through: Any) -> torch.Tensor:
        method = protections.build({"method": "pid", "through": [*through]})
        photos = smooth_photos(2, 7).pixels
        return pgd.gradient(method.adaptive(loss, diffusion, JOB), photos, 0)

    torch.testing.assert_close(gradient(blur, "none"), (gradient(blur) + gradient("none")) / 2)
    assert protections.build({"method": "pid", "through": [chain]}).purifiers[0].name == "chain"
    assert not torch.equal(gradient("noising", "noising"), gradient("noising"))


def test_looking_through_cdl_trains_and_asks_as_cdl_does(identity, diffusion):
    """The surrogate's prompts are the trainer's, and so is the one that the loss is under."""
    cdl = trainers.build("cdl")
    aspl = protections.build({"method": "aspl", "preset": "adaptive-cdl", "noise_phrase": "xx"})
    prompts = identity.prompts

    tuner = aspl.tuner(diffusion, identity, JOB)

    assert tuner.prompt == cdl.instance_prompt(prompts).replace("bhj noisy pattern", "xx")
    assert tuner.prior.prompt == cdl.class_prompt(prompts).replace("bhj noisy pattern", "xx")


@pytest.mark.parametrize(
    "name", [method.name for method in protections if issubclass(method, Contrastive)]
)
def test_every_loss_under_a_prompt_can_be_that_of_cdls_training(name, identity, tiny_model):
    from cloakbench.models.loading import load_model

    def protected(**settings: Any) -> torch.Tensor:
        method = protections.build(tiny_spec(protections, name, **settings))
        return method.protect(identity, lambda: load_model(tiny_model), JOB).pixels

    assert not torch.equal(protected(phrase_in_training=True), protected())


def test_adaptive_presets_lie_over_the_experiments_preset():
    """So that one looks through the miniature's CodeSR where the experiment is the miniature's."""
    entry = {"name": "aspl-codesr", "method": "aspl", "preset": "adaptive-codesr"}
    data = load_config([REPOSITORY / "config.yaml"]) | {"protections": ["clean", entry]}
    mini = protections.build({"method": "aspl", "preset": "mini"})

    found = Experiment.parse(data).protections["aspl-codesr"]

    assert found == mini.model_copy(update={"through": found.through})
    assert found.purifiers == [build_purifier({"method": "codesr", "preset": "mini"})]


def test_an_adaptive_protection_answers_for_its_purifications(tiny_weights):
    plain = protections.build({"method": "pid", "preset": "tiny"})
    adaptive = protections.build(
        {"method": "pid", "preset": "tiny", "through": [{"method": "diffpure", "preset": "tiny"}]}
    )

    assert adaptive.uses == {"model", "gpu"}
    assert weight_files(adaptive)
    assert not weight_files(plain)
    assert code_digest(*modules_of(adaptive)) != code_digest(*modules_of(plain))
    assert adaptive.spec()["through"][0]["depth"] == 3  # presets are resolved: the spec says all
    assert protections.build(adaptive.spec()) == adaptive


def test_an_unknown_purification_to_look_through_is_one_line():
    with pytest.raises(CloakBenchError, match="unknown purification 'jpg': did you mean 'jpeg'"):
        protections.build({"method": "pid", "through": ["jpg"]})


def test_one_step_stays_in_the_ball_and_a_nan_stays_one():
    original = smooth_photos(1, 8).pixels
    gradient = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    gradient[0, 0, 0, 0] = torch.nan

    moved = ascended(original, gradient, original, radius=8 / 255, step_size=1.0)

    assert moved[0, 0, 0, 0].isnan()
    rest = moved[~moved.isnan()]
    assert rest.min() >= 0
    assert rest.max() <= 1
    assert (moved - original).nan_to_num().abs().max() <= 8 / 255 + 1e-6
