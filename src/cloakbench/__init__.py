"""CloakBench: do protective perturbations hold against purification and contrastive fine-tuning?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloakbench.files.images import load_photos
    from cloakbench.identity import Identity
    from cloakbench.models.loading import load_model
    from cloakbench.protect import protections
    from cloakbench.purify import purifiers

CHANGES_NO_RESULT = True

__version__ = "0.1.0"
__all__ = ["Identity", "load_model", "load_photos", "protections", "purifiers"]

# By name and not by `import`, which digests of code follow: all code would depend on all of these.
_HOMES = {
    "Identity": "cloakbench.identity",
    "load_model": "cloakbench.models.loading",
    "load_photos": "cloakbench.files.images",
    "protections": "cloakbench.protect",
    "purifiers": "cloakbench.purify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
