"""insightface's SCRFD and ArcFace networks, from a folder of .onnx files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from cloakbench.errors import CloakBenchError, first_line
from cloakbench.faces.base import Face, FaceBackend, backends
from cloakbench.faces.steadiness import Passes, steadiness, with_dropout
from cloakbench.files.weights import ONNX, WeightFile, check_weights, weights_in
from cloakbench.models.onnx import Halves, load_halves, session_options
from cloakbench.settings import UserPath

WEIGHTS = "https://github.com/deepinsight/insightface/tree/master/model_zoo"
TASKS = ("detection", "recognition")
DROPOUT = 0.4  # share of features; of LResNet100E, SER-FIQ's network, as packs do not tell theirs


@backends.register("insightface")
class InsightFace(FaceBackend):
    """SCRFD detector and ArcFace embeddings from a local model pack; downloads nothing."""

    source: ClassVar[str] = "Deng et al. 2019, ArcFace, arXiv:1801.07698; insightface FaceAnalysis"

    weights: UserPath = Field(
        description="folder with the .onnx files, of any name, of a detector and a recogniser "
        "(buffalo_l and antelopev2 are such packs)"
    )
    detection_sizes: tuple[Annotated[int, Field(ge=32, multiple_of=32)], ...] = Field(
        (128, 640),
        min_length=1,
        description="[px] sides of the squares that an image is fitted into for detection; what is "
        "found in them is merged (insightface's default: large faces are missed at 640 px)",
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="least confidence of a face (insightface's default)"
    )

    dropout_passes: Passes = 0

    def files(self) -> Iterable[WeightFile]:
        files = sorted(self.weights.glob("*.onnx"))
        if len(files) < len(TASKS):
            raise CloakBenchError(
                f"{self.weights}: {len(files)} .onnx file(s), a detector and a recogniser are "
                f"needed. Get a pack from {WEIGHTS} and unpack it there."
            )
        paths = (check_weights(path, ONNX, WEIGHTS) for path in files)
        return [each for path in paths for each in weights_in(path)]

    def detect(self, pixels: np.ndarray) -> list[Face]:
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        analysis, halves = _networks(self)
        with warnings.catch_warnings():  # insightface's alignment calls a deprecated scikit-image
            warnings.simplefilter("ignore", FutureWarning)
            return [self._face(found, halves) for found in analysis.get(bgr)]

    def _face(self, found: Any, halves: Halves | None) -> Face:
        left, top, right, bottom = found.bbox
        embedding, quality = found.embedding, math.nan
        if halves is not None:  # it is features yet
            hidden = with_dropout(embedding, self.dropout_passes, DROPOUT)
            quality = steadiness(halves.embed(hidden))
            embedding = halves.embed(embedding[None])[0]
        return Face((left, top, right, bottom), found.det_score, embedding, quality)


@cache
def _networks(backend: InsightFace) -> tuple[Any, Halves | None]:
    """The networks, and the recogniser in halves, of which they run the first, if faces are to have
    a quality.
    """
    analysis = _analysis(backend)
    if not backend.dropout_passes:
        return analysis, None
    recogniser = analysis.models["recognition"]
    halves = load_halves(Path(recogniser.model_file))
    recogniser.session, recogniser.output_names = halves.body, [halves.features]
    return analysis, halves


def _analysis(backend: InsightFace) -> Any:
    backend.check()
    from insightface.app import FaceAnalysis

    try:  # an absolute folder as the name is used as it is: no copy, no download
        analysis = FaceAnalysis(
            name=str(backend.weights.resolve()),
            allowed_modules=list(TASKS),
            sess_options=session_options(),
        )
    except AssertionError:
        raise _lacks(backend.weights, "detection") from None
    except Exception as error:  # onnxruntime and onnx raise their own, unrelated classes
        raise CloakBenchError(
            f"{backend.weights}: cannot be loaded ({first_line(error)}). "
            f"Get the pack again from {WEIGHTS}."
        ) from error
    for task in TASKS:
        if task not in analysis.models:
            raise _lacks(backend.weights, task)
    squares = [(side, side) for side in backend.detection_sizes]
    analysis.prepare(ctx_id=0, det_thresh=backend.threshold, det_size=squares)
    return analysis


def _lacks(folder: Path, task: str) -> CloakBenchError:
    return CloakBenchError(
        f"{folder}: no .onnx file in it is a {task} network. Get a pack from {WEIGHTS}."
    )
