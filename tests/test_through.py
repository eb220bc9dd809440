"""Protections that look through purifications: gradients, draws, and what they add to a method."""

from __future__ import annotations

import pytest
import torch
from conftest import complete, smooth_photos, tiny_spec

from cloakbench.errors import CloakBenchError
from cloakbench.files.digest import code_digest
from cloakbench.models.base import DiffusionModel
from cloakbench.protect import protections
from cloakbench.protect.ascent import Ascent
from cloakbench.protect.pgd import ascended
from cloakbench.purify.base import Purifier, build_purifier, purifiers
from cloakbench.registry import modules_of, weight_files
from cloakbench.running.jobs import Job

EXACT = {
    "none": "none",
    "gaussian": {"method": "gaussian", "sigma": 1.0},
    "resize": {"method": "resize", "factor": 2},
    "noising": "noising",
    "chain": [{"method": "gaussian", "sigma": 1.0}, {"method": "resize", "factor": 2}],
}
ASCENTS = [method.name for method in protections if issubclass(method, Ascent)]
JOB = Job(seed=3)


def purified(purifier: Purifier, pixels: torch.Tensor, model: DiffusionModel) -> torch.Tensor:
    return purifier.apply(pixels, lambda: model, JOB).detach().clamp(0, 1)


@pytest.mark.parametrize("spec", EXACT.values(), ids=EXACT)
def test_an_exact_gradient_is_that_of_finite_differences(spec, diffusion: DiffusionModel):
    purifier = build_purifier(spec)
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
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-4)


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

    def loss(pixels: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(pixels)
        return pixels.flatten(1).mean(1)

    photos = smooth_photos(1, 7).pixels
    looking = method.adaptive(loss, diffusion, JOB)
    for step in (0, 1, 0):
        looking(photos, step)

    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


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
