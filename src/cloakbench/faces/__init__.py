"""Face backends: a detector and a recogniser behind one verb, `faces(image)`."""

from cloakbench.faces.base import Face, FaceBackend, backends, cosine, largest

__all__ = ["Face", "FaceBackend", "backends", "cosine", "largest"]
