"""How fast protections are here, against the loops that scripts describe.

    make benchmark
    python benchmarks/protections.py --rounds 10 --repeats 5 --output speed.json

`Published` takes the scripts' steps, written anew from a description of them. Model, photos,
settings, threads and machine are the same, and the variants take turns, so that other work on the
machine disturbs all of them alike. "as published" casts to bfloat16 where the scripts do, "in fp32"
nowhere, as ours. Protections that take each photo by itself, as AdvDM and PhotoGuard do, go through
their photos one by one in their scripts, and in batches here. The second table shows that all
do the same: the denoising loss of the pre-trained model on what they protect, by the same draws for
every set of photos.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from cloakbench.files.images import Photos, photo_files, read_photo, square_crop, to_pixels
from cloakbench.identity import Identity
from cloakbench.models.device import set_up_torch
from cloakbench.models.families.stable_diffusion import StableDiffusion
from cloakbench.models.loading import load_model
from cloakbench.models.spec import ModelSpec
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.protect.aspl import ASPL
from cloakbench.protect.base import ModelProtection
from cloakbench.protect.fsmg import FSMG
from cloakbench.protect.photowise import PhotowiseProtection
from cloakbench.protect.surrogate import Denoising
from cloakbench.running.jobs import Job

REPOSITORY = Path(__file__).resolve().parents[1]
Networks = tuple[Any, Any]  # U-Net and text encoder
DRAWS = 24  # of noise and timestep for each photo when a protected set is judged


@dataclass
class Published:
    """ASPL and FSMG step by step as the scripts take them; pixels are in [-1, 1] inside.

    dtype: what all weights are cast to for ASPL, and autocast's type while FSMG's surrogate is
        trained; None casts nothing.
    """

    model: StableDiffusion
    identity: Identity
    dtype: torch.dtype | None

    def aspl(self, settings: ASPL) -> Tensor:
        """A new optimiser in every call, first images only, all images encoded in every step."""
        if self.dtype is not None:
            for network in (self.model.unet, self.model.text_encoder, self.model.vae):
                network.to(self.dtype)
        clean, photos = self._signed(self.identity.surrogate_images), self._photos()
        pixels = photos.clone()
        surrogate = self._thawed()
        for _ in range(settings.rounds):
            lookahead = self.train(self._copy(surrogate), clean, settings)
            pixels = self.ascend(lookahead, pixels, photos, settings, settings.pgd_steps)
            surrogate = self.train(surrogate, pixels, settings)
        return pixels / 2 + 0.5

    def train(self, networks: Networks, images: Tensor, settings: ASPL) -> Networks:
        """Trains a copy, so that with the look-ahead's there are two beside the surrogate."""
        networks = unet, text_encoder = self._copy(networks)
        parameters = [p for network in networks for p in network.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=1e-2)
        classes = self._signed(self.identity.class_images)
        for step in range(settings.training_steps):
            pair = torch.stack([images[step % len(images)], classes[step % len(classes)]])
            latents = self._encode(pair)
            text = self._embed(text_encoder, [self._instance_prompt, self._class_prompt])
            predicted, noise = self._predict(unet, latents, text)
            self._loss(predicted, noise, settings).backward()
            # their clipping gets an iterator that is used up, and does nothing
            optimiser.step()
            optimiser.zero_grad()
        return networks

    def ascend(
        self,
        networks: Networks,
        pixels: Tensor,
        original: Tensor,
        settings: ASPL | FSMG,
        steps: int,
    ) -> Tensor:
        """Gradients reach every weight that is not frozen, and are thrown away."""
        unet, text_encoder = networks
        radius = 2 * settings.radius
        for _ in range(steps):
            pixels = pixels.detach().requires_grad_(True)
            latents = self._encode(pixels)
            text = self._embed(text_encoder, [self._instance_prompt] * len(pixels))
            predicted, noise = self._predict(unet, latents, text)
            unet.zero_grad()
            text_encoder.zero_grad()
            mse_loss(predicted.float(), noise.float()).backward()
            assert pixels.grad is not None
            moved = pixels + settings.relative_step * radius * pixels.grad.sign()
            change = (moved - original).clamp(-radius, radius)
            pixels = (original + change).clamp(-1, 1)
        return pixels.detach()

    def fsmg(self, settings: FSMG) -> Tensor:
        """DreamBooth with stored latent distributions, then PGD in float32."""
        self.dreambooth(settings)
        self.model.text_encoder.requires_grad_(False)
        photos, networks = self._photos(), (self.model.unet, self.model.text_encoder)
        return self.ascend(networks, photos, photos, settings, settings.steps) / 2 + 0.5

    def dreambooth(self, settings: FSMG) -> None:
        networks = self._thawed()
        parameters = [p for network in networks for p in network.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=1e-2)
        with torch.no_grad():
            images = self._signed(self.identity.surrogate_images)
            own = self.model.vae.encode(images).latent_dist
            classes = self.model.vae.encode(self._signed(self.identity.class_images)).latent_dist
        for step in range(settings.training_steps):
            batch = range(step * settings.batch_size, (step + 1) * settings.batch_size)
            drawn = [
                stored.sample()[[position % len(stored.mean) for position in batch]]
                for stored in (own, classes)
            ]
            latents = torch.cat(drawn) * self.model.vae.config.scaling_factor
            cast = self.dtype or torch.bfloat16
            with torch.autocast("cpu", dtype=cast, enabled=self.dtype is not None):
                prompts = [self._instance_prompt] * len(batch) + [self._class_prompt] * len(batch)
                text = self._embed(networks[1], prompts)
                predicted, noise = self._predict(networks[0], latents, text)
            self._loss(predicted, noise, settings).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()

    def _thawed(self) -> Networks:
        networks = self.model.unet, self.model.text_encoder
        for network in networks:
            network.requires_grad_(True)
        return networks

    def _copy(self, networks: Networks) -> Networks:
        return copy.deepcopy(networks[0]), copy.deepcopy(networks[1])

    @property
    def _instance_prompt(self) -> str:
        return self.identity.prompts.instance_prompt

    @property
    def _class_prompt(self) -> str:
        return self.identity.prompts.class_prompt

    def _signed(self, photos: Photos | None) -> Tensor:
        assert photos is not None
        return 2 * photos.pixels - 1

    def _photos(self) -> Tensor:
        return self._signed(self.identity.instance_images)

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self.model.vae
        return vae.encode(pixels.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor

    def _embed(self, text_encoder: Any, prompts: list[str]) -> Tensor:
        tokens = self.model.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.model.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return text_encoder(tokens.input_ids)[0]

    def _predict(self, unet: Any, latents: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),))
        noisy = self.model.scheduler.add_noise(latents, noise, timesteps)
        return unet(noisy, timesteps, text).sample, noise

    def _loss(self, predicted: Tensor, noise: Tensor, settings: ASPL | FSMG) -> Tensor:
        """Of as many instance images as class images."""
        losses = (predicted.float() - noise.float()).square().flatten(1).mean(1)
        instance, prior = losses.chunk(2)
        return instance.mean() + settings.prior_weight * prior.mean()


