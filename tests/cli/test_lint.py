"""``edgekd lint``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekd.cli import main
from tests.conftest import assert_one_line, run_cli
from tests.quantize.lint_cases import activated, conv, plain
from tests.quantize.lint_graphs import Net


def _file(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def test_nothing_found_is_one_line_and_code_0(tmp_path: Path) -> None:
    path = _file(plain("Relu"), tmp_path)
    result = run_cli("lint", path, "--target", "tensorrt-rtx")
    assert result.returncode == 0
    assert result.stdout == f"{path} for tensorrt-rtx: nothing found\n"
    assert result.stderr == ""


def test_an_error_is_code_1_and_says_what_why_where_and_how_to_mend_it(tmp_path: Path) -> None:
    path = _file(conv((3, np.int8)), tmp_path)
    result = run_cli("lint", path, "--target", "tensorrt-rtx")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "error QDQ002: a zero point other than 0"
    assert "  TensorRT takes symmetric Q/DQ alone, and its parser refuses this" in lines
    assert "    QuantizeLinear_0: zero point 3" in lines
    mend = "  mend: quantise the fp32 model with `edgekd quantize --target tensorrt-rtx`"
    assert mend in lines
    assert lines[-1] == f"{path} for tensorrt-rtx: 2 errors, 1 note"
    assert all(len(each) <= 80 for each in lines[:-1])


def test_warnings_alone_are_code_0(tmp_path: Path) -> None:
    path = _file(activated("HardSwish", "QDQ"), tmp_path)
    result = run_cli("lint", path, "--target", "onnxruntime-cpu", "--ignore", "PAY002")
    assert result.returncode == 0
    assert result.stdout.startswith("warning PLC006: ")
    assert result.stdout.endswith("m.onnx for onnxruntime-cpu: 1 warning\n")


def test_of_many_nodes_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    net = Net()
    path = _file(net.model(*(net.qdq("x", (3, np.int8)) for _ in range(8))), tmp_path)
    lines = run_cli("lint", path, "--target", "tensorrt").stdout.splitlines()
    assert sum(each.endswith(": zero point 3") for each in lines) == 6
    assert "    and 2 more, which --json names" in lines
    assert lines[-1].endswith("8 errors")


def test_json_is_one_document_with_every_finding(tmp_path: Path) -> None:
    path = _file(conv((3, np.int8)), tmp_path)
    arguments = ("--target", "tensorrt-rtx", "--sm", "8.9", "--ignore", "PAY002", "--json")
    result = run_cli("lint", path, *arguments)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["model"] == str(path)
    assert found["target"] == "tensorrt-rtx"
    assert found["sm"] == ["8.9"]
    assert found["ignored"] == ["PAY002"]
    assert found["counts"] == {"error": 2, "warning": 0, "note": 0}
    assert found["findings"][0] == {
        "id": "QDQ002",
        "severity": "error",
        "node": "QuantizeLinear_0",
        "detail": "zero point 3",
        "reason": "TensorRT takes symmetric Q/DQ alone, and its parser refuses this",
        "mend": "quantise the fp32 model with `edgekd quantize --target tensorrt-rtx`",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--target", "tensorrt-rtz"), 2, ("did you mean 'tensorrt-rtx'",)),
        (("--target", "torch"), 2, ("--target", "takes no ONNX file")),
        (("--target", "tensorrt", "--ignore", "QDQ02"), 2, ("no rule is called 'QDQ02'",)),
        (("--target", "tensorrt", "--sm", "Ada"), 2, ("--sm", "write it as 8.9")),
        (("--target", "openvino-cpu", "--sm", "8.9"), 2, ("--sm", "not run on an NVIDIA GPU")),
        ((), 2, ("--target",)),
    ],
    ids=["target", "torch", "rule", "sm", "sm of a CPU", "no target"],
)
def test_a_wrong_argument_is_one_line(
    arguments: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = _file(plain("Relu"), tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["lint", str(path), *arguments])
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert not printed.out
    assert len(printed.err.splitlines()) == 1
    for word in words:
        assert word in printed.err


def test_a_file_that_is_none_or_not_onnx_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    target = ("--target", "tensorrt-rtx")
    assert_one_line(run_cli("lint", path, *target), 2, "m.onnx: there is no such file")
    path.write_bytes(conv().SerializeToString()[:-300])
    assert_one_line(run_cli("lint", path, *target), 4, "is not an ONNX file, or only a part of one")
