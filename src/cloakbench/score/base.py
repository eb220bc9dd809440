"""What a metric is: a number with a direction and bounds, of an image or of a set of images."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple, final

from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.faces import Face
from cloakbench.registry import Method, Registry, Spec
from cloakbench.score.references import References

DEFAULT = (
    *("relative_ims", "fdfr", "ism", "relative_ism", "identified", "identified_detected"),
    "brisque",
)
"""The metrics that need no weights but the face backend's."""

DISTANCES = ("linf", "psnr", "ssim")
"""What is always measured of protected and purified photos, in this order."""

Read = Literal["faces", "reference", "pixels", "original", "photos"]


class Sample(NamedTuple):
    """A generated image with its largest face (None where no face was found) and all of them.

    original: the untouched photo, where the image is a protected or purified one. photos: the
    person's clean ones with their faces, where a metric reads them.
    """

    image: Image.Image
    face: Face | None
    faces: Sequence[Face] = ()
    original: Image.Image | None = None
    photos: Sequence[Sample] = ()


def images_of(samples: Sequence[Sample]) -> list[Image.Image]:
    """The images alone."""
    return [sample.image for sample in samples]


def originals_of(samples: Sequence[Sample]) -> list[Image.Image]:
    """The untouched photos, of those that have one."""
    return [sample.original for sample in samples if sample.original is not None]


class Metric(Method):
    """What all metrics declare; see `ImageMetric`, `PhotoMetric` and `SetMetric`.

    Class variables:
        title: the column's name in tables for people.
        protects: whether "higher" or "lower" values speak for the protection, that is against
            the personalised model; a study of purification reads the arrows the other way.
        bounds: the least and the largest value.
        reads: the images' faces, the identity's reference, the pixels, the photo as it was, the
            identity's clean photos.
        display: how a value is printed (a format specification).
        smallest_side: of an image that has a score [px].
        of_faces: whether a sample without a face has no score.
        most_of_strangers: the mean cosine of two strangers' faces above which it says nothing.
        hidden: the least and the largest mean that a person without any score could have had, for
            the bounds of a mean over people; None where nothing bounds it.
        saturates: the value of all images that are far from what it knows; None where it has none.
        aggregate: what tables make of many photos' values; a "mean" is of the finite ones, and
            infinite where there are no others. Of samples it is always the mean.
    """

    title: ClassVar[str]
    protects: ClassVar[Literal["higher", "lower"]]
    bounds: ClassVar[tuple[float, float]]
    reads: ClassVar[frozenset[Read]]
    display: ClassVar[str] = ".3f"
    smallest_side: ClassVar[int] = 0
    of_faces: ClassVar[bool] = False
    most_of_strangers: ClassVar[float] = 1.0
    hidden: ClassVar[tuple[float, float] | None] = None
    saturates: ClassVar[float | None] = None
    aggregate: ClassVar[Literal["mean", "max"]] = "mean"

    @property
    def judges_photos(self) -> bool:
        """Whether it says something of protected and purified photos."""
        return self.reads <= {"pixels", "original"}

    @property
    def needs_reference(self) -> bool:
        """Whether it compares faces with those of the person's clean photos."""
        return "reference" in self.reads

    @property
    def judges_samples(self) -> bool:
        """Whether it says something of samples, which no photo is the original of."""
        return "original" not in self.reads


class ImageMetric(Metric):
    """One number per image; a cell's score is the mean over the samples that have one."""

    @property
    def reads_photos(self) -> bool:
        """Whether it compares each sample with the person's clean photos one by one."""
        return False

    @abstractmethod
    def score(self, sample: Sample, references: References, identity: str) -> float:
        """The sample's value; NaN where it is not defined (no face, no calibration)."""

    def scores(
        self, samples: Sequence[Sample], references: References, identity: str, device: str = "cpu"
    ) -> list[float]:
        """The value of each sample, in order. device: where networks run."""
        return [self.score(sample, references, identity) for sample in samples]


class NetworkMetric(ImageMetric):
    """A number per image from a network that sees many at a time; a child writes `judge`.

    One that `needs` a "gpu" has the stage ask for one; others use it where it is there anyway.
    """

    @final
    def score(self, sample: Sample, references: References, identity: str) -> float:
        [value] = self.judge([sample], "cpu")
        return value

    @final
    def scores(
        self, samples: Sequence[Sample], references: References, identity: str, device: str = "cpu"
    ) -> list[float]:
        return self.judge(samples, device)

    @abstractmethod
    def judge(self, samples: Sequence[Sample], device: str) -> list[float]:
        """The value of each sample, in order, by a network on a device."""


class PhotoMetric(ImageMetric):
    """One number per protected or purified photo, by its original; samples have none."""

    reads: ClassVar[frozenset[Read]] = frozenset({"pixels", "original"})

    @final
    def score(self, sample: Sample, references: References, identity: str) -> float:
        return math.nan if sample.original is None else self.compare(sample.image, sample.original)

    @abstractmethod
    def compare(self, photo: Image.Image, original: Image.Image) -> float:
        """The value of an RGB photo whose original has the same size."""


class SetMetric(Metric):
    """One number for all samples of a cell, by the identity's clean photos: every row has it.

    So the mean over a cell's rows is this number, and with one identity there is no interval.
    """

    reads: ClassVar[frozenset[Read]] = frozenset({"pixels", "photos"})

    @abstractmethod
    def score(
        self, samples: Sequence[Image.Image], photos: Sequence[Image.Image], device: str = "cpu"
    ) -> float:
        """The value of RGB samples of all prompts; NaN where they, or the photos, are too few.

        device: where networks run.
        """


class _Metrics(Registry[Metric]):
    """The registry of metrics, each of one of the kinds."""

    def register(self, name: str) -> Callable[[type[Metric]], type[Metric]]:
        """See `Registry.register`.

        Raises:
            TypeError: it is of no kind, so that nothing would ask it for a value.
        """
        add = super().register(name)

        def checked(metric: type[Metric]) -> type[Metric]:
            if not issubclass(metric, ImageMetric | SetMetric):
                kinds = "ImageMetric, PhotoMetric or SetMetric"
                raise TypeError(f"metric '{name}' is of no kind; derive it from {kinds}")
            return add(metric)

        return checked


metrics: Registry[Metric] = _Metrics("metric", "cloakbench.score.metrics", "cloakbench.metrics")
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


def check_strangers(chosen: Iterable[Metric], cosine: float, backend: str) -> None:
    """Refuse metrics that a face backend's scale does not suit.

    cosine: the mean over pairs of strangers with this backend.

    Raises:
        CloakBenchError: strangers are too alike to a backend for one of the metrics.
    """
    for metric in chosen:
        if cosine > metric.most_of_strangers:
            raise CloakBenchError(
                f"metric '{metric.name}' is for face backends to which strangers are unlike, with "
                f"cosines up to {metric.most_of_strangers}; with '{backend}' they have "
                f"{cosine:.2f}. Choose relative_ims, or the backend insightface."
            )


def photo_metrics(chosen: Iterable[Metric]) -> list[ImageMetric]:
    """`DISTANCES`, then those of the chosen metrics that judge photos; each is there once."""
    every = [*map(metrics.build, DISTANCES), *chosen]
    judges = {m.name: m for m in every if isinstance(m, ImageMetric) and m.judges_photos}
    return list(judges.values())
