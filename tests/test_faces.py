"""Face backends: the shared steps around them, and the real networks where weights are at hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from cloakbench.errors import CloakBenchError
from cloakbench.faces import Face, FaceBackend, backends, cosine, largest
from cloakbench.faces.facexlib import quality
from cloakbench.faces.steadiness import steadiness
from cloakbench.files.images import photo_files, read_photo
from cloakbench.models.onnx import load_halves

SHARED = Path(__file__).parents[2] / "shared"
PHOTOS = SHARED / "faces" / "n000050"
WEIGHTS = SHARED / "weights"
RETINAFACE = WEIGHTS / "mobilenet0.25_Final.pth"

needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}")
needs_weights = pytest.mark.skipif(not RETINAFACE.is_file(), reason=f"no weights in {WEIGHTS}")


class Stub(FaceBackend):
    """Says that the whole image is a face."""

    name: ClassVar[str] = "stub"
    length: float = 1.0

    def detect(self, pixels: np.ndarray) -> list[Face]:
        height, width, _ = pixels.shape
        return [Face((0, 0, width, height), 1.0, np.array([self.length, 0.0]))]


def test_small_images_are_searched_enlarged_and_boxes_are_in_their_own_pixels() -> None:
    sizes = []

    class Recorder(Stub):
        def detect(self, pixels: np.ndarray) -> list[Face]:
            sizes.append(pixels.shape[:2])
            return super().detect(pixels)

    [face] = Recorder(smallest_side=256).faces(Image.new("RGB", (64, 128)))

    assert sizes == [(512, 256)]
    assert face.box == (0, 0, 64, 128)


def test_large_images_are_searched_as_they_are() -> None:
    [face] = Stub(smallest_side=256).faces(Image.new("RGB", (300, 400)))

    assert face.box == (0, 0, 300, 400)


@pytest.mark.parametrize("length", [0.0, float("nan"), float("inf")])
def test_embeddings_that_no_comparison_could_use_are_refused(length: float) -> None:
    with pytest.raises(CloakBenchError, match="weights are damaged"):
        Stub.model_construct(length=length).faces(Image.new("RGB", (64, 64)))


def test_the_largest_face_is_chosen_by_area_not_by_order_or_confidence() -> None:
    wide = Face((0, 0, 30, 2), 0.9, np.ones(2))
    square = Face((5, 5, 15, 15), 0.5, np.ones(2))

    assert largest([wide, square]) is square
    assert largest([]) is None


def test_importing_the_backends_imports_no_network_library() -> None:
    heavy = {"torch", "dlib", "insightface", "facexlib", "onnxruntime", "cv2", "pandas"}
    code = (
        "import sys; from cloakbench.faces import backends; "
        "from cloakbench.score.base import metrics; backends.names(); metrics.names(); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", list(backends), ids=lambda backend: backend.name)
def test_every_setting_says_what_it_is(backend: type[FaceBackend]) -> None:
    assert all(field.description for field in backend.model_fields.values())


def test_missing_insightface_weights_are_named_before_any_work(tmp_path: Path) -> None:
    backend = backends.build({"method": "insightface", "weights": str(tmp_path)})

    with pytest.raises(CloakBenchError, match=r"0 \.onnx file\(s\).*Get a pack from https"):
        backend.check()


def test_a_downloaded_error_page_is_no_weight_file(tmp_path: Path) -> None:
    for name in ("detector.onnx", "recogniser.onnx"):
        (tmp_path / name).write_text("<!doctype html>")
    backend = backends.build({"method": "insightface", "weights": str(tmp_path)})

    with pytest.raises(CloakBenchError, match=r"detector\.onnx: not a weight file"):
        backend.check()


def test_insightface_weights_that_do_not_load_are_one_line(tmp_path: Path) -> None:
    for name in ("detector.onnx", "recogniser.onnx"):
        (tmp_path / name).write_bytes(b"\x08\x07 and then nothing that ONNX knows")
    backend = backends.build({"method": "insightface", "weights": str(tmp_path)})

    with pytest.raises(CloakBenchError, match="cannot be loaded") as error:
        backend.faces(Image.new("RGB", (64, 64)))
    assert "\n" not in str(error.value)


@needs_weights
def test_an_insightface_pack_without_a_recogniser_is_refused(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).symlink_to(WEIGHTS / "scrfd_2.5g_bnkps.onnx")
    backend = backends.build({"method": "insightface", "weights": str(tmp_path)})

    with pytest.raises(CloakBenchError, match="is a recognition network"):
        backend.faces(Image.new("RGB", (64, 64)))


def test_missing_facexlib_weights_are_named_with_their_source(tmp_path: Path) -> None:
    spec = {"detector": str(tmp_path / "a.pth"), "recogniser": str(tmp_path / "b.pth")}
    backend = backends.build({"method": "facexlib", **spec})

    with pytest.raises(CloakBenchError, match=r"a\.pth: no such weight file.*facexlib/releases"):
        backend.check()


@needs_weights
def test_weights_of_another_facexlib_network_are_refused() -> None:
    backend = backends.build(
        {"method": "facexlib", "detector": str(RETINAFACE), "recogniser": str(RETINAFACE)}
    )

    with pytest.raises(CloakBenchError, match="not the weights of facexlib's RetinaFace") as error:
        backend.faces(Image.new("RGB", (64, 64)))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="session")
def facexlib_spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A real detector, and a random recogniser in the real file's format.

    The detector was trained with other anchors than facexlib's: it sees the faces, with boxes
    about twice too large, and of faces below 250 px only.
    """
    import torch
    from facexlib.recognition.arcface_arch import Backbone

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "recognition_arcface_ir_se50.pth"
    torch.save(Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").state_dict(), path)
    return {
        "method": "facexlib",
        "network": "mobile0.25",
        "threshold": 0.7,
        "detector": str(RETINAFACE),
        "recogniser": str(path),
    }


def test_ser_fiq_falls_with_what_dropout_hides() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    features = torch.randn(1, 8, 7, 7)

    def head(p: float) -> nn.Sequential:
        layers = (nn.BatchNorm2d(8), nn.Dropout(p), nn.Flatten(), nn.Linear(392, 16))
        return nn.Sequential(*layers, nn.BatchNorm1d(16)).eval().requires_grad_(False)

    torch.manual_seed(1)
    little = head(0.1)
    much = head(0.6)
    much.load_state_dict(little.state_dict())

    assert quality(little, features, 50) == quality(little, features, 50)
    assert 0 < quality(much, features, 50) < quality(little, features, 50) < 1
    assert quality(head(0.0), features, 50) == pytest.approx(1, abs=1e-3)


@pytest.fixture
def recogniser(tmp_path: Path) -> Path:
    """A network of the packs' form: features, flattened, a linear layer, a batch norm."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weights = {
        "weight": rng.normal(size=(8, 48)),
        "bias": rng.normal(size=8),
        **{name: np.full(8, value) for name, value in (("scale", 2), ("shift", 1), ("mean", 0.5))},
        "variance": np.full(8, 4.0),
    }
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["picture"], ["pooled"], kernel_shape=[28, 28],
                             strides=[28, 28]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["found"], transB=1),
            helper.make_node(
                "BatchNormalization", ["found", "scale", "shift", "mean", "variance"], ["embedding"]
            ),
        ],
        "recogniser",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "recogniser.onnx")
    (tmp_path / "detector.onnx").write_bytes((tmp_path / "recogniser.onnx").read_bytes())
    return tmp_path / "recogniser.onnx"


class OneFace:
    """insightface's FaceAnalysis with a detector that finds a face in the middle."""

    squares: ClassVar[list[object]] = []

    def __init__(self, name: str, **_: object) -> None:
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        self.models = {
            "detection": None,
            "recognition": ArcFaceONNX(str(Path(name) / "recogniser.onnx")),
        }

    def prepare(self, ctx_id: int, det_thresh: float, det_size: object) -> None:
        self.squares.append(det_size)

    def get(self, image: np.ndarray) -> list[object]:
        from insightface.app.common import Face as Found

        points = np.array([[38.0, 52], [74, 52], [56, 72], [42, 92], [71, 92]])
        found = Found(bbox=np.array([8.0, 8, 104, 104]), kps=points, det_score=0.9)
        self.models["recognition"].get(image, found)
        return [found]


def test_an_insightface_recogniser_is_cut_for_ser_fiq_and_embeds_as_before(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("insightface.app.FaceAnalysis", OneFace)
    spec = {"method": "insightface", "weights": str(recogniser.parent)}
    noise = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    [plain], [steady], [again] = (
        backends.build(spec | {"dropout_passes": passes}).faces(Image.fromarray(noise))
        for passes in (0, 50, 50)
    )

    np.testing.assert_allclose(steady.embedding, plain.embedding, rtol=1e-5)
    assert math.isnan(plain.quality)
    assert 0 < steady.quality == again.quality < 1


def test_insightface_looks_for_faces_at_two_sizes_as_its_own_default_does(
    recogniser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A face that fills the picture is missed at 640 px."""
    from insightface.app.face_analysis import DEFAULT_DET_SIZES

    monkeypatch.setattr("insightface.app.FaceAnalysis", OneFace)
    monkeypatch.setattr(OneFace, "squares", [])

    backends.build({"method": "insightface", "weights": str(recogniser.parent)}).faces(
        Image.new("RGB", (112, 112))
    )

    assert OneFace.squares == [DEFAULT_DET_SIZES]


@needs_photos
@needs_weights
def test_insightface_finds_a_face_that_fills_the_picture() -> None:
    spec = {"method": "insightface", "weights": str(WEIGHTS)}
    photo = read_photo(photo_files(PHOTOS / "set_A")[0])
    [face] = backends.build(spec).faces(photo)
    filled = photo.crop(face.pixels).resize((512, 512))

    assert len(backends.build(spec).faces(filled)) == 1
    assert backends.build(spec | {"detection_sizes": [640]}).faces(filled) == []


def test_dropout_steadies_equal_embeddings_and_no_others() -> None:
    """Two embeddings at a right angle are sqrt(2) apart."""
    assert steadiness(np.ones((5, 3))) == 1
    assert steadiness(np.eye(3)) == pytest.approx(2 / (1 + math.exp(math.sqrt(2))))


def test_a_recogniser_without_a_last_layer_has_no_ser_fiq(recogniser: Path) -> None:
    import onnx

    model = onnx.load(recogniser)
    del model.graph.node[2:]
    onnx.save(model, recogniser.with_name("flat.onnx"))

    with pytest.raises(CloakBenchError, match=r"flat\.onnx: has no fully connected layer"):
        load_halves(recogniser.with_name("flat.onnx"))


@needs_photos
@needs_weights
def test_facexlib_finds_every_face_and_embeds_it(facexlib_spec: dict[str, object]) -> None:
    backend = backends.build(facexlib_spec)
    for path in photo_files(PHOTOS / "set_A") + photo_files(PHOTOS / "set_C"):
        face = largest(backend.faces(read_photo(path).resize((320, 320))))

        assert face is not None, path
        assert face.embedding.shape == (512,)
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("spec", "least_cosine"),
    [
        pytest.param({"method": "dlib"}, 0.93, id="dlib"),
        pytest.param(
            {"method": "insightface", "weights": str(WEIGHTS)},
            0.5,
            id="insightface",
            marks=needs_weights,
        ),
    ],
)
@needs_photos
def test_every_photo_of_one_person_is_found_and_recognised(
    spec: dict[str, str], least_cosine: float
) -> None:
    backend = backends.build(spec)
    embeddings: dict[str, list[np.ndarray]] = {}
    for group in ("set_A", "set_B", "set_C"):
        for path in photo_files(PHOTOS / group):
            small = read_photo(path).resize((128, 128), Image.Resampling.LANCZOS)
            face = largest(backend.faces(small))
            assert face is not None, path
            embeddings.setdefault(group, []).append(face.embedding)

    reference = np.mean(embeddings["set_C"], axis=0)
    for embedding in embeddings["set_A"] + embeddings["set_B"]:
        assert cosine(embedding, reference) > least_cosine


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"method": "dlib"}, id="dlib"),
        pytest.param(
            {"method": "insightface", "weights": str(WEIGHTS)},
            id="insightface",
            marks=needs_weights,
        ),
    ],
)
def test_a_picture_without_a_face_gives_an_empty_list(spec: dict[str, str]) -> None:
    grey = Image.new("RGB", (128, 128), (127, 127, 127))

    assert backends.build(spec).faces(grey) == []


@pytest.mark.parametrize(
    "backend",
    [
        {"method": "facexlib", "detector": "retinaface.pth", "recogniser": "arcface.pth"},
        {"method": "insightface", "weights": "antelopev2"},
    ],
)
def test_one_embedding_has_no_quality(backend: dict[str, str]) -> None:
    """It agrees with itself, so that every face would be perfect."""
    with pytest.raises(CloakBenchError, match="of one embedding nothing can move: take 2 or more"):
        backends.build(backend | {"dropout_passes": 1})
