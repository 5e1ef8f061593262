"""The guides: every recipe in them loads, every command is one, every name in them exists."""

from __future__ import annotations

import re
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgekd import preflight, targets, trace
from edgekd.bench import measure
from edgekd.bench.arrivals import POLICIES, open_loop, periodic
from edgekd.bench.scenarios import SCENARIOS
from edgekd.bundle import read
from edgekd.cli import BUG, COMMANDS, INTERRUPTED, cli, main
from edgekd.cli.build import EXIT_CODES
from edgekd.errors import BackendUnavailable, EdgekdError, RecipeError
from edgekd.progress import Nobody
from edgekd.quantize.lint.rule import GROUPS
from edgekd.quantize.lint.rules import RULES
from edgekd.rebuild import rebuild
from edgekd.recipe import (
    STANDARD_WEIGHTS,
    BenchSettings,
    DistillSettings,
    MemberSettings,
    TensorRtSettings,
    TrainSettings,
)
from edgekd.recipe_file import load
from edgekd.stats import misses, percentiles
from tests.backends import fake_tensorrt
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRt
from tests.bench.here import measure_here
from tests.bench.planted import Clock
from tests.conftest import ROOT
from tests.documents import blocks, commands, lint_row, parse

GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("distillation", "data", "quantisation", "tensorrt", "benchmarking")
]
DISTILLATION = GUIDES[0].read_text()
RECIPES = [
    pytest.param(block, id=f"{guide.stem} {number}")
    for guide in GUIDES
    for number, block in enumerate(blocks(guide, "toml"), 1)
]
METHODS = dict(
    re.findall(r"(?ms)^\*\*`(\w+)`\*\*.*?^```toml\n(.*?)^```", DISTILLATION),
)
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", DISTILLATION))


def _written(text: str, folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", RECIPES)
def test_a_recipe_loads_and_one_on_digits_can_be_built(text: str, tmp_path: Path) -> None:
    recipe = load(_written(text, tmp_path))
    if recipe.data.source == "digits":
        preflight.check(recipe, tmp_path)


@pytest.mark.parametrize("name", STANDARD_WEIGHTS)
def test_each_method_has_a_recipe_with_the_weights_that_its_name_sets(
    name: str, tmp_path: Path
) -> None:
    recipe = load(_written(METHODS[name], tmp_path))
    assert recipe.data.source == "digits"
    assert recipe.distill.weights == STANDARD_WEIGHTS[name]


def test_every_setting_of_distillation_is_explained() -> None:
    named = {part for code in CODE for part in re.findall(r"\w+", code)}
    toml = {key for block in blocks(GUIDES[0], "toml") for key in re.findall(r"(\w+) =", block)}
    settings = (DistillSettings, TrainSettings, MemberSettings)
    assert {each for model in settings for each in model.model_fields} <= named | toml
    assert not set(DistillSettings.model_fields) - named - {"weights"}


def test_the_commands_beside_edgekd_s_own_are_known_and_take_what_they_are_given() -> None:
    from torch.distributed.run import get_args_parser

    folders = set()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for first, *rest in commands(*GUIDES):
        if first.removeprefix("venv/bin/") == "edgekd":
            folders.add(str(parse(rest).get("scalars")))
        elif first.removeprefix("venv/bin/") == "pip":
            assert rest[0] == "install"
            named = [each for word in rest for each in re.findall(r"edgekd\[([\w,-]+)\]", word)]
            assert {each for group in named for each in group.split(",")} <= set(extras)
        elif first in ("sudo", "python3"):
            jetson = rest[0] in ("nvpmodel", "jetson_clocks")
            assert jetson or rest[:2] in (["apt", "install"], ["-m", "venv"])
        elif first == "torchrun":
            given = get_args_parser().parse_args(rest)
            assert given.module
            assert given.training_script == "edgekd"
            assert parse(given.training_script_args)["recipe"] == Path("recipe.toml")
        else:
            assert (first, rest[0]) == ("tensorboard", "--logdir")
            assert rest[1] in folders


def test_flags_in_the_text_exist() -> None:
    options = set()
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        options |= {option for each in command.params for option in each.opts}
    flags = {flag for code in CODE for flag in re.findall(r"(?<!\S)--[\w-]+", code)}
    assert flags
    assert flags <= options


def test_each_trap_has_a_test() -> None:
    sources = "".join(each.read_text() for each in (ROOT / "tests").rglob("test_*.py"))
    rows = re.findall(r"^\| .+ \| .+ \| (.+) \|$", DISTILLATION.split("## Traps")[1], re.MULTILINE)
    named = [each.strip("`") for each in rows[1:] if each not in ("the same", "---")]
    assert len(named) > 10
    for each in named:
        assert f"def {each}(" in sources, each


def test_the_table_of_lint_rules_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "quantisation.md").read_text().split("\n## Lint rules\n")[1]
    rows = re.findall(r"^\| [A-Z]{3}\d{3} .*$", text.split("\n## ")[0], re.MULTILINE)
    assert rows == [lint_row(each) for group in GROUPS for each in RULES if each.id[:3] == group]


def test_every_option_of_tensorrt_is_explained() -> None:
    table = (ROOT / "docs" / "tensorrt.md").read_text().split("\n## Options\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \|", table, re.MULTILINE)
    named = {each for row in rows for each in re.findall(r"`(\w+)`", row)}
    assert named == set(TensorRtSettings.model_fields)


