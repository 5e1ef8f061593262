"""``manifest.json`` of a bundle, read strictly.

Another language's reader accepts and refuses the same files; these are the rules:

1. UTF-8 without a byte order mark, at most 16 MiB, one JSON object nested at most 64 deep, itself
   counted; no key twice in an object, no NaN or Infinity, no number beyond a double's range, no
   lone surrogate.
2. ``schema`` is ``MAJOR.MINOR``, up to 9 digits each. Another major than ours is refused before
   anything else is looked at; of newer minors, keys that we do not know are passed over, anywhere.
3. ``content`` is 64 hexadecimal digits in lower case. The text with 64 zeros wherever they stand
   has them as its sha256; and with them wherever 64 zeros stand, it is the text itself.
4. Types are exact. An integer is written without point and exponent, and lies in 0…2**53; true is
   none. What names something (a bundle, tensor, free dimension, target, version, precision, device)
   has no character below U+0020; ``backend`` is ``[a-z0-9][a-z0-9_-]*``; other text may be any.
5. A path is relative, uses ``/``, has no component that is empty, ``.`` or ``..``, no backslash, no
   character below U+0020, and at most 4096 bytes. On disk no component is a link, and the file is
   a regular one. Its size is looked at before a byte is read.
6. ``inputs`` and ``outputs`` hold a tensor at least, of 1 to 8 dimensions. A dimension is an
   integer in 1…2**31-1, or a name where it may vary; what is fixed makes at most 2**40 bytes.
   If ``outputs[0]`` has two and the last is fixed, that is the number of ``labels``.
7. ``preprocessing`` has one ``mean`` and one ``std`` for each channel, that float32 holds: a mean
   lies within ±(2 - 2**-23) * 2**127, a std between 2**-126 and that. ``color`` is L for 1 channel,
   RGB for 3, null for any other number; ``crop`` is null or in (0, 1]. If ``inputs[0]`` has 4
   dimensions, its channels are as many.
8. What ``_FORM`` lists is there. ``source`` is a path or empty; ``golden`` of each engine and
   ``golden.images`` are in ``files``. Of an engine's ``options``, ``min_batch``, ``opt_batch`` and
   ``max_batch`` are 1 to 9 decimal digits and above 0, and the first is not above the last.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgekd.artifacts import COLORS, Preprocessing
from edgekd.errors import BundleError, CorruptBundle

SCHEMA = "1.0"
LARGEST = 16 << 20
"""Bytes of a manifest."""
REBUILD = "copy the bundle again, or build it again"

_UNSEALED = "0" * 64
_DEEPEST = 64
_LARGEST_INTEGER = 2**53
_LARGEST_DIMENSION = 2**31 - 1
_LARGEST_TENSOR = 2**40
_LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127
_SMALLEST_FLOAT32 = 2.0**-126
_LONGEST_PATH = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"([0-9]{1,9})\.[0-9]{1,9}")
_BACKEND = re.compile(r"[a-z0-9][a-z0-9_-]*")
_BATCH = re.compile(r"(?!0+\Z)[0-9]{1,9}")
_BATCHES = ("min_batch", "opt_batch", "max_batch")
_ITEMSIZES = {
    "float32": 4, "float16": 2, "float64": 8, "uint8": 1, "int8": 1, "int32": 4, "int64": 8,
    "bool": 1,
}  # fmt: skip


def parse(text: bytes, where: Path) -> dict[str, Any]:
    """A manifest that holds what its readers rely on.

    Args:
        text: of ``manifest.json``; a byte more than ``LARGEST`` is enough to refuse it.
        where: that file, for what is said.

    Raises:
        BundleError: its schema is of another major version.
        CorruptBundle: it breaks a rule.
    """
    try:
        found, decoded = _read(text)
    except (ValueError, RecursionError) as error:
        raise CorruptBundle(f"{where} is not a manifest ({error})", REBUILD) from error
    version = found.get("schema")
    told = _VERSION.fullmatch(version) if isinstance(version, str) else None
    ours = int(SCHEMA.split(".")[0])
    if told and int(told[1]) != ours:
        raise BundleError(
            f"{where.parent} has schema {version}, and this version reads {ours}", "update edgekd"
        )
    odd = next(_odd(_FORM, found), "") or _does_not_fit(found)
    if odd:
        raise CorruptBundle(f"{where} {odd}", REBUILD)
    if not _is_sealed(decoded, found["content"]):
        raise CorruptBundle(f"{where} was changed", REBUILD)
    return found


def sealed(manifest: Mapping[str, Any]) -> str:
    """``manifest.json``: the last entry is the sha256 of the text with zeros in its place.

    Raises:
        BundleError: 64 zeros stand elsewhere, and would become the sha256 as well.
    """
    text = json.dumps({**manifest, "content": _UNSEALED}, indent=1, allow_nan=False)
    if text.count(_UNSEALED) > 1:
        what = "the manifest holds 64 zeros in a row, which stand for its sha256"
        raise BundleError(what, "give the class or tensor with such a name another")
    return text.replace(_UNSEALED, hashlib.sha256(text.encode()).hexdigest())


def inside(path: str) -> bool:
    """Whether a path names something in the bundle, by its letters."""
    return (
        len(path.encode()) <= _LONGEST_PATH
        and _plain(path)
        and "\\" not in path
        and not {"", ".", ".."} & {*path.split("/")}
    )


def preprocessing_of(record: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a manifest tells."""
    known = {each.name: record[each.name] for each in fields(Preprocessing)}
    return Preprocessing(**{**known, "mean": tuple(record["mean"]), "std": tuple(record["std"])})


