"""docs/embedding.md: its commands are run, its programs compiled, its tables held to the header."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekd
from tests.conftest import ROOT
from tests.documents import blocks, commands
from tests.native.conftest import run

GUIDE = ROOT / "docs" / "embedding.md"
TEXT = GUIDE.read_text()
HEADER = (ROOT / "engines/cpp/include/edgekd/edgekd.h").read_text()


@pytest.fixture(scope="module")
def newcomer(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone's folder in which the guide's first five commands were run, installs left out."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("engines", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "model.edgekd").symlink_to(built["bundle"])
    pixels = np.load(built["bundle"] / "golden" / "images.npy")[0, 0]
    Image.fromarray(pixels).resize((64, 48)).save(folder / "photo.png")
    first = [shlex.split(line) for line in blocks(GUIDE, "sh")[0].splitlines()]
    assert len(first) == 5
    assert [words[:2] for words in first[:2]] == [["sudo", "apt-get"], ["pip", "install"]]
    for words in first[2:]:
        found = run(*words, cwd=folder, env=_environment(folder))
        assert found.returncode == 0, found.stdout + found.stderr
    (folder / "said").write_text(found.stdout)
    return folder


def _environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder / "home"), "MAKEFLAGS": "-j2"}


@pytest.fixture(scope="module")
def installed(newcomer: Path) -> Path:
    """Where the guide's command has installed the library."""
    (command,) = (words for words in commands(GUIDE) if words[:2] == ["cmake", "--install"])
    line = " ".join(command).replace("$HOME", str(newcomer / "home"))
    found = run(*shlex.split(line), cwd=newcomer, env=_environment(newcomer))
    assert found.returncode == 0, found.stderr
    return newcomer / "home" / ".local"


def test_five_commands_to_a_running_program(newcomer: Path) -> None:
    """It says what Python says of the same file."""
    from PIL import Image

    with edgekd.load(newcomer / "model.edgekd", "openvino-cpu") as engine:
        image = np.asarray(Image.open(newcomer / "photo.png").convert("RGB"))
        label = engine.classes[engine(image)[0].argmax()]
    assert (newcomer / "said").read_text() == f"photo.png: {label}\n"


def test_the_program_of_the_guide_with_pkg_config(newcomer: Path, installed: Path) -> None:
    program = next(each for each in blocks(GUIDE, "cpp") if "int main" in each)
    (newcomer / "program.cpp").write_text(program)
    (script,) = (each for each in blocks(GUIDE, "sh") if "pkg-config" in each)
    found = run("bash", "-euc", script, cwd=newcomer, env=_environment(newcomer))
    assert found.returncode == 0, found.stderr
    found = run("./program", cwd=newcomer)
    assert found.stdout.strip() in "0123456789", found.stderr


def test_a_project_that_finds_the_package(newcomer: Path, installed: Path) -> None:
    project = newcomer / "project"
    project.mkdir()
    (project / "program.cpp").write_text((ROOT / "engines/cpp/examples/several.cpp").read_text())
    (block,) = blocks(GUIDE, "cmake")
    head = "cmake_minimum_required(VERSION 3.20)\nproject(program CXX)\n"
    head += "add_executable(program program.cpp)\n"
    (project / "CMakeLists.txt").write_text(head + block)
    for words in (
        ["cmake", "-S", ".", "-B", "b", f"-DCMAKE_PREFIX_PATH={installed}"],
        ["cmake", "--build", "b"],
        ["b/program", newcomer / "model.edgekd"],
    ):
        found = run(*words, cwd=project, env=_environment(newcomer))
        assert found.returncode == 0, found.stdout + found.stderr
    assert re.fullmatch(r"digits: 400 runs, p50 [\d.e+]+ µs\n", found.stdout)


def test_what_is_installed(installed: Path) -> None:
    names = {str(each.relative_to(installed)) for each in installed.rglob("*") if each.is_file()}
    assert names >= {
        "bin/edgekd-inspect",
        "include/edgekd/edgekd.h",
        "include/edgekd/edgekd.hpp",
        "include/edgekd/stream.hpp",
        "include/edgekd/backend.h",
        "lib/cmake/edgekd/edgekdConfig.cmake",
        "lib/edgekd/libedgekd_openvino.so",
        "lib/libedgekd.so.0.1.0",
        "lib/pkgconfig/edgekd.pc",
    }


FRAME = """
#include <edgekd/edgekd.hpp>
#include <edgekd/stream.hpp>
#include <thread>
#include <vector>
struct Camera {{ bool read(std::uint8_t *) {{ return false; }} }};
inline void show(std::uint64_t, std::size_t, std::chrono::nanoseconds) {{}}
inline void part(edgekd::Engine &engine, Camera &camera, std::uint8_t *pixels, std::uint8_t *left,
                 std::uint8_t *right, edgekd::Options options) {{
    (void)engine, (void)camera, (void)pixels, (void)left, (void)right, (void)options;
    {{
{}
    }}
}}
"""


@pytest.mark.parametrize("compiler", ["c++ -std=c++17", "c++ -std=c++20", "clang++ -std=c++17"])
def test_every_part_compiles_without_a_warning(tmp_path: Path, compiler: str) -> None:
    parts = [each for each in blocks(GUIDE, "cpp") if "int main" not in each]
    assert len(parts) == 4
    for number, part in enumerate(parts):
        lines = (line for line in part.splitlines() if not line.startswith("#include"))
        path = tmp_path / f"part{number}.cpp"
        path.write_text(FRAME.format("\n".join(lines)))
        flags = [
            "-Wall",
            "-Wextra",
            "-Wconversion",
            "-Wno-unused-variable",
            "-Wno-unused-but-set-variable",
            "-Werror",
        ]
        include = f"-I{ROOT / 'engines/cpp/include'}"
        found = run(*compiler.split(), *flags, include, "-fsyntax-only", path)
        assert found.returncode == 0, found.stderr


def test_the_table_of_statuses_is_the_headers() -> None:
    told = dict(re.findall(r"^\| `(EDGEKD_\w+)` \| (.+) \|$", TEXT, re.MULTILINE))
    declared = re.findall(r"^    (EDGEKD_\w+) = \d+,? +/\* (.+) \*/$", HEADER, re.MULTILINE)
    for name, what in declared:
        assert told[name] == what
    assert {*told} == {each for each, _ in declared} | {"EDGEKD_NO_MEMORY"}


def test_it_counts_the_functions() -> None:
    assert len(re.findall(r"^EDGEKD_API ", HEADER, re.MULTILINE)) == 20
    assert "has twenty functions" in TEXT


def test_what_the_libraries_look_for_is_named() -> None:
    source = "".join(
        each.read_text()
        for folder in ("src", "plugins")
        for each in (ROOT / "engines" / "cpp" / folder).iterdir()
    )
    for name in re.findall(r'secure_getenv\(\s*"(\w+)"', source):
        assert f"`{name}`" in TEXT
