"""The Dockerfiles, as far as they can be checked without building them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "engines" / "docker"
FILES = sorted(each for each in FOLDER.glob("Dockerfile.*") if each.suffix != ".dockerignore")
KNOWN = {"ARG", "FROM", "RUN", "COPY", "USER", "ENTRYPOINT"}


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction's word and the rest, its continued lines as one."""
    lines = [each for each in path.read_text().splitlines() if not each.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest)
        for word, _, rest in (each.partition(" ") for each in whole.split("\n") if each)
    ]


@pytest.fixture(params=FILES, ids=lambda each: each.name)
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_one_for_each_machine() -> None:
    assert [each.name for each in FILES] == ["Dockerfile.jetpack", "Dockerfile.x86_64"]


def test_the_header_says_how_it_is_built(dockerfile: Path) -> None:
    name = dockerfile.relative_to(ROOT)
    header = dockerfile.read_text().split("\n\n")[0]
    assert re.search(
        rf"^# +docker build -f {re.escape(str(name))} -t \S+ \.$", header, re.MULTILINE
    )


def test_what_is_copied_is_there_and_reaches_the_build(dockerfile: Path) -> None:
    words = _instructions(dockerfile)
    assert {word for word, _ in words} <= KNOWN
    stages = [rest.split(" AS ")[1] for word, rest in words if word == "FROM" and " AS " in rest]
    allowed = dockerfile.with_name(dockerfile.name + ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    own = []
    for source in (rest.split()[:-1] for word, rest in words if word == "COPY"):
        if source[0].startswith("--from="):
            assert source[0].removeprefix("--from=") in stages
        else:
            own += source
    assert own and all((ROOT / each).exists() for each in own)
    assert sorted(allowed[2:]) == sorted(f"!{each}" for each in own)


def test_it_builds_what_it_runs(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    folder = ROOT / "engines" / "cpp"
    cmake = "".join(
        each.read_text()
        for each in (folder / "CMakeLists.txt", *(folder / "cmake").glob("*.cmake"))
    )
    for option in re.findall(r"-D(EDGEKD_\w+)=", text):
        assert re.search(rf"(option|find_library|find_path)\({option}\b", cmake)
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)
    assert (ROOT / "engines" / "cpp" / "examples" / f"{entry}.cpp").is_file()
    assert f"COPY --from=build /build/{entry} /usr/local/bin/\n" in text
    for plugin in re.findall(r"libedgekd_(\w+)\.so", text):
        assert (ROOT / "engines" / "cpp" / "plugins" / f"{plugin}.cpp").is_file()


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed")
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    command = ["hadolint", str(dockerfile)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
