"""Manifests that every reader must refuse, and odd ones that every reader must take.

Each entry makes one from the text of a good manifest that has an engine. Where the fault lies
within, it is sealed again, so that the fault alone can be what is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from edgekd.manifest import LARGEST

Make = Callable[[str], "str | bytes"]
ZEROS = "0" * 64


def good() -> str:
    """A manifest with one engine of two files; none of its files is anywhere."""
    digest = hashlib.sha256(b"").hexdigest()
    return sealed(
        {
            "schema": "1.0",
            "name": "small",
            "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 3, 8, 6]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 2]}],
            "preprocessing": {
                "color": "RGB",
                "crop": None,
                "resize": "bilinear",
                "mean": [0.5, 0.25, 0.125],
                "std": [0.25, 0.5, 0.75],
                "layout": "NCHW",
                "dtype": "float32",
            },
            "labels": ["no", "yes"],
            "engines": [
                {
                    "target": "openvino-cpu",
                    "backend": "openvino",
                    "version": "2026.0",
                    "precision": "int8",
                    "device": "cpu",
                    "executed": True,
                    "path": "engines/openvino-cpu/int8.xml",
                    "bytes": 0,
                    "sha256": digest,
                    "parts": [
                        {"path": "engines/openvino-cpu/int8.bin", "bytes": 0, "sha256": digest}
                    ],
                    "options": {"hint": "latency"},
                    "source": "",
                    "golden": "golden/openvino-cpu.int8.npy",
                    "tolerance": 0.125,
                }
            ],
            "golden": {"images": "golden/images.npy"},
            "budget": {"fps": 30.0, "max_drop": 1.0, "deadline_ms": None},
            "verdict": {"status": "pass", "reasons": []},
            "provenance": {"data": digest},
            "files": {
                "golden/images.npy": [0, digest],
                "golden/openvino-cpu.int8.npy": [0, digest],
            },
        }
    )


def sealed(manifest: Any) -> str:
    """As ``edgekd.manifest`` seals one, and one that holds 64 zeros elsewhere too."""
    text = json.dumps({**manifest, "content": ZEROS}, indent=1)
    return text.replace(ZEROS, hashlib.sha256(text.encode()).hexdigest())


def resealed(text: str) -> str:
    """A text whose seal is mended; it need not be JSON."""
    content = re.findall(r'"content": "([0-9a-f]{64})"', text)[-1]
    unsealed = text.replace(content, ZEROS)
    return unsealed.replace(ZEROS, hashlib.sha256(unsealed.encode()).hexdigest())


def _with(change: Callable[[Any], Any]) -> Make:
    """What a manifest's value becomes; ``change`` works in place."""

    def make(text: str) -> str:
        manifest = json.loads(text)
        change(manifest)
        return sealed(manifest)

    return make


def _set(value: Any, *place: str | int) -> Make:
    """One value put in place of another, or a new one."""

    def change(manifest: Any) -> None:
        *outer, last = place
        for each in outer:
            manifest = manifest[each]
        manifest[last] = value

    return _with(change)


def _without(*place: str | int) -> Make:
    def change(manifest: Any) -> None:
        *outer, last = place
        for each in outer:
            manifest = manifest[each]
        del manifest[last]

    return _with(change)


def _text(pattern: str, into: str) -> Make:
    """The text itself changed in one place, and sealed."""

    def make(text: str) -> str:
        changed, count = re.subn(pattern, lambda found: found.expand(into), text, count=1)
        assert count, pattern
        return resealed(changed)

    return make


def _tolerance(literal: str) -> Make:
    """A number as it is written."""
    return _text(r'("tolerance": )[^,\s]+', rf"\g<1>{literal}")


def _nested(depth: int, opening: str, closing: str) -> Make:
    """A further key whose value makes the manifest so deep."""
    inner = opening * (depth - 1) + "0" + closing * (depth - 1)
    return _text(r"\A\{", '{"deep": ' + inner + ",")


def _renamed(name: str) -> Make:
    """Another path for the engine's file."""
    return _set(name, "engines", 0, "path")


def _escaped(text: str) -> str:
    """The digest in escapes, so that the seal's zeros stand nowhere."""
    content = json.loads(text)["content"]
    return text.replace(content, "".join(f"\\u{ord(each):04x}" for each in content))


