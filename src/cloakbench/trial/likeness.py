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
    """

    def __init__(self, photos: Sequence[Embedding], strangers: Sequence[Embedding]) -> None:
        """photos: of the person. strangers: of samples of the base model."""
        seen = [vector for vector in photos if vector is not None]
        self._same = self._other = math.nan
        if len(seen) > 1:
            self._mean = np.mean(seen, axis=0)
            self._same, self._other = _one_to_others(seen), self._cosine(strangers)

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
        found = [cosine(vector, self._mean) for vector in vectors if vector is not None]
        return float(np.mean(found)) if found else math.nan


def _one_to_others(vectors: Sequence[np.ndarray]) -> float:
    """Mean cosine of each vector to the mean of the others."""
    total, others = np.sum(vectors, axis=0), len(vectors) - 1
    return float(np.mean([cosine(each, (total - each) / others) for each in vectors]))
