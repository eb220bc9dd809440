"""Array types of this package, and short vectors. Floats are single precision by convention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Ints = NDArray[Any]


def vector(*values: float) -> Floats:
    """The values as a single-precision array."""
    return np.array(values, np.float32)
