"""How each hair style grows."""

from __future__ import annotations

from dataclasses import dataclass

BUN = {"bun": (0.0, 2.75, 1.75), "ponytail": (0.0, 3.0, 0.9)}  # where knots sit on the head


@dataclass(frozen=True)
class Style:
    """How a hair style grows. Lengths in eye distances (62 mm)."""

    top: float
    side: float
    back: float
    comb: str  # "crown", "part", "back", "knot" or "out"
    lift: float = 0.3  # of the first step, along the skin's normal
    volume: float = 0.15  # how far the outer layer floats above the skin
    gravity: float = 0.3
    curl: float = 0.0  # amplitude
    turns: float = 0.0  # of the curl, over a strand
    wild: float = 0.12  # wandering of neighbouring strands
    hug: bool = True  # stays close to the skull above the ears
    count: int = 2400
    width: float = 0.065


STYLES = {
    "short": Style(0.62, 0.30, 0.35, "crown", lift=0.5, volume=0.16, wild=0.25),
    "spiky": Style(0.48, 0.24, 0.30, "crown", lift=1.6, volume=0.12, gravity=0.0, wild=0.45,
                   hug=False),
    "side-parted": Style(1.10, 0.40, 0.40, "part", lift=0.75, volume=0.26, gravity=0.25),
    "slicked-back": Style(1.35, 0.60, 0.60, "back", lift=0.35, volume=0.20, gravity=0.2),
    "receding": Style(0.45, 0.32, 0.40, "back", lift=0.4, volume=0.1, width=0.055, count=1800),
    "curly": Style(0.85, 0.50, 0.70, "crown", lift=1.0, volume=0.42, curl=0.09, turns=2.2,
                   wild=0.5, width=0.055, count=2800, hug=False),
    "afro": Style(0.95, 0.80, 0.85, "out", lift=3.0, volume=0.75, gravity=0.0, curl=0.08, turns=2.5,
                  wild=0.35, width=0.07, count=3200, hug=False),
    "bob": Style(2.60, 2.30, 1.90, "part", lift=0.35, volume=0.36, gravity=0.55, width=0.09),
    "long": Style(5.00, 4.60, 4.20, "part", lift=0.3, volume=0.32, gravity=0.6, width=0.10),
    "wavy": Style(4.00, 3.60, 3.20, "part", lift=0.4, volume=0.42, gravity=0.6, curl=0.09,
                  turns=2.6, wild=0.2, width=0.09, count=2600),
    "bun": Style(2.2, 2.2, 2.0, "knot", lift=0.1, volume=0.07, gravity=0.0, width=0.08),
    "ponytail": Style(2.3, 2.2, 2.0, "knot", lift=0.1, volume=0.08, gravity=0.0, width=0.08),
}  # fmt: skip
BEARD_LENGTH = {"moustache": 0.16, "goatee": 0.16, "short beard": 0.12, "full beard": 0.40}