@dataclass
class Variant:
    """One way to protect: seconds by the clock and of the processor, and the losses, per run."""

    method: str
    label: str
    run: Callable[[int], Tensor]
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def variants(
    model: StableDiffusion,
    identity: Identity,
    aspl: ASPL,
    fsmg: FSMG,
    photowise: Iterable[PhotowiseProtection],
) -> list[Variant]:
    """Ours and theirs; every run works on its own copy of the model."""

    def ours(protection: ModelProtection) -> Callable[[int], Tensor]:
        def run(seed: int) -> Tensor:
            return protection.perturb(identity, copy.deepcopy(model), Job(seed))

        return run

    def alone(protection: ModelProtection) -> Callable[[int], Tensor]:
        def run(seed: int) -> Tensor:
            own = copy.deepcopy(model)
            (pixels, names), job = identity.instance_images, Job(seed)
            singles = [
                identity._replace(instance_images=Photos(pixels[i : i + 1], names[i : i + 1]))
                for i in range(len(names))
            ]
            return torch.cat([protection.perturb(each, own, job) for each in singles])

        return run

    def theirs(method: str, settings: Any, dtype: torch.dtype | None) -> Callable[[int], Tensor]:
        def run(seed: int) -> Tensor:
            torch.manual_seed(seed)
            published = Published(copy.deepcopy(model), identity, dtype)
            return getattr(published, method)(settings)

        return run

    made = []
    for method, settings in (("aspl", aspl), ("fsmg", fsmg)):
        made += [
            Variant(method, "ours", ours(settings)),
            Variant(method, "as published", theirs(method, settings, torch.bfloat16)),
            Variant(method, "in fp32", theirs(method, settings, None)),
        ]
    for each in photowise:
        made += [
            Variant(each.name, "ours", ours(each)),
            Variant(each.name, "photo by photo", alone(each)),
        ]
    return made


def measure(variant: Variant, seed: int, judge: Callable[[Tensor], float]) -> None:
    """Run a variant once and note what it took and how its photos are denoised."""
    clock, processor = time.perf_counter(), time.process_time()
    pixels = variant.run(seed)
    variant.seconds.append(time.perf_counter() - clock)
    variant.processor.append(time.process_time() - processor)
    variant.losses.append(judge(pixels))


def judge_by(model: StableDiffusion, prompt: str) -> Callable[[Tensor], float]:
    """The denoising loss of a pre-trained model on photos, over the same draws for any."""
    score = Denoising(model, prompt, Job(0))

    @torch.no_grad()
    def judge(pixels: Tensor) -> float:
        whole = (pixels.detach().float().clamp(0, 1) * 255).round() / 255
        return statistics.fmean(
            score(whole, step, slice(0, None)).mean().item() for step in range(DRAWS)
        )

    return judge


