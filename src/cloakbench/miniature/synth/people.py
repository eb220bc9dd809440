"""Who is in a portrait (`Person`) and how this one portrait was taken (`Shot`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cloakbench.miniature.synth.palette import (
    AGE_GROUPS,
    BACKDROPS,
    BEARDS,
    CLOTH_COLOURS,
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_COLOURS,
    KEPT_ZERO,
    LIGHTS,
    MEN_HAIR,
    PATTERNS,
    SKIN_LINE,
    SKIN_WORDS,
    SPREAD,
    VIEWS,
    WOMEN_HAIR,
    Rgb,
)


@dataclass(frozen=True)
class Person:
    """What stays the same over a person's portraits. Colours are linear RGB in [0,1]."""

    seed: int
    gender: str  # "man" or "woman"
    age: float  # 0 (twenty) to 1 (seventy)
    masculinity: float  # shape, 0 to 1
    ancestry: tuple[float, float, float]  # weights of the macro shapes, sum 1
    weight: float  # 0 lean to 1 heavy
    shape: tuple[tuple[str, float], ...]  # local changes by name, -1 to 1
    tone: float  # 0 pale to 1 dark
    skin: Rgb
    hair_style: str
    hair_word: str
    hair: Rgb
    hairline: float  # [eye distances] above the eyes
    fringe: bool
    part: float  # -1 right, 0 middle, 1 left
    brow: tuple[float, float, float, float]  # height, half thickness, arch, density
    beard: str
    eye_word: str
    iris: Rgb
    lips: Rgb
    freckles: float
    moles: tuple[tuple[float, float], ...]  # (x, z) in eye distances from between the eyes
    makeup: float  # 0 none to 1
    glasses: str  # "none", "round", "square" or "wide"
    glasses_habit: float  # chance that a portrait shows them
    frame: Rgb

    @property
    def age_group(self) -> str:
        """One of `palette.AGE_GROUPS`."""
        return AGE_GROUPS[(self.age >= 0.38) + (self.age >= 0.72)]

    @property
    def skin_word(self) -> str:
        """`pale`, `fair`, `olive`, `brown` or `dark`."""
        return SKIN_WORDS[min(4, int(self.tone * 5))]

    def attributes(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values, with the derived words."""
        return asdict(self) | {"age_group": self.age_group, "skin_word": self.skin_word}


@dataclass(frozen=True)
class Shot:
    """One portrait's circumstances. Angles in radians, lengths in eye distances (62 mm)."""

    seed: int
    yaw: float  # positive: the face turns to the picture's right
    pitch: float  # positive: the face looks down
    roll: float
    body_yaw: float
    gaze: tuple[float, float]  # horizontal, vertical, relative to the head
    expression: str
    actions: dict[str, float]  # facial actions, mostly 0 to 1
    light_word: str
    light_angle: tuple[float, float]  # azimuth, elevation of the key light from the camera
    key: Rgb
    ambient: Rgb
    fill: float  # strength of the second light relative to the key
    exposure: float
    cloth_word: str
    cloth: Rgb
    cloth2: Rgb
    garment: str  # "crew", "v-neck" or "collar"
    pattern: str  # "plain", "stripes", "checks" or "heather"
    backdrop: str
    backdrop_seed: int
    glasses: bool
    fill_fraction: float  # head height over picture height
    shift: tuple[float, float]  # of the face from the centre, in picture heights
    distance: float  # of the camera

    @property
    def view(self) -> str:
        """One of `palette.VIEWS`."""
        return VIEWS[0 if abs(self.yaw) < 0.22 else 2 if self.yaw > 0 else 1]

    def attributes(self) -> dict[str, Any]:
        """Everything as JSON-serialisable values, with the derived words."""
        return asdict(self) | {"view": self.view}


def sample_person(seed: int) -> Person:
    """Draw a person; the same seed gives the same person."""
    rng = np.random.default_rng([seed, 1])
    gender = "woman" if rng.random() < 0.5 else "man"
    age = float(rng.beta(1.2, 1.6))
    ancestry = rng.dirichlet([0.45, 0.45, 0.45])
    tone = float(np.clip(ancestry @ [0.82, 0.34, 0.16] + rng.normal(0, 0.10), 0, 1))
    style = _hair_style(rng, gender, age, tone)
    word, hair = _hair_colour(rng, age, tone)
    skin = _skin(rng, tone)
    eye = _eye_word(rng, tone)
    beard = _pick(rng, BEARDS) if gender == "man" else "none"
    return Person(
        seed=seed, gender=gender, age=age,
        masculinity=float(np.clip((gender == "man") * 0.86 + rng.normal(0.07, 0.09), 0, 1)),
        ancestry=_triple(ancestry), weight=float(rng.uniform(0.25, 0.85)), shape=_shape(rng),
        tone=tone, skin=skin, hair_style=style, hair_word=word, hair=hair,
        hairline=_hairline(rng, gender, age),
        fringe=bool(gender == "woman" and rng.random() < 0.32 and style in ("long", "bob", "wavy")),
        part=float(rng.choice([-1.0, 0.0, 1.0]) * rng.uniform(0.5, 1)), brow=_brow(rng, gender),
        beard=beard, eye_word=eye, iris=_jitter(rng, EYE_COLOURS[eye], 0.2),
        lips=_lips(rng, gender, skin), freckles=float((rng.random() < 0.2) * rng.uniform(0.4, 1)),
        moles=tuple((float(rng.uniform(-0.9, 0.9)), float(rng.uniform(-1.7, 0.6)))
                    for _ in range(rng.integers(0, 4))),
        makeup=float((gender == "woman") * max(0, rng.uniform(-0.4, 1))),
        glasses=str(rng.choice(["round", "square", "wide"])) if rng.random() < 0.22 else "none",
        glasses_habit=float(rng.choice([0.85, 0.4])),
        frame=_jitter(rng, [(0.01, 0.01, 0.01), (0.10, 0.05, 0.025), (0.30, 0.29, 0.28),
                            (0.20, 0.03, 0.03)][rng.choice(4, p=[0.5, 0.22, 0.2, 0.08])], 0.15),
    )  # fmt: skip


def sample_shot(person: Person, seed: int) -> Shot:
    """Draw the circumstances of one portrait of `person`."""
    rng = np.random.default_rng([person.seed, seed, 2])
    expression = _pick(rng, EXPRESSIONS)
    light_word, angle, key, ambient, fill = _light(rng)
    cloth_word = str(rng.choice(list(CLOTH_COLOURS)))
    yaw = float(np.clip(rng.normal(0, 0.25), -0.6, 0.6))
    return Shot(
        seed=seed, yaw=yaw, pitch=float(np.clip(rng.normal(0.02, 0.09), -0.22, 0.24)),
        roll=float(np.clip(rng.normal(0, 0.06), -0.16, 0.16)),
        body_yaw=float(yaw * rng.uniform(0.2, 0.9) + rng.normal(0, 0.08)),
        gaze=(float(np.clip(rng.normal(-0.45 * yaw, 0.12), -0.4, 0.4)),
              float(np.clip(rng.normal(0, 0.06), -0.15, 0.12))),
        expression=expression, actions=_actions(rng, expression), light_word=light_word,
        light_angle=angle, key=key, ambient=ambient, fill=fill,
        exposure=float(np.exp(rng.normal(0, 0.12)) * (0.78 if light_word == "dim light" else 1)),
        cloth_word=cloth_word, cloth=_jitter(rng, CLOTH_COLOURS[cloth_word], 0.2),
        cloth2=_jitter(rng, CLOTH_COLOURS[str(rng.choice(list(CLOTH_COLOURS)))], 0.2),
        garment=str(rng.choice(["crew", "v-neck", "collar"], p=[0.5, 0.25, 0.25])),
        pattern=_pick(rng, PATTERNS),
        backdrop=_pick(rng, BACKDROPS), backdrop_seed=int(rng.integers(1 << 30)),
        glasses=person.glasses != "none" and bool(rng.random() < person.glasses_habit),
        fill_fraction=float(rng.uniform(0.62, 0.74)),
        shift=(float(rng.normal(0, 0.018)), float(rng.normal(0, 0.015))),
        distance=float(rng.uniform(14, 26)),
    )  # fmt: skip


def _pick(rng: np.random.Generator, chances: dict[str, float]) -> str:
    weights = np.array(list(chances.values()))
    return str(rng.choice(list(chances), p=weights / weights.sum()))


def _triple(values: Any) -> Rgb:
    red, green, blue = (float(x) for x in values)
    return red, green, blue


def _jitter(rng: np.random.Generator, colour: Rgb, amount: float) -> Rgb:
    """Change brightness by e^(amount·N) and the balance by a quarter of that."""
    gain = np.exp(amount * rng.normal() + 0.25 * amount * rng.normal(size=3))
    return _triple(np.clip(np.multiply(colour, gain), 0.003, 0.85))


def _shape(rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Local changes with equal left and right sides but for a trace of asymmetry."""
    from cloakbench.miniature.synth.template import load_template

    shape: dict[str, float] = {}
    for name in load_template().local_names:
        spread = next((v for k, v in SPREAD.items() if name.startswith(k)), 0.0)
        if name.startswith(("r-", *KEPT_ZERO)) or spread == 0:
            continue
        value = float(np.clip(rng.normal(0, spread), -1, 1))
        shape[name] = round(value, 4)
        if name.startswith("l-"):
            other = float(np.clip(value + rng.normal(0, 0.06), -1, 1))
            shape["r-" + name[2:]] = round(other, 4)
    return tuple(shape.items())


def _hair_style(rng: np.random.Generator, gender: str, age: float, tone: float) -> str:
    chances = dict(WOMEN_HAIR if gender == "woman" else MEN_HAIR)
    chances["afro"] = chances["afro"] * (4.0 if tone > 0.6 else 0.15)
    chances["curly"] *= 1.6 if tone > 0.5 else 0.8
    if gender == "man":
        chances["bald"] *= 0.4 + 2.2 * age
        chances["receding"] = 0.02 + 0.22 * age**2
    return _pick(rng, chances)


def _hair_colour(rng: np.random.Generator, age: float, tone: float) -> tuple[str, Rgb]:
    light = max(0.0, 1 - 2.2 * tone)
    chances = {"black": 0.15 + 1.3 * tone, "dark brown": 0.35, "brown": 0.1 + 0.35 * light,
               "blond": 0.02 + 0.36 * light, "red": 0.01 + 0.14 * light}  # fmt: skip
    word = _pick(rng, chances)
    if age > 0.6 and rng.random() < 0.25 + 1.4 * (age - 0.6):
        word = "white" if rng.random() < age - 0.5 else "grey"
    return word, _jitter(rng, HAIR_COLOURS[word], 0.1 if word in ("grey", "white") else 0.22)


def _skin(rng: np.random.Generator, tone: float) -> Rgb:
    at = tone * (len(SKIN_LINE) - 1)
    base = [np.interp(at, range(len(SKIN_LINE)), SKIN_LINE[:, c]) for c in range(3)]
    warmth = np.exp(rng.normal(0, 0.05, 3) * [0.5, 0.8, 1.4])
    return _triple(np.clip(base * warmth, 0.02, 0.8))


def _eye_word(rng: np.random.Generator, tone: float) -> str:
    light = max(0.0, 1 - 2.4 * tone)
    return _pick(rng, {"dark brown": 0.2 + 1.2 * tone, "brown": 0.35, "hazel": 0.06 + 0.16 * light,
                       "green": 0.01 + 0.17 * light, "blue": 0.01 + 0.40 * light,
                       "grey": 0.01 + 0.10 * light})  # fmt: skip


def _hairline(rng: np.random.Generator, gender: str, age: float) -> float:
    recede = 0.22 * age * rng.random() if gender == "man" else 0.0
    return float(np.clip(rng.normal(1.08, 0.09), 0.92, 1.28) + recede)


def _brow(rng: np.random.Generator, gender: str) -> tuple[float, float, float, float]:
    thick = rng.uniform(0.055, 0.115) if gender == "man" else rng.uniform(0.035, 0.08)
    arch = rng.uniform(-0.02, 0.10) if gender == "man" else rng.uniform(0.02, 0.17)
    return float(rng.uniform(0.33, 0.46)), float(thick), float(arch), float(rng.uniform(0.75, 1))


def _lips(rng: np.random.Generator, gender: str, skin: Rgb) -> Rgb:
    natural = np.multiply(skin, [0.78, 0.50, 0.52]) * rng.uniform(0.75, 1.1)
    if gender == "woman" and rng.random() < 0.45:
        paint = np.array([[0.42, 0.03, 0.04], [0.45, 0.12, 0.14], [0.26, 0.03, 0.07],
                          [0.48, 0.17, 0.10]])[rng.integers(4)]  # fmt: skip
        natural += rng.uniform(0.3, 0.85) * (paint - natural)
    return _triple(natural)


def _actions(rng: np.random.Generator, expression: str) -> dict[str, float]:
    """Facial actions of an expression, with small involuntary ones on top."""
    a = float(rng.uniform(0.5, 1))
    actions = {
        "eyeBlink": float(rng.uniform(-0.12, 0.06)),
        "browInnerUp": float(rng.uniform(0, 0.15)),
    }
    if expression == "smiling":
        actions |= {"mouthSmile": 0.45 + 0.75 * a, "cheekSquint": 0.4 * a, "eyeSquint": 0.2 * a,
                    "mouthUpperUp": 0.3 * a * (rng.random() < 0.5)}  # fmt: skip
    elif expression == "laughing":
        actions |= {"mouthSmile": 0.45 + 0.8 * a, "jawOpen": 0.30 * a, "cheekSquint": 0.6 * a,
                    "mouthUpperUp": 0.45 * a, "eyeSquint": 0.25 * a}  # fmt: skip
    elif expression == "serious":
        actions |= {"browDown": 0.6 * a, "mouthPress": 0.4 * a, "mouthFrown": 0.25 * a}
    elif expression == "surprised":
        actions |= {"browInnerUp": 0.7 * a, "browOuterUp": 0.7 * a, "eyeWide": 0.5 * a,
                    "jawOpen": 0.22 * a, "eyeBlink": 0.0}  # fmt: skip
    else:
        actions |= {"mouthSmile": float(rng.uniform(0, 0.18))}
    return {name: round(value, 4) for name, value in actions.items()}


def _light(rng: np.random.Generator) -> tuple[str, tuple[float, float], Rgb, Rgb, float]:
    """Word, (azimuth, elevation), key colour, ambient colour, fill strength."""
    word = _pick(rng, LIGHTS)
    side = float(rng.choice([-1.0, 1.0]))
    azimuth = rng.uniform(0.7, 1.15) if word == "side light" else rng.uniform(0.05, 0.75)
    warm = rng.normal(0, 0.09)
    key = np.array([1 + warm, 1.0, 1 - 1.3 * warm]) * (0.72 if word == "soft light" else 1.0)
    sky = np.array([1 - 0.4 * warm, 1.0, 1 + 0.5 * warm])
    level = {"soft light": 0.62, "side light": 0.30, "bright light": 0.42, "dim light": 0.34}[word]
    fill = {"soft light": 0.35, "side light": 0.16, "bright light": 0.22, "dim light": 0.2}[word]
    ambient = sky * level * rng.uniform(0.85, 1.15)
    angle = (side * float(azimuth), float(rng.uniform(0.2, 0.85)))
    return word, angle, _triple(key), _triple(ambient), fill * float(rng.uniform(0.7, 1.3))
