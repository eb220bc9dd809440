"""Loading networks: frozen and in float32, with errors of one line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloakbench.errors import CloakBenchError, is_out_of_memory, reason
from cloakbench.models.spec import ModelSpec
from cloakbench.running.stopwatch import loads

if TYPE_CHECKING:
    from cloakbench.models.base import DiffusionModel

Loader = Callable[[], "DiffusionModel"]
"""Loads the experiment's model, on the job's device."""


@loads
def load_model(
    model: ModelSpec | str, device: str = "cpu", frugal: bool = False, *, vae_alone: bool = False
) -> DiffusionModel:
    """Load a model of any family, from a folder or the hub's cache.

    model: what it is, or its path alone, for its native resolution. vae_alone: without what is not
        its VAE, for work that calls only verbs of pixels and latents.

    Raises:
        CloakBenchError: a part is missing or is not what its folder's name says.
    """
    spec = ModelSpec.at(model) if isinstance(model, str) else model
    spec.check()
    module = importlib.import_module(spec.module)  # late: diffusers takes seconds to import
    family: type[DiffusionModel] = getattr(module, spec.pipeline.removesuffix("Pipeline"))
    with one_line(f"model {spec.path}"):
        return family.load(spec, device, frugal, vae_alone=vae_alone)


def no_model() -> DiffusionModel:
    """A loader for methods that need no model.

    Raises:
        CloakBenchError: one asks for it.
    """
    raise CloakBenchError("this method works with a diffusion model. Give `load`, which loads it.")


@loads
def load_frozen(kind: Any, folder: Path, **options: Any) -> Any:
    """A network of diffusers or transformers with its weights in float32, frozen.

    kind: its class. options: of its `from_pretrained`.

    Raises:
        ValueError: the file lacks weights, which the library would make random. The libraries
            raise more (see `one_line`).
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of every network; jobs have one of their own
    network, loading = kind.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"its file lacks {len(missing)} weights, such as {missing[0]}")
    return network.requires_grad_(False).eval()


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """What the libraries raise for missing, broken or foreign files, as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise CloakBenchError(
            f"{what}: cannot be loaded ({reason(error, 300)}). Check the path, or get the files "
            "again."
        ) from error
