"""Methods are found by dropping in a file, and misuse is named at once."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from cloakbench import registry as module
from cloakbench.catalogue import REGISTRIES
from cloakbench.errors import CloakBenchError
from cloakbench.protect import protections
from cloakbench.purify import purifiers
from cloakbench.registry import Method, Registry, code_digest

GADGETS = """
from cloakbench.registry import Method, Registry

class Gadget(Method):
    '''Shared.'''
    size: int = 1

gadgets = Registry("gadget", "{package}", engine=("{package}.engine",))
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
    """A new package with a registry, an engine module and one method, `shiny`."""
    name = f"gadgets_{abs(hash(request.node.name))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "engine.py").write_text("STEP = 1\n")
    (folder / "base.py").write_text(GADGETS.format(package=name))
    (folder / "shiny.py").write_text(METHOD.format(package=name, name="shiny"))
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def registry_of(package: Path) -> Registry:
    return __import__(f"{package.name}.base", fromlist=["gadgets"]).gadgets


def new_registry() -> Registry:
    return Registry("gadget", "cloakbench.report")  # a package that registers nothing


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

    with pytest.raises(TypeError, match=r"gadget 'shiny' is registered twice"):
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


def edited(path: Path, *replacement: str) -> None:
    text = path.read_text()
    assert replacement[0] in text
    path.write_text(text.replace(*replacement))
    module._code.cache_clear()


def test_a_digest_ignores_comments_docstrings_and_layout(package):
    before = registry_of(package).digest("shiny")
    edited(package / "shiny.py", "It shines.", "It gleams.")
    edited(package / "shiny.py", '"""A module."""', '"""Another."""\n\n')
    edited(package / "shiny.py", "# a comment", "")
    edited(package / "base.py", "Shared.", "Common.")

    assert registry_of(package).digest("shiny") == before
    assert len(before) == 12


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("shiny.py", '"red"', '"blue"'),
        ("base.py", "size: int = 1", "size: int = 2"),
        ("engine.py", "STEP = 1", "STEP = 2"),
    ],
)
def test_a_digest_changes_with_the_method_its_base_and_the_engine(package, file, old, new):
    before = registry_of(package).digest("shiny")
    edited(package / file, old, new)

    assert registry_of(package).digest("shiny") != before


@pytest.mark.parametrize("file", ["helper.py", "deeper.py"])
def test_a_digest_follows_imports_wherever_they_stand(package, file):
    (package / "helper.py").write_text(f"from {package.name}.deeper import WORD\nHELP = 1\n")
    (package / "deeper.py").write_text("WORD = 1\n")
    late = f"\n    def verb(self):\n        from {package.name} import helper\n"
    (package / "shiny.py").write_text((package / "shiny.py").read_text() + late)
    before = registry_of(package).digest("shiny")
    edited(package / file, "= 1", "= 2")

    assert registry_of(package).digest("shiny") != before


def test_what_is_imported_for_types_alone_does_not_count(package):
    (package / "helper.py").write_text("HELP = 1\n")
    types = f"\nif TYPE_CHECKING:\n    from {package.name}.helper import HELP\n"
    text = "from typing import TYPE_CHECKING\n" + (package / "shiny.py").read_text()
    (package / "shiny.py").write_text(text + types)
    before = registry_of(package).digest("shiny")
    edited(package / "helper.py", "HELP = 1", "HELP = 2")

    assert registry_of(package).digest("shiny") == before


def test_a_method_of_its_own_family_depends_on_the_loss_that_it_borrows():
    from cloakbench.registry import _reached

    assert "cloakbench.protect.surrogate" in _reached("cloakbench.protect.caat")
    assert "cloakbench.score.faces.facexlib" in _reached("cloakbench.purify.codeformer")
    assert "cloakbench.protect.aspl" not in _reached("cloakbench.protect.noise")


def test_the_digest_of_a_package_changes_with_any_of_its_files(package):
    before = code_digest(package.name)
    (package / "page.html").write_text("<p>")
    module._code.cache_clear()

    assert code_digest(package.name) != before


def test_a_digest_does_not_change_with_another_methods_code(package):
    source = METHOD.format(package=package.name, name="dull").replace("Shiny", "Dull")
    (package / "dull.py").write_text(source)
    before = registry_of(package).digest("shiny")
    edited(package / "dull.py", '"red"', '"blue"')

    assert registry_of(package).digest("shiny") == before


def test_the_digest_of_a_missing_module_is_one_clear_error():
    with pytest.raises(CloakBenchError, match="its source file cannot be found"):
        code_digest("cloakbench.no_such_module")


def test_digests_differ_between_methods():
    digests = [protections.digest(name) for name in protections.names()]

    assert len(set(digests)) == len(digests)


def test_a_methods_docstring_in_a_function_does_not_count_either(package):
    body = '\n    def verb(self):\n        """Do."""\n        return 1\n'
    (package / "shiny.py").write_text(
        (package / "shiny.py").read_text() + textwrap.indent(body, "")
    )
    before = registry_of(package).digest("shiny")
    edited(package / "shiny.py", '"""Do."""', '"""Do it."""')
    assert registry_of(package).digest("shiny") == before

    edited(package / "shiny.py", "return 1", "return 2")
    assert registry_of(package).digest("shiny") != before
