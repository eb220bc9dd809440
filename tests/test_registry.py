"""Methods are found by dropping in a file, and misuse is named at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloakbench.errors import CloakBenchError
from cloakbench.experiment.catalogue import REGISTRIES
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.registry import Method, Registry
from cloakbench.score.base import Metric, metrics

GADGETS = """
from cloakbench.registry import Method, Registry

class Gadget(Method):
    '''Shared.'''
    size: int = 1

gadgets = Registry("gadget", "{package}", "{package}.gadgets")
"""
METHOD = '''
"""A module."""
from {package}.base import Gadget, gadgets

@gadgets.register("{name}")
class Shiny(Gadget):
    """It shines."""  # a comment
    source = "made up"
    presets = {{"big": {{"size": 9}}}}
    colour: str = "red"
'''
EVERY = [(registry, method) for registry in REGISTRIES for method in registry]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> Path:
    """A new package with a registry and one method, `shiny`."""
    name = f"gadgets_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "base.py").write_text(GADGETS.format(package=name))
    (folder / "shiny.py").write_text(METHOD.format(package=name, name="shiny"))
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def registry_of(package: Path) -> Registry:
    return __import__(f"{package.name}.base", fromlist=["gadgets"]).gadgets


def new_registry() -> Registry:
    """Of a package that registers nothing."""
    return Registry("gadget", "cloakbench.report", "nobody.gadgets")


def test_a_metric_of_no_kind_is_refused_for_no_table_would_hold_it():
    class Shiny(Metric):
        """It shines."""

        source = "made up"

    with pytest.raises(TypeError, match="metric 'shiny' is of no kind; derive it from ImageMetric"):
        metrics.register("shiny")(Shiny)


def test_a_file_in_the_package_is_a_method_without_another_edit(package):
    source = METHOD.format(package=package.name, name="dull").replace("Shiny", "Dull")
    (package / "dull.py").write_text(source)

    assert registry_of(package).names() == ["dull", "shiny"]
    assert registry_of(package).build("dull").size == 1


def test_a_module_that_cannot_be_imported_fails_loudly(package):
    (package / "broken.py").write_text("import a_module_that_is_not_there\n")

    with pytest.raises(ModuleNotFoundError):
        registry_of(package).names()


def test_two_methods_of_one_name_are_refused(package):
    """As when somebody copies a method's file and forgets to change its name."""
    (package / "copy_of_shiny.py").write_text((package / "shiny.py").read_text())

    with pytest.raises(CloakBenchError, match=r"gadget 'shiny' is registered twice"):
        registry_of(package).names()


def test_a_method_without_docstring_or_source_is_refused():
    class Undocumented(Method):
        source = "x"

    class Unsourced(Method):
        """Documented."""

    for method in (Undocumented, Unsourced):
        with pytest.raises(TypeError, match="needs a docstring and a `source`"):
            new_registry().register("x")(method)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("alps", r"unknown protection 'alps': did you mean 'aspl'\? Known: .*`cloakbench methods`"),
        ({"method": "aspl", "buget": 3}, r"'aspl': unknown setting 'buget': did you mean 'budget'"),
        ({"method": "aspl", "preset": "mni"}, r"'aspl': unknown preset 'mni': did you mean 'mini'"),
        ({"method": "aspl", "rounds": 0}, r"'aspl': rounds = 0: .*greater than or equal to 1"),
        ({"method": "aspl", "rounds": "many"}, r"'aspl': rounds = 'many': .*integer"),
        ({"budget": 3}, r"the key 'method' is missing"),
        ({"method": 3}, r"unknown protection '3'"),
    ],
)
def test_a_bad_spec_is_one_line_with_the_nearest_name(spec, message):
    with pytest.raises(CloakBenchError, match=message) as caught:
        protections.build(spec)

    assert "\n" not in str(caught.value)


def test_settings_of_a_spec_win_over_its_preset_and_the_preset_over_defaults(package):
    gadgets = registry_of(package)

    assert gadgets.build({"method": "shiny", "preset": "big"}).size == 9
    assert gadgets.build({"method": "shiny", "preset": "big", "size": 2}).size == 2
    assert gadgets.build("shiny").size == 1


@pytest.mark.parametrize(("registry", "method"), EVERY, ids=[m.name for _, m in EVERY])
def test_every_preset_builds_and_every_spec_builds_an_equal_method(registry, method):
    required = any(field.is_required() for field in method.model_fields.values())
    if required:
        pytest.skip("has settings without defaults")

    for spec in ({}, *({"preset": preset} for preset in method.presets)):
        built = registry.build({"method": method.name, **spec})
        assert registry.build(built.spec()) == built


@pytest.mark.parametrize(("registry", "method"), EVERY, ids=[m.name for _, m in EVERY])
def test_every_method_is_named_after_its_file_and_every_setting_explained(registry, method):
    assert method.__module__.rsplit(".", 1)[1] == method.name
    assert all(field.description for field in method.model_fields.values())


def test_a_method_cannot_be_changed_after_it_was_built():
    with pytest.raises(ValueError, match="frozen"):
        purifiers.build("jpeg").quality = 3
