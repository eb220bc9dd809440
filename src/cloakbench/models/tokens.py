"""How long a prompt may be: what a text encoder does not read, nothing learns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cloakbench.errors import CloakBenchError
from cloakbench.models.spec import ModelSpec

CHANGES_NO_RESULT = True


def check_prompts(spec: ModelSpec, prompts: Iterable[str]) -> None:
    """Find out without the model whether its tokenizers read prompts whole.

    Raises:
        CloakBenchError: one is too long.
    """
    for folder in sorted(spec.folder().glob("tokenizer*")):
        check_read(folder, prompts)


def check_read(folder: Path, prompts: Iterable[str]) -> None:
    """Find out whether the tokenizer in a folder reads prompts whole.

    Raises:
        CloakBenchError: one is too long.
    """
    limit = _limit(folder)
    long = [text for text in dict.fromkeys(prompts) if len(text.encode()) > limit - 2]
    if long:  # a token is a byte at least, so that others need no tokenizer
        _check(long, _counts(folder, long), limit)


def check_lengths(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Find out whether a tokenizer of transformers reads prompts whole.

    Raises:
        CloakBenchError: one is too long.
    """
    tokens = tokenizer(list(prompts)).input_ids
    _check(prompts, map(len, tokens), tokenizer.model_max_length)


def _check(prompts: Sequence[str], counts: Iterable[int], limit: int) -> None:
    for text, count in zip(prompts, counts, strict=True):
        if count > limit:
            raise CloakBenchError(
                f"prompt '{text}': has {count} tokens, and the model reads {limit}, a start and an "
                "end among them. Shorten it."
            )


def _counts(folder: Path, prompts: Sequence[str]) -> list[int]:
    """Tokens of prompts, by the file that loads in no time, where there is one."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        quick = Tokenizer.from_file(str(folder / "tokenizer.json"))
        quick.no_truncation()
        quick.no_padding()
        return [len(each.ids) for each in quick.encode_batch(list(prompts))]
    from transformers import AutoTokenizer

    return [*map(len, AutoTokenizer.from_pretrained(folder)(list(prompts)).input_ids)]


def _limit(folder: Path) -> int:
    try:
        return int(json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"])
    except (OSError, ValueError, LookupError, TypeError):
        raise CloakBenchError(
            f"{folder}: its tokenizer_config.json says no model_max_length. Copy the whole model."
        ) from None
