"""Two readers of one format: they agree on every field, and on what they refuse."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekd.bundle import read
from edgekd.errors import CorruptBundle, EdgekdError
from edgekd.manifest import LARGEST, parse
from edgekd.runtime.engine import _deadline_ns
from tests import bad_manifests
from tests.conftest import ROOT
from tests.native.conftest import build, run

FUZZ_SECONDS = os.environ.get("EDGEKD_FUZZ_SECONDS", "30")


def in_cpp(programs: Path, folder: Path, text: str | bytes) -> dict[str, Any] | int:
    """What the C++ reader makes of a manifest, or its exit code."""
    folder.mkdir(exist_ok=True)
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "manifest.json").write_bytes(raw)
    found = run(programs / "edgekd-inspect", folder)
    if found.returncode:
        assert found.stderr.count("\n") == 1, found.stderr
        return found.returncode
    read: dict[str, Any] = json.loads(found.stdout)
    return read


def in_python(folder: Path, text: str | bytes) -> dict[str, Any] | int:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        return parse(raw[: LARGEST + 1], folder / "manifest.json")
    except EdgekdError as error:
        return error.exit_code


def known(manifest: dict[str, Any]) -> dict[str, Any]:
    """The fields that the format has, as both readers must see them."""
    tensor, file = ("name", "dtype", "shape"), ("path", "bytes", "sha256")
    engine = (
        "target", "backend", "version", "precision", "device", "executed", "options", "source",
        "golden", "tolerance", *file,
    )  # fmt: skip
    budget = {
        key: _number(manifest["budget"].get(key)) for key in ("fps", "max_drop", "deadline_ms")
    }
    images = manifest["preprocessing"]
    made = {key: images[key] for key in ("color", "resize", "layout", "dtype")}
    made |= {key: [_number(each) for each in images[key]] for key in ("mean", "std")}
    plain = ("schema", "name", "labels", "provenance", "files", "content")
    return {
        **{key: manifest[key] for key in plain},
        **{
            side: [{key: each[key] for key in tensor} for each in manifest[side]]
            for side in ("inputs", "outputs")
        },
        "preprocessing": {**made, "crop": _number(images["crop"])},
        "engines": [
            {key: each[key] for key in engine}
            | {"tolerance": _number(each["tolerance"])}
            | {"parts": [{key: part[key] for key in file} for part in each["parts"]]}
            for each in manifest["engines"]
        ],
        "golden": manifest["golden"]["images"],
        "budget": budget,
        "verdict": manifest["verdict"]["status"],
    }


def _number(value: float | None) -> float | None:
    """A number is a double, however it is written."""
    return None if value is None else float(value)


def agree(programs: Path, folder: Path, text: str | bytes) -> bool:
    """Whether it was taken, by both."""
    ours, theirs = in_python(folder, text), in_cpp(programs, folder, text)
    if isinstance(ours, int) or isinstance(theirs, int):
        assert ours == theirs, (ours, theirs)
        return False
    assert known(theirs) == known(ours)
    assert theirs["deadline_ns"] == _deadline_ns(None, ours["budget"])
    return True


def test_a_real_manifest(programs: Path, built: dict[str, Path], tmp_path: Path) -> None:
    assert agree(programs, tmp_path / "x", (built["bundle"] / "manifest.json").read_bytes())


@pytest.mark.parametrize("name", bad_manifests.CASES)
def test_a_bad_one_is_refused_by_both(programs: Path, tmp_path: Path, name: str) -> None:
    text = bad_manifests.CASES[name](bad_manifests.good())
    assert not agree(programs, tmp_path / "x", text)


@pytest.mark.parametrize("name", bad_manifests.GOOD)
def test_an_odd_one_is_read_alike(programs: Path, tmp_path: Path, name: str) -> None:
    text = bad_manifests.GOOD[name](bad_manifests.good())
    assert agree(programs, tmp_path / "x", text)


def test_one_that_is_a_link_is_refused_by_both(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "moved.json").write_text(bad_manifests.good())
    (tmp_path / "manifest.json").symlink_to("moved.json")
    found = run(programs / "edgekd-inspect", tmp_path)
    assert (found.returncode, found.stdout) == (CorruptBundle.exit_code, "")
    assert "manifest.json is a link" in found.stderr
    with pytest.raises(CorruptBundle, match=r"manifest\.json is a link"):
        read(tmp_path)


ODD = [
    None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e308, 2**31, 2**53, 2**53 + 1, 2**64, "", ".",
    "..", "a/../b", "/", "x" * 5000, "0" * 64, "L", "RGB", "NHWC", "float32", "1.0", "1.1", "2.0",
    [], [1], ["a", "b"], {}, {"a": "b"}, {"path": "a", "bytes": 0, "sha256": "0" * 64},
]  # fmt: skip


def test_values_changed_at_random(programs: Path, tmp_path: Path) -> None:
    """Any value of a manifest becomes another, and the seal is mended: the readers agree."""
    chance = random.Random(11)
    taken = 0
    for _ in range(400):
        manifest = json.loads(bad_manifests.good())
        for _ in range(chance.choice((1, 1, 2))):
            place, key = chance.choice(list(_places(manifest)))
            place[key] = chance.choice(ODD)
        manifest.pop("content", None)
        taken += agree(programs, tmp_path / "x", bad_manifests.sealed(manifest))
    assert 20 < taken < 380


def _places(value: Any) -> Any:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def test_bytes_changed_at_random(programs: Path, tmp_path: Path) -> None:
    """Unsealed again: whatever is not refused for its form is refused for its seal, by both."""
    chance = random.Random(12)
    text = bad_manifests.good().encode()
    for _ in range(150):
        changed = bytearray(text)
        for _ in range(chance.choice((1, 1, 3))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if bytes(changed) != text:
            assert not agree(programs, tmp_path / "x", bytes(changed))


@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang")
def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """EDGEKD_FUZZ_SECONDS says how long; engines/cpp/tests/fuzz_manifest.cpp is what it runs."""
    folder = build(
        ROOT / "build" / "native-fuzz", "-DEDGEKD_FUZZ=ON", "-DCMAKE_CXX_COMPILER=clang++",
        "-DCMAKE_C_COMPILER=clang", "-DEDGEKD_ONNXRUNTIME_INCLUDE=",
        "-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON", targets=("fuzz_manifest",),
    )  # fmt: skip
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, make in enumerate((*bad_manifests.CASES.values(), *bad_manifests.GOOD.values())):
        text = make(bad_manifests.good())
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        if len(raw) < 100_000:
            (corpus / f"{number}").write_bytes(raw)
            (corpus / f"{number}-sealed").write_bytes(b"S" + raw)
    words = [
        f"-max_total_time={FUZZ_SECONDS}",
        "-max_len=8192",
        "-timeout=10",
        "-print_final_stats=1",
    ]
    found = run(folder / "fuzz_manifest", corpus, *words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-3000:]
    runs = int(found.stderr.split("stat::number_of_executed_units:")[1].split()[0])
    assert runs > 10_000
