"""The prompts of a study: one identifier and class noun, templates for everything else."""

from __future__ import annotations

import string

from pydantic import Field, field_validator

from cloakbench.errors import nearest
from cloakbench.names import check_name
from cloakbench.settings import Settings

_PLACEHOLDERS = ("identifier", "class_noun")


class Prompts(Settings):
    """Templates in which `{identifier}` and `{class_noun}` are filled in.

    Source: Anti-DreamBooth's training and sampling prompts (recipes 3.1 and 4).
    """

    identifier: str = Field(
        "sks", min_length=1, description="rare token that stands for the identity"
    )
    class_noun: str = Field("person", description="category of the identity")
    instance: str = Field(
        "a photo of {identifier} {class_noun}", description="prompt of the instance images"
    )
    of_class: str = Field("a photo of {class_noun}", description="prompt of the class images")
    sample: dict[str, str] = Field(
        {
            "photo": "a photo of {identifier} {class_noun}",
            "dslr_portrait": "a dslr portrait of {identifier} {class_noun}",
        },
        description="sampling prompts by key; the key names a folder",
        min_length=1,
    )

    @field_validator("class_noun")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        return check_name(value)

    @field_validator("instance", "of_class", "sample")
    @classmethod
    def _known_placeholders(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for template in [value] if isinstance(value, str) else value.values():
            for _, field, form, conversion in string.Formatter().parse(template):
                if conversion:
                    raise ValueError(
                        f"'{{{field}!{conversion}}}' has a conversion. Leave out '!{conversion}'"
                    )
                if form:
                    raise ValueError(f"'{{{field}:{form}}}' has a format. Leave out ':{form}'")
                if field is not None and field not in _PLACEHOLDERS:
                    known = nearest(field, _PLACEHOLDERS).removesuffix(".")
                    raise ValueError(f"unknown placeholder '{{{field}}}': {known}")
        return value

    @field_validator("sample")
    @classmethod
    def _keys_name_folders(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            try:
                check_name(key, "_-")
            except ValueError as error:
                raise ValueError(f"prompt key '{key}' {error}") from None
        return value

    @property
    def instance_prompt(self) -> str:
        return self._fill(self.instance)

    @property
    def class_prompt(self) -> str:
        return self._fill(self.of_class)

    @property
    def sample_prompts(self) -> dict[str, str]:
        return {key: self._fill(template) for key, template in self.sample.items()}

    def _fill(self, template: str) -> str:
        return template.format(identifier=self.identifier, class_noun=self.class_noun)