def odd_preprocessing(record: Any) -> str:
    """What is wrong with the record of a preprocessing, or nothing."""
    return next(_odd(_PREPROCESSING, record), "") or _does_not_fit_itself(record)


def _is_sealed(text: str, content: str) -> bool:
    unsealed = text.replace(content, _UNSEALED)
    if hashlib.sha256(unsealed.encode()).hexdigest() != content:
        return False
    return unsealed.replace(_UNSEALED, content) == text


def _read(text: bytes) -> tuple[dict[str, Any], str]:
    """The JSON object, and its text. Raises ValueError or RecursionError where it is none."""
    if len(text) > LARGEST:
        raise ValueError("it has more than 16 MiB")
    decoded = text.decode()
    found = json.loads(
        decoded,
        object_pairs_hook=_unique,
        parse_float=_finite,
        parse_int=_whole,
        parse_constant=_finite,
    )
    if type(found) is not dict:
        raise ValueError("it is no JSON object")
    _walk(found)
    return found, decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the key {json.dumps(twice)[:80]} twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number that a double holds")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _walk(root: Any) -> None:
    """Refuses what is nested too deep, and text that is not Unicode."""
    todo = [(root, 1)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, str):
            value.encode()  # a lone surrogate has no UTF-8
        elif isinstance(value, dict | list):
            if depth > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} deep")
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            todo.extend((each, depth + 1) for each in inner)


Holds = Callable[[Any], bool]


@dataclass(frozen=True)
class _List:
    """Values of one form."""

    each: Any
    least: int = 0
    most: float = math.inf


@dataclass(frozen=True)
class _Row:
    """Values of a form each."""

    forms: tuple[Any, ...]


@dataclass(frozen=True)
class _Items:
    """Keys that a test lets through, and values of one form."""

    key: Holds
    value: Any


@dataclass(frozen=True)
class _Maybe:
    """A key that may be left out."""

    form: Any


def _odd(form: Any, value: Any, place: str = "") -> Iterator[str]:
    """What of a value is not as its form says: a test, a table of keys, or one of the above."""
    wrong = f"lacks or misstates '{place}'"
    if isinstance(form, dict):
        if type(value) is not dict:
            yield wrong
            return
        for key, inner in form.items():
            at = f"{place}.{key}" if place else key
            if key in value:
                yield from _odd(inner.form if isinstance(inner, _Maybe) else inner, value[key], at)
            elif not isinstance(inner, _Maybe):
                yield f"lacks or misstates '{at}'"
    elif isinstance(form, _Items):
        if type(value) is not dict:
            yield wrong
            return
        for key, inner in value.items():
            yield from _odd(form.key, key, place)
            yield from _odd(form.value, inner, f"{place}.{json.dumps(key)[1:-1][:200]}")
    elif isinstance(form, _List):
        if type(value) is not list or not form.least <= len(value) <= form.most:
            yield wrong
            return
        for number, inner in enumerate(value):
            yield from _odd(form.each, inner, f"{place}[{number}]")
    elif isinstance(form, _Row):
        if type(value) is not list or len(value) != len(form.forms):
            yield wrong
            return
        for number, inner in enumerate(value):
            yield from _odd(form.forms[number], inner, f"{place}[{number}]")
    elif not form(value):
        outside = form is _path and type(value) is str
        yield f"names {json.dumps(value)[:200]}, outside the bundle" if outside else wrong


def _text(value: Any) -> bool:
    return type(value) is str


def _plain(value: str) -> bool:
    return not any(each < " " for each in value)


def _name(value: Any) -> bool:
    return type(value) is str and _plain(value)


