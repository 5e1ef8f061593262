"""``edgekd quantize``: other people's models, and every way in which they or their samples err."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import targets
from edgekd.backends import ort
from edgekd.calibration import table as tables
from edgekd.cli import _run
from edgekd.quantize import bring, graphs
from edgekd.quantize.lint import lint
from tests.conftest import run_cli
from tests.quantize import foreign
from tests.quantize.foreign import FOREIGN, Array, model, node, random

FAST = ["--method", "minmax"]


class Given:
    """A model and samples in a folder of their own.

    Attributes:
        hashes: of all files, before anything was done with them.
    """

    def __init__(self, folder: Path, proto: onnx.ModelProto, arrays: dict[str, Array]) -> None:
        self.folder = folder
        self.model, self.samples = folder / "given.onnx", folder / "samples.npz"
        self.out = folder / "out" / "made.onnx"
        self.out.parent.mkdir(parents=True)
        onnx.save(proto, self.model)
        self.save(arrays)

    def save(self, arrays: dict[str, Array]) -> None:
        np.savez(self.samples, **arrays)
        self.hashes = self.now()

    def now(self) -> dict[str, str]:
        files = [each for each in self.folder.iterdir() if each.is_file()]
        return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    def arguments(self, *more: str | Path, target: str = "onnxruntime-cpu") -> list[str]:
        fixed = ["quantize", self.model, "--calibration", f"npz:{self.samples}"]
        return [str(each) for each in (*fixed, "--target", target, "-o", self.out, *more)]

    def made(self) -> list[str]:
        """What lies where the result goes."""
        return sorted(each.name for each in self.out.parent.iterdir())


Give = Callable[..., Given]


@pytest.fixture
def give(tmp_path: Path) -> Give:
    def make(name: str = "tied_weights", **changed: Array) -> Given:
        proto, arrays = FOREIGN[name]()
        return Given(tmp_path / "given", proto, {**arrays, **changed})

    return make


def _facts(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    captured = capsys.readouterr()
    facts: dict[str, Any] = json.loads(captured.out)
    assert facts["met"] == (code == 0)
    return facts


@pytest.mark.parametrize("name", FOREIGN)
def test_models_that_this_project_did_not_make(
    name: str, give: Give, capsys: pytest.CaptureFixture[str]
) -> None:
    given = give(name)
    assert _run(given.arguments(*FAST, "--json")) == 0
    facts = _facts(capsys)
    assert given.made() == ["made.onnx", "made.table.json"]
    assert given.now() == given.hashes
    assert min(facts["proof"]["sqnr_to_fp32"].values()) > 20
    with ort.open_model(given.model) as before, ort.open_model(given.out) as after:
        assert [each.name for each in after.inputs] == [each.name for each in before.inputs]
        assert [each.name for each in after.outputs] == [each.name for each in before.outputs]
    table = tables.load(given.out.with_name("made.table.json"))
    assert table.model_sha256 == given.hashes["given.onnx"]
    stored = {each.op_type for each in onnx.load(given.out).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= stored


@pytest.mark.parametrize(
    ("form", "target"),
    [("s8s8", "tensorrt"), ("a8s8", "onnxruntime-cpu"), ("f8", "tensorrt"), ("fp16", "tensorrt")],
)
def test_every_form(form: str, target: str, give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    given = give("convolution")
    assert _run(given.arguments("--form", form, "--json", target=target)) == 0
    facts = _facts(capsys)
    assert facts["form"] == form
    assert facts["proof"]["sqnr_to_fp32"][form] > 15
    assert given.made() == ["made.onnx"] + ["made.table.json"] * (form != "fp16")


@pytest.mark.parametrize(
    ("form", "target", "base", "half"),
    [
        ("s8s8", "tensorrt-rtx", None, True),
        ("s8s8", "tensorrt-rtx", "fp32", False),
        ("f8", "rtx-40", None, True),
        ("s8s8", "onnxruntime-cpu", None, False),
        ("s8s8", "onnxruntime-cpu", "fp16", True),
    ],
)
def test_what_is_not_quantised_is_float16_where_the_target_has_it_so(
    form: str,
    target: str,
    base: str | None,
    half: bool,
    give: Give,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = give("convolution")
    more = [] if base is None else ["--base", base]
    assert _run(given.arguments("--form", form, *more, "--json", target=target)) == 0
    facts = _facts(capsys)
    assert facts["base"] == ("fp16" if half else "fp32")
    assert facts["proof"]["sqnr_to_fp32"][form] > 15
    graph = onnx.load(given.out).graph
    floats = {each.data_type for each in graph.initializer} - {TensorProto.INT8, TensorProto.INT64}
    floats -= {TensorProto.FLOAT8E4M3FN}
    assert floats == {TensorProto.FLOAT16 if half else TensorProto.FLOAT}
    assert [each.type.tensor_type.elem_type for each in graph.input] == [TensorProto.FLOAT]
    if target != "onnxruntime-cpu":
        found = lint(given.out, targets.load(target))
        errors = {each.id for each in found if each.severity == "error"}
        assert errors <= {"SHP001"}  # the model leaves height and width free


def test_a_form_that_is_over_float32_alone_is_told(
    give: Give, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(give("convolution").arguments("--base", "fp16")) == 2
    assert "--base fp16: form u8s8 is over float32 alone: leave it out" in capsys.readouterr().err


def test_what_is_printed(give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    given = give("products")
    assert _run(given.arguments("--keep-float", "Gemm_g")) == 0
    text, progress = capsys.readouterr()
    assert "* " in text and "percentile 99.99" in text  # the methods, and which was best
    assert "u8s8 for onnxruntime-cpu: " in text
    assert "Gemm_g stays in float: asked for" in text
    assert "MatMul_m stays in float: its first input is a constant" in text
    assert "proof on 16 of the samples that it calibrated on" in text
    assert " dB to fp32" in text and "s8s8/u8s8: " in text and "top-1" not in text
    assert "made.onnx (" in text and "made.table.json (" in text
    assert "✓ calibrate" in progress


_BLOCKED = """
import sys
for name in ("torch", "torchvision", "onnxscript", "onnx_ir", "sklearn", "PIL", "safetensors"):
    sys.modules[name] = None
