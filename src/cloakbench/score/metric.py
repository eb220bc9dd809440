"""What a metric is: a number for one sample, with a direction, bounds and needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.registry import Method, Registry, Spec
from cloakbench.score.faces import Face
from cloakbench.score.references import References

DEFAULT = ("fdfr", "ism", "relative_ism", "identified", "identified_detected", "brisque")
"""The metrics that need no weights but the face backend's."""

Need = Literal["faces", "reference", "pixels", "original"]


class Sample(NamedTuple):
    """A generated image with its largest face (None where no face was found) and all of them.

    original: the untouched photo, where the image is a protected or purified one.
    """

    image: Image.Image
    face: Face | None
    faces: Sequence[Face] = ()
    original: Image.Image | None = None


class Metric(Method):
    """One number per sample; a cell's score is the mean over the samples that have one.

    Class variables:
        title: the column's name in tables for people.
        protects: whether "higher" or "lower" values speak for the protection, that is against
            the personalised model; a study of purification reads the arrows the other way.
        bounds: the least and the largest value.
        needs: what is read: the samples' faces, the identity's reference, the pixels, the photo as
            it was.
        display: how a value is printed (a format specification).
        smallest_side: of an image that has a score [px].
        of_faces: whether a sample without a face has no score.
    """

    title: ClassVar[str]
    protects: ClassVar[Literal["higher", "lower"]]
    bounds: ClassVar[tuple[float, float]]
    needs: ClassVar[frozenset[Need]]
    display: ClassVar[str] = ".3f"
    smallest_side: ClassVar[int] = 0
    of_faces: ClassVar[bool] = False

    @property
    def judges_photos(self) -> bool:
        """Whether it says something of protected and purified photos."""
        return self.needs <= {"pixels", "original"}

    @property
    def judges_samples(self) -> bool:
        """Whether it says something of samples, which no photo is the original of."""
        return "original" not in self.needs

    @abstractmethod
    def score(self, sample: Sample, references: References, identity: str) -> float:
        """The sample's value; NaN where it is not defined (no face, no calibration)."""


metrics: Registry[Metric] = Registry(
    "metric",
    "cloakbench.score",
    engine=("cloakbench.score.faces.base", "cloakbench.score.references"),
)
"""Every metric, by name."""


def build_metrics(specs: Sequence[Spec | str] = ()) -> list[Metric]:
    """Metrics from names or specs; `DEFAULT` if there are none.

    Raises:
        CloakBenchError: an unknown metric or setting, or one metric twice.
    """
    chosen = [metrics.build(spec) for spec in specs or DEFAULT]
    names = [metric.name for metric in chosen]
    for name in names:
        if names.count(name) > 1:
            raise CloakBenchError(f"metric '{name}' is named twice. Name it once.")
    return chosen
