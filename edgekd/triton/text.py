"""Protobuf's text format, as much of it as a configuration needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]


class Word(str):
    """An enumerator of the schema, which stands without quotes."""


def lines(message: Message, indent: str = "") -> Iterator[str]:
    """A message in protobuf's text format, line by line."""
    for key, value in message.items():
        plain = isinstance(value, list) and not any(isinstance(each, dict) for each in value)
        if plain:
            yield f"{indent}{key}: [ {', '.join(map(_scalar, value))} ]"
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield f"{indent}{key} {{"
                yield from lines(each, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{key}: {_scalar(each)}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Word)):
        return str(value)
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter >= " " and letter != "\x7f" else f"\\{ord(letter):03o}"
