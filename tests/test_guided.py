"""guided-diffusion's checkpoints: what their networks compute, written anew, and by diffusers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, group_norm, interpolate, linear, silu
from typer.testing import CliRunner

from cloakbench.cli.main import app
from cloakbench.errors import CloakBenchError
from cloakbench.models.denoiser import PixelDenoiser
from cloakbench.purify.base import build_purifier

WIDTHS, LAYERS, HEAD, SIDE = (32, 64), 1, 32, 16
"""Channels by level, blocks of a level, channels of a head (two heads), side [px]. The second
level attends."""

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights by the names of guided-diffusion's UNetModel, of a network of two levels."""
    rng, made = torch.Generator().manual_seed(0), {}

    def draw(name: str, *shape: int) -> None:
        fan = max(1, math.prod(shape[1:]))
        made[f"{name}.weight"] = torch.randn(shape, generator=rng) / fan**0.5
        made[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=rng)

    def norm(name: str, width: int) -> None:
        made[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=rng)
        made[f"{name}.bias"] = 0.1 * torch.randn(width, generator=rng)

    def residual(name: str, before: int, after: int) -> None:
        norm(f"{name}.in_layers.0", before)
        draw(f"{name}.in_layers.2", after, before, 3, 3)
        draw(f"{name}.emb_layers.1", 2 * after, 4 * WIDTHS[0])
        norm(f"{name}.out_layers.0", after)
        draw(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            draw(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        draw(f"{name}.qkv", 3 * width, width, 1)
        draw(f"{name}.proj_out", width, width, 1)

    low, high = WIDTHS
    draw("time_embed.0", 4 * low, low)
    draw("time_embed.2", 4 * low, 4 * low)
    draw("input_blocks.0.0", low, 3, 3, 3)
    residual("input_blocks.1.0", low, low)
    residual("input_blocks.2.0", low, low)  # halves the sides
    residual("input_blocks.3.0", low, high)
    attention("input_blocks.3.1", high)
    residual("middle_block.0", high, high)
    attention("middle_block.1", high)
    residual("middle_block.2", high, high)
    residual("output_blocks.0.0", high + high, high)
    attention("output_blocks.0.1", high)
    residual("output_blocks.1.0", high + low, high)
    attention("output_blocks.1.1", high)
    residual("output_blocks.1.2", high, high)  # doubles the sides
    residual("output_blocks.2.0", high + low, low)
    residual("output_blocks.3.0", low + low, low)
    norm("out.0", low)
    draw("out.2", 6, low, 3, 3)
    return made


def predicted(state: State, images: Tensor, step: int) -> Tensor:
    """What the network makes of images (n, 3, h, w): the papers' and the code's formulas."""

    def norm(name: str, x: Tensor) -> Tensor:
        return group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def layer(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def dense(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])

    def residual(name: str, x: Tensor, resampled=lambda x: x) -> Tensor:
        h = layer(f"{name}.in_layers.2", resampled(silu(norm(f"{name}.in_layers.0", x))))
        scale, shift = dense(f"{name}.emb_layers.1", silu(told))[..., None, None].chunk(2, dim=1)
        h = norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        x = resampled(x)
        if f"{name}.skip_connection.weight" in state:
            x = layer(f"{name}.skip_connection", x, padding=0)
        return x + layer(f"{name}.out_layers.3", silu(h))

    def attention(name: str, x: Tensor) -> Tensor:
        flat = x.flatten(2).mT  # (n, pixels, channels)
        together = dense(f"{name}.qkv", norm(f"{name}.norm", x).flatten(2).mT)
        heads = []
        for each in together.split(3 * HEAD, dim=-1):
            q, k, v = each.split(HEAD, dim=-1)
            heads.append((q @ k.mT / HEAD**0.5).softmax(-1) @ v)
        return (flat + dense(f"{name}.proj_out", torch.cat(heads, -1))).mT.reshape(x.shape)

    def doubled(x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2, mode="nearest")

    half = WIDTHS[0] // 2
    angles = step * torch.exp(-math.log(10000) * torch.arange(half) / half)
    waves = torch.cat([angles.cos(), angles.sin()]).expand(len(images), -1)
    told = dense("time_embed.2", silu(dense("time_embed.0", waves)))

    kept = [layer("input_blocks.0.0", images)]
    kept.append(residual("input_blocks.1.0", kept[-1]))
    kept.append(residual("input_blocks.2.0", kept[-1], lambda x: avg_pool2d(x, 2)))
    kept.append(attention("input_blocks.3.1", residual("input_blocks.3.0", kept[-1])))
    h = attention("middle_block.1", residual("middle_block.0", kept[-1]))
    h = residual("middle_block.2", h)
    for number in range(4):
        h = residual(f"output_blocks.{number}.0", torch.cat([h, kept.pop()], dim=1))
        if number < 2:
            h = attention(f"output_blocks.{number}.1", h)
        if number == 1:
            h = residual("output_blocks.1.2", h, doubled)
    return layer("out.2", silu(norm("out.0", h)))


@pytest.fixture(scope="module")
def converted(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    torch.save(state, folder / "uncond.pt")
    told = ["--side", str(SIDE), "--head-width", str(HEAD)]
    run = CliRunner().invoke(
        app, ["convert", str(folder / "uncond.pt"), "--out", str(folder / "made"), *told]
    )
    assert run.exit_code == 0, run.output
    return folder / "made"


@pytest.mark.parametrize("step", [0, 7, 999])
def test_the_converted_network_computes_what_the_original_does(step, state, converted):
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    network = PixelDenoiser.load(str(converted), "cpu")

    with torch.no_grad():
        found, expected = network.predict(images, step), predicted(state, images, step)

    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_purifies_with_the_variance_that_it_predicts(converted):
    """And the ladder is guided-diffusion's: 1000 steps, betas from 0.0001 to 0.02."""
    ladder = PixelDenoiser.load(str(converted), "cpu").scheduler
    photos = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    purifier = build_purifier({"method": "diffpure", "weights": str(converted), "depth": 3})

    assert ladder.variance_type == "learned_range"
    torch.testing.assert_close(ladder.betas, torch.linspace(1e-4, 0.02, 1000))
    purifier.check()
    assert purifier.apply(photos, lambda: None, _job()).shape == photos.shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label_emb.weight": torch.zeros(10, 128)}, "told of classes"),
        ({"more.weight": torch.zeros(1)}, "1 weights have no place, such as more.weight"),
        ({"out.0.bias": None}, "out.0.bias"),
    ],
    ids=["classes", "more", "less"],
)
def test_another_network_is_refused_in_one_line(change, said, state, tmp_path):
    other = {name: value for name, value in {**state, **change}.items() if value is not None}
    torch.save(other, tmp_path / "other.pt")

    run = CliRunner().invoke(
        app, ["convert", str(tmp_path / "other.pt"), "--out", str(tmp_path / "made")]
    )

    assert isinstance(run.exception, CloakBenchError)
    assert said in str(run.exception)
    assert not (tmp_path / "made").exists()


def _job():
    from cloakbench.running.jobs import Job

    return Job(seed=0)
