"""How long work takes, without the loading of networks on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

CHANGES_NO_RESULT = True

P = ParamSpec("P")
T = TypeVar("T")

_clock = 0.0  # seconds that loading has taken in this process
_loading = False


def loads(load: Callable[P, T]) -> Callable[P, T]:
    """A function whose time is not the work's; within another such function it counts once."""

    @wraps(load)
    def timed(*args: P.args, **kwargs: P.kwargs) -> T:
        global _clock, _loading
        if _loading:
            return load(*args, **kwargs)
        begun, _loading = time.perf_counter(), True
        try:
            return load(*args, **kwargs)
        finally:
            _clock += time.perf_counter() - begun
            _loading = False

    return timed


def working() -> float:
    """Seconds since some moment, without those that loading took; differences are what counts."""
    return time.perf_counter() - _clock