def _file_named(name: str) -> Make:
    return _with(lambda manifest: manifest["files"].update({name: [0, ZEROS]}))


_PATHS = {
    "out": "../outside",
    "out in the middle": "engines/../../outside",
    "back in": "engines/../engines/a",
    "absolute": "/etc/passwd",
    "backslash": "engines\\a",
    "drive": "C:\\a",
    "dot": ".",
    "dots": "..",
    "dot in the middle": "engines/./a",
    "empty": "",
    "slash": "/",
    "two slashes": "engines//a",
    "slash at the end": "engines/",
    "nul": "engines/a\0b",
    "newline": "engines/a\n",
    "too long": "a/" * 2048 + "a",
    "too long in UTF-8": "ü" * 2049,
}
_REQUIRED = [
    ("schema",), ("name",), ("inputs",), ("outputs",), ("preprocessing",), ("labels",),
    ("engines",), ("golden",), ("golden", "images"), ("budget",), ("budget", "fps"),
    ("budget", "max_drop"), ("verdict",), ("verdict", "status"), ("provenance",), ("files",),
    *[("inputs", 0, key) for key in ("name", "dtype", "shape")],
    *[("outputs", 0, key) for key in ("name", "dtype", "shape")],
    *[("preprocessing", key)
      for key in ("color", "crop", "resize", "mean", "std", "layout", "dtype")],
    *[("engines", 0, key)
      for key in ("target", "backend", "version", "precision", "device", "executed", "path",
                  "bytes", "sha256", "parts", "options", "source", "golden", "tolerance")],
    *[("engines", 0, "parts", 0, key) for key in ("path", "bytes", "sha256")],
]  # fmt: skip
_TYPES: dict[str, Any] = {
    "null": None,
    "true": True,
    "number": 1.5,
    "text": "7",
    "list": [],
    "object": {},
}
_RIGHT = {  # the types that a key may have, by the key
    "crop": {"null", "true"}, "color": {"null"}, "fps": {"null", "number"},
    "max_drop": {"null", "number"}, "deadline_ms": {"null", "number"}, "tolerance": {"number"},
    "engines": {"list"}, "parts": {"list"}, "options": {"object"}, "provenance": {"object"},
    "executed": {"true"},
    **{key: {"text"} for key in ("name", "target", "backend", "version", "precision", "device",
                                 "source", "status", "path")},
}  # fmt: skip


def _of_types() -> dict[str, Make]:
    """Every key that is read, with a value of each type that it may not have."""
    cases = {}
    for place in (*_REQUIRED, ("budget", "deadline_ms")):
        key = str(place[-1])
        for kind, value in _TYPES.items():
            if kind not in _RIGHT.get(key, set()):
                cases[f"{'.'.join(map(str, place))} is {kind}"] = _set(value, *place)
    cases["preprocessing.crop is true"] = _set(True, "preprocessing", "crop")
    return cases