def test_the_targets_that_the_tensorrt_guide_names_exist() -> None:
    text = (ROOT / "docs" / "tensorrt.md").read_text()
    named = set(re.findall(r"`((?:jetson|rtx|onnxruntime|turing|l4|a2|a100|h\d+)[\w-]*)`", text))
    assert named & set(targets.names())
    assert named - set(targets.names()) <= {"onnxruntime"}


def test_the_program_that_opens_an_engine_runs(built: dict[str, Path]) -> None:
    first, *_ = blocks(ROOT / "docs" / "tensorrt.md", "python")
    here = first.replace("model.edgekd", str(built["bundle"]))
    here = here.replace("jetson-orin-nano", "onnxruntime-cpu")
    known: dict[str, object] = {"images": np.zeros((3, 1, 8, 8), np.uint8)}
    exec(here, known)
    assert np.shape(known["logits"]) == (3, 10)


def test_the_program_that_uses_a_session_runs_on_a_gpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one that is played, by a bundle whose plans were built for it."""
    measure_here(monkeypatch)
    fake_tensorrt.install(monkeypatch, FakeTensorRt(FakeCuda("sm_89"), "9.9", rtx=True))
    rebuild(bundle, BenchSettings(samples=20, seconds=0.2, blocks=2, batch=2), Nobody())
    _, program = blocks(ROOT / "docs" / "tensorrt.md", "python")
    program = program.replace("model.edgekd", str(bundle))
    on_gpu = [each["backend"] for each in read(bundle).engines].index("tensorrt-rtx")
    program = program.replace("engines[0]", f"engines[{on_gpu}]")
    known: dict[str, object] = {"tensor": np.zeros((3, 1, 8, 8), np.float32)}
    exec(program, known)
    assert np.shape(known["outputs"]["logits"]) == (3, 10)  # type: ignore[index]
    assert all(int(each) > 0 for each in capsys.readouterr().out.split())


BENCHMARKING = ROOT / "docs" / "benchmarking.md"


def _table(heading: str) -> list[list[str]]:
    """The rows of the table whose first heading this is."""
    _, text = BENCHMARKING.read_text().split(f"\n| {heading} |", 1)
    rows = text.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_tables_of_the_benchmarking_guide_are_those_of_the_code() -> None:
    for rate, *needed in _table("`--miss-rate`"):
        told = [misses.frames_needed(float(rate), 0.99, allowed) for allowed in (0, 1, 2, 5)]
        assert needed == [f"{each:,}" for each in told]
    told = [f"{percentiles.fewest(each):,}" for each in percentiles.PERCENTILES.values()]
    assert [n for _, n in _table("percentile")] == told
    assert {f"`{each}`" for each in SCENARIOS} == {row[0] for row in _table("`--scenario`")}
    codes = {int(row[0]) for row in _table("exit code")}
    errors = {each.exit_code for each in (EdgekdError, RecipeError, BackendUnavailable)}
    assert codes == {*EXIT_CODES.values(), *errors, INTERRUPTED, BUG}


def test_the_worked_example_is_what_a_camera_s_run_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    ms = 1_000_000
    rows = _table("frame due at, ms")
    assert [row[0] for row in rows] == [f"`{each}`" for each in POLICIES]
    lost = []
    for policy, *told in rows:
        session = Clock(monkeypatch).session(lambda call: 3 * ms if call else 35 * ms)
        kept = trace.empty(len(told))
        due = partial(periodic, period_ns=10 * ms)
        drive = open_loop(session, [{}], due, policy.strip("`"))  # type: ignore[arg-type]
        drive(kept, 0, 10**12, np.zeros(1, np.int64))
        spent = [(int(row[2] - row[0]) // ms if row[2] > 0 else None) for row in kept]
        assert told == ["–" if each is None else f"{each}" for each in spent]
        lost.append(int(trace.missed(kept, 10 * ms).sum()))
    assert f"{lost[0]}, {lost[1]} or {lost[2]} lost frames in a row" in BENCHMARKING.read_text()


def test_the_first_commands_of_the_benchmarking_guide_run(
    built: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And its program reads what they kept."""
    monkeypatch.chdir(tmp_path)
    measure_here(monkeypatch)
    monkeypatch.setattr(measure, "_PAUSES", 1)
    (tmp_path / "model.edgekd").symlink_to(built["bundle"])
    sooner = {
        "bench": ["--frames", "40", "--target", "onnxruntime-cpu", "--precision", "int8"],
        "report": [],
    }
    first = len(blocks(BENCHMARKING, "sh")[0].splitlines())
    codes = []
    for program, *words in commands(BENCHMARKING)[:first]:
        assert program == "edgekd"
        with pytest.raises(SystemExit) as ended:
            main([*words, *sooner[words[0]]])
        codes.append(ended.value.code)
    assert set(codes[:2]) <= set(EXIT_CODES.values())  # what it is depends on this machine
    assert codes[2:] == [0, 0]
    assert "NOT COMPARABLE" in capsys.readouterr().out
    assert {"camera.html", "camera.md", "camera.xml"} <= {each.name for each in tmp_path.iterdir()}
    known: dict[str, object] = {}
    exec(blocks(BENCHMARKING, "python")[0], known)
    assert len(known["response"]) + known["dropped"] == 40  # type: ignore[arg-type,operator]
