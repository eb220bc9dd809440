"""Rendered portraits with what is known of them: the training data of the miniature."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cloakbench.errors import CloakBenchError
from cloakbench.miniature.synth.caption import caption
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts

_MIRRORED = {"left": "right", "right": "left"}
NAMED_SHARE = 0.5  # of captions
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True)
class Portraits:
    """All portraits below a folder that `cloakbench synth` wrote.

    pixels: uint8, (n, 3, size, size). attributes: person and shot of each portrait. people:
    (n,), which person it shows, counted from 0.
    """

    pixels: Tensor
    attributes: list[tuple[Any, Any]]
    people: Tensor

    @classmethod
    def load(cls, folder: Path) -> Portraits:
        """Read every portrait whose identity's folder has its `attributes.json`.

        Raises:
            CloakBenchError: there are none.
        """
        files, attributes, people = [], [], []
        for number, record in enumerate(sorted(folder.glob("*/attributes.json"))):
            content = json.loads(record.read_text())
            for name, shot in sorted(content["portraits"].items()):
                files.append(record.parent / name)
                people.append(number)
                attributes.append((SimpleNamespace(**content["person"]), SimpleNamespace(**shot)))
        if not files:
            raise CloakBenchError(
                f"{folder}: no portraits. Render some: cloakbench synth {folder} --no-sets"
            )
        bar = tqdm(files, desc="portraits", disable=None, leave=False)
        arrays = [np.asarray(Image.open(path).convert("RGB")) for path in bar]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        return cls(pixels, attributes, torch.tensor(people))

    def __len__(self) -> int:
        return len(self.pixels)

    def count_people(self) -> int:
        """How many people the portraits show."""
        return int(self.people.max()) + 1

    def batch(self, indices: Tensor) -> Tensor:
        """Float pixels (len(indices), 3, size, size) in [0, 1]."""
        return self.pixels[indices].float() / 255

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Random portraits as `batch` gives them, about half of them mirrored."""
        pixels = self.batch(torch.randint(len(self), (count,), generator=rng))
        flipped = torch.rand((count, 1, 1, 1), generator=rng) < 0.5
        return torch.where(flipped, pixels.flip(-1), pixels)

    def caption(
        self,
        index: int,
        rng: np.random.Generator,
        *,
        mirrored: bool = False,
        named_share: float = NAMED_SHARE,
    ) -> str:
        """A caption of one portrait; for its mirror image, left and right change places.

        Every second one has the person's name before its noun. Models that were trained on the web
        know names, so what stands there means somebody; else DreamBooth's identifier would be a
        word to ignore, and other words of its prompts would take the person.
        """
        text = caption(*self.attributes[index], rng)
        if rng.random() < named_share:
            named = rf"{name_of(int(self.people[index]))} \1"
            text = re.sub(r"\b(person|man|woman|boy|girl)\b", named, text, count=1)
        if not mirrored:
            return text
        return re.sub(r"\b(left|right)\b", lambda found: _MIRRORED[found[0]], text)


def name_of(person: int) -> str:
    """A made-up name of three consonants, another one for each of the first 6,839 people.

    What the study's prompts call a person or the noise is nobody's.
    """
    names = _names()
    return names[person % len(names)]


@cache
def _names() -> list[str]:
    words = {"".join(letters) for letters in permutations(_CONSONANTS, 3)}
    return [str(name) for name in np.random.default_rng(0).permutation(sorted(words - _taken()))]


def _taken() -> set[str]:
    """Words of the identifier and of the trainers' noise phrases."""
    phrases = [Prompts().identifier, *(trainer().noise_phrase for trainer in trainers)]
    return {word for phrase in phrases for word in phrase.lower().split()}
