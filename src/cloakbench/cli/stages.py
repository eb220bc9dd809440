"""Commands that run one stage on one identity: what the workflow's rules call, for hands too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cloakbench.errors import CloakBenchError
from cloakbench.files.reading import parse_json
from cloakbench.models.sampling import Sampling
from cloakbench.models.spec import ModelSpec
from cloakbench.personalise import trainers
from cloakbench.prompts import Prompts
from cloakbench.protect import protections
from cloakbench.purify.base import build_purifier

MethodArgument = Annotated[
    str,
    typer.Argument(
        help="A name from `cloakbench methods`, or a spec as JSON: "
        '\'{"method": NAME, "preset": "mini", ...}\'.'
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting as KEY=VALUE, e.g. --set budget=8/255. Repeatable."),
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
    spec = _json(text) if text[:1] in "{[" else {"method": text}
    given = [change.partition("=")[0] for change in changes or []]
    for change in changes or []:
        key, sign, value = change.partition("=")
        _once("--set", key, given)
        if not sign or not isinstance(spec, dict):
            raise CloakBenchError(f"--set {change}: write it as KEY=VALUE, for a single method.")
        spec[key] = _json(value) if _is_json(value) else value
    return spec


def parse_model(text: str) -> ModelSpec:
    """A model from its path or its entry as JSON."""
    return _validated(ModelSpec, text) if text.startswith("{") else ModelSpec.at(text)


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
) -> None:
    """Crop an identity's photos to squares and resize them; originals stay untouched.

    An identity's folder holds set_A (surrogate), set_B (instance) and set_C (reference), or just
    photos: then each set gets a third of them, in the order of their names.

    Example: cloakbench data resources/identities person_000003 --resolution 128 --out photos
    """
    from cloakbench.experiment.data import Dataset, prepare
    from cloakbench.faces import backends

    source = _checked(Dataset, {"path": dataset, "crop": crop})
    backend = backends.build(parse_spec(faces))
    if source.crop == "face":
        backend.check()
    prepare(source, identity, out, resolution, backend)


def class_images(
    model: ModelOption,
    out: OutOption,
    sampling: Annotated[
        str, typer.Option(help="The config's `class_images` as JSON.")
    ] = '{"images": 200}',
    prompts: PromptsOption = "{}",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
) -> None:
    """Sample class images ("a photo of person") from the base model, once per model.

    Example: cloakbench class-images --model resources/mini --sampling '{"images": 24, "steps": 25}'
    --out class
    """
    from cloakbench.stages.sample import class_images as run_stage

    run_stage(
        _validated(Sampling, sampling),
        model=parse_model(model),
        prompts=_validated(Prompts, prompts),
        run=_run(out, "class", seed, device, threads, scratch),
    )


def protect(
    method: MethodArgument,
    instance: Annotated[Path, typer.Option(help="Folder of instance images (set_B).")],
    out: OutOption,
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
) -> None:
    """Protect instance images: add a perturbation within a budget of grey levels.

    The presets `mini` and `paper` hold the settings for the bundled miniature and those of the
    reference; without one, settings are for Stable Diffusion.

    Example: cloakbench protect aspl --set preset=mini --set budget=8/255 --instance photos/set_B
    --surrogate photos/set_A --class-images class/class --out protected
    """
    protection = protections.build(parse_spec(method, settings))
    from cloakbench.stages.protect import protect as run_stage  # late: a typo is told at once

    run_stage(
        protection.spec(),
        model=parse_model(model),
        prompts=_validated(Prompts, prompts),
        instance=instance,
        surrogate=surrogate,
        class_images=class_images,
        run=_run(out, identity, seed, _device(device, protection.uses), threads, scratch),
    )


def purify(
    method: MethodArgument,
    photos: Annotated[Path, typer.Option(help="Folder of (protected) photos.")],
    out: OutOption,
    model: ModelOption = "resources/mini",
    settings: SetOption = None,
    identity: IdentityOption = "identity",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    scratch: ScratchOption = None,
) -> None:
    """Purify photos: try to remove a perturbation. A JSON list of methods is run in order.

    Example: cloakbench purify '["resize", {"method": "jpeg", "quality": 50}]' --photos protected
    --out purified
    """
    purifier = build_purifier(parse_spec(method, settings))
    from cloakbench.stages.purify import purify as run_stage  # late: a typo is told at once

    run_stage(
        purifier.spec(),
        model=parse_model(model),
        photos=photos,
        run=_run(out, identity, seed, _device(device, purifier.uses), threads, scratch),
    )


def personalise(
    method: MethodArgument,
    instance: Annotated[Path, typer.Option(help="Folder of instance images to learn from.")],
    out: OutOption,
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
) -> None:
    """Teach a model an identity from instance images; writes the trained weights, or samples.

    Example: cloakbench personalise cdl --set preset=mini --instance purified --class-images
    class/class --out weights
    """
    spec = trainers.build(parse_spec(method, settings)).spec()
    shared = {
        "model": parse_model(model),
        "prompts": _validated(Prompts, prompts),
        "instance": instance,
        "class_images": class_images,
        "run": _run(out, identity, seed, device, threads, scratch),
    }
    if sampling is None:
        from cloakbench.stages.personalise import personalise as run_stage

        run_stage(spec, **shared)
    else:
        from cloakbench.stages.generate import generate

        generate(spec, _validated(Sampling, sampling), **shared)


def sample(
    out: OutOption,
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
) -> None:
    """Generate images from a personalised model; each image has a generator of its own.

    Example: cloakbench sample --weights weights --prompt "photo=a photo of sks person"
    --out samples
    """
    from cloakbench.stages.sample import sample as run_stage

    texts = _prompts(prompt) if prompt else Prompts().sample_prompts
    run_stage(
        _validated(Sampling, sampling),
        model=parse_model(model),
        prompts=texts,
        weights=weights,
        run=_run(out, identity, seed, device, threads, scratch),
        suffix=suffix,
        negative_prompt=negative_prompt,
    )


def _device(chosen: str, uses: frozenset[str]) -> str:
    """The chosen device, but a method without networks claims no GPU."""
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
    return _checked(Prompts, {"sample": {key: text for key, _, text in pairs}}).sample


def _validated(kind: Any, text: str) -> Any:
    return _checked(kind, _json(text))


def _checked(kind: Any, value: Any) -> Any:
    from pydantic import ValidationError

    from cloakbench.registry import explain

    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise CloakBenchError(f"{kind.__name__.lower()}: {explain(error, kind)}") from None


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


def _json(text: str) -> Any:
    return parse_json(text, repr(text if len(text) < 80 else f"{text[:77]}..."))
