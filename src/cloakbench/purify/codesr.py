"""CodeSR: CodeFormer, then super-resolution."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cloakbench.purify.base import purifiers
from cloakbench.purify.chain import Chain


@purifiers.register("codesr")
class CodeSR(Chain):
    """Restoration-based purification: `codeformer`, then `superres`, with their settings of the
    same preset.

    In `mini`, the miniature's own restorer is in CodeFormer's place.
    """

    source = "Liu et al. 2024, arXiv 2406.18944; DiffShortcut's `code-sr` (recipes 2)"
    presets = {
        preset: {"steps": [{"method": m, "preset": preset} for m in ("codeformer", "superres")]}
        for preset in ("paper", "mini", "tiny")
    }

    steps: list[dict[str, Any]] = Field(
        default=["codeformer", "superres"],  # type: ignore[list-item]
        min_length=1,
        description="specs of the purifications, first to last",
    )
