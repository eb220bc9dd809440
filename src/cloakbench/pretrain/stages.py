"""The stages of pre-training: each reads the work folder, trains, and writes back to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel, CLIPTokenizer

from cloakbench.errors import CloakBenchError
from cloakbench.jobs import Job, job_seed
from cloakbench.pretrain.clip import build_clip, clip_loss
from cloakbench.pretrain.degrade import (
    clean_caption,
    degrade,
    degraded_caption,
    draw_degradation,
    pattern,
)
from cloakbench.pretrain.loop import Learner, train
from cloakbench.pretrain.portraits import Portraits
from cloakbench.pretrain.tokenizer import sample_captions, train_tokenizer
from cloakbench.pretrain.unet import (
    LatentPortraits,
    build_scheduler,
    build_unet,
    draw_batch,
    encode_portraits,
    unet_loss,
)
from cloakbench.pretrain.vae import build_vae, face_crops, vae_loss

SAVE_EVERY = 120.0  # seconds


@dataclass(frozen=True)
class Pretraining:
    """A work folder with the state of every network, and how to train on this machine.

    work: holds checkpoints and `vae.pt`, `clip.pt`, `latents.pt`, `unet.pt` (averaged weights).
    """

    work: Path
    portraits_folder: Path
    device: str = "cpu"
    seed: int = 0
    report: Callable[[str], None] = print

    def tokenizer(self) -> None:
        """Learn the vocabulary from captions."""
        portraits = Portraits.load(self.portraits_folder)
        train_tokenizer(sample_captions(portraits, 20_000, self.seed), self.work / "tokenizer")

    def vae(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the VAE on portraits and their mirror images; one in eight is degraded.

        Three steps in four see crops of faces, four for the price of one portrait: what makes
        a person recognisable is there.
        """
        portraits = Portraits.load(self.portraits_folder)
        vae = build_vae().to(self.device, memory_format=torch.channels_last)
        self._start_from("vae", vae)
        learner = Learner(vae, learning_rate, steps, ema=0.998)
        job = self._job("vae")

        def loss(step: int) -> torch.Tensor:
            rng = job.rng("batch", step)
            cropped = step % 4 > 0
            count = 4 * batch_size if cropped else batch_size
            pixels = portraits.batch(torch.randint(len(portraits), (count,), generator=rng))
            flipped = torch.rand((count, 1, 1, 1), generator=rng) < 0.5
            pixels = torch.where(flipped, pixels.flip(-1), pixels)
            words = np.random.default_rng(rng.initial_seed())
            spoilt = count // 8
            if spoilt:
                pixels[:spoilt] = degrade(pixels[:spoilt], draw_degradation(words), words)
            if cropped:
                pixels = face_crops(pixels, rng)
            with self._autocast():
                return vae_loss(vae, pixels.to(self.device), rng)

        self._train("vae", learner, loss, job)

    def clip(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train CLIP on clean portraits, degraded ones whose captions say so, and bare noise."""
        portraits, tokenizer = Portraits.load(self.portraits_folder), self.trained_tokenizer()
        clip = build_clip(tokenizer).to(self.device)
        self._start_from("clip", clip)
        learner = Learner(clip, learning_rate, steps, ema=0.995)
        job = self._job("clip")

        def loss(step: int) -> torch.Tensor:
            rng = job.rng("batch", step)
            indices = torch.randint(len(portraits), (batch_size,), generator=rng)
            pixels = portraits.batch(indices)
            words = np.random.default_rng(rng.initial_seed())
            captions = [portraits.caption(int(index), words) for index in indices]
            for i in range(batch_size):
                if i % 2:
                    captions[i] = clean_caption(captions[i], words)
                elif i % 16 == 0:
                    pixels[i], captions[i] = pattern(pixels[i], words)
                else:
                    kind = draw_degradation(words)
                    pixels[i : i + 1] = degrade(pixels[i : i + 1], kind, words)
                    captions[i] = degraded_caption(captions[i], kind, words)
            with self._autocast():
                return clip_loss(clip, self._tokens(tokenizer, captions), pixels.to(self.device))

        self._train("clip", learner, loss, job)

    def latents(self) -> None:
        """Encode all portraits with the trained VAE."""
        portraits = Portraits.load(self.portraits_folder)
        encoded = encode_portraits(self.trained_vae(), portraits, self.seed, self.device)
        self.keep("latents", encoded.state_dict())

    def unet(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the U-Net on the latents, under the trained text encoder."""
        portraits, tokenizer = Portraits.load(self.portraits_folder), self.trained_tokenizer()
        encoded, encoder = self.trained_latents(), self.trained_clip().text_model
        if len(portraits) < encoded.mean.shape[1]:
            raise CloakBenchError(
                f"{self.portraits_folder}: has fewer portraits than the latents were made of. "
                "Run `cloakbench pretrain latents` again."
            )
        unet = build_unet().to(self.device, memory_format=torch.channels_last)
        self._start_from("unet", unet)
        learner = Learner(unet, learning_rate, steps, ema=0.9995)
        job, scheduler, factor = self._job("unet"), build_scheduler(), encoded.scaling_factor

        def loss(step: int) -> torch.Tensor:
            rng = job.rng("batch", step)
            drawn, captions = draw_batch(encoded, portraits, batch_size, rng)
            with self._autocast():
                with torch.no_grad():
                    text = encoder(self._tokens(tokenizer, captions))[0]
                latents = (drawn * factor).to(self.device)
                return unet_loss(unet, scheduler, latents, text, rng)

        self._train("unet", learner, loss, job)

    def trained_vae(self) -> AutoencoderKL:
        """The VAE with averaged weights, frozen."""
        return self._trained("vae", build_vae())

    def trained_clip(self) -> CLIPModel:
        """The CLIP with averaged weights, frozen."""
        return self._trained("clip", build_clip(self.trained_tokenizer()))

    def trained_unet(self) -> Any:
        """The U-Net with averaged weights, frozen."""
        return self._trained("unet", build_unet())

    def trained_latents(self) -> LatentPortraits:
        """The encoded portraits."""
        return LatentPortraits(**self._read("latents"))

    def keep(self, name: str, state: Any) -> None:
        """Store a network's weights, or the latents, under its name in the work folder."""
        _save(state, self.work / f"{name}.pt")

    def _train(self, name: str, learner: Learner, loss: Any, job: Job) -> None:
        def after() -> None:
            self.keep(name, learner.averaged())

        train(name, learner, loss, job, self.report, after=after)
        after()
        (self.work / "checkpoints" / f"{name}.pt").unlink(missing_ok=True)

    def _start_from(self, name: str, network: torch.nn.Module) -> None:
        """Go on from the weights of an earlier, shorter training where there are any."""
        if (self.work / f"{name}.pt").exists():
            network.load_state_dict(self._read(name))

    def _trained(self, name: str, network: Any) -> Any:
        network.load_state_dict(self._read(name))
        return network.requires_grad_(False).eval().to(self.device)

    def _read(self, name: str) -> Any:
        path = self.work / f"{name}.pt"
        if not path.exists():
            raise CloakBenchError(f"{path}: is missing. Run `cloakbench pretrain {name}` first.")
        return torch.load(path, map_location="cpu", weights_only=True)

    def trained_tokenizer(self) -> CLIPTokenizer:
        """The learnt vocabulary."""
        folder = self.work / "tokenizer"
        if not folder.is_dir():
            raise CloakBenchError(
                f"{folder}: is missing. Run `cloakbench pretrain tokenizer` first."
            )
        return CLIPTokenizer.from_pretrained(folder)

    def _tokens(self, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
        encoded = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids.to(self.device)

    def _job(self, name: str) -> Job:
        return Job(job_seed(self.seed, name), self.device, self.work / "checkpoints", SAVE_EVERY)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def _save(state: Any, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, part)
    os.replace(part, path)
