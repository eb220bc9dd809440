"""How much of a person is in samples, on a scale of that person's own photos."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cloakbench.faces import cosine

Embedding = np.ndarray | None
"""Of the largest face of an image; None where there is no face."""


class Likeness:
    """A scale on which 0 is what a model draws that has seen no photos, and 1 another photo.

    As relative ISM in a study, where strangers are other people of the dataset: a trial knows one.
    All are compared with means of all photos but one, since a photo has no other to compare with.
    """

    def __init__(self, photos: Sequence[Embedding], strangers: Sequence[Embedding]) -> None:
        """photos: of the person. strangers: of samples of the base model."""
        seen = [vector for vector in photos if vector is not None]
        self._same = self._other = math.nan
        if len(seen) > 1:
            total, others = np.sum(seen, axis=0), len(seen) - 1
            self._means = [(total - each) / others for each in seen]  # as near to all as to itself
            self._same = float(np.mean([*map(cosine, seen, self._means)]))
            self._other = self._cosine(strangers)

    def of(self, samples: Sequence[Embedding]) -> float:
        """Mean over samples, of which those without a face count 0.

        NaN where fewer than two photos show a face, or the base model draws none, or strangers are
        as like as the person.
        """
        scale = self._same - self._other
        if not scale > 0 or not samples:
            return math.nan
        faces = [vector for vector in samples if vector is not None]
        if not faces:
            return 0.0
        return len(faces) / len(samples) * (self._cosine(faces) - self._other) / scale

    def _cosine(self, vectors: Sequence[Embedding]) -> float:
        faces = [vector for vector in vectors if vector is not None]
        found = [cosine(face, mean) for face in faces for mean in self._means]
        return float(np.mean(found)) if found else math.nan
