"""Commands that run one stage on one identity: what the workflow's rules call, for hands too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cloakbench.cli.results import (
    MINIATURE,
    ForceOption,
    JsonOption,
    check_new,
    compared,
    counted,
    is_miniature,
    photos_in,
    say,
    warn_of_miniature,
)
from cloakbench.errors import CloakBenchError
from cloakbench.files.images import SUFFIXES
from cloakbench.files.layout import SETS
from cloakbench.files.outputs import MANIFEST
from cloakbench.files.reading import parse_json
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier, purifiers
from cloakbench.registry import Method, Registry
from cloakbench.stages.inputs import needed


def _named(registry: Registry, more: str = "") -> Any:
    """The argument that names a method of a stage."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in registry.names() if name.startswith(incomplete)]

    return typer.Argument(
        help=f"A {registry.kind}: a name from `cloakbench methods`,{more} or a spec as JSON: "
        '\'{"method": NAME, "preset": "mini", ...}\'.',
        autocompletion=complete,
    )


_NEEDS = {"--surrogate": "surrogate_images", "--class-images": "class_images"}

PhotosOption = Annotated[
    Path | None, typer.Option(help="A photo, or a folder of photos of one size.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of the method as KEY=VALUE, such as budget=8/255 of a "
        "protection, quality=50 of jpeg or steps=400 of a trainer. Repeatable.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="A model folder or hub id, or a model entry as JSON, such as "
        '\'{"path": "resources/mini", "resolution": 128}\'.'
    ),
]
PromptsOption = Annotated[
    str, typer.Option(help="The config's `prompts` as JSON; empty: sks and person.")
]
OutOption = Annotated[Path, typer.Option(help="Folder to write; it appears whole or not at all.")]
IdentityOption = Annotated[str, typer.Option(help="The identity's name; it goes into the seeds.")]
SeedOption = Annotated[int, typer.Option(help="The experiment's seed.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; default: all cores.", min=1)]
ScratchOption = Annotated[
    Path | None,
    typer.Option(help="Folder for checkpoints; run the same command again to resume."),
]
ClassImagesOption = Annotated[
    Path | None, typer.Option(help="Folder of class images, for prior preservation.")
]


def parse_spec(text: str, changes: list[str] | None = None) -> Any:
    """A method's spec from a name or JSON, with `KEY=VALUE` settings laid over it.

    Raises:
        CloakBenchError: invalid JSON, or a setting without `=` or given twice.
    """
    spec = _json(text, "the method") if text.startswith(("{", "[")) else {"method": text}
    given = [change.partition("=")[0] for change in changes or []]
    for change in changes or []:
        key, sign, value = change.partition("=")
        _once("--set", key, given)
        if not sign or not isinstance(spec, dict):
            raise CloakBenchError(f"--set {change}: write it as KEY=VALUE, for a single method.")
        spec[key] = _json(value, f"--set {key}") if _is_json(value) else value
    return spec


def parse_model(text: str) -> ModelSpec:
    """A model from its path or its entry as JSON."""
    return _validated(ModelSpec, text, "--model") if text.startswith("{") else ModelSpec.at(text)


