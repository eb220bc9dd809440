"""The stages of pre-training: each reads the work folder, trains, and writes back to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPModel, CLIPTokenizer

from cloakbench.errors import CloakBenchError
from cloakbench.miniature.pretrain.clip import build_clip, clip_loss
from cloakbench.miniature.pretrain.ddpm import build_ddpm, build_ladder, ddpm_loss, whole_or_window
from cloakbench.miniature.pretrain.degrade import (
    clean_caption,
    degrade,
    degraded_caption,
    draw_degradation,
    pattern,
)
from cloakbench.miniature.pretrain.judge import build_judge, examples, judge_loss
from cloakbench.miniature.pretrain.judge import captions as judge_captions
from cloakbench.miniature.pretrain.loop import Learner, train
from cloakbench.miniature.pretrain.portraits import Portraits
from cloakbench.miniature.pretrain.recipe import RECIPES, Recipe
from cloakbench.miniature.pretrain.recogniser import Recogniser, recogniser_loss
from cloakbench.miniature.pretrain.restorer import build_restorer, degraded, restorer_loss
from cloakbench.miniature.pretrain.tokenizer import sample_captions, train_tokenizer
from cloakbench.miniature.pretrain.unet import (
    LatentPortraits,
    build_scheduler,
    build_unet,
    draw_batch,
    encode_portraits,
    unet_loss,
)
from cloakbench.miniature.pretrain.vae import Adversaries, build_vae, face_crops, vae_loss
from cloakbench.models.restorer import Restorer
from cloakbench.running.jobs import Job, job_seed, load, store

SAVE_EVERY = 120.0  # seconds
DUEL = 0.25  # share of the VAE's steps after which its critic learns
HEARD = 0.3  # and after which the VAE listens to it


@dataclass(frozen=True)
class Pretraining:
    """A work folder with the state of every network, and how to train on this machine.

    work: holds checkpoints and `vae.pt`, `clip.pt`, `latents.pt`, `unet.pt`, `judge.pt`, `ddpm.pt`,
        `restorer.pt` (averaged weights).
    recipe: of the base model.
    """

    work: Path
    portraits_folder: Path
    device: str = "cpu"
    seed: int = 0
    report: Callable[[str], None] = print
    recipe: Recipe = RECIPES["first"]

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
        pair = self._adversaries().to(memory_format=torch.channels_last)
        recogniser = self._trained("recogniser", Recogniser(portraits.count_people()))

        def loss(step: int, rng: torch.Generator) -> torch.Tensor:
            cropped = step % 4 > 0
            count = 4 * batch_size if cropped else batch_size
            pixels = portraits.draw(count, rng)
            words = np.random.default_rng(rng.initial_seed())
            spoilt = count // 8
            if spoilt:
                pixels[:spoilt] = degrade(pixels[:spoilt], draw_degradation(words), words)
            if cropped:
                pixels = face_crops(pixels, rng)
            with self._autocast():
                duel, heard = step >= DUEL * steps, step >= HEARD * steps
                pixels = pixels.to(self.device)
                return vae_loss(pair, recogniser, pixels, rng, duel=duel, heard=heard)

        rivals = pair.vae, pair.critic
        self._train("vae", pair, loss, steps, learning_rate, ema=0.998, rivals=rivals)

    def clip(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train CLIP on clean portraits, degraded ones whose captions say so, and bare noise."""
        portraits, tokenizer = Portraits.load(self.portraits_folder), self.trained_tokenizer()
        clip = build_clip(tokenizer, self.recipe.width)

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
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
            tokens = self._tokens(tokenizer, map(self.recipe.ordered, captions))
            with self._autocast():
                return clip_loss(clip, tokens, pixels.to(self.device))

        self._train("clip", clip, loss, steps, learning_rate, ema=0.995)

    def judge(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the judge of quality, with a vocabulary of its own captions."""
        portraits = Portraits.load(self.portraits_folder)
        train_tokenizer(judge_captions(), self.work / "judge_tokenizer")
        tokenizer = self.judge_tokenizer()
        judge = build_judge(tokenizer)

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
            draws = np.random.default_rng(rng.initial_seed())
            pixels, captions, fits = examples(portraits.draw(batch_size, rng), draws)
            tokens, pixels = self._tokens(tokenizer, captions), pixels.to(self.device)
            with self._autocast():
                return judge_loss(judge, tokens, pixels, fits.to(self.device))

        self._train("judge", judge, loss, steps, learning_rate, ema=0.995)

    def latents(self) -> None:
        """Encode all portraits with the trained VAE."""
        portraits = Portraits.load(self.portraits_folder)
        encoded = encode_portraits(self.trained_vae(), portraits, self.seed, self.device)
        self.keep("latents", encoded.state_dict())

    def recogniser(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train a recogniser of the people on crops of their faces, for the VAE's loss."""
        portraits = Portraits.load(self.portraits_folder)
        recogniser = Recogniser(portraits.count_people())

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
            indices = torch.randint(len(portraits), (batch_size,), generator=rng)
            crops = face_crops(portraits.batch(indices), rng)
            flipped, light = torch.rand((2, batch_size, 1, 1, 1), generator=rng)
            crops = torch.where(flipped < 0.5, crops.flip(-1), crops) * (0.7 + 0.6 * light)
            with self._autocast():
                people = portraits.people[indices].to(self.device)
                return recogniser_loss(recogniser, crops.to(self.device), people)

        self._train("recogniser", recogniser, loss, steps, learning_rate, ema=0.99)

    def unet(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the U-Net on the latents, under the trained text encoder."""
        portraits, tokenizer = Portraits.load(self.portraits_folder), self.trained_tokenizer()
        encoded, encoder = self.trained_latents(), self.trained_clip().text_model
        if len(portraits) < encoded.mean.shape[1]:
            raise CloakBenchError(
                f"{self.portraits_folder}: has fewer portraits than the latents were made of. "
                "Run `cloakbench pretrain latents` again."
            )
        unet = self._unet().to(memory_format=torch.channels_last)
        if self.device == "cpu":
            unet.set_attn_processor(AttnProcessor())  # the fused one is slow backwards in bfloat16
        scheduler, factor = build_scheduler(), encoded.scaling_factor

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
            drawn, captions = draw_batch(encoded, portraits, batch_size, rng)
            with self._autocast():
                with torch.no_grad():
                    text = encoder(self._tokens(tokenizer, map(self.recipe.ordered, captions)))[0]
                latents = (drawn * factor).to(self.device)
                return unet_loss(unet, scheduler, latents, text, rng)

        self._train("unet", unet, loss, steps, learning_rate, ema=0.9995)

    def ddpm(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the pixel-space DDPM on portraits, windows of them and their mirror images."""
        portraits = Portraits.load(self.portraits_folder)
        unet, ladder = build_ddpm().to(memory_format=torch.channels_last), build_ladder()

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
            pixels = portraits.draw(batch_size, rng)
            with self._autocast():
                return ddpm_loss(unet, ladder, whole_or_window(pixels, rng).to(self.device), rng)

        self._train("ddpm", unet, loss, steps, learning_rate, ema=0.999)

    def restorer(self, steps: int, batch_size: int, learning_rate: float) -> None:
        """Train the face restorer on degraded portraits, with a random fidelity for each."""
        portraits = Portraits.load(self.portraits_folder)
        restorer = build_restorer().to(memory_format=torch.channels_last)

        def loss(_step: int, rng: torch.Generator) -> torch.Tensor:
            pixels = portraits.draw(batch_size, rng)
            fidelity = torch.rand(batch_size, generator=rng)
            draws = np.random.default_rng(rng.initial_seed())
            spoilt = torch.cat([degraded(portrait, draws) for portrait in pixels.split(1)])
            clean, spoilt, fidelity = (t.to(self.device) for t in (pixels, spoilt, fidelity))
            with self._autocast():
                return restorer_loss(restorer, clean, spoilt, fidelity)

        self._train("restorer", restorer, loss, steps, learning_rate, ema=0.999)

    def trained_tokenizer(self) -> CLIPTokenizer:
        """The learnt vocabulary."""
        return CLIPTokenizer.from_pretrained(self._of("tokenizer"))

    def trained_vae(self) -> AutoencoderKL:
        """The VAE with averaged weights, frozen."""
        pair: Adversaries = self._trained("vae", self._adversaries())
        return pair.vae

    def trained_clip(self) -> CLIPModel:
        """The CLIP with averaged weights, frozen."""
        return self._trained("clip", build_clip(self.trained_tokenizer(), self.recipe.width))

    def trained_unet(self) -> Any:
        """The U-Net with averaged weights, frozen."""
        return self._trained("unet", self._unet())

    def judge_tokenizer(self) -> CLIPTokenizer:
        """The vocabulary of the judge."""
        return CLIPTokenizer.from_pretrained(self.work / "judge_tokenizer")

    def trained_judge(self) -> CLIPModel:
        """The judge with averaged weights, frozen."""
        return self._trained("judge", build_judge(self.judge_tokenizer()))

    def trained_ddpm(self) -> Any:
        """The pixel-space DDPM's U-Net with averaged weights, frozen."""
        return self._trained("ddpm", build_ddpm())

    def trained_restorer(self) -> Restorer:
        """The face restorer with averaged weights, frozen."""
        restorer: Restorer = self._trained("restorer", build_restorer())
        return restorer

    def trained_latents(self) -> LatentPortraits:
        """The encoded portraits."""
        return LatentPortraits(**self._read("latents"))

    def keep(self, name: str, state: Any) -> None:
        """Store a network's weights, or the latents, under its name in the work folder."""
        store(self.work / f"{name}.pt", state)

    def _train(
        self,
        stage: str,
        network: torch.nn.Module,
        loss: Callable[[int, torch.Generator], torch.Tensor],
        steps: int,
        learning_rate: float,
        *,
        ema: float,
        rivals: Sequence[torch.nn.Module] = (),
    ) -> None:
        """Train a network from its weights so far, if there are any, and keep the averaged ones.

        loss: of a step and its draws. rivals: see `Learner`.
        """
        origin = ""
        if (path := self.work / f"{stage}.pt").exists():
            network.load_state_dict(self._read(stage))
            origin = hashlib.sha256(path.read_bytes()).hexdigest()
        learner = Learner(network.to(self.device), learning_rate, steps, ema, origin, rivals)
        checkpoints = self.work / "checkpoints"
        job = Job(job_seed(self.seed, stage), self.device, checkpoints, SAVE_EVERY)

        def after() -> None:
            self.keep(stage, learner.averaged())

        def draw(step: int) -> torch.Tensor:
            return loss(step, job.rng("batch", learner.origin, step))

        train(stage, learner, draw, job, self.report, after=after)
        after()
        (checkpoints / f"{stage}.pt").unlink(missing_ok=True)

    def _trained(self, name: str, network: Any) -> Any:
        network.load_state_dict(self._read(name))
        return network.requires_grad_(False).eval().to(self.device)

    def _read(self, name: str) -> Any:
        return load(self._of(name, ".pt"))

    def _of(self, stage: str, suffix: str = "") -> Path:
        """What a stage left in the work folder."""
        path = self.work / f"{stage}{suffix}"
        if not path.exists():
            raise CloakBenchError(f"{path}: is missing. Run `cloakbench pretrain {stage}` first.")
        return path

    def _adversaries(self) -> Adversaries:
        return Adversaries(build_vae(self.recipe.vae))

    def _unet(self) -> Any:
        return build_unet(self.recipe.unet, self.recipe.width)

    def _tokens(self, tokenizer: CLIPTokenizer, captions: Iterable[str]) -> torch.Tensor:
        encoded = tokenizer(
            list(captions),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)