CASES: dict[str, Make] = {
    # 1: the text
    "empty": lambda _: "",
    "no JSON": lambda _: "manifest",
    "a list": lambda text: f"[{text}]",
    "null": lambda _: "null",
    "cut short": lambda text: text[:-1],
    "more after it": lambda text: text + "{}",
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "not UTF-8": lambda text: text.encode().replace(b'"labels"', b'"\xff": 0, "labels"'),
    "UTF-8 too long": lambda text: text.encode().replace(b'"labels"', b'"\xc0\xaf": 0, "labels"'),
    "surrogate in UTF-8": lambda text: text.encode().replace(
        b'"labels"', b'"\xed\xa0\x80": 0, "labels"'
    ),
    "more than 16 MiB": lambda text: resealed(text + " " * LARGEST),
    "key twice": _text(r"\A\{", '{"name": "other",'),
    "key twice, inside": _text(r'"status":', '"status": "fail", "status":'),
    "key twice, in what nobody knows": _text(r"\A\{", '{"new": [{"a": 1, "a": 1}],'),
    "key twice, once in escapes": _text(r"\A\{", r'{"\\u006eame": "other",'),
    "NaN": _tolerance("NaN"),
    "Infinity": _tolerance("Infinity"),
    "-Infinity": _tolerance("-Infinity"),
    "1e400": _tolerance("1e400"),
    "-1e400": _text(r"\A\{", '{"new": -1e400,'),
    "400 digits": _tolerance("9" * 400),  # no noughts, which the seal would replace
    "400 digits in what nobody knows": _text(r"\A\{", '{"new": [' + "9" * 400 + "],"),
    "5000 digits": _tolerance("9" * 5000),
    "hexadecimal": _tolerance("0x1"),
    "leading zero": _tolerance("01"),
    "plus": _tolerance("+1"),
    "no digit before the point": _tolerance(".5"),
    "no digit after the point": _tolerance("1."),
    "comment": _text(r"\A\{", "{ // yes\n"),
    "comma at the end": _text(r"\}\s*\Z", ",}"),
    "single quotes": _text(r'"pass"', "'pass'"),
    "tab in text": _text(r'"name": "', '"name": "\t'),
    "unknown escape": _text(r'"labels": \[', r'"labels": ["\\x41",'),
    "lone high surrogate": _text(r'"labels": \[', r'"labels": ["\\ud800",'),
    "lone low surrogate": _text(r'"labels": \[', r'"labels": ["\\udc00",'),
    "surrogates in the wrong order": _text(r'"labels": \[', r'"labels": ["\\udc00\\ud800",'),
    "lone surrogate in what nobody knows": _text(r"\A\{", r'{"\\ud800": 1,'),
    "65 deep, lists": _nested(65, "[", "]"),
    "65 deep, objects": _nested(65, '{"a": ', "}"),
    "100,000 deep": _nested(100_000, "[", "]"),
    "100,000 deep and cut short": lambda _: "[" * 100_000,
    # 2: the version
    **{
        f"schema {version!r}": _set(version, "schema")
        for version in (
            "",
            "1",
            "1.",
            ".0",
            "1.0.0",
            "v1.0",
            "1.x",
            "-1.0",
            " 1.0",
            "1.0 ",
            "1,0",
            "1.0\n",
            "１.0",
            "1.1234567890",
            "0000000001.0",
        )
    },
    # 3: the seal
    "content is null": lambda text: re.sub(r'"content": "[^"]*"', '"content": null', text),
    "content is another": lambda text: re.sub(r'("content": ")[^"]*', r"\1" + "ab" * 32, text),
    "content is nought": lambda text: re.sub(r'("content": ")[^"]*', r"\1" + ZEROS, text),
    "content in upper case": lambda text: re.sub(
        r'("content": ")([^"]*)', lambda found: found[1] + found[2].upper(), text
    ),
    "content too short": lambda text: re.sub(r'("content": "[^"]*).', r"\1", text),
    "content missing": lambda text: re.sub(r',\s*"content": "[^"]*"', "", text),
    "content in escapes": _escaped,
    "a space more": lambda text: text.replace('"name":', '"name": ', 1),
    "another label": lambda text: re.sub(r'("labels": \[\s*")', r"\1x", text),
    # 4: types
    **_of_types(),
    "integer with a point": _text(r'("bytes": )\d+', r"\g<1>1.0"),
    "integer with an exponent": _text(r'("bytes": )\d+', r"\g<1>1e0"),
    "integer below 0": _set(-1, "engines", 0, "bytes"),
    "integer above 2**53": _set(2**53 + 1, "engines", 0, "bytes"),
    "integer above 2**64": _set(2**64, "engines", 0, "bytes"),
    "label is a number": _set([1, 2], "labels"),
    "one label": _set(["only"], "labels"),
    "option is a number": _set({"threads": 1}, "engines", 0, "options"),
    "part is text": _set(["a"], "engines", 0, "parts"),
    "engine is a list": _set([[]], "engines"),
    "engines is an object": _set({"0": {}}, "engines"),
    "provenance is no sha256": _set({"data": "abc"}, "provenance"),
    "budget is a list": _set([30.0, 1.0], "budget"),
    "verdict is text": _set("pass", "verdict"),
    "nul in the name": _set("a\0b", "name"),
    "nul in an input's name": _set("a\0b", "inputs", 0, "name"),
    "newline in a target": _set("a\nb", "engines", 0, "target"),
    "newline in a version": _set("1\n", "engines", 0, "version"),
    "newline in a device": _set("cpu\n", "engines", 0, "device"),
    "newline in a precision": _set("int8\n", "engines", 0, "precision"),
    "newline in a free dimension": _set("batch\n", "inputs", 0, "shape", 0),
    **{
        f"backend {name!r}": _set(name, "engines", 0, "backend")
        for name in ("", "../x", "a/b", "OpenVINO", "-a", "_a", "a.b", "a b", "a\n", "ö")
    },
    "sha256 too short": _set("ab" * 31, "engines", 0, "sha256"),
    "sha256 in upper case": _set("AB" * 32, "engines", 0, "sha256"),
    "sha256 of no digits": _set("xy" * 32, "engines", 0, "sha256"),
    "sha256 of a part": _set("x", "engines", 0, "parts", 0, "sha256"),
    # 5: paths
    **{f"engine's path: {name}": _renamed(path) for name, path in _PATHS.items()},
    **{
        f"part's path: {name}": _set(path, "engines", 0, "parts", 0, "path")
        for name, path in _PATHS.items()
    },
    **{f"file's path: {name}": _file_named(path) for name, path in _PATHS.items()},
    **{
        f"source's path: {name}": _set(path, "engines", 0, "source")
        for name, path in _PATHS.items()
        if path
    },
    "file of one figure": _with(lambda manifest: manifest["files"].update(a=[0])),
    "file of three": _with(lambda manifest: manifest["files"].update(a=[0, ZEROS, 0])),
    "file's size is text": _with(lambda manifest: manifest["files"].update(a=["0", ZEROS])),
    "file's size is true": _with(lambda manifest: manifest["files"].update(a=[True, ZEROS])),
    "file's size below 0": _with(lambda manifest: manifest["files"].update(a=[-1, ZEROS])),
    "file's sha256": _with(lambda manifest: manifest["files"].update(a=[0, ZEROS[1:]])),
    "file is an object": _with(lambda manifest: manifest["files"].update(a={"bytes": 0})),
    # 6: tensors
    "no input": _set([], "inputs"),
    "no output": _set([], "outputs"),
    **{
        f"dtype {name!r}": _set(name, "inputs", 0, "dtype")
        for name in ("float", "<f4", "object", "complex64", "Float32", "")
    },
    "no dimension": _set([], "outputs", 0, "shape"),
    "nine dimensions": _set([1] * 9, "outputs", 0, "shape"),
    "dimension 0": _set([1, 0], "outputs", 0, "shape"),
    "dimension -1": _set([-1, 2], "outputs", 0, "shape"),
    "dimension 1.0": _set([1.0, 2], "outputs", 0, "shape"),
    "dimension true": _set([True, 2], "outputs", 0, "shape"),
    "dimension null": _set([None, 2], "outputs", 0, "shape"),
    "dimension 2**31": _set([1, 2**31], "outputs", 0, "shape"),
    "too large by a byte": _with(
        lambda manifest: manifest["outputs"][0].update(dtype="uint8", shape=[2**20 + 1, 2**20])
    ),
    "too large by its items": _set([2**19, 2**20], "outputs", 0, "shape"),
    "so large that 64 bits do not hold it": _set([2**31 - 1] * 8, "outputs", 0, "shape"),
    "a label too many": _set(["no", "yes", "perhaps"], "labels"),
    "an output too many": _set(["batch", 3], "outputs", 0, "shape"),
    # 7: preprocessing
    "grey, of three channels": _set("L", "preprocessing", "color"),
    "no colour, of three channels": _set(None, "preprocessing", "color"),
    "another colour": _set("BGR", "preprocessing", "color"),
    "colour in lower case": _set("rgb", "preprocessing", "color"),
    "crop 0": _set(0, "preprocessing", "crop"),
    "crop 0 for being so small": _text(r'("crop": )null', r"\g<1>1e-400"),
    "crop below 0": _set(-0.5, "preprocessing", "crop"),
    "crop above 1": _set(1.0000001, "preprocessing", "crop"),
    "another resize": _set("bicubic", "preprocessing", "resize"),
    "another layout": _set("CHW", "preprocessing", "layout"),
    "another dtype": _set("float16", "preprocessing", "dtype"),
    "a mean too few": _set([0.5, 0.5], "preprocessing", "mean"),
    "a std too few": _set([0.5, 0.5], "preprocessing", "std"),
    "a std of 0": _set([0.5, 0, 0.5], "preprocessing", "std"),
    "a std below 0": _set([0.5, -0.5, 0.5], "preprocessing", "std"),
    "a std below what float32 holds": _set([0.5, 1e-39, 0.5], "preprocessing", "std"),
    "a std just below it": _set([0.5, 1.1754943508222874e-38, 0.5], "preprocessing", "std"),
    "a std above what float32 holds": _set([0.5, 3.5e38, 0.5], "preprocessing", "std"),
    "a std just above it": _set([0.5, 3.402823466385289e38, 0.5], "preprocessing", "std"),
    "a std of 300 digits": _set([1, 7**355, 1], "preprocessing", "std"),
    "a mean above what float32 holds": _set([3.402823466385289e38] * 3, "preprocessing", "mean"),
    "a mean below it": _set([-3.5e38] * 3, "preprocessing", "mean"),
    "a mean of text": _set([0.5, "0.5", 0.5], "preprocessing", "mean"),
    "a mean of true": _set([0.5, True, 0.5], "preprocessing", "mean"),
    "channels last, and the shape is not": _set("NHWC", "preprocessing", "layout"),
    "another number of channels": _set(["batch", 4, 8, 6], "inputs", 0, "shape"),
    "channels that vary": _set(["batch", "channels", 8, 6], "inputs", 0, "shape"),
    # 8: what must be there
    **{f"no {'.'.join(map(str, place))}": _without(*place) for place in _REQUIRED},
    **{
        f"{name}_batch {text!r}": _set({f"{name}_batch": text}, "engines", 0, "options")
        for name in ("min", "opt", "max")
        for text in (
            *("", "0", "000", "-1", "+1", "1.0", "1e1", " 1", "1\n", "1_0", "\u0661", "many"),
            *("1234567890", "0000000001", "9" * 50),
        )
    },
    "batches from 5 to 4": _set({"min_batch": "5", "max_batch": "4"}, "engines", 0, "options"),
    "tolerance 0": _set(0, "engines", 0, "tolerance"),
    "tolerance 0 for being so small": _tolerance("1e-400"),
    "tolerance below 0": _set(-1e-3, "engines", 0, "tolerance"),
    "golden images that are no file": _set("golden/none.npy", "golden", "images"),
    "golden outputs that are no file": _set("golden/none.npy", "engines", 0, "golden"),
}
"""What is a corrupt bundle. Its text is for ``good``, whose model takes three channels."""

