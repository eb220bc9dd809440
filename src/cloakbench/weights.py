"""Where weight files are sought, and checks of them that are cheap enough for planning time."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from cloakbench.errors import CloakBenchError

ONNX = (b"\x08",)  # protobuf: field 1, the ONNX version
TORCH = (b"PK\x03\x04", b"\x80\x02")  # zip since PyTorch 1.6, a bare pickle before
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

found: set[Path] = set()
"""Files and folders of weights that were looked for and are here; provenance hashes them."""


def find_weights(name: str, source: str) -> Path:
    """A file or folder of weights: that path, else that name in the folder `$CLOAKBENCH_WEIGHTS`,
    else in `~/.cache/cloakbench`.

    Raises:
        CloakBenchError: it is in none of these places.
    """
    folders = _folders()
    for place in (Path(name), *(folder / name for folder in folders)):
        if place.expanduser().exists():
            return _noted(place.expanduser())
    raise CloakBenchError(
        f"{name}: no such weights here, nor in {' or '.join(map(str, folders))}. Get them from "
        f"{source}; $CLOAKBENCH_WEIGHTS may name their folder."
    )


def _noted(path: Path) -> Path:
    found.add(path)
    return path


def _folders() -> list[Path]:
    chosen = os.environ.get("CLOAKBENCH_WEIGHTS")
    return [*([Path(chosen)] if chosen else []), Path("~/.cache/cloakbench")]


def find_network(name: str, part: str, kind: str) -> Path:
    """The folder of a network in diffusers' format, found without loading or downloading it.

    name: a folder or hub id, of the network itself or of a pipeline that has it in `part`, sought
        as by `find_folder`.
    kind: the network's class, as its config.json has to say.

    Raises:
        CloakBenchError: it is missing, incomplete or of another class.
    """
    folder = find_folder(name)
    if (folder / part).is_dir():
        folder = folder / part
    try:
        found = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        raise CloakBenchError(
            f"{name}: no {kind} in diffusers' format (its config.json is missing or broken). "
            "Give a folder that save_pretrained wrote, or download it again."
        ) from None
    if found != kind:
        raise CloakBenchError(f"{name}: is of class {found}, not {kind}. Name another network.")
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise CloakBenchError(f"{name}: no weights beside its config.json. Copy the whole model.")
    return folder


def find_folder(name: str) -> Path:
    """A folder, sought as `find_weights` does, or where the hub's cache has a hub id; nothing is
    downloaded.

    Raises:
        CloakBenchError: it is neither.
    """
    for place in (Path(name), *(folder / name for folder in _folders())):
        if place.expanduser().is_dir():
            return _noted(place.expanduser())
    if not _HUB_ID.fullmatch(name):
        raise CloakBenchError(f"{name}: no such folder of weights. Check the path.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _noted(Path(snapshot_download(name, local_files_only=True)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        raise CloakBenchError(
            f"{name}: no such folder, and not in the hub's cache. Run `hf download {name}`, or "
            "name a folder."
        ) from None


def check_weights(path: Path, starts: tuple[bytes, ...], source: str) -> None:
    """Look at a weight file's first bytes.

    Raises:
        CloakBenchError: the file is missing, or starts like another kind of file (an HTML page,
            a Git LFS pointer, another format).
    """
    if not path.is_file():
        raise CloakBenchError(f"{path}: no such weight file. Get it from {source}.")
    with path.open("rb") as opened:
        head = opened.read(8)
    if not head.startswith(starts):
        raise CloakBenchError(
            f"{path}: not a weight file (starts with {head!r}). Get it from {source}."
        )
    _noted(path)


def check_pytorch_weights(path: Path, source: str) -> None:
    """Look at a weight file of PyTorch's or, by its suffix, safetensors' format.

    Raises:
        CloakBenchError: the file is missing or of another kind.
    """
    if path.suffix != ".safetensors":
        return check_weights(path, TORCH, source)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_noted(path), framework="numpy"):
            return None
    except (SafetensorError, OSError) as error:
        raise CloakBenchError(
            f"{path}: not a safetensors file ({error}). Get it from {source}."
        ) from None
