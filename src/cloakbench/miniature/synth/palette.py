"""Colours, words and chances from which people and shots are drawn."""

from __future__ import annotations

import numpy as np

Rgb = tuple[float, float, float]  # linear light, each channel in [0,1]

HAIR_COLOURS: dict[str, Rgb] = {
    "black": (0.016, 0.013, 0.012),
    "dark brown": (0.050, 0.028, 0.016),
    "brown": (0.110, 0.060, 0.030),
    "blond": (0.42, 0.28, 0.12),
    "red": (0.26, 0.075, 0.022),
    "grey": (0.30, 0.29, 0.28),
    "white": (0.62, 0.60, 0.57),
}
EYE_COLOURS: dict[str, Rgb] = {
    "brown": (0.070, 0.032, 0.014),
    "dark brown": (0.030, 0.016, 0.009),
    "hazel": (0.15, 0.095, 0.030),
    "green": (0.13, 0.17, 0.075),
    "blue": (0.13, 0.24, 0.42),
    "grey": (0.22, 0.26, 0.29),
}
CLOTH_COLOURS: dict[str, Rgb] = {
    "black": (0.02, 0.02, 0.022),
    "white": (0.70, 0.70, 0.69),
    "grey": (0.20, 0.20, 0.21),
    "navy": (0.018, 0.030, 0.085),
    "blue": (0.06, 0.15, 0.38),
    "red": (0.34, 0.035, 0.030),
    "green": (0.045, 0.14, 0.055),
    "beige": (0.48, 0.38, 0.26),
    "brown": (0.13, 0.070, 0.038),
    "yellow": (0.56, 0.38, 0.06),
    "pink": (0.55, 0.24, 0.27),
    "purple": (0.14, 0.055, 0.19),
}
# Skin from light to dark; a tone is a position on this line.
SKIN_LINE = np.array([[0.70, 0.49, 0.39], [0.59, 0.38, 0.28], [0.43, 0.26, 0.175],
                      [0.26, 0.145, 0.092], [0.125, 0.068, 0.044]])  # fmt: skip
AGE_GROUPS = ("young", "middle-aged", "old")
SKIN_WORDS = ("pale", "fair", "olive", "brown", "dark")
WOMEN_HAIR = {"long": 0.26, "bob": 0.18, "bun": 0.12, "wavy": 0.16, "short": 0.07, "curly": 0.08,
              "afro": 0.05, "ponytail": 0.08}  # fmt: skip
MEN_HAIR = {"short": 0.25, "side-parted": 0.18, "buzz cut": 0.13, "bald": 0.09, "slicked-back": 0.1,
            "curly": 0.10, "afro": 0.04, "long": 0.05, "spiky": 0.06}  # fmt: skip
BEARDS = {"none": 0.42, "stubble": 0.22, "moustache": 0.08, "goatee": 0.10, "short beard": 0.11,
          "full beard": 0.07}  # fmt: skip
BACKDROPS = {"studio": 0.26, "wall": 0.24, "indoors": 0.18, "outdoors": 0.18, "bokeh": 0.07,
             "sky": 0.07}  # fmt: skip
PATTERNS = {"plain": 0.50, "heather": 0.22, "stripes": 0.16, "checks": 0.12}
EXPRESSIONS = {"neutral": 0.38, "smiling": 0.34, "laughing": 0.09, "serious": 0.09,
               "surprised": 0.10}  # fmt: skip
LIGHTS = {"soft light": 0.42, "side light": 0.24, "bright light": 0.2, "dim light": 0.14}
VIEWS = ("facing the camera", "looking left", "looking right")  # of the picture
# How far each family of shape offsets may vary, in units of MakeHuman's full slider.
SPREAD = {"l-ear": 0.35, "nose": 0.36, "mouth": 0.29, "chin": 0.38, "head-": 0.34, "l-eye": 0.36,
           "l-cheek": 0.38, "forehead": 0.28, "eyebrows-trans-f": 0.15, "eyebrows": 0.35,
           "neck": 0.25}  # fmt: skip
KEPT_ZERO = ("mouth-trans-out", "nose-trans-out", "head-trans", "head-age-incr", "head-angle",
              "l-eye-scale", "l-eye-height2", "mouth-laugh", "l-eye-push")  # fmt: skip
