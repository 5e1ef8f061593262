"""The manifest's rules, one by one: what ``tests.bad_manifests`` says, every reader does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgekd.artifacts import Preprocessing
from edgekd.errors import BundleError, CorruptBundle
from edgekd.manifest import inside, odd_preprocessing, parse, preprocessing_of, sealed
from tests.bad_manifests import CASES, GOOD, OTHER_MAJOR, good, resealed
from tests.conftest import ROOT

WHERE = Path("x.edgekd/manifest.json")
SCHEMA = json.loads((ROOT / "engines" / "manifest.schema.json").read_text())


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _refusal(text: str | bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        parse(_bytes(text), WHERE)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_what_breaks_a_rule_is_refused_in_one_line(name: str) -> None:
    made = CASES[name](good())
    assert _bytes(made) != good().encode()
    refused = _refusal(made)
    assert isinstance(refused, CorruptBundle)
    assert str(refused).startswith("x.edgekd/manifest.json ")
    assert str(refused).endswith(": copy the bundle again, or build it again")
    assert str(refused).isprintable() and len(str(refused)) < 400


@pytest.mark.parametrize("name", GOOD)
def test_what_breaks_none_is_taken(name: str) -> None:
    made = _bytes(GOOD[name](good()))
    assert parse(made, WHERE) == json.loads(made)


@pytest.mark.parametrize("name", OTHER_MAJOR)
def test_another_major_version_is_refused_and_nothing_else_looked_at(name: str) -> None:
    refused = _refusal(OTHER_MAJOR[name](good()))
    assert not isinstance(refused, CorruptBundle)
    version = json.loads(_bytes(OTHER_MAJOR[name](good())))["schema"]
    said = f"x.edgekd has schema {version}, and this version reads 1: update edgekd"
    assert str(refused) == said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key twice", 'is not a manifest (it has the key "name" twice)'),
        ("65 deep, lists", "is not a manifest (it is nested more than 64 deep)"),
        ("more than 16 MiB", "is not a manifest (it has more than 16 MiB)"),
        ("1e400", "is not a manifest (1e400 is no number that a double holds)"),
        ("a list", "is not a manifest (it is no JSON object)"),
        ("no engines.0.backend", "lacks or misstates 'engines[0].backend'"),
        ("engines.0.bytes is true", "lacks or misstates 'engines[0].bytes'"),
        ("one label", "lacks or misstates 'labels'"),
        ("file's size is text", "lacks or misstates 'files.a[0]'"),
        ("dimension 2**31", "lacks or misstates 'outputs[0].shape[1]'"),
        ("too large by a byte", "lacks or misstates 'outputs[0].shape'"),
        ("a std too few", "lacks or misstates 'preprocessing.std'"),
        ("a std below what float32 holds", "lacks or misstates 'preprocessing.std[1]'"),
        ("a label too many", "lacks or misstates 'labels'"),
        ("opt_batch 'many'", "lacks or misstates 'engines[0].options.opt_batch'"),
        ("batches from 5 to 4", "lacks or misstates 'engines[0].options.min_batch'"),
        ("engine's path: out", 'names "../outside", outside the bundle'),
        ("file's path: newline", r'names "engines/a\n", outside the bundle'),
        ("golden outputs that are no file", 'has no file "golden/none.npy"'),
        ("a space more", "was changed"),
    ],
)
def test_what_is_wrong_is_said(name: str, words: str) -> None:
    assert f"manifest.json {words}: copy" in str(_refusal(CASES[name](good())))


@given(st.data())
def test_every_bit_counts(data: st.DataObject) -> None:
    text = bytearray(good().encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= 1 << data.draw(st.integers(0, 7))
    _refusal(bytes(text))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.data(), values)
def test_whatever_is_put_anywhere_is_read_or_refused(data: st.DataObject, value: Any) -> None:
    manifest = json.loads(good())
    inner = manifest
    while True:
        keys = list(range(len(inner)) if isinstance(inner, list) else inner)
        key = data.draw(st.sampled_from(keys))
        if not inner[key] or not isinstance(inner[key], list | dict) or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = value
    text = sealed(manifest)
    with contextlib.suppress(BundleError):
        assert parse(text.encode(), WHERE) == json.loads(text)


def test_a_good_one_fits_the_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(good()))


_ONLY_READERS_SEE = {
    # the text, of which a schema sees the values
    "content is another", "content in escapes", "a space more", "another label",
    "integer with a point", "integer with an exponent", "dimension 1.0",
    # what one value says of another
    "grey, of three channels", "no colour, of three channels", "a mean too few", "a std too few",
    "preprocessing.mean is list", "preprocessing.std is list",
    "channels last, and the shape is not", "another number of channels", "channels that vary",
    "too large by a byte", "too large by its items", "so large that 64 bits do not hold it",
    "a label too many", "an output too many", "batches from 5 to 4",
    "golden images that are no file", "golden outputs that are no file", "golden.images is text",
    "engines.0.golden is text", "files is object",
    # bytes, where a schema counts characters
    *(f"{what}'s path: too long in UTF-8" for what in ("engine", "part", "file", "source")),
    # Python's $ in the schema's patterns, which other languages' do not share
    "schema '1.0\\n'", "backend 'a\\n'",
    *(f"{name}_batch '1\\n'" for name in ("min", "opt", "max")),
}  # fmt: skip


def test_the_schema_refuses_what_a_schema_can() -> None:
    validator = Draft202012Validator(SCHEMA)
    missed = set()
    for name, make in CASES.items():
        made = make(good())
        if "is not a manifest" not in str(_refusal(made)) and validator.is_valid(json.loads(made)):
            missed.add(name)
    assert missed == _ONLY_READERS_SEE


@given(st.text("a./\\\0\n ü", max_size=9))
def test_the_schema_and_the_reader_agree_on_paths(name: str) -> None:
    assert Draft202012Validator(SCHEMA["$defs"]["path"]).is_valid(name) == inside(name)


def test_sealing_again_changes_nothing_and_the_order_of_keys_does_not_matter() -> None:
    text = good()
    assert resealed(text) == text
    first = {"content": "ab" * 32, **json.loads(text)}
    assert parse(sealed(first).encode(), WHERE) == json.loads(sealed(first))


@pytest.mark.parametrize("zeros", ["0" * 64, "a" + "0" * 65])
def test_zeros_that_sealing_would_replace_are_not_written(zeros: str) -> None:
    record = {**json.loads(good()), "labels": ["no", zeros]}
    with pytest.raises(BundleError, match="the manifest holds 64 zeros in a row"):
        sealed(record)
    assert json.loads(sealed({**record, "labels": ["no", "0" * 63]}))["labels"][1] == "0" * 63


def test_the_record_of_a_preprocessing() -> None:
    record = json.loads(good())["preprocessing"]
    assert not odd_preprocessing(record)
    assert not odd_preprocessing({**record, "new": 1})
    made = preprocessing_of({**record, "new": 1})
    assert made == Preprocessing((0.5, 0.25, 0.125), (0.25, 0.5, 0.75))
    assert preprocessing_of({**record, "crop": 0.5, "layout": "NHWC"}).crop == 0.5
    for changed in ({"color": "L"}, {"std": [1]}, {"crop": 2}, {"mean": None}):
        assert odd_preprocessing({**record, **changed})
    assert odd_preprocessing([]) and odd_preprocessing({})
