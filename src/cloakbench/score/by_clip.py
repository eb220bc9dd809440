"""What metrics share that look at images through a CLIP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from cloakbench.files.weights import OPENAI_CLIP, WeightFile, find_clip, weights_in
from cloakbench.models.tokens import check_read
from cloakbench.score.base import Metric


class ByClip(Metric):
    """A metric that needs a CLIP."""

    presets: ClassVar = {"mini": {"clip": "resources/mini/clip"}, "tiny": {"clip": "tiny_clip"}}

    clip: str = Field(OPENAI_CLIP, description="folder or hub id of a CLIP in transformers' format")

    def files(self) -> Iterable[WeightFile]:
        return weights_in(find_clip(self.clip))

    def check(self) -> None:
        super().check()
        given = [getattr(self, name) for name in self.class_texts]
        texts = [text for each in given for text in ([each] if isinstance(each, str) else each)]
        check_read(find_clip(self.clip), texts)
