"""Plug-ins: methods from outside, of installed packages or in a file that a user names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from cloakbench.errors import CloakBenchError, reason

CHANGES_NO_RESULT = True

_PREFIX = "cloakbench_plugin_"  # keeps a file such as json.py from hiding a module of that name


def load_installed(group: str) -> None:
    """Import the modules that installed packages name as entry points of a group.

    Raises:
        CloakBenchError: one cannot be imported, or its method is refused.
    """
    for entry in sorted(entry_points(group=group)):
        package = entry.dist.name if entry.dist else entry.name
        with _one_line(f"plug-in {entry.value} of the package {package}", "Mend or uninstall it."):
            entry.load()


def load_file(file: Path) -> None:
    """Run a Python file that registers methods, once in a process.

    Raises:
        CloakBenchError: it is missing, fails or is refused, or has another plug-in file's name.
    """
    file = file.resolve()
    name = _PREFIX + re.sub(r"\W", "_", file.stem)
    if (known := sys.modules.get(name)) is not None:
        if known.__file__ != str(file):
            raise CloakBenchError(f"{file}: {known.__file__} has the same name. Rename one.")
        return
    if file.suffix != ".py" or not file.is_file():
        raise CloakBenchError(f"{file}: no such Python file. Check the path of the plug-in.")
    with _one_line(str(file), f"`{Path(sys.executable).name} {file.name}` shows where it fails."):
        _run(name, file)


def _run(name: str, file: Path) -> None:
    """Import a file as a top-level module, which digests of code then find by its name."""
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


@contextmanager
def _one_line(plugin: str, remedy: str) -> Iterator[None]:
    """Whatever somebody else's code raises, as one line that names it."""
    try:
        yield
    except CloakBenchError as error:
        raise CloakBenchError(f"{plugin}: {error}") from None
    except Exception as error:
        said = f"{type(error).__name__}: {reason(error)}"
        raise CloakBenchError(f"{plugin}: cannot be loaded ({said}). {remedy}") from error
