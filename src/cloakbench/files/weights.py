"""Where weight files are sought, checks that are cheap enough for planning time, and digests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cloakbench.errors import CloakBenchError
from cloakbench.files.bundle import bundled
from cloakbench.files.outputs import file_state, new_file, sha256

CHANGES_NO_RESULT = True

ONNX = (b"\x08",)  # protobuf: field 1, the ONNX version
TORCH = (b"PK\x03\x04", b"\x80\x02")  # zip since PyTorch 1.6, a bare pickle before
OPENAI_CLIP = "openai/clip-vit-base-patch32"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

WEIGHTS = {".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".onnx", ".param"}
SETTINGS = {".json", ".txt"}  # of networks, schedulers and tokenizers: results depend on them, too


class WeightFile(NamedTuple):
    """A file that results depend on.

    named: what the user named it by: the file itself, or a folder around it.
    """

    file: Path
    named: Path


def weights_in(path: Path, named: Path | None = None) -> list[WeightFile]:
    """A file, or the weights and settings in a folder; `named`: what the user named, if another."""
    suffixes = WEIGHTS | SETTINGS
    files = sorted(f for f in path.rglob("*") if f.suffix in suffixes) if path.is_dir() else [path]
    return [WeightFile(file, named or path) for file in files]


def sha256_of(files: Iterable[Path], cache: Path | None = None) -> dict[Path, str]:
    """SHA-256 of files; those that are as they were are taken from the cache, if there is one."""
    if cache is None:
        return {path: sha256(path) for path in files}
    try:
        known = dict(json.loads(cache.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    digests, fresh = {}, {}
    for path in files:
        key = f"{path.resolve()} {file_state(path)}"
        fresh[key] = digests[path] = known.get(key) or sha256(path)
    if fresh.keys() - known.keys():
        with suppress(OSError), new_file(cache) as part:  # a race or a full disk: hash once more
            part.write_text(json.dumps(known | fresh, indent=1))
    return digests


def find_weights(name: str, source: str) -> Path:
    """A file or folder of weights: that path, else that name in the folder `$CLOAKBENCH_WEIGHTS`,
    else in `~/.cache/cloakbench`.

    Raises:
        CloakBenchError: it is in none of these places.
    """
    for place in _places(name):
        if place.exists():
            return place
    raise CloakBenchError(
        f"{name}: no such weights here, nor in {' or '.join(map(str, _folders()))}. Get them from "
        f"{source}; $CLOAKBENCH_WEIGHTS may name their folder."
    )


def _places(name: str) -> list[Path]:
    """Where a name is sought: as a path, which may be bundled, and in the weights' folders."""
    places = [Path(name), *(folder / name for folder in _folders())]
    return [bundled(place.expanduser()) for place in places]


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
    whole = find_folder(name)
    folder = whole / part if (whole / part).is_dir() else whole
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


def find_clip(name: str) -> Path:
    """The folder of a CLIP in transformers' format, sought as by `find_folder`, without loading it.

    Raises:
        CloakBenchError: it is missing, incomplete or no CLIP.
    """
    folder = find_folder(name)
    try:
        found = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != "clip":
        raise CloakBenchError(
            f"{name}: no CLIP in transformers' format (its config.json does not say so). Give a "
            f"folder that save_pretrained wrote, or a hub id such as {OPENAI_CLIP}."
        )
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise CloakBenchError(f"{name}: no weights beside its config.json. Copy the whole model.")
    return folder


def find_folder(name: str, revision: str | None = None) -> Path:
    """A folder, sought as `find_weights` does, or where the hub's cache has a hub id; nothing is
    downloaded.

    revision: branch, tag or commit of a hub id.

    Raises:
        CloakBenchError: it is neither.
    """
    for place in _places(name):
        if place.is_dir():
            return place
    if not _HUB_ID.fullmatch(name) or name.startswith("resources/"):
        raise CloakBenchError(f"{name}: no such folder of weights. Check the path.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise CloakBenchError(
            f"{name}: no such folder, and not in the hub's cache. Run `{command}`, or name a "
            "folder."
        ) from None


def check_weights(path: Path, starts: tuple[bytes, ...], source: str) -> Path:
    """Look at a weight file's first bytes; returns its path.

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
    return path


def check_pytorch_weights(path: Path, source: str) -> Path:
    """Look at a weight file of PyTorch's or, by its suffix, safetensors' format; returns its path.

    Raises:
        CloakBenchError: the file is missing or of another kind.
    """
    if path.suffix != ".safetensors":
        return check_weights(path, TORCH, source)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return path
    except (SafetensorError, OSError) as error:
        raise CloakBenchError(
            f"{path}: not a safetensors file ({error}). Get it from {source}."
        ) from None