def data(
    dataset: Annotated[Path, typer.Argument(help="Folder that holds a folder per identity.")],
    identity: Annotated[str, typer.Argument(help="The identity's folder.")],
    out: OutOption,
    resolution: Annotated[
        int,
        typer.Option(
            help="Side of the photos [px]: the model's, 128 for resources/mini.", min=8, max=4096
        ),
    ],
    crop: Annotated[
        str, typer.Option(help="Which square of a photo is kept: its `centre`, or its `face`.")
    ] = "centre",
    faces: Annotated[str, typer.Option(help="Face backend that finds the faces.")] = "dlib",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Crop an identity's photos to squares and resize them; originals stay untouched.

    An identity's folder holds set_A (surrogate), set_B (instance) and set_C (reference), or just
    photos: then each set gets a third of them, in the order of their names. A study protects set_B
    and judges by set_C; by hand, `cloakbench protect` takes any folder, and protects all of it.

    Example: cloakbench data resources/identities person_000003 --resolution 128 --out photos
    """
    from cloakbench.experiment.data import Dataset, prepare
    from cloakbench.faces import backends

    source = _checked(Dataset, {"path": dataset, "crop": crop}, "dataset")
    backend = backends.build(parse_spec(faces))
    if source.crop == "face":
        backend.check()
    check_new(out, force, source.folder / identity)
    prepare(source, identity, out, resolution, backend)
    say(as_json, out, counted(out, "photos"), *_protecting(out / SETS[1], resolution))
    if source.is_split(identity) and not as_json:
        typer.echo(_how_split(out))


def _protecting(photos: Path, resolution: int) -> list[object]:
    """The command that protects photos of a size with a quick method that is no control."""
    small = resolution <= ModelSpec.at(str(MINIATURE)).resolution
    preset = ["--set", "preset=mini"] if small else ["--model", "MODEL"]  # which one has to bring
    return ["protect", "pid", "--instance", photos, *preset]


def _how_split(out: Path) -> str:
    """Which photos of a folder without sets went where."""
    made = json.loads((out / MANIFEST).read_text("utf-8"))["photos"]
    meant = zip(made.items(), ("for surrogates", "to protect", "to judge by"), strict=True)
    sets = (f"{name} ({what}): {', '.join(photos)}" for (name, photos), what in meant)
    return "\n".join(
        [
            "The folder has no set_A, set_B, set_C, so its photos were split by their names:",
            *(f"  {line}" for line in sets),
            "To protect all of them, at their own sizes: cloakbench try FOLDER",
        ]
    )


def class_images(
    model: ModelOption = "resources/mini",
    out: OutOption = Path("class"),
    sampling: Annotated[
        str, typer.Option(help="The config's `class_images` as JSON.")
    ] = '{"images": 200}',
    prompts: PromptsOption = "{}",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sample class images ("a photo of person") from the base model, once per model.

    Example: cloakbench class-images --sampling '{"images": 24, "steps": 25}' --out class
    """
    from cloakbench.stages.sample import class_images as run_stage

    wanted, texts = (
        _validated(Sampling, sampling, "--sampling"),
        _validated(Prompts, prompts, "--prompts"),
    )
    chosen = _model_for(out, force, model)
    run_stage(
        wanted,
        model=chosen,
        prompts=texts,
        run=_run(out, "class", seed, device, threads, scratch),
    )
    following = _training("dreambooth", "PHOTOS", chosen)
    say(as_json, out, counted(out, "images"), *following, "--class-images", out / "class")


def protect(
    method: Annotated[str, _named(protections)],
    instance: PhotosOption = None,
    out: OutOption = Path("protected"),
    surrogate: Annotated[
        Path | None, typer.Option(help="Folder of clean surrogate images (set_A).")
    ] = None,
    class_images: ClassImagesOption = None,
    model: ModelOption = "resources/mini",
    settings: SetOption = None,
    prompts: PromptsOption = "{}",
    identity: IdentityOption = "identity",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Protect photos: add a perturbation within a budget of grey levels. Names are kept.

    The presets `mini` and `paper` hold the settings for the bundled miniature and those of the
    reference; without one, settings are for Stable Diffusion.

    Example: cloakbench protect aspl --set preset=mini --set budget=8/255 --instance photos/set_B
    --surrogate photos/set_A --class-images class/class --out protected
    """
    protection = protections.build(_spec(protections, method, settings, "protect pid --instance"))
    chosen, texts = parse_model(model), _validated(Prompts, prompts, "--prompts")
    given = {"--surrogate": surrogate, "--class-images": class_images}
    photos = _look(protection, chosen, out, force, "--instance", instance, given)
    from cloakbench.stages.protect import protect as run_stage

    run_stage(
        protection.spec(),
        model=chosen,
        prompts=texts,
        instance=photos,
        surrogate=surrogate,
        class_images=class_images,
        run=_run(out, identity, seed, device_for(device, protection.uses), threads, scratch),
    )
    say(as_json, out, compared(out, photos), "purify", "jpeg", "--photos", out)


def purify(
    method: Annotated[str, _named(purifiers, " several joined by +,")],
    photos: PhotosOption = None,
    out: OutOption = Path("purified"),
    model: ModelOption = "resources/mini",
    settings: SetOption = None,
    identity: IdentityOption = "identity",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Purify photos: try to remove a perturbation. Names are kept.

    Several methods are run in order: `resize+jpeg`, or a JSON list of names and specs.

    Example: cloakbench purify '["resize", {"method": "jpeg", "quality": 50}]' --photos protected
    --out purified
    """
    if "+" in method and not method.startswith(("{", "[")):
        method = json.dumps(method.split("+"))
    purifier = build_purifier(_spec(purifiers, method, settings, "purify jpeg --photos"))
    chosen = parse_model(model)
    place = _look(purifier, chosen, out, force, "--photos", photos)
    from cloakbench.stages.purify import purify as run_stage

    run_stage(
        purifier.spec(),
        model=chosen,
        photos=place,
        run=_run(out, identity, seed, device_for(device, purifier.uses), threads, scratch),
    )
    alone = ["--set", "prior_weight=0"]  # with no class images
    say(as_json, out, compared(out, place), *_training("lora", out, chosen), *alone)


def personalise(
    method: Annotated[str, _named(trainers)],
    instance: PhotosOption = None,
    out: OutOption = Path("weights"),
    class_images: ClassImagesOption = None,
    sampling: Annotated[
        str | None,
        typer.Option(
            help="The config's `sampling` as JSON: sample at once, with the sampling prompts, "
            "instead of writing the weights."
        ),
    ] = None,
    model: ModelOption = "resources/mini",
    settings: SetOption = None,
    prompts: PromptsOption = "{}",
    identity: IdentityOption = "identity",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach a model an identity from instance images; writes the trained weights, or samples.

    Example: cloakbench personalise cdl --set preset=mini --instance purified --class-images
    class/class --out weights
    """
    trainer = trainers.build(_spec(trainers, method, settings, "personalise lora --instance"))
    wanted = None if sampling is None else _validated(Sampling, sampling, "--sampling")
    chosen, texts = parse_model(model), _validated(Prompts, prompts, "--prompts")
    given = {"--class-images": class_images}
    photos = _look(trainer, chosen, out, force, "--instance", instance, given)
    _training_stage(wanted)(
        trainer.spec(),
        model=chosen,
        prompts=texts,
        instance=photos,
        class_images=class_images,
        run=_run(out, identity, seed, device, threads, scratch),
    )
    following = _scoring(out) if wanted else ["sample", "--weights", out, "--model", chosen.path]
    say(as_json, out, counted(out, "samples" if wanted else "files"), *following)


def sample(
    out: OutOption = Path("samples"),
    weights: Annotated[
        Path | None, typer.Option(help="What `personalise` wrote; without it, the base model.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt as KEY=TEXT; KEY names its folder. Repeatable."),
    ] = None,
    suffix: Annotated[str, typer.Option(help="Put after every prompt (CDL's suffix).")] = "",
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from.")] = "",
    sampling: Annotated[str, typer.Option(help="The config's `sampling` as JSON.")] = "{}",
    model: ModelOption = "resources/mini",
    identity: IdentityOption = "identity",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate images from a personalised model; each image has a generator of its own.

    Example: cloakbench sample --weights weights --prompt "photo=a photo of sks person"
    --out samples
    """
    from cloakbench.stages.sample import sample as run_stage

    texts = _prompts(prompt) if prompt else Prompts().sample_prompts
    wanted = _validated(Sampling, sampling, "--sampling")
    if weights is not None and not weights.is_dir():
        raise CloakBenchError(
            f"{weights}: no such folder of weights. Run `cloakbench personalise`."
        )
    chosen = _model_for(out, force, model, weights)
    run_stage(
        wanted,
        model=chosen,
        prompts=texts,
        weights=weights,
        run=_run(out, identity, seed, device, threads, scratch),
        suffix=suffix,
        negative_prompt=negative_prompt,
    )
    say(as_json, out, counted(out, "samples"), *_scoring(out))


def _spec(known: Registry[Any], text: str, changes: list[str] | None, command: str) -> Any:
    """The spec of a method that a command line names.

    Raises:
        CloakBenchError: a photo or folder stands in its place; see `parse_spec`.
    """
    is_method = not text or text.startswith(("{", "[")) or text in known.names()
    if not is_method and (Path(text).suffix.lower() in SUFFIXES or Path(text).is_dir()):
        raise CloakBenchError(
            f"{text}: stands where a method's name is expected. Write `cloakbench {command} "
            f"{text}`; `cloakbench methods` lists the names."
        )
    return parse_spec(text, changes)


def _look(
    method: Method,
    model: ModelSpec,
    out: Path,
    force: bool,
    option: str,
    photos: Path | None,
    others: Mapping[str, Path | None] | None = None,
) -> Path:
    """See that all that a method needs is there, and that its output can be, before it is loaded.

    Returns:
        Where the photos are.

    Raises:
        CloakBenchError: something is missing, or the output is there already.
    """
    place, files = photos_in(photos, option)
    for other, folder in (others or {}).items():
        if _NEEDS[other] in method.uses:
            photos_in(needed(folder, other, method.name), other)
    method.check()
    check_new(out, force, photos, *(others or {}).values(), *method.folders.values())
    if "model" in method.uses:
        model.check()
        check_new(out, force, *model.folders())
        warn_of_miniature(model, files[0])
    return place


def _model_for(out: Path, force: bool, model: str, *inputs: Path | None) -> ModelSpec:
    """The model that is sampled, after it and the output were looked at."""
    chosen = parse_model(model)
    chosen.check()
    check_new(out, force, *inputs, *chosen.folders())
    return chosen


def _training_stage(sampling: Sampling | None) -> Any:
    """The stage that trains and, if that is wanted, samples at once."""
    from cloakbench.stages.generate import generate
    from cloakbench.stages.personalise import personalise

    return personalise if sampling is None else partial(generate, sampling=sampling)


def _training(trainer: str, photos: object, model: ModelSpec) -> list[object]:
    """The command that trains on photos."""
    preset = ["--set", "preset=mini"] if is_miniature(model) else ["--model", model.path]
    return ["personalise", trainer, "--instance", photos, *preset]


def _scoring(samples: Path) -> list[object]:
    """The command that scores samples without references."""
    return ["score", samples, "--metric", "brisque", "--identity", "identity", "-o", "scores.csv"]


def device_for(chosen: str, uses: frozenset[str]) -> str:
    """The chosen device, but what runs no network of its own claims no GPU."""
    return chosen if uses & {"model", "gpu"} or chosen != "auto" else "cpu"


def _run(
    out: Path, identity: str, seed: int, device: str, threads: int | None, scratch: Path | None
) -> Any:
    from cloakbench.models.device import choose_device, set_up_torch
    from cloakbench.running.run import Run

    set_up_torch(threads)
    return Run(out, identity, seed, choose_device(device), scratch)


def _prompts(texts: list[str]) -> dict[str, str]:
    """Sampling prompts given as KEY=TEXT."""
    pairs = [text.partition("=") for text in texts]
    for key, sign, _ in pairs:
        if not sign:
            raise CloakBenchError(f"--prompt {key!r}: write it as KEY=TEXT.")
        _once("--prompt", key, [key for key, _, _ in pairs])
    return _checked(Prompts, {"sample": {key: text for key, _, text in pairs}}, "--prompt").sample


def _validated(kind: Any, text: str, option: str) -> Any:
    return _checked(kind, _json(text, option), option)


def _checked(kind: Any, value: Any, option: str) -> Any:
    from pydantic import ValidationError

    from cloakbench.registry import explain

    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise CloakBenchError(f"{option}: {explain(error, kind)}") from None


def _once(option: str, key: str, given: list[str]) -> None:
    if given.count(key) > 1:
        raise CloakBenchError(f"{option} {key}: is there {given.count(key)} times. Give it once.")


def _is_json(text: str) -> bool:
    """Whether a value is meant as JSON; all else is text, as it is."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        pass
    return True


def _json(text: str, option: str) -> Any:
    shown = text if len(text) < 80 else f"{text[:77]}..."
    return parse_json(text, f"{option}: {shown!r}")
