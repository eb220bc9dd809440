"""Checks of weight files that are cheap enough for planning time."""

from __future__ import annotations

from pathlib import Path

from cloakbench.errors import CloakBenchError

ONNX = (b"\x08",)  # protobuf: field 1, the ONNX version
TORCH = (b"PK\x03\x04", b"\x80\x02")  # zip since PyTorch 1.6, a bare pickle before


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