from edgekd.cli import main
main(sys.argv[1:])
"""


def test_it_needs_no_torch_and_no_recipe(give: Give) -> None:
    given = give("several_inputs")
    command = [sys.executable, "-c", _BLOCKED, *given.arguments(*FAST)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert given.out.exists()


def _classifier() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Two layers on 64 pixels, and the labels that they name themselves."""
    weights = {"w": random(64, 32), "b": random(32), "v": random(32, 10)}
    proto = model(
        [
            node("Gemm", ["x", "w", "b"], ["h"], name="first"),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "v"], ["y"], name="second"),
        ],
        {"x": ["N", 64]},
        ["y"],
        weights,
    )
    x = random(200, 64)
    scores = np.maximum(x @ weights["w"] + weights["b"], 0) @ weights["v"]
    return foreign.shaped(proto, "N", 10), {"x": x, "labels": scores.argmax(1)}


@pytest.fixture
def classifier(tmp_path: Path) -> Given:
    return Given(tmp_path / "given", *_classifier())


def test_methods_are_judged_by_top1_where_there_are_labels(
    classifier: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(classifier.arguments("--json")) == 0
    facts = _facts(capsys)
    assert {each["metric"] for each in facts["tried"]} == {"top1"}
    assert facts["proof"]["top1"]["fp32"] == 100
    assert 90 < facts["proof"]["top1"]["u8s8"] <= 100
    saved = tables.load(classifier.out.with_name("made.table.json"))
    assert [each.method for each in saved.tried] == [each["method"] for each in facts["tried"]]


def test_the_worst_layers_stay_in_float(
    classifier: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(classifier.arguments(*FAST, "--max-drop", "100", "--json")) == 0
    assert _facts(capsys)["kept_float"] == {}
    code = _run(classifier.arguments(*FAST, "--max-divergence", "0.001", "--json"))
    facts = _facts(capsys, code)
    assert code == 1  # one layer at least is int8, and that is more than a thousandth of 1 %
    assert list(facts["kept_float"].values()) == ["int8 costs it most"]
    chosen = facts["sensitivity"]["mixes"][facts["sensitivity"]["chosen"]]
    assert chosen["kept"] == list(facts["kept_float"])
    assert "onnxruntime-cpu" in chosen["latency_ns"]  # measured, since it is here
    assert classifier.out.exists()
    assert _run(classifier.arguments(*FAST, "--max-divergence", "0.001")) == 1
    text = capsys.readouterr().out
    assert "in float" in text and "p50 ms onnxruntime-cpu" in text and "MISSED" in text


def test_ranges_found_before(classifier: Given, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(classifier.arguments(*FAST)) == 0
    first = classifier.out.read_bytes()
    saved = classifier.folder / "kept.table.json"
    classifier.out.with_name("made.table.json").replace(saved)
    assert _run(classifier.arguments("--ranges", saved)) == 0
    assert classifier.out.read_bytes() == first
    cache = classifier.folder / "calibration.cache"
    ranges = tables.load(saved).ranges
    lines = [
        f"{name}: {struct.pack('!f', max(-low, high) / 127).hex()}"
        for name, (low, high) in ranges.items()
    ]
    cache.write_text("\n".join(["TRT-8601-EntropyCalibration2", *lines]))
    capsys.readouterr()
    assert _run(classifier.arguments("--ranges", cache, "--json", target="tensorrt")) == 0
    assert _facts(capsys)["proof"]["sqnr_to_fp32"]["s8s8"] > 20


def test_a_set_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = model(
        [
            node("Conv", ["image", "w"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "v"], ["y"]),
        ],
        {"image": ["N", 1, 8, 8]},
        ["y"],
        {"w": random(8, 1, 3, 3), "v": random(8, 10)},
    )
    given = Given(tmp_path / "given", foreign.shaped(proto, "N", 10), {})
    chosen = tmp_path / "set.json"
    assert _run(["calibration", "create", "digits", "-o", str(chosen), "--samples", "64"]) == 0
    capsys.readouterr()
    arguments = ["quantize", str(given.model), "--calibration", str(chosen), "--target"]
    assert _run([*arguments, "onnxruntime-cpu", "-o", str(given.out), *FAST, "--json"]) == 0
    facts = _facts(capsys)
    assert facts["samples"] == 64
    assert facts["proof"]["validation"] is True
    assert facts["proof"]["samples"] > 64
    assert set(facts["proof"]["top1"]) == {"fp32", "s8s8", "u8s8"}
    saved = tables.load(given.out.with_name("made.table.json"))
    assert saved.set_sha256 == json.loads(chosen.read_text())["sha256"]
    # The same set for a model that takes something else.
    other = Given(tmp_path / "other", *foreign.convolution())
    assert _run([*arguments[:1], str(other.model), *arguments[2:], "onnxruntime-cpu", "-o",
                 str(other.out)]) == 4  # fmt: skip
    assert "1×8×8" in capsys.readouterr().err
    assert other.made() == []


def test_tensors_beside_the_result(
    give: Give, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graphs, "EXTERNAL_ABOVE", 0)  # in place of 2 GB
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "w2"], ["y"])],
        {"x": ["N", 3, 8, 8]},
        ["y"],
        {"w": random(256, 3, 3, 3), "w2": random(8, 256, 1, 1)},
    )
    given = give("convolution")
    beside = {"save_as_external_data": True, "location": "given.bin", "size_threshold": 0}
    onnx.save(proto, given.model, **beside)
    hashes = given.now()
    assert _run(given.arguments(*FAST)) == 0
    assert given.made() == ["made.onnx", "made.onnx.data", "made.table.json"]
    assert given.now() == hashes
    with ort.open_model(given.out) as session:
        assert session.run({"x": random(2, 3, 8, 8)})["y"].shape == (2, 8, 6, 6)


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    path = foreign.large(tmp_path)
    np.savez(tmp_path / "samples.npz", x=random(2, 1024))
    out = tmp_path / "made.onnx"
    result = run_cli(
        "quantize", path, "--calibration", f"npz:{tmp_path / 'samples.npz'}",
        "--target", "onnxruntime-cpu", "--form", "a8s8", "-o", out, *FAST,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stored = onnx.load(out, load_external_data=False).graph.initializer
    int8 = [each for each in stored if each.data_type == TensorProto.INT8]
    assert sum(np.prod(each.dims) for each in int8) > 2**29  # a quarter of the bytes


def _nhwc(arrays: dict[str, Array]) -> dict[str, Array]:
    return {"x": np.moveaxis(arrays["x"], 1, -1)}


def _spoilt(arrays: dict[str, Array]) -> dict[str, Array]:
    arrays["x"][3, 0, 0, 0] = np.nan
    return arrays


def _pixels(arrays: dict[str, Array]) -> dict[str, Array]:
    return {"x": (arrays["x"] * 50 + 100).clip(0, 255).astype(np.uint8)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: {"x": x["x"][:0]}, ["holds no sample"]),
        (lambda x: {"x": x["x"][:1]}, ["one sample", "a few hundred"]),
        (_spoilt, ["sample 3", "NaN or infinity"]),
        (lambda x: {"x": x["x"] / 0}, ["NaN or infinity"]),
        (lambda x: {"x": x["x"][:, :3]}, ["3×8×8", "4×8×8"]),
        (lambda x: {"x": x["x"].astype(np.float64)}, ["float64", "float32"]),
        (_nhwc, ["NHWC", "NCHW"]),
        (_pixels, ["uint8 pixels", "not normalised"]),
        (lambda x: {"image": x["x"]}, ["'image'", "the model takes 'x'"]),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_samples(
    change: Callable[[dict[str, Array]], dict[str, Array]],
    words: list[str],
    give: Give,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = give()
    given.save(change(FOREIGN["tied_weights"]()[1]))
    _refused(given, given.arguments(*FAST), 4, words, capsys)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _with_node(op: str, domain: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        proto = onnx.load(path)
        proto.graph.node[1].CopyFrom(node(op, ["c"], ["r"], name="odd", domain=domain))
        proto.opset_import.append(helper.make_opsetid("com.acme", 1))
        onnx.save(proto, path)

    return change


def _quantised(path: Path) -> None:
    folder = path.parent / "first"
    folder.mkdir()
    given = ["quantize", path, "--calibration", f"npz:{path.with_name('samples.npz')}"]
    more = ["--target", "tensorrt", "-o", folder / "made.onnx", *FAST]
    assert _run([str(each) for each in (*given, *more)]) == 0
    (folder / "made.onnx").replace(path)


def _elsewhere(path: Path) -> None:
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="given.bin", size_threshold=0)
    (path.parent / "given.bin").unlink()


def _baked_batch(path: Path) -> None:
    """A Reshape that takes one batch size alone, though the input says that any will do."""
    proto = onnx.load(path)
    proto.graph.node[1].CopyFrom(node("Reshape", ["c", "shape"], ["r"]))
    shape = numpy_helper.from_array(np.array([7, 4, 8, 8]), "shape")
    proto.graph.initializer.append(shape)
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cut_short, ["is not an ONNX file, or only a part"]),
        (lambda path: path.write_text("hello"), ["is not an ONNX file"]),
        (_with_node("Foo", "com.acme"), ["node 'odd'", "custom operator Foo of 'com.acme'"]),
        (_quantised, ["quantised already", "DequantizeLinear"]),
        (_elsewhere, ["given.bin, which is not beside it"]),
        (_baked_batch, ["ONNX Runtime cannot run the model", "Reshape"]),
    ],
)
def test_bad_models(
    change: Callable[[Path], None],
    words: list[str],
    give: Give,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = give()
    change(given.model)
    given.hashes = given.now()
    _refused(given, given.arguments(*FAST), 4, words, capsys)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--keep-float", "Conv_cc"], 4, ["no node", "'Conv_cc'", "did you mean 'Conv_c'"]),
        (["--min-sqnr", "90"], 4, ["u8s8 of given.onnx stands", "90 dB are asked"]),
        (["--target", "torch"], 2, ["torch runs no int8 model"]),
        (["--target", "tensort"], 2, ["no target is called 'tensort'"]),
        (["--form", "fp16"], 2, ["--method: fp16 has no ranges"]),
        (["--percentile", "99"], 2, ["--percentile: is for the method of that name"]),
        (["--max-drop", "1", "--max-divergence", "1"], 2, ["both say what may be lost"]),
        (["--max-drop", "1"], 4, ["need labels", "--max-divergence"]),
        (["--calibration", "npz:none.npz"], 2, ["there is no file 'none.npz'"]),
        (["--calibration", "none.json"], 2, ["none.json"]),
        (["-o", "made.pb"], 2, ["made.pb", "end it in .onnx"]),
        (["-o", "none/made.onnx"], 2, ["there is no folder 'none'"]),
        (["-o", "given.onnx"], 2, ["would be written over given.onnx"]),
        (["--ranges", "given.onnx", "--method", "mse"], 2, ["ranges are there already"]),
        (["--samples", "1"], 2, ["--samples"]),
    ],
)
def test_bad_options(
    more: list[str],
    code: int,
    words: list[str],
    give: Give,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = give()
    monkeypatch.chdir(given.folder)
    given.model, given.samples = Path("given.onnx"), Path("samples.npz")
    _refused(given, given.arguments(*FAST, *more), code, words, capsys)


def test_ranges_that_belong_elsewhere(
    give: Give, classifier: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(classifier.arguments(*FAST)) == 0
    saved = classifier.out.with_name("made.table.json")
    other = Given(classifier.folder / "other", *foreign.convolution())
    other.hashes = other.now()
    words = ["are of another model than", "its sha256 differs"]
    _refused(other, other.arguments("--ranges", saved), 4, words, capsys)
    cache = other.folder / "calibration.cache"  # it does not tell the model
    cache.write_text("TRT-8601-MinMaxCalibration\nbackbone/conv1: 3c010a14\n")
    other.hashes = other.now()
    words = ["none of the 1 tensors that", "calibration.cache"]
    _refused(other, other.arguments("--ranges", cache), 4, words, capsys)
    record = json.loads(saved.read_text())
    record["preprocessing_sha256"] = "0" * 64
    saved.write_text(json.dumps(record))
    assert _run(classifier.arguments("--ranges", saved)) == 4
    assert "another preprocessing" in capsys.readouterr().err


def test_what_is_read_is_not_written_over(give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    given = give()
    proto = onnx.load(given.model)
    onnx.save(
        proto, given.model, save_as_external_data=True, location="new.onnx.data", size_threshold=0
    )
    given.hashes = given.now()
    arguments = given.arguments(*FAST, "-o", given.folder / "new.onnx")
    _refused(given, arguments, 2, ["new.onnx.data, which is read"], capsys)


@pytest.mark.parametrize("step", ["compare", "quantize", "proof"])
def test_an_interruption_leaves_nothing_behind(
    step: str, give: Give, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    given = give()
    assert _run(given.arguments(*FAST)) == 0
    before = {each: each.read_bytes() for each in given.out.parent.iterdir()}
    where, name = (bring.proof, "measure") if step == "proof" else (bring, step)
    monkeypatch.setattr(where, name, interrupted)
    assert _run(given.arguments(*FAST)) == 130
    assert {each: each.read_bytes() for each in given.out.parent.iterdir()} == before
    assert given.now() == given.hashes


def _refused(
    given: Given,
    arguments: list[str],
    code: int,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that says these words, this exit code; no input touched, nothing written."""
    capsys.readouterr()
    assert _run(arguments) == code
    captured = capsys.readouterr()
    complaints = [each for each in captured.err.splitlines() if each.startswith("edgekd: ")]
    assert len(complaints) == 1 and captured.out == ""
    for word in words:
        assert word in complaints[0], complaints[0]
    assert given.now() == given.hashes
    assert given.made() == []
    assert not list(given.folder.rglob(".*"))
