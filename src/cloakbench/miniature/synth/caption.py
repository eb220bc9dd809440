"""Captions in the style of prompts for text-to-image models.

A caption is a subject and distinct clauses, joined by commas. `subjects` and `clauses` are all that
there are, so that a test can say which words no caption has.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from cloakbench.miniature.synth.palette import (
    AGE_GROUPS,
    BEARDS,
    CLOTH_COLOURS,
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_COLOURS,
    LIGHTS,
    MEN_HAIR,
    SKIN_WORDS,
    VIEWS,
    WOMEN_HAIR,
)
from cloakbench.miniature.synth.people import Person, Shot

_NOUNS = ("person", "man", "woman")
_BARE = ("a photo of person", "a photo of a person", "a photo of a {noun}", "photo of a {noun}",
         "a portrait of a person", "a dslr portrait of a person", "a face", "a photo of a face",
         "a portrait of a {noun}", "a close-up photo of a person")  # fmt: skip
_OPENINGS = ("a photo of", "a portrait of", "a dslr portrait of", "a close-up photo of",
             "a close-up of the face of", "a headshot of", "portrait photo of",
             "a photo of the face of")  # fmt: skip
_PLACES = {"studio": ("in a studio", "studio background", "plain background"),
           "wall": ("in front of a wall", "plain wall"),
           "indoors": ("indoors", "in a room"), "outdoors": ("outdoors", "in a park", "in nature"),
           "bokeh": ("city lights", "at night", "blurred lights in the background"),
           "sky": ("under the sky", "in front of the sky")}  # fmt: skip
_HAIR = {"bald": "a bald head", "buzz cut": "a {colour} buzz cut", "bob": "a {colour} bob",
         "bun": "{colour} hair in a bun", "ponytail": "{colour} hair in a ponytail",
         "afro": "a {colour} afro", "receding": "receding {colour} hair"}  # fmt: skip
_GARMENTS = {"collar": "shirt", "crew": "t-shirt", "v-neck": "sweater"}
_GLASSES = ("glasses", "wearing glasses")
_FRECKLES = "freckles"


def caption(person: Person, shot: Shot, rng: np.random.Generator) -> str:
    """One English caption: bare in a third of the draws, else with a random set of attributes."""
    noun = person.gender if rng.random() < 0.75 else "person"
    if rng.random() < 0.33:
        return str(rng.choice(_BARE)).format(noun=noun)
    opening = str(rng.choice(_OPENINGS))
    age = person.age_group if rng.random() < 0.4 else ""
    skin = person.skin_word if rng.random() < 0.2 else ""
    hair = _hair(person.hair_style, person.hair_word) if rng.random() < 0.6 else ""
    return ", ".join([_subject(opening, age, skin, noun, hair), *_extras(person, shot, rng)])


def subjects() -> Iterator[str]:
    """Every beginning of a caption."""
    for bare, noun in product(_BARE, _NOUNS):
        yield bare.format(noun=noun)
    styles = {*WOMEN_HAIR, *MEN_HAIR, *_HAIR}
    hairs = ["", *(_hair(style, colour) for style, colour in product(styles, HAIR_COLOURS))]
    ages, skins = ("", *AGE_GROUPS), ("", *SKIN_WORDS)
    for words in product(_OPENINGS, ages, skins, _NOUNS, hairs):
        yield _subject(*words)


def clauses() -> Iterator[str]:
    """Every clause that may follow."""
    yield from (*_GLASSES, *VIEWS, *LIGHTS, _FRECKLES)
    yield from (expression for expression in EXPRESSIONS if expression != "neutral")
    yield from (_beard(beard) for beard in BEARDS if beard != "none")
    yield from map(_eyes, EYE_COLOURS)
    yield from (place for places in _PLACES.values() for place in places)
    yield from (_garment(*words) for words in product(_GARMENTS, CLOTH_COLOURS))


def _subject(opening: str, age: str, skin: str, noun: str, hair: str) -> str:
    words = " ".join(filter(None, (age, skin and f"{skin}-skinned", noun)))
    article = "an" if words[0] in "aeiou" else "a"
    return f"{opening} {article} {words}{hair and f' with {hair}'}"


def _hair(style: str, colour: str) -> str:
    return _HAIR.get(style, f"{style} {{colour}} hair").format(colour=colour)


def _extras(person: Person, shot: Shot, rng: np.random.Generator) -> list[str]:
    """Clauses, each kept with its own chance, in a random order."""
    chances = {
        shot.expression: 0.45 if shot.expression != "neutral" else 0,
        _GLASSES[int(rng.random() >= 0.5)]: 0.8 * shot.glasses,
        _beard(person.beard): 0.6 * (person.beard != "none"),
        _eyes(person.eye_word): 0.2,
        shot.view: 0.3,
        shot.light_word: 0.25,
        str(rng.choice(_PLACES[shot.backdrop])): 0.4,
        _garment(shot.garment, shot.cloth_word): 0.25,
        _FRECKLES: 0.5 * (person.freckles > 0),
    }
    kept = [phrase for phrase, chance in chances.items() if rng.random() < chance]
    return [kept[i] for i in rng.permutation(len(kept))]


def _eyes(colour: str) -> str:
    return f"{colour} eyes"


def _beard(beard: str) -> str:
    return beard if beard == "stubble" else f"a {beard}"


def _garment(garment: str, colour: str) -> str:
    return f"wearing a {colour} {_GARMENTS[garment]}"
