"""All tables of one experiment, made of its score files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from cloakbench.experiment.claims import Ledger
from cloakbench.files.layout import CELL_LABELS, PHOTO_LABELS, Cell, Controls, Layout
from cloakbench.tables.collect import read_distances, read_scores
from cloakbench.tables.measures import contrary
from cloakbench.tables.pooled import Elsewhere, pool
from cloakbench.tables.repeats import repeats
from cloakbench.tables.summary import by_cell, by_identity, by_prompt, contrasts, photo_summary
from cloakbench.tables.verdicts import verdicts


class Tables(NamedTuple):
    """The tables of an experiment, one CSV file each.

    images: one row per sample; identities: per identity and cell; summary: per cell, over
    identities; contrasts: differences to the controls; distances: one row per photo; photos: per
    protection and purification, over identities; prompts: the summary for each prompt, where there
    are several; verdicts: on claims, where there are any; seeds: what is due to them, where there
    are several. controls: what the contrasts are to.
    """

    images: pd.DataFrame
    identities: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    distances: pd.DataFrame
    photos: pd.DataFrame
    prompts: pd.DataFrame | None
    verdicts: pd.DataFrame | None
    seeds: pd.DataFrame | None
    controls: Controls = Controls()

    @property
    def contrary(self) -> frozenset[str]:
        """Metrics whose arrows are wrong here."""
        return contrary(self.contrasts, self.controls)

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {k: v for k, v in self._asdict().items() if isinstance(v, pd.DataFrame)}


def make_tables(
    cells: Sequence[Cell],
    layout: Layout,
    controls: Controls,
    budgets: Mapping[str, int],
    steps: Mapping[str, float],
    claims: Ledger | None = None,
    elsewhere: Sequence[Elsewhere] = (),
) -> Tables:
    """Read the score files of an experiment's cells and summarise them, in the cells' order.

    controls: what methods are compared with. budgets: grey levels by protection. steps: see
    `by_cell`. claims: what is decided. elsewhere: what other machines have scored; then cells that
    are in neither place are left out.

    Raises:
        CloakBenchError: a file of scores or distances is missing; the message names it.
    """
    images, distances = _rows(cells, layout, elsewhere)
    return Tables(
        images=images,
        identities=by_identity(images),
        summary=by_cell(images, budgets, steps),
        contrasts=contrasts(images, controls, budgets),
        distances=distances,
        photos=photo_summary(distances, steps),
        prompts=by_prompt(images, budgets, steps),
        verdicts=None if claims is None else verdicts(claims, images, distances, _seeds(cells)),
        seeds=repeats(images),
        controls=controls,
    )


def _rows(
    cells: Sequence[Cell], layout: Layout, elsewhere: Sequence[Elsewhere]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Samples and photos of the cells."""
    if elsewhere:
        return rows_so_far(cells, layout, elsewhere)
    return read_scores(cells, layout), read_distances(cells, layout)


def rows_so_far(
    cells: Sequence[Cell], layout: Layout, elsewhere: Sequence[Elsewhere]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Samples that have been scored and photos that have been compared, here or elsewhere."""
    here = [cell for cell in cells if layout.scores(cell).exists()]
    images = [read_scores(here, layout)] if here else []
    measured = [cell for cell in cells if layout.distances(cell).exists()]
    distances = [read_distances(measured, layout)] if measured else []
    return (
        pool([*images, *(each.images for each in elsewhere)], cells, CELL_LABELS),
        pool([*distances, *(each.distances for each in elsewhere)], cells, PHOTO_LABELS),
    )


def scored(cells: Sequence[Cell], layout: Layout) -> list[Cell]:
    """The cells whose samples have been scored, and their photos compared."""
    return [c for c in cells if layout.scores(c).exists() and layout.distances(c).exists()]


def verdicts_so_far(
    claims: Ledger, cells: Sequence[Cell], layout: Layout, elsewhere: Sequence[Elsewhere] = ()
) -> pd.DataFrame:
    """Verdicts by the cells that have been scored, here or elsewhere; claims on others are
    undecided.
    """
    return verdicts(claims, *rows_so_far(cells, layout, elsewhere), _seeds(cells))


def _seeds(cells: Iterable[Cell]) -> set[str]:
    return {cell.seed for cell in cells}