def report(runs: list[Variant], controls: dict[str, float]) -> dict[str, Any]:
    """Print both tables and return them as data."""
    print("\n| loop | variant | median [s] | min [s] | CPU median [s] | times ours | by CPU |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for run in runs:
        own = next(r for r in runs if r.method == run.method and r.label == "ours")
        row = {
            "loop": run.method,
            "variant": run.label,
            "seconds": run.seconds,
            "processor": run.processor,
            "losses": run.losses,
            "ratio": statistics.median(run.seconds) / statistics.median(own.seconds),
            "processor_ratio": statistics.median(run.processor) / statistics.median(own.processor),
        }
        rows.append(row)
        print(
            f"| {run.method} | {run.label} | {statistics.median(run.seconds):.2f} | "
            f"{min(run.seconds):.2f} | {statistics.median(run.processor):.2f} | "
            f"{row['ratio']:.2f} | {row['processor_ratio']:.2f} |"
        )
    print("\n| photos | denoising loss of the pre-trained model | spread over runs |")
    print("|---|---|---|")
    for name, loss in controls.items():
        print(f"| {name} | {loss:.4f} | |")
    for run in runs:
        spread = statistics.stdev(run.losses) if len(run.losses) > 1 else 0.0
        print(f"| {run.method}, {run.label} | {statistics.fmean(run.losses):.4f} | {spread:.4f} |")
    return {"rows": rows, "controls": controls}


def identity_at(folder: Path, class_folders: list[Path], resolution: int) -> Identity:
    """set_B to protect and set_A for the surrogate; class images are photos of other people."""

    def photos(*folders: Path) -> Photos:
        files = [file for each in folders for file in photo_files(each)]
        images = [square_crop(read_photo(file), resolution) for file in files]
        return Photos(to_pixels(images), tuple(f"{i:03d}" for i in range(len(files))))

    people = photos(*(other / "set_A" for other in class_folders))
    return Identity(photos(folder / "set_B"), Prompts(), photos(folder / "set_A"), people)


def main() -> None:
    """Read the options, run the variants in turns, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(REPOSITORY / "resources/mini"))
    parser.add_argument("--resolution", type=int, default=128, help="side of the photos [px]")
    parser.add_argument("--identity", type=Path, help="folder with set_A and set_B")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of ASPL")
    parser.add_argument("--training-steps", type=int, default=40, help="FSMG's DreamBooth steps")
    parser.add_argument("--steps", type=int, default=12, help="PGD steps, of all but ASPL")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for every run's figures")
    options = parser.parse_args()

    set_up_torch(options.threads)
    diffusers.utils.logging.set_verbosity_error()  # it warns of casts that are meant here
    people = sorted((REPOSITORY / "resources/identities").glob("person_*"))
    folder = options.identity or people[0]
    others = [person for person in people if person != folder][:3]
    identity = identity_at(folder, others, options.resolution)
    model = load_model(ModelSpec(path=options.model, resolution=options.resolution))
    assert isinstance(model, StableDiffusion)
    rate = {"learning_rate": protections["aspl"].presets["mini"]["learning_rate"]}
    aspl = protections.build({"method": "aspl", "rounds": options.rounds, **rate})
    settings = {"training_steps": options.training_steps, "steps": options.steps, **rate}
    fsmg = protections.build({"method": "fsmg", **settings})
    assert isinstance(aspl, ASPL)
    assert isinstance(fsmg, FSMG)
    photowise = [
        protections.build({"method": method, "steps": options.steps})
        for method in ("advdm", "photoguard")
    ]

    judge = judge_by(model, identity.prompts.instance_prompt)
    original = identity.instance_images.pixels
    noise = protections.build("noise").protect(identity, lambda: model, Job(0)).pixels
    controls = {"clean": judge(original), "noise": judge(noise)}
    one = {"training_steps": 1}
    short = (
        aspl.model_copy(update={"rounds": 1, **one}),
        fsmg.model_copy(update={"steps": 1, **one}),
        [each.model_copy(update={"steps": 1}) for each in photowise],
    )
    for run in variants(model, identity, *short):
        run.run(0)  # the first calls of a process choose kernels and import late
    runs = variants(model, identity, aspl, fsmg, photowise)
    for repeat in range(options.repeats):
        for run in runs[repeat % len(runs) :] + runs[: repeat % len(runs)]:
            print(f"repeat {repeat + 1}/{options.repeats}: {run.method}, {run.label}", flush=True)
            measure(run, repeat, judge)

    print(f"\ntorch {torch.__version__}, {options.threads} thread(s), {options.model}, fp32 here")
    tables = report(runs, controls)
    if options.output is not None:
        asked = {key: str(value) for key, value in vars(options).items()}
        options.output.write_text(json.dumps({"options": asked, **tables}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
