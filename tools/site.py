"""What the documentation site is made of: a hook of MkDocs, for mkdocs.yml.

Pages keep the places that they have in the repository, so that a link works in both. Added are
the reference, written from the registries, the schema and the commands, and the notebook as a page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from cloakbench.cli.main import app
from cloakbench.experiment.catalogue import catalogue, config_schema, share_of_steps

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = ("*.md", "config/*.md", "docs/**/*.md", "resources/**/*.md", "benchmarks/*.md")
NOTEBOOK = "docs/notebook.ipynb"
SCHEMA = "workflow/schemas/config.schema.json"
LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's documents and what they link to, and the pages that are written here."""
    written = {
        "docs/notebook.md": notebook_page(REPOSITORY / NOTEBOOK),
        "reference/methods.md": methods_page(catalogue()),
        "reference/config.md": config_page(config_schema()),
        "reference/commands.md": commands_page(),
    }
    theme = [file for file in files if file.src_dir != config.docs_dir]
    ours = [
        File.generated(config, place, abs_src_path=str(REPOSITORY / place))
        for place in sorted(places())
    ]
    made = [File.generated(config, place, content=text) for place, text in written.items()]
    return Files([*theme, *ours, *made])


def places() -> set[str]:
    """Paths in the repository of all documents, and of the files that they link to."""
    documents = [path for pattern in DOCUMENTS for path in REPOSITORY.glob(pattern)]
    linked = {
        (document.parent / link).resolve()
        for document in documents
        for link in LINK.findall(document.read_text("utf-8"))
    }
    found = {*documents, *(path for path in linked if path.is_file())}
    return {path.relative_to(REPOSITORY).as_posix() for path in found} | {NOTEBOOK, SCHEMA}


def notebook_page(path: Path) -> str:
    """A notebook's text and code, without outputs."""
    notebook = nbformat.read(path, as_version=4)
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    return "\n\n".join([*cells, f"[This page as a notebook]({path.name})", ""])


def methods_page(entries: Iterable[Mapping[str, Any]]) -> str:
    """Every registered method with settings, presets and source."""
    parts = ["# Methods", "As `cloakbench methods` has them."]
    for kind, group in groupby(entries, key=lambda entry: entry["kind"]):
        parts.append(f"## {kind.capitalize()}s")
        for entry in group:
            parts += [f"### {entry['name']}", entry["summary"], f"Source: {entry['source']}"]
            parts += [table(["setting", "default", "meaning"], map(setting_row, entry["settings"]))]
            parts += [
                f"Preset `{name}`{share_of_steps(entry, name)}: "
                f"{code(changes) if changes else 'the defaults'}"
                for name, changes in entry["presets"].items()
            ]
    return document(parts)


def setting_row(setting: Mapping[str, Any]) -> list[str]:
    """A method's setting, for a table."""
    default = "required" if setting["required"] else code(setting["default"])
    return [f"`{setting['name']}`", default, setting["description"]]


def config_page(schema: Mapping[str, Any]) -> str:
    """Every key of a config, and of the mappings in it."""
    together = "[how they work together](../config/README.md)"
    parts = ["# Keys of a config", f"As the [schema](../{SCHEMA}) has them; {together}."]
    parts += ["## An experiment", keys_table(schema)]
    for name, mapping in schema["$defs"].items():
        users = [f"`{key}`" for key in schema["properties"] if name in mentioned(schema, key)]
        parts += [f"## {name}", f"Of {', '.join(users)}. {mapping['description']}"]
        parts.append(keys_table(mapping))
    return document(parts)


def mentioned(schema: Mapping[str, Any], key: str) -> list[str]:
    """Names of the mappings that a key's values are."""
    return re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema["properties"][key]))


def keys_table(mapping: Mapping[str, Any]) -> str:
    """The keys of a mapping in the schema."""
    required = mapping.get("required", ())
    rows = (
        [
            f"`{key}`",
            "required" if key in required else code(about["default"]) if "default" in about else "",
            f"{about.get('description', '')}{bounds(about)}",
        ]
        for key, about in mapping["properties"].items()
    )
    return table(["key", "default", "meaning"], rows)


def bounds(about: Mapping[str, Any]) -> str:
    """Which values a key can have, where that is little to say."""
    if "enum" in about:
        return f"; one of {', '.join(map(code, about['enum']))}"
    ends = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    return "".join(f"; {word} {about[end]}" for end, word in ends.items() if end in about)


def commands_page() -> str:
    """Every command's help."""
    command = typer.main.get_command(app)
    help_texts = get_docs_for_click(obj=command, ctx=typer.Context(command), name="cloakbench")
    return help_texts.replace("# `cloakbench`", "# Commands", 1)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; nothing where it has no rows."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def cell(text: str) -> str:
    """A text on one line, without what ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """Plain data as JSON, set as code."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def document(parts: Iterable[str]) -> str:
    """A page of those paragraphs that are not empty."""
    return "\n\n".join(part for part in parts if part) + "\n"
