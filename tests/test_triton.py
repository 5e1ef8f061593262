"""A model repository for Triton: held against the schema that its clients ship."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st

from edgekd import bundle as bundles
from edgekd import triton
from edgekd.artifacts import Preprocessing
from edgekd.bundle import Bundle
from edgekd.errors import BundleError, CorruptBundle, EdgekdError, EngineIncompatible, RecipeError
from edgekd.preprocessing import normalise
from edgekd.triton.text import lines
from tests.conftest import assert_one_line, run_cli
from tests.small_onnx import FLOAT, write

SHAPED = Preprocessing((0.25,), (0.5,))
LABELS = ("cat", 'a "dog"', "käfer\nof two lines")


def _published() -> Any:
    """The message ``ModelConfig``, from the serialised schema within NVIDIA's client.

    The module around it is for one version of protobuf, and is not imported.
    """
    listed = files("tritonclient") or []
    module = next(each for each in listed if str(each) == "tritonclient/grpc/model_config_pb2.py")
    tree = ast.parse(Path(str(module.locate())).read_text())
    call = next(
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and getattr(each.func, "attr", "") == "AddSerializedFile"
    )
    schema = descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(call.args[0]))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(schema)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


ModelConfig = _published()


def parsed(text: str) -> Any:
    return text_format.Parse(text, ModelConfig())


Make = Callable[..., Bundle]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Bundles of engines that need not run: all that is done with them is copying."""

    def made(*engines: dict[str, Any], **other: Any) -> Bundle:
        source = tmp_path / "files"
        source.mkdir(exist_ok=True)
        np.save(source / "images.npy", np.arange(2 * 16, dtype=np.uint8).reshape(2, 1, 4, 4))
        np.save(source / "golden.npy", np.zeros((2, 3), np.float32))
        contents = {
            "golden/images.npy": source / "images.npy",
            "golden/g.npy": source / "golden.npy",
        }
        records = []
        for engine in engines:
            record = {
                "target": engine["backend"], "version": "1.2.3", "precision": "int8",
                "device": "cpu", "executed": True, "parts": [], "options": {}, "source": "",
                "golden": "golden/g.npy", "tolerance": 0.1,
            }  # fmt: skip
            record |= engine
            for name in (record["path"], *record["parts"]):
                contents[name] = source / name.replace("/", "-")
                if not contents[name].exists():
                    contents[name].write_bytes(name.encode())
            records.append(record)
        manifest = {
            "name": "beasts",
            "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 4, 4]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 3]}],
            "preprocessing": asdict(SHAPED),
            "labels": list(LABELS),
            "engines": records,
            "golden": {"images": "golden/images.npy"},
            "budget": {"fps": None, "max_drop": None},
            "verdict": {"status": "pass", "reasons": []},
            "provenance": {},
            **other,
        }
        return bundles.write(tmp_path / "beasts.edgekd", manifest, contents)

    return made


ORT = {"backend": "onnxruntime", "path": "engines/ort/int8.onnx"}
CUDA = {
    **ORT,
    "device": "cuda",
    "options": {"provider": "CUDAExecutionProvider", "max_batch": "32"},
}
OPENVINO = {
    "backend": "openvino", "path": "engines/ov/int8.xml", "parts": ["engines/ov/int8.bin"],
}  # fmt: skip
TRT = {
    "backend": "tensorrt", "path": "engines/trt/int8.engine", "parts": ["engines/trt/int8.json"],
    "version": "10.3.0.26", "device": "sm_87",
    "options": {"min_batch": "1", "opt_batch": "4", "max_batch": "16"},
}  # fmt: skip
RTX = {"backend": "tensorrt-rtx", "path": "engines/rtx/int8.engine"}


def _export(bundle: Bundle, folder: Path, **options: Any) -> tuple[triton.Exported, Any]:
    made = triton.export(bundle, folder, **options)
    return made, parsed((made.model / "config.pbtxt").read_text("utf-8"))


