"""A small byte-pair vocabulary in CLIP's format, made from captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cloakbench.miniature.pretrain.degrade import (
    clean_caption,
    degraded_caption,
    draw_degradation,
)

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from cloakbench.miniature.pretrain.portraits import Portraits

MAX_LENGTH = 32  # tokens; the study's longest prompts have about 20
VOCABULARY = 1200
OTHERS = ("close-up riding a bike in front of the eiffel tower, looking at the mirror, selfie on "
          "top of mount fuji", "a picture of an object, a painting")  # fmt: skip
"""Ordinary words that no caption has, lest they are spelled."""


def train_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn merges from captions and write CLIP's `vocab.json` and `merges.txt`.

    Every printable ASCII character is in the vocabulary, so any prompt can be encoded.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]

    folder.mkdir(parents=True, exist_ok=True)
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [word for word in learnt["vocab"] if word not in set(words)]
    vocabulary = {word: index for index, word in enumerate(words)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in learnt["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    settings = {"model_max_length": MAX_LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    result = CLIPTokenizer.from_pretrained(folder)
    result.save_pretrained(folder)
    return result


def sample_captions(portraits: Portraits, count: int, seed: int) -> list[str]:
    """Captions of random portraits, clean and degraded, to learn merges from.

    Names are left out: they are to be spelled, as identifiers are, which no portrait has.
    """
    rng = np.random.default_rng(seed)
    captions = []
    for index in rng.integers(len(portraits), size=count):
        text = portraits.caption(int(index), rng, named_share=0)
        captions.append(clean_caption(text, rng))
        captions.append(degraded_caption(text, draw_degradation(rng), rng))
    return [*captions, *(text for text in OTHERS for _ in range(50))]