OTHER_MAJOR: dict[str, Make] = {
    "2.0": _set("2.0", "schema"),
    "999999999.999999999": _set("999999999.999999999", "schema"),
    "2.0 and all else is gone": lambda _: '{"schema": "2.0"}',
    "2.0 and not sealed": lambda text: text.replace('"1.0"', '"2.0"', 1),
    "0.9": _set("0.9", "schema"),
}
"""What a later version, or an earlier one, may be able to read."""

GOOD: dict[str, Make] = {
    "as it is": lambda text: text,
    "a newer minor": _set("1.999999999", "schema"),
    "leading zeros in the version": _set("01.00", "schema"),
    "unknown keys everywhere": _with(
        lambda manifest: [
            each.update(unknown={"a": [None, True, -1.5e300, "é"]})
            for each in (
                manifest, manifest["inputs"][0], manifest["preprocessing"],
                manifest["engines"][0], *manifest["engines"][0]["parts"], manifest["golden"],
                manifest["budget"], manifest["verdict"],
            )
        ]
    ),
    "integers where numbers are": _with(
        lambda manifest: (
            manifest["preprocessing"].update(mean=[0, -1, 10**30], std=[1, 2, 3], crop=1),
            manifest["budget"].update(fps=30, max_drop=0, deadline_ms=5),
            manifest["engines"][0].update(tolerance=1),
        )
    ),
    "the largest number": _tolerance("1.7976931348623157e308"),
    "an integer of 309 digits": _tolerance("17976931348623157" + "1" * 292),
    "an exponent with a plus": _tolerance("1E+2"),
    "minus nought": _text(r'("bytes": )\d+', r"\g<1>-0"),
    "the largest integer": _set(2**53, "engines", 0, "bytes"),
    "no budget": _set({"fps": None, "max_drop": None}, "budget"),
    "a rate of nought": _set({"fps": 0, "max_drop": None, "deadline_ms": -1}, "budget"),
    "no engine": _set([], "engines"),
    "no part and no option": _with(
        lambda manifest: manifest["engines"][0].update(parts=[], options={})
    ),
    "no version": _set("", "engines", 0, "version"),
    "a precision of the future": _set("int2", "engines", 0, "precision"),
    "a verdict of the future": _set({"status": "maybe"}, "verdict"),
    "no provenance": _set({}, "provenance"),
    "labels in any script": _with(
        lambda manifest: (
            manifest.update(labels=["größer", "猫", "🐈", "", "a\nb"]),
            manifest["outputs"][0].update(shape=["batch", 5]),
        )
    ),
    "labels of an output that may vary": _with(
        lambda manifest: (
            manifest.update(labels=["a", "b", "c"]),
            manifest["outputs"][0].update(shape=["batch", "classes"]),
        )
    ),
    "labels of an output of three dimensions": _set([1, 7, 1], "outputs", 0, "shape"),
    "a second output of any size": _with(
        lambda manifest: manifest["outputs"].append({**manifest["outputs"][0], "shape": [1, 7]})
    ),
    "labels in UTF-8": lambda text: resealed(
        json.dumps({**json.loads(text), "labels": ["猫", "🐈"]}, ensure_ascii=False)
    ),
    "a pair of surrogates": _text(r'"no"', r'"\\ud83d\\udc08"'),
    "escaped slashes": lambda text: resealed(text.replace("/", "\\/")),
    "a path in escapes": _text(r'("path": "engines)/', r"\1\\u002f"),
    "no spaces": lambda text: resealed(
        re.sub(r'("content":)', r"\1 ", json.dumps(json.loads(text), separators=(",", ":")))
    ),
    "spaces around": lambda text: resealed(f"\r\n\t {text} \r\n\t"),
    "keys in another order": lambda text: resealed(json.dumps(json.loads(text), sort_keys=True)),
    "64 deep": _nested(64, "[", "]"),
    "64 deep, objects": _nested(64, '{"a": ', "}"),
    "16 MiB": lambda text: resealed(text + " " * (LARGEST - len(text.encode()))),
    "a path of 4096 bytes": _renamed("ü" * 2046 + "/abc"),
    "a path with dots": _renamed("engines/..a/b../...c/.d"),
    "a path with a colon and spaces": _renamed("engines/a: b\x7f"),
    "cropped": _set(0.875, "preprocessing", "crop"),
    "the smallest crop": _text(r'("crop": )null', r"\g<1>5e-324"),
    "the largest figures that float32 holds": _with(
        lambda manifest: manifest["preprocessing"].update(
            mean=[3.4028234663852886e38, -3.4028234663852886e38, 0.5],
            std=[3.4028234663852886e38, 1.1754943508222875e-38, int(3.4028234663852886e38) + 1],
        )
    ),
    "batches": _set(
        {"min_batch": "4", "opt_batch": "2", "max_batch": "000000004", "other_batch": "x"},
        "engines", 0, "options",
    ),
    "a least batch alone": _set({"min_batch": "999999999"}, "engines", 0, "options"),
    "channels last": _with(
        lambda manifest: (
            manifest["preprocessing"].update(layout="NHWC"),
            manifest["inputs"][0].update(shape=["batch", 8, 6, 3]),
        )
    ),
    "grey": _with(
        lambda manifest: (
            manifest["preprocessing"].update(color="L", mean=[0.5], std=[0.5]),
            manifest["inputs"][0].update(shape=[1, 1, 8, 6]),
        )
    ),
    "two channels": _with(
        lambda manifest: (
            manifest["preprocessing"].update(color=None, mean=[0.5] * 2, std=[0.5] * 2),
            manifest["inputs"][0].update(shape=["batch", 2, "height", "width"]),
        )
    ),
    "an input of two dimensions": _set(["batch", 12], "inputs", 0, "shape"),
    "a tensor of 2**40 bytes": _set([2**18, 2**20, "any"], "outputs", 0, "shape"),
    "eight dimensions": _set([1] * 8, "outputs", 0, "shape"),
    "two files of one name": _with(
        lambda manifest: manifest["files"].update({manifest["engines"][0]["path"]: [7, ZEROS]})
    ),
}  # fmt: skip
"""What every reader takes."""
