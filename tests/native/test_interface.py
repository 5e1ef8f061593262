"""The C interface: what engines/cpp/tests holds it to, with and without sanitizers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.native.conftest import build, null_bundle, run

SANITIZERS = {"address": "address,undefined", "thread": "thread"}


def _environment(bundles: Path) -> dict[str, str]:
    return {**os.environ, "EDGEKD_TEST_BUNDLES": str(bundles)}


def test_parts_of_the_library(programs: Path) -> None:
    found = run(programs / "test_parts")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("program", ["test_interface", "test_stream"])
def test_the_interface(programs: Path, null_bundles: Path, program: str) -> None:
    found = run(programs / program, env=_environment(null_bundles))
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("kind", SANITIZERS)
def test_sanitizers_find_nothing(kind: str, null_bundles: Path) -> None:
    settings = (f"-DEDGEKD_SANITIZE={SANITIZERS[kind]}", "-DEDGEKD_TESTS=ON")
    runtimes = ("-DEDGEKD_ONNXRUNTIME_INCLUDE=", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON")
    plugins = ("null_null", "null_newer", "null_renamed")
    folder = build(
        ROOT / "build" / f"native-{kind}", *settings, *runtimes, "-DCMAKE_BUILD_TYPE=Debug",
        targets=("test_parts", "test_interface", "test_stream", "threads", *plugins),
    )  # fmt: skip
    own = _environment(null_bundles)
    for words in (
        ["test_parts"],
        ["test_interface"],
        ["test_stream"],
        ["threads", str(null_bundles / "null.edgekd"), "cpu", "fp32", "8", "500"],
    ):
        found = run(folder / words[0], *words[1:], env=own)
        assert found.returncode == 0, found.stdout + found.stderr


def test_it_is_c(programs: Path, null_bundles: Path) -> None:
    found = run(programs / "c_program", null_bundles / "null.edgekd")
    assert found.stdout == "logits -2.000000\n", found.stderr
    found = run(programs / "c_program", null_bundles / "missing.edgekd")
    assert found.returncode == 1
    assert found.stderr.startswith("no runtime for it here: missing is unavailable: ")


def test_only_the_interface_is_visible(programs: Path) -> None:
    """And every function of the header is there."""
    listed = run("nm", "-D", "--defined-only", programs / "libedgekd.so").stdout
    names = {line.split()[-1].split("@")[0] for line in listed.splitlines() if " A " not in line}
    header = (ROOT / "engines/cpp/include/edgekd/edgekd.h").read_text()
    declared = {
        line.split("(")[0].split()[-1].lstrip("*")
        for line in header.splitlines()
        if line.startswith("EDGEKD_API ")
    }
    assert names == declared
    assert len(declared) == 20
    assert "SONAME" in (dynamic := run("readelf", "-d", programs / "libedgekd.so").stdout)
    assert "[libedgekd.so.0]" in dynamic


def test_a_changed_engine_is_refused(programs: Path, tmp_path: Path) -> None:
    for name, change in {
        "altered": lambda path: path.write_bytes(b"nothinG"),
        "truncated": lambda path: path.write_bytes(b"noth"),
        "longer": lambda path: path.write_bytes(b"nothing at all"),
        "missing": lambda path: path.unlink(),
        "linked": lambda path: (path.rename(tmp_path / "away"), path.symlink_to(tmp_path / "away")),
        "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
        "folder": lambda path: (path.unlink(), path.mkdir()),
    }.items():
        path = null_bundle(tmp_path, name)
        change(path / "engines" / "cpu" / "fp32.null")
        found = run(programs / "c_program", path, timeout=20)
        assert found.returncode == 1, name
        assert found.stderr.startswith("a damaged bundle: "), (name, found.stderr)
    path = null_bundle(tmp_path, "linked-folder")
    (path / "engines").rename(tmp_path / "engines")
    (path / "engines").symlink_to(tmp_path / "engines")
    assert "link" in run(programs / "c_program", path).stderr
