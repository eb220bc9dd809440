"""What CLIP sees in an experiment's photos and samples: where they lie, how far from their prompt,
and what it takes them for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from cloakbench.experiment.experiment import Experiment
from cloakbench.files.images import photo_files, read_photo
from cloakbench.files.layout import METHOD_LABELS, label
from cloakbench.files.text import write_csv, write_text
from cloakbench.files.verified import verified
from cloakbench.report.plot import INK, LOOKS, by_axis, drawing, inline_svg, plain, standalone
from cloakbench.score.by_clip import ByClip
from cloakbench.score.metrics.clip_prompt import ClipPrompt
from cloakbench.score.metrics.concept import Concept
from cloakbench.score.samples import sample_files
from cloakbench.tables.inference import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

M = TypeVar("M", bound=ByClip)

PHOTOS, SAMPLES = "photos", "samples"
MARKS = "x+1234"  # of texts
COLOURS = (*(look.colour for look in LOOKS), INK)


class Space(NamedTuple):
    """Images, one row each, and texts, in the plane of the photos' first principal components.

    images: `of` ("photos", "samples"), the cell's labels, `image`, `cosine` to the prompt, the
        `concept` that it is taken for, `x`, `y`. texts: `text`, `x`, `y`.
    explained: the share of the photos' variance along x and y.
    """

    images: pd.DataFrame
    texts: pd.DataFrame
    explained: tuple[float, float]


def clip_space(experiment: Experiment) -> Space:
    """Embed all photos, as methods left them, and the samples that are there.

    CLIP, prompt and concepts are those of the experiment's metrics `clip_prompt` and `concept`, or
    of their presets. Images and texts lie in parts of CLIP's space of their own (Liang et al. 2022,
    arXiv 2203.02053), so each are centred on their own mean before they are drawn on one plane.

    Raises:
        CloakBenchError: photos are missing, or the CLIP is.
    """
    from cloakbench.models.clip import load_clip

    prompted, concepts = _metric(experiment, ClipPrompt), _metric(experiment, Concept)
    clip = load_clip(prompted.clip)
    labels, vectors = [], []
    for told, files in _images(experiment):
        labels += [{**told, "image": f"{path.parent.name}/{path.stem}"} for path in files]
        vectors.append(clip.embed_images([read_photo(path) for path in files]).numpy())
    images, texts = np.concatenate(vectors), [*concepts.prompts]
    named = clip.embed_texts([prompted.prompt, *texts]).numpy()
    frame = pd.DataFrame(labels)
    frame["cosine"] = images @ named[0]
    frame["concept"] = [texts[best] for best in (images @ named[1:].T).argmax(axis=1)]
    middle, axes, explained = _plane(images[frame["of"] == PHOTOS])
    frame[["x", "y"]] = (images - middle) @ axes
    places = (named[1:] - named[1:].mean(axis=0)) @ axes
    written = pd.DataFrame({"text": texts, "x": places[:, 0], "y": places[:, 1]})
    return Space(frame, written, explained)


FILES = ("images.csv", "groups.csv", "space.svg", "concepts.svg")


def write_clip_space(space: Space, folder: Path) -> None:
    """Write FILES: tables, and figures."""
    groups = by_group(space.images)
    write_csv(space.images, folder / "images.csv")
    write_csv(groups, folder / "groups.csv")
    write_text(folder / "space.svg", standalone(space_plot(space, groups)))
    write_text(folder / "concepts.svg", standalone(concept_plot(groups, [*space.texts["text"]])))


def by_group(images: pd.DataFrame) -> pd.DataFrame:
    """Means over people of every kind of photos and samples: `name`, `people`, `cosine` with `low`
    and `high` of its 95 % interval, and for each concept the share of images taken for it.
    """
    rows = []
    shares = pd.get_dummies(images["concept"]).astype(float)
    names = _names(images)
    for name, own in images.groupby(names, sort=False):
        people = own.groupby("identity")
        cosine = mean_interval(people["cosine"].mean().to_numpy(), (-1.0, 1.0))
        taken = shares.loc[own.index].groupby(own["identity"]).mean().mean()
        told = {"of": own["of"].iloc[0], "name": name, "people": len(people)}
        ends = {"cosine": cosine.mean, "low": cosine.low, "high": cosine.high}
        rows.append(told | ends | {str(text): share for text, share in taken.items()})
    return pd.DataFrame(rows)


def space_plot(space: Space, groups: pd.DataFrame) -> str:
    """The photos' plane with the texts, and their cosine to the prompt, as inline SVG."""
    import matplotlib.figure

    photos = space.images[space.images["of"] == PHOTOS]
    own = groups[groups["of"] == PHOTOS].reset_index(drop=True)
    with drawing():
        figure = matplotlib.figure.Figure(figsize=(10, 4.4), layout="constrained")
        plane, line = figure.subplots(1, 2, width_ratios=(3, 2))
        names = _names(photos)
        for number, name in enumerate(own["name"]):
            points = photos[names == name]
            colour = COLOURS[number % len(COLOURS)]
            plane.plot(points["x"], points["y"], ".", color=colour, alpha=0.35, markersize=4)
            centre = points["x"].mean(), points["y"].mean()
            plane.plot(*centre, "o", color=colour, markersize=9, label=plain([name]))
        for number, row in enumerate(space.texts.to_dict("records")):
            mark = MARKS[number % len(MARKS)]
            plane.plot(row["x"], row["y"], mark, color=INK, label=plain([row["text"]]))
        for share, put, which in zip(
            space.explained, (plane.set_xlabel, plane.set_ylabel), ("first", "second"), strict=True
        ):
            put(f"{which} component, {share:.0%} of the photos' variance")
        plane.legend(loc="center right", bbox_to_anchor=(-0.12, 0.5), frameon=False)
        _cosines(line, own)
        return inline_svg(figure)


