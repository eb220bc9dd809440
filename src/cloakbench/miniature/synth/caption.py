"""Captions in the style of prompts for text-to-image models."""

from __future__ import annotations

import numpy as np

from cloakbench.miniature.synth.people import Person, Shot

_BARE = ("a photo of person", "a photo of a person", "a photo of {a} {noun}", "photo of {a} {noun}",
         "a portrait of a person", "a dslr portrait of a person", "a face", "a photo of a face",
         "a portrait of {a} {noun}", "a close-up photo of a person")  # fmt: skip
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


def caption(person: Person, shot: Shot, rng: np.random.Generator) -> str:
    """One English caption: bare in a third of the draws, else with a random set of attributes."""
    noun = person.gender if rng.random() < 0.75 else "person"
    if rng.random() < 0.33:
        return str(rng.choice(_BARE)).format(a="a", noun=noun)
    opening = str(rng.choice(_OPENINGS))
    words = [
        w for w, chance in ((person.age_group, 0.4), (_skin(person), 0.2)) if rng.random() < chance
    ]
    subject = " ".join([*words, noun])
    article = "an" if subject[0] in "aeiou" else "a"
    with_ = f" with {_hair(person)}" if rng.random() < 0.6 else ""
    extras = _extras(person, shot, rng)
    return ", ".join([f"{opening} {article} {subject}{with_}", *extras])


def _skin(person: Person) -> str:
    return f"{person.skin_word}-skinned"


def _hair(person: Person) -> str:
    shape = _HAIR.get(person.hair_style, f"{person.hair_style} {{colour}} hair")
    return shape.format(colour=person.hair_word)


def _extras(person: Person, shot: Shot, rng: np.random.Generator) -> list[str]:
    """Attributes after the comma, each kept with its own chance, in a random order."""
    chances = {
        shot.expression: 0.45 if shot.expression != "neutral" else 0,
        "glasses" if rng.random() < 0.5 else "wearing glasses": 0.8 * shot.glasses,
        _beard(person): 0.6 * (person.beard != "none"),
        f"{person.eye_word} eyes": 0.2,
        shot.view: 0.3,
        shot.light_word: 0.25,
        str(rng.choice(_PLACES[shot.backdrop])): 0.4,
        f"wearing {_garment(shot)}": 0.25,
        "freckles": 0.5 * (person.freckles > 0),
    }
    kept = [phrase for phrase, chance in chances.items() if rng.random() < chance]
    return [kept[i] for i in rng.permutation(len(kept))]


def _beard(person: Person) -> str:
    return person.beard if person.beard == "stubble" else f"a {person.beard}"


def _garment(shot: Shot) -> str:
    if shot.garment == "collar":
        return f"a {shot.cloth_word} shirt"
    return f"a {shot.cloth_word} {'t-shirt' if shot.garment == 'crew' else 'sweater'}"