def test_the_files_are_where_triton_looks_for_them(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for engine, names in (
        (ORT, {"1/model.onnx": "engines/ort/int8.onnx"}),
        (TRT, {"1/model.plan": "engines/trt/int8.engine"}),
        (OPENVINO, {"1/model.xml": "engines/ov/int8.xml", "1/model.bin": "engines/ov/int8.bin"}),
    ):
        bundle = make(engine)
        made, config = _export(bundle, folder, name=engine["backend"])
        assert made.model == folder / engine["backend"]
        assert config.name == engine["backend"]
        held = {
            str(each.relative_to(made.model)) for each in made.model.rglob("*") if each.is_file()
        }
        assert held == {"config.pbtxt", "labels.txt", "warmup/golden.bin", *names}
        for copy, original in names.items():
            assert (made.model / copy).read_bytes() == (bundle.root / original).read_bytes()
    assert sorted(each.name for each in folder.iterdir()) == ["onnxruntime", "openvino", "tensorrt"]


def test_a_config_by_the_published_schema(make: Make, tmp_path: Path) -> None:
    _, config = _export(make(ORT), tmp_path / "models", version=7)
    assert (tmp_path / "models" / "beasts" / "7" / "model.onnx").is_file()
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.max_batch_size == 8
    assert config.version_policy.latest.num_versions == 1
    (image,), (logits,), (group,) = config.input, config.output, config.instance_group
    assert (image.name, image.data_type, list(image.dims)) == ("image", 11, [1, 4, 4])  # FP32
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", 11, [3])
    assert logits.label_filename == "labels.txt"
    assert (group.count, group.kind) == (1, group.KIND_CPU)
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.preferred_batch_size
    assert not config.optimization.cuda.graphs
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_labels_are_a_line_each(make: Make, tmp_path: Path) -> None:
    made, _ = _export(make(ORT), tmp_path / "models")
    lines = (made.model / "labels.txt").read_text("utf-8").splitlines()
    assert lines == ["cat", 'a "dog"', "käfer of two lines"]


def test_clients_are_told_the_preprocessing_and_where_it_is_from(
    make: Make, tmp_path: Path
) -> None:
    bundle = make(ORT)
    made, config = _export(bundle, tmp_path / "models")
    told = json.loads(config.parameters["edgekd.preprocessing"].string_value)
    assert Preprocessing(**{**told, "mean": (0.25,), "std": (0.5,)}) == SHAPED
    assert (told["mean"], told["std"]) == ([0.25], [0.5])
    origin = json.loads(config.parameters["edgekd.engine"].string_value)
    assert origin["content"] == bundle.manifest["content"]
    assert origin["sha256"] == bundle.engines[0]["sha256"]
    assert "clients resize and normalise images" in made.notes[0]
    text = (made.model / "config.pbtxt").read_text()
    assert all(f"# {note}." in text for note in made.notes)


def test_it_warms_up_with_a_golden_image(make: Make, tmp_path: Path) -> None:
    bundle = make(TRT)
    made, config = _export(bundle, tmp_path / "models")
    assert [each.batch_size for each in config.model_warmup] == [1, 16]
    for each in config.model_warmup:
        (name,) = each.inputs
        assert name == "image"
        assert (each.inputs[name].data_type, list(each.inputs[name].dims)) == (11, [1, 4, 4])
        assert each.inputs[name].input_data_file == "golden.bin"
    given = np.frombuffer((made.model / "warmup" / "golden.bin").read_bytes(), "<f4")
    expected = normalise(bundle.golden_images()[:1], SHAPED)
    assert np.array_equal(given, expected.ravel())


def test_tensorrt(make: Make, tmp_path: Path) -> None:
    made, config = _export(make(TRT), tmp_path / "models")
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert config.max_batch_size == made.max_batch == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.optimization.cuda.graphs
    assert "the plan is for TensorRT 10.3.0.26 on sm_87, as the server must be" in made.notes
    options = {"cuda_graph": "false", "version_compatible": "true", "min_batch": "2"}
    other = {**TRT, "options": {**TRT["options"], **options}}
    made, config = _export(make(other), tmp_path / "others")
    assert not config.optimization.cuda.graphs
    assert [each.batch_size for each in config.model_warmup] == [2, 16]
    told = " ".join(made.notes)
    assert "version-compatible=true" in told and "batches of 2 and more" in told


def test_onnx_runtime_on_a_gpu(make: Make, tmp_path: Path) -> None:
    _, config = _export(make(CUDA), tmp_path / "models")
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert config.max_batch_size == 32
    assert "intra_op_thread_count" not in config.parameters


def test_openvino_computes_its_largest_batch_for_every_request(make: Make, tmp_path: Path) -> None:
    bundle = make(OPENVINO)
    made, config = _export(bundle, tmp_path / "models")
    assert (config.backend, config.platform, made.max_batch) == ("openvino", "", 1)
    assert not config.HasField("dynamic_batching")
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "1"
    _, config = _export(bundle, tmp_path / "models", name="four", max_batch=4)
    assert config.max_batch_size == 4
    assert config.parameters["ENABLE_BATCH_PADDING"].string_value == "YES"


def test_a_model_whose_batch_is_fixed(make: Make, tmp_path: Path) -> None:
    fixed = {
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 1, 4, 4]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 3]}],
    }
    bundle = make(ORT, **fixed)
    made, config = _export(bundle, tmp_path / "models")
    assert config.max_batch_size == made.max_batch == 0
    assert list(config.input[0].dims) == [1, 1, 4, 4]
    assert not config.HasField("dynamic_batching")
    (warmup,) = config.model_warmup
    assert (warmup.batch_size, list(warmup.inputs["image"].dims)) == (1, [1, 1, 4, 4])
    with pytest.raises(RecipeError, match="the batch of this model is fixed"):
        triton.export(bundle, tmp_path / "models", name="other", max_batch=2)


