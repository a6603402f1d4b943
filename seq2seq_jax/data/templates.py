"""Texts that are made of several fields of an example."""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with places for fields, or one field as it is.

    Attributes:
        names: of the fields, in their order.
        literals: the text before each field, and that after the last; None = the one field as it is.
    """

    names: tuple[str, ...]
    literals: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template of a text with names of fields in braces, or the name of one field, if it has no braces.

        {{ and }} stand for braces.

        Raises:
            ValueError: a brace is not closed, there is no field in them, or more than a name.
        """
        if "{" not in text and "}" not in text:
            return cls((text,))
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(
                f"expected names of fields in braces, such as '{{name}}', got {text!r}: {error}"
            ) from error
        names, literals = [], [""]
        for literal, name, specification, conversion in parts:
            literals[-1] += literal
            if name is None:
                continue
            if not name or specification or conversion:
                raise ValueError(
                    f"expected the name of a field alone in each pair of braces, got {text!r}: write {{{{ for a brace"
                )
            names.append(name)
            literals.append("")
        if not names:
            raise ValueError(f"expected a field in braces, such as '{{name}}', got {text!r}: name one")
        return cls(tuple(names), tuple(literals))

    def fill(self, fields: Mapping[str, Any], *, separator: str = " ") -> Any:
        """The text; the value of the field where it is one field as it is.

        Args:
            fields: texts by name, or lists of texts.
            separator: between the texts of a list.
        """
        if self.literals is None:
            return fields[self.names[0]]
        texts = (value if isinstance(value, str) else separator.join(value) for value in map(fields.get, self.names))
        return "".join(text for pair in zip(self.literals, (*texts, ""), strict=True) for text in pair)
