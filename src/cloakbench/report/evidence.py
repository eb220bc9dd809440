"""What a report says first: a sentence for each protection, and the picture that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from cloakbench.experiment.claims import labels_of
from cloakbench.files.layout import Cell, Layout, prompt_folders
from cloakbench.report.pictures import GAIN, Picture, first, perturbations, photos, samples
from cloakbench.tables import Tables
from cloakbench.tables.findings import Findings, Way, findings, first_way, typical
from cloakbench.tables.verdicts import CELLS

IS = {"holds": "holds", "contradicted": "is contradicted", "undecided": "is undecided"}
"""A verdict as the end of a sentence."""
FEW = 3  # protections that a headline names


class Evidence(NamedTuple):
    """What is found of a protection, and a person who shows it, with pictures of hers."""

    found: Findings
    person: str | None
    pictures: list[Picture]


def evidence(cells: Sequence[Cell], layout: Layout, tables: Tables) -> list[Evidence]:
    """Findings with pictures of the person whose difference to the baseline is nearest to the mean.

    Raises:
        CloakBenchError: a folder of photos or samples is missing; the message names it.
    """
    made, bare = [], first_way(tables)
    for found in findings(tables):
        person = typical(tables, found.identity, found.protection)
        own = {
            (cell.protection, Way(cell.purification, cell.trainer)): cell
            for cell in cells
            if cell.identity == person
        }
        shown = _pictures(found, own, bare, tables.controls.protection[:1], layout)
        made.append(Evidence(found, person, shown))
    return made


def _pictures(
    found: Findings,
    own: dict[tuple[str, Way], Cell],
    bare: Way,
    clean: tuple[str, ...],
    layout: Layout,
) -> list[Picture]:
    """A photo before and after, and samples: of the controls', of protected photos, and after."""
    if (cell := own.get((found.protection, bare))) is None:
        return []
    originals = first(layout.data(cell) / "set_B", 1)
    protected = first(layout.protected(cell), 1)
    magnified = f"perturbation \N{MULTIPLICATION SIGN} {GAIN}"
    made = [
        *photos(originals, "original"),
        *photos(protected, f"protected by {found.protection}"),
        *perturbations(protected, originals, magnified),
    ]
    learnt = dict.fromkeys((*clean, found.identity.beside, found.protection))
    wanted = [(name, bare) for name in learnt]
    if found.undone:
        wanted.append((found.protection, found.undone.way))
    for name, way in wanted:
        if (cell := own.get((name, way))) is not None:
            folder = prompt_folders(layout.generated(cell))[0]
            words = f"learnt from {name} photos, {' / '.join(way)}"
            made += samples(first(folder, 1), words, folder.name)
    return made


def exhibits(cells: Sequence[Cell], layout: Layout, verdicts: pd.DataFrame) -> list[list[Picture]]:
    """For each claim, a picture of each of its cells, of the person who is nearest to its effect:
    the first sample, or the first photo of what is claimed of photos.

    Raises:
        CloakBenchError: a folder of photos or samples is missing; the message names it.
    """
    made = []
    for row in verdicts.to_dict("records"):
        own = [cell for cell in cells if cell.identity == row["person"]]
        named = [(name, labels_of(name)) for name in row["cells"].split(CELLS)]
        made.append([shown for each in named for shown in _exhibit(*each, own, layout)])
    return made


def _exhibit(
    name: str, labels: dict[str, str], cells: Sequence[Cell], layout: Layout
) -> list[Picture]:
    prompt = labels.pop("prompt", None)
    wanted = labels.items()
    found = [cell for cell in cells if all(getattr(cell, key) == each for key, each in wanted)]
    if not found:
        return []
    if "trainer" not in labels:
        return photos(first(layout.purified(found[0]), 1), name)
    folders = prompt_folders(layout.generated(found[0]))
    folder = next((each for each in folders if each.name == prompt), folders[0])
    return samples(first(folder, 1), name, folder.name)


def headline(shown: Sequence[Evidence], verdicts: pd.DataFrame | None) -> str:
    """The result in a line: of each protection, or how many hold."""
    if verdicts is not None:
        return _counted(f"{len(verdicts)} claims", Counter(verdicts["verdict"]))
    words = [(each.found.protection, each.found.identity.verdict) for each in shown]
    if shown and shown[0].found.identity.over == "images":
        names = [name for name, _ in words]
        by = " and ".join(names) if len(names) <= FEW else f"{len(names)} protections"
        return f"One person's photos, protected by {by}"
    if len(words) > FEW:
        return _counted(f"{len(words)} protections", Counter(word for _, word in words))
    named = {word: [name for name, said in words if said == word] for word in IS}
    parts = [f"protection by {' and '.join(n)} {IS[word]}" for word, n in named.items() if n]
    said = "; ".join(parts) or "no protection to judge here"
    return said[:1].upper() + said[1:]


def _counted(what: str, counts: Counter[str]) -> str:
    many = {"holds": "hold", "contradicted": "are contradicted", "undecided": "are undecided"}
    parts = [f"{n} {(IS if n == 1 else many)[word]}" for word in IS if (n := counts[word])]
    return f"Of {what} {', '.join(parts)}"