def test_a_model_that_takes_no_image(make: Make, tmp_path: Path) -> None:
    tensors = [
        {"name": "tokens", "dtype": "int64", "shape": ["batch", "length"]},
        {"name": "mask", "dtype": "bool", "shape": ["batch", 5, 2]},
    ]
    given = {**asdict(SHAPED), "color": "L"}
    bundle = make(ORT, inputs=tensors, outputs=tensors[1:], preprocessing=given)
    made, config = _export(bundle, tmp_path / "models")
    assert [list(each.dims) for each in config.input] == [[-1], [5, 2]]
    assert [each.data_type for each in config.input] == [9, 1]
    assert made.notes[0].startswith("the engine takes int64 tensors: ")
    assert not config.model_warmup
    assert not (made.model / "warmup").exists()
    assert not config.output[0].label_filename
    assert not (made.model / "labels.txt").exists()


def test_the_exported_onnx_runs_on_the_warm_up(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    model = source / "engines-ort-int8.onnx"
    write(model, "GlobalAveragePool", {"x": (FLOAT, ("n", 1, 4, 4))}, ("n", 1, 1, 1))
    made, _ = _export(make(ORT), tmp_path / "models")
    session = onnxruntime.InferenceSession(made.model / "1" / "model.onnx")
    given = np.frombuffer((made.model / "warmup" / "golden.bin").read_bytes(), "<f4")
    (answer,) = session.run(None, {"x": given.reshape(1, 1, 4, 4)})
    assert np.allclose(answer, given.mean())


def test_the_best_engine_that_triton_has_a_backend_for(make: Make, tmp_path: Path) -> None:
    bundle = make(RTX, TRT, ORT)
    made, _ = _export(bundle, tmp_path / "models")
    assert (made.target, made.backend) == ("tensorrt", "tensorrt")
    made, _ = _export(bundle, tmp_path / "models", name="cpu", target="onnxruntime")
    assert made.backend == "onnxruntime"


TENSORRT_IN_ORT = {**ORT, "options": {"provider": "TensorrtExecutionProvider"}}
UNBUILT = {**TRT, "version": "", "path": "engines/trt/int8.onnx", "parts": []}


@pytest.mark.parametrize(
    ("engine", "options", "kind", "words"),
    [
        (ORT, {"target": "onnxruntim"}, BundleError, "did you mean 'onnxruntime'?"),
        (ORT, {"precision": "fp16"}, BundleError, "no engine for target any, precision fp16"),
        (RTX, {}, RecipeError, "Triton has no backend for tensorrt-rtx"),
        (TENSORRT_IN_ORT, {}, RecipeError, "ONNX Runtime's TensorrtExecutionProvider"),
        (UNBUILT, {}, EngineIncompatible, "run `edgekd verify BUNDLE --rebuild` on the device"),
        (ORT, {"name": "../x"}, RecipeError, "--name: '../x' is no name"),
        (ORT, {"name": ""}, RecipeError, "--name: '' is no name"),
        (ORT, {"version": 0}, RecipeError, "--version: 0 is no version"),
        (ORT, {"max_batch": 0}, RecipeError, "--max-batch: 0 is no batch of onnxruntime int8"),
        (TRT, {"max_batch": 17}, RecipeError, "give 1 to 16"),
        ({**OPENVINO, "parts": []}, {}, BundleError, "0 files that could be Triton's model.bin"),
        (
            {**OPENVINO, "parts": ["a.bin", "b.bin"]},
            {},
            BundleError,
            "openvino int8 has 2 files that could be",
        ),
    ],
)
def test_what_cannot_be_exported(
    engine: dict[str, Any], options: dict[str, Any], kind: type[EdgekdError], words: str,
    make: Make, tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(kind) as raised:
        triton.export(make(engine), tmp_path / "models", **options)
    assert type(raised.value) is kind
    assert words in str(raised.value)
    assert not (tmp_path / "models").exists()


def test_nothing_is_replaced_and_nothing_is_left_half_written(make: Make, tmp_path: Path) -> None:
    bundle, folder = make(ORT), tmp_path / "models"
    first = triton.export(bundle, folder).model / "config.pbtxt"
    text = first.read_bytes()
    with pytest.raises(
        RecipeError, match="beasts: there is such a model already, with a version 1"
    ):
        triton.export(bundle, folder)
    (bundle.root / "engines" / "ort" / "int8.onnx").write_bytes(b"changed")
    with pytest.raises(CorruptBundle, match="is not the file that the manifest names"):
        triton.export(bundle, folder, name="second")
    assert [each.name for each in folder.iterdir()] == ["beasts"]
    assert first.read_bytes() == text


def test_a_further_version_of_the_same_model(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    first, config = _export(make(ORT), folder)
    labels = (first.model / "labels.txt").read_bytes()
    newer = make({**ORT, "path": "engines/ort/newer.onnx", "version": "2.0"})
    made, after = _export(newer, folder, version=3)
    origin = json.loads(after.parameters["edgekd.engine"].string_value)
    assert (origin["sha256"], origin["version"]) == (newer.engines[0]["sha256"], "2.0")
    older = make({**ORT, "path": "engines/ort/older.onnx"})
    _, kept = _export(older, folder, version=2)
    assert kept == after  # it tells of the latest
    for each, name in enumerate(("int8", "older", "newer"), 1):
        content = (made.model / str(each) / "model.onnx").read_bytes()
        assert content == f"engines/ort/{name}.onnx".encode()
    after.parameters["edgekd.engine"].string_value = config.parameters["edgekd.engine"].string_value
    assert after == config
    assert (made.model / "labels.txt").read_bytes() == labels
    assert [each.name for each in folder.iterdir()] == ["beasts"]


@pytest.mark.parametrize(
    "change", ["batch", "labels", "edited", "no config", "link", "file", "preprocessing"]
)
def test_a_version_of_another_model_is_refused(make: Make, tmp_path: Path, change: str) -> None:
    folder, options, other = tmp_path / "models", {}, {}
    model = triton.export(make(ORT), folder).model
    match change:
        case "batch":
            options = {"max_batch": 4}
        case "labels":
            other = {"labels": ["cat", "dog", "worm"]}
        case "preprocessing":
            other = {"preprocessing": {**asdict(SHAPED), "crop": 0.5}}
        case "edited":
            with (model / "config.pbtxt").open("a") as file:
                file.write("model_transaction_policy { decoupled: false }\n")
        case "no config":
            (model / "config.pbtxt").unlink()
        case "link":
            model.rename(tmp_path / "moved")
            model.symlink_to(tmp_path / "moved")
        case "file":
            model.rename(tmp_path / "moved")
            model.touch()
    before = sorted(folder.rglob("*"))
    with pytest.raises(RecipeError, match="such a model already, and its config.pbtxt or labels"):
        triton.export(make(ORT, **other), folder, version=2, **options)
    assert sorted(folder.rglob("*")) == before


def test_what_an_input_of_half_precision_takes_is_told(make: Make, tmp_path: Path) -> None:
    half = {"inputs": [{"name": "image", "dtype": "float16", "shape": ["batch", 1, 4, 4]}]}
    made, config = _export(make(ORT, **half), tmp_path / "models")
    assert made.notes[0].startswith("the engine takes float16 tensors")
    assert config.input[0].data_type == 10  # FP16
    told = json.loads(config.parameters["edgekd.preprocessing"].string_value)
    assert told["dtype"] == "float16"


def test_a_place_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RecipeError, match=r"cannot be written: (File exists|Not a directory)"):
        triton.export(make(ORT), file)
    if os.geteuid():  # root may write anywhere
        file.chmod(0)
        with pytest.raises(RecipeError, match="cannot be written"):
            triton.export(make(ORT), file / "models")


@given(st.text())
def test_any_text_comes_through(text: str) -> None:
    message = "\n".join(lines({"name": text}))
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, of which a manifest holds none
        return
    assert parsed(message).name == text


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max_batch_size: 8", "max_batch_size: many"),
        ("max_batch_size: 8", "max_batch: 8"),
        ("kind: KIND_CPU", "kind: KIND_TPU"),
        ("data_type: TYPE_FP32", "data_type: FLOAT"),
        ("dims: [ 1, 4, 4 ]", "dims: [ 1, x, 4 ]"),
        ("version_policy {", "version_policy ["),
        ('name: "beasts"', "name: beasts"),
    ],
)
def test_the_schema_refuses_what_is_wrong(
    right: str, wrong: str, make: Make, tmp_path: Path
) -> None:
    text = (triton.export(make(ORT), tmp_path / "models").model / "config.pbtxt").read_text()
    assert right in text
    with pytest.raises(text_format.ParseError):
        parsed(text.replace(right, wrong, 1))


def test_the_command(make: Make, tmp_path: Path) -> None:
    bundle, folder = make(TRT, ORT), tmp_path / "models"
    result = run_cli("export-triton", bundle.root, folder, "--json", "--max-batch", "4")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["model"] == str(folder / "beasts")
    assert (told["target"], told["backend"], told["max_batch"]) == ("tensorrt", "tensorrt", 4)
    result = run_cli("export-triton", bundle.root, folder, "--target", "onnxruntime", "--name", "b")
    assert result.stdout.startswith(
        f"{folder / 'b'}: onnxruntime int8 by onnxruntime, batches of up to 8\n"
    )
    again = run_cli("export-triton", bundle.root, folder)
    assert_one_line(again, 2, "there is such a model already", "--version", "--name")
    again = run_cli("export-triton", bundle.root, folder, "--version", "2", "--max-batch", "4")
    assert again.returncode == 0, again.stderr
    assert (folder / "beasts" / "2" / "model.plan").is_file()
    assert_one_line(run_cli("export-triton", tmp_path / "none", folder), 2, "is not a bundle")
