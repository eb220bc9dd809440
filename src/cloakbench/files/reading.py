"""YAML and JSON that people write, read strictly: nothing means another thing than it seems to."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from typing import Any, NoReturn

import yaml

from cloakbench.errors import CloakBenchError, reason

CHANGES_NO_RESULT = True

_DEEPEST, _MOST = 30, 100_000  # levels and values of a config; it is a few levels, and hundreds
_TRAP = re.compile(r"[-+]?0[0-9_]+|.*:.*")  # YAML 1.1 takes 010 for 8, and 1:30 for 90
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_json(text: str, what: str) -> Any:
    """Data from JSON.

    Raises:
        CloakBenchError: it is no JSON, names a key twice, or see `check_data`; `what` says where.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_keys((key for key, _ in pairs), what)
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise CloakBenchError(f"{what} is not valid JSON ({error}).") from None
    except ValueError as error:
        _no_value(what, error)
    except RecursionError:
        _too_deep(what)
    check_data(data, what)
    return data


def parse_yaml(text: str, what: str) -> Any:
    """Data from YAML without tags.

    Raises:
        CloakBenchError: it is no YAML, names a key twice, has a number that YAML reads as another,
            or see `check_data`; `what` says where.
    """

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            own = [key for key, _ in node.value]  # before those of a merge are put among them
            made = super().construct_mapping(node, deep)
            _check_keys((self.construct_object(key) for key in own), what)
            return made

        def number(self, node: yaml.ScalarNode) -> int | float:
            whole = node.tag.endswith("int")
            read = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            if _TRAP.fullmatch(node.value):
                raise CloakBenchError(
                    f"{what}: YAML takes {node.value} for {read}. Write a number without 0 in "
                    f'front and without colons, or text as "{node.value}".'
                )
            return read

    for kind in ("int", "float"):
        Strict.add_constructor(f"tag:yaml.org,2002:{kind}", Strict.number)
    try:
        data = yaml.load(text, Strict)
    except yaml.YAMLError as error:
        raise CloakBenchError(f"{what}: is not valid YAML ({reason(error)}).") from None
    except ValueError as error:
        _no_value(what, error)
    except RecursionError:
        _too_deep(what)
    check_data(data, what)
    return data


def check_data(data: Any, what: str) -> None:
    """See that data is a tree of modest size, and that its text can be written everywhere.

    Raises:
        CloakBenchError: it is deep or large, also by references to itself; text has control
            characters or halves of characters.
    """
    left = [(data, 0)]
    for value, depth in left:
        if depth > _DEEPEST or len(left) > _MOST:
            _too_deep(what)
        if isinstance(value, dict):
            left += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and (found := _CONTROL.search(value)):
            raise CloakBenchError(
                f"{what}: text holds {found[0]!a}, which is no letter or mark. Take it out of "
                f"{ascii(value)[:60]}."
            )


def _check_keys(keys: Iterable[Hashable], what: str) -> None:
    known: set[Hashable] = set()
    for key in keys:
        if key in known:
            raise CloakBenchError(f"{what}: the key '{key}' is there twice. Keep one of them.")
        known.add(key)


def _too_deep(what: str) -> NoReturn:
    raise CloakBenchError(
        f"{what}: is nested more than {_DEEPEST} levels deep, perhaps in itself, or holds more "
        f"than {_MOST:,} values. Write it flatter."
    ) from None


def _no_value(what: str, error: ValueError) -> NoReturn:
    """A number of thousands of digits, or a day that its month does not have."""
    if "digits" in str(error):
        raise CloakBenchError(
            f"{what}: a number has thousands of digits. Write a shorter one."
        ) from None
    raise CloakBenchError(
        f"{what}: holds a value that there is not ({reason(error)}). Put text in quotes."
    ) from None