def concept_plot(groups: pd.DataFrame, texts: Sequence[str]) -> str:
    """What photos and samples are taken for: a bar for each kind, as inline SVG."""
    import matplotlib.figure

    with drawing():
        size = 10, 1.2 + 0.28 * len(groups)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(groups))
        for number, text in enumerate(texts):
            shares = groups[text].to_numpy() if text in groups else np.zeros(len(groups))
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(range(len(groups)), shares, left=left, color=colour, label=plain([text]))
            left += shares
        names = groups["of"] + ": " + groups["name"]
        axes.set_yticks(range(len(groups)), [plain([name]) for name in names])
        axes.invert_yaxis()
        by_axis(axes, "concept", "x")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return inline_svg(figure)


def _metric(experiment: Experiment, kind: type[M]) -> M:
    """The experiment's metric of a kind, or the one that its preset makes."""
    preset = experiment.config.preset
    own = [metric for metric in experiment.metrics if isinstance(metric, kind)]
    made = kind.model_validate(kind.presets.get(preset or "", {}))
    return own[0] if own else made.of_class(experiment.config.prompts.class_noun)


def _images(experiment: Experiment) -> Iterator[tuple[dict[str, str], list[Path]]]:
    """Folders of photos and of samples, with what they are."""
    cells, layout = experiment.cells(), experiment.layout
    for cell in dict.fromkeys(replace(cell, trainer="") for cell in cells):
        yield {"of": PHOTOS, **label(cell)}, photo_files(verified(layout.purified(cell)))
    for cell in cells:
        if (folder := layout.generated(cell)).is_dir():
            yield {"of": SAMPLES, **label(cell)}, [path for _, path in sample_files(folder)]


def _names(images: pd.DataFrame) -> pd.Series:
    """What kinds of images are called: by the methods behind them."""
    return images[[*METHOD_LABELS]].apply(lambda row: " / ".join(filter(None, row)), axis=1)


def _plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The mean of vectors (n, d), their first two principal directions (d, 2), and the shares of
    variance along these.
    """
    middle = vectors.mean(axis=0)
    _, sizes, directions = np.linalg.svd(vectors - middle, full_matrices=False)
    shares = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-12)
    return middle, directions[:2].T, (float(shares[0]), float(shares[1]))


def _cosines(axes: Axes, groups: pd.DataFrame) -> None:
    """A mark per kind of photos with its interval over people."""
    for position, row in enumerate(groups.to_dict("records")):
        colour = COLOURS[position % len(COLOURS)]
        if not math.isnan(row["low"]):
            axes.plot([row["low"], row["high"]], [position] * 2, color=colour)
        axes.plot(row["cosine"], position, "o", color=colour)
    axes.set_yticks(range(len(groups)), [plain([name]) for name in groups["name"]])
    axes.invert_yaxis()
    axes.set_xlabel("cosine to the prompt")
    by_axis(axes, "clip_prompt", "x")