def _path(value: Any) -> bool:
    return type(value) is str and inside(value)


def _integer(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INTEGER


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _above_0(value: Any) -> bool:
    return _number(value) and value > 0


def _within(least: float, most: float) -> Holds:
    return lambda value: _number(value) and least <= float(value) <= most


def _or_null(test: Holds) -> Holds:
    return lambda value: value is None or test(value)


def _one_of(*choices: Any) -> Holds:
    return lambda value: value in choices


def _like(pattern: re.Pattern[str]) -> Holds:
    return lambda value: type(value) is str and bool(pattern.fullmatch(value))


def _dimension(value: Any) -> bool:
    return _name(value) or (_integer(value) and 1 <= value <= _LARGEST_DIMENSION)


_FILE = {"path": _path, "bytes": _integer, "sha256": _like(_SHA256)}
_TENSORS = _List(
    {"name": _name, "dtype": _one_of(*_ITEMSIZES), "shape": _List(_dimension, 1, 8)}, least=1
)
_ENGINE = {
    "target": _name,
    "backend": _like(_BACKEND),
    "version": _name,
    "precision": _name,
    "device": _name,
    "executed": lambda value: type(value) is bool,
    **_FILE,
    "parts": _List(_FILE),
    "options": _Items(_text, _text),
    "source": lambda value: value == "" or _path(value),
    "golden": _path,
    "tolerance": _above_0,
}
_PREPROCESSING = {
    "color": _one_of(None, *COLORS.values()),
    "crop": _or_null(lambda value: _above_0(value) and value <= 1),
    "resize": _one_of("bilinear"),
    "mean": _List(_within(-_LARGEST_FLOAT32, _LARGEST_FLOAT32)),
    "std": _List(_within(_SMALLEST_FLOAT32, _LARGEST_FLOAT32)),
    "layout": _one_of("NCHW", "NHWC"),
    "dtype": _one_of("float32"),
}
_FORM = {
    "schema": _like(_VERSION),
    "content": _like(_SHA256),
    "name": _name,
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "preprocessing": _PREPROCESSING,
    "labels": _List(_text, least=2),
    "engines": _List(_ENGINE),
    "golden": {"images": _path},
    "budget": {
        "fps": _or_null(_number),
        "max_drop": _or_null(_number),
        "deadline_ms": _Maybe(_or_null(_number)),
    },
    "verdict": {"status": _text},
    "provenance": _Items(_text, _like(_SHA256)),
    "files": _Items(_path, _Row((_integer, _like(_SHA256)))),
}


def _does_not_fit(found: Mapping[str, Any]) -> str:
    """What of a manifest, each part of which has its form, contradicts the rest; or nothing."""
    for kind in ("inputs", "outputs"):
        for number, tensor in enumerate(found[kind]):
            fixed = [each for each in tensor["shape"] if type(each) is int]
            if math.prod(fixed) * _ITEMSIZES[tensor["dtype"]] > _LARGEST_TENSOR:
                return f"lacks or misstates '{kind}[{number}].shape'"
    made, shape = found["preprocessing"], found["inputs"][0]["shape"]
    if odd := _does_not_fit_itself(made):
        return odd
    axis = 1 if made["layout"] == "NCHW" else 3
    if len(shape) == 4 and shape[axis] != len(made["mean"]):
        return "lacks or misstates 'preprocessing.mean'"
    last = found["outputs"][0]["shape"][1:]
    if len(last) == 1 and type(last[0]) is int and last[0] != len(found["labels"]):
        return "lacks or misstates 'labels'"
    for number, engine in enumerate(found["engines"]):
        if odd := _odd_batch(engine["options"]):
            return f"lacks or misstates 'engines[{number}].options.{odd}'"
    for record in (*found["engines"], {"golden": found["golden"]["images"]}):
        if record["golden"] not in found["files"]:
            return f"has no file {json.dumps(record['golden'])}"
    return ""


def _odd_batch(options: Mapping[str, str]) -> str:
    """Which of the batches among an engine's options is none, or nothing."""
    for name in _BATCHES:
        if not _BATCH.fullmatch(options.get(name, "1")):
            return name
    least, most = options.get("min_batch", "1"), options.get("max_batch", "9" * 9)
    return "min_batch" if int(least) > int(most) else ""


def _does_not_fit_itself(made: Mapping[str, Any]) -> str:
    if len(made["std"]) != len(made["mean"]):
        return "lacks or misstates 'preprocessing.std'"
    if made["color"] != COLORS.get(len(made["mean"])):
        return "lacks or misstates 'preprocessing.color'"
    return ""
