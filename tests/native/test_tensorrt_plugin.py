"""The C++ plugins for TensorRT and TensorRT for RTX, compiled against the headers that are named.

What runs an engine runs here on stand-ins for CUDA and for TensorRT's library, under
AddressSanitizer and UBSan: what they cannot show is whether NVIDIA's own do as their manual says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd import targets
from edgekd.artifacts import OnnxModel, TensorSpec
from edgekd.backends import cuda
from edgekd.backends.base import build_engine
from tests.native import tensorrt_build
from tests.native.tensorrt_build import CPP, CUDA, HERE, INCLUDE, PLUGIN, SANITIZED, STRICT, build
from tests.small_onnx import relu

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler"),
    pytest.mark.skipif(
        not (INCLUDE / "NvInferRuntime.h").is_file() or not (CUDA / "include").is_dir(),
        reason="TensorRT's and CUDA's headers are not here: name them in EDGEKD_TENSORRT_INCLUDE"
        " and CUDA_HOME",
    ),
]

OK, CORRUPT, UNAVAILABLE, INCOMPATIBLE, FAILED, NO_MEMORY = 0, 3, 4, 5, 6, 9
PLAN = "FAKEPLAN 1 32"

Drive = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin on the stand-ins, them, and what drives it."""
    folder = tmp_path_factory.mktemp("tensorrt")
    (folder / "stubs.hpp").write_text(tensorrt_build.stubs((INCLUDE / "NvInferImpl.h").read_text()))
    cuda = build(folder / "libfakecuda.so", [HERE / "fake_cuda.cpp"], *SANITIZED)
    build(
        folder / "libfakenvinfer.so",
        [HERE / "fake_nvinfer.cpp"],
        *SANITIZED, "-Wno-deprecated-declarations", f"-I{folder}", cuda,
    )  # fmt: skip
    build(folder / "libedgekd_tensorrt.so", PLUGIN, *STRICT, *SANITIZED, cuda, "-lcrypto")
    build(folder / "drive", [HERE / "drive.cpp"], *STRICT, *SANITIZED, "-ldl")
    return folder


@pytest.fixture
def drive(built: Path, tmp_path: Path) -> Drive:
    """Drives the plugin on the stand-ins: files and options to what it says."""

    def driven(
        *files: Path,
        env: dict[str, str] | None = None,
        plugin: Path | None = None,
        **said: str | int,
    ) -> dict[str, Any]:
        library = {"EDGEKD_TENSORRT_LIBRARY": str(built / "libfakenvinfer.so")}
        words = [f"{key}={value}" for key, value in said.items()]
        result = subprocess.run(
            [built / "drive", plugin or built / "libedgekd_tensorrt.so", *words, *files],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LD_LIBRARY_PATH": str(built), **library, **(env or {})},
        )
        assert result.returncode == 0, result.stderr
        told: dict[str, Any] = json.loads(result.stdout)
        assert "\n" not in told["message"]
        return told

    return driven


def _version() -> str:
    header = (INCLUDE / "NvInferVersion.h").read_text()
    numbers = [re.search(rf"{part}(?:_ENTERPRISE)? +(\d+)", header) for part in ("MAJOR", "MINOR")]
    return ".".join(each[1] for each in numbers if each) + ".0.7"


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """A plan of the stand-in and its side-car, with other facts where they are given."""

    def written(plan: str = PLAN, **other: Any) -> tuple[Path, Path]:
        path = tmp_path / "int8.engine"
        path.write_text(plan)
        facts: dict[str, Any] = {
            "schema": "1.0", "sha256": hashlib.sha256(plan.encode()).hexdigest(),
            "bytes": len(plan), "library": "tensorrt", "version": _version(),
            "system": "linux-" + os.uname().machine, "device": "sm_87",
            "gpu": "NVIDIA Orin with 8 multiprocessors", "hardware": "none",
            "version_compatible": False, "precision": "int8", "onnx_sha256": "",
            "calibration_sha256": "", "compiled_sha256": "", "flags": {}, "inputs": [],
            "outputs": [],
        }  # fmt: skip
        facts |= other
        known = {key: value for key, value in facts.items() if value is not ...}
        sidecar = tmp_path / "int8.json"
        sidecar.write_text(json.dumps(known))
        return path, sidecar

    return written


Engine = Callable[..., tuple[Path, Path]]


def _answers(batch: int, base: float = 0.0) -> list[float]:
    """What the stand-in's network gives for 0, 1, 2, ... from ``base``."""
    rows = [sum(base + 4 * row + column for column in range(4)) for row in range(batch)]
    return [value for row in rows for value in (row, float(batch))]


def test_a_run_gives_the_network_s_answers(drive: Drive, engine: Engine) -> None:
    told = drive(*engine(), batch=3, run="1,2,3,1,3,3")
    assert (told["status"], told["message"]) == (OK, "")
    assert told["name"] == "tensorrt"
    assert told["runtime"] == _version()
    (context,) = told["contexts"]
    assert context["graphs"] == 3
    assert context["refused"] == ""
    batches = (1, 2, 3, 1, 3, 3)
    for ran, batch in zip(context["runs"], batches, strict=True):
        assert ran == {"status": OK, "message": "", "logits": _answers(batch)}


def test_many_batches_take_few_graphs(drive: Drive, engine: Engine) -> None:
    batches = [*range(1, 33), 9, 31, 10, 32, 1]
    told = drive(*engine(), batch=32, run=",".join(map(str, batches)))
    (context,) = told["contexts"]
    assert context["graphs"] == 9  # 1 to 8, and 32
    assert [each["logits"] for each in context["runs"]] == [_answers(each) for each in batches]


def test_contexts_of_several_threads_do_not_meet(drive: Drive, engine: Engine) -> None:
    told = drive(*engine(), batch=4, threads=6, run="4,1,3,2,4")
    for index, context in enumerate(told["contexts"]):
        expected = [_answers(each, 100 * index) for each in (4, 1, 3, 2, 4)]
        assert [each["logits"] for each in context["runs"]] == expected


def test_an_engine_for_some_batches_only(drive: Drive, engine: Engine) -> None:
    told = drive(*engine("FAKEPLAN 2 4"), batch=4, run="2,4,3", min_batch="2")
    (context,) = told["contexts"]
    assert context["graphs"] == 3
    assert [each["logits"] for each in context["runs"]] == [_answers(each) for each in (2, 4, 3)]
    told = drive(*engine("FAKEPLAN 2 4"), batch=5, min_batch="2")
    assert told["status"] == INCOMPATIBLE
    assert "built for batches of 2 to 4, and batches of 2 to 5 are wanted" in told["message"]
    told = drive(*engine("FAKEPLAN 2 4"), batch=4)  # the manifest does not say that 1 is too few
    assert told["status"] == INCOMPATIBLE
    assert "built for batches of 2 to 4, and batches of 1 to 4 are wanted" in told["message"]


@pytest.mark.parametrize(
    ("option", "env", "refused"),
    [
        ({"cuda_graph": "false"}, {}, ""),
        ({}, {"FAKE_CUDA": "no capture"}, "cudaStreamBeginCapture failed (operation not permitted"),
    ],
)
def test_without_cuda_graphs_it_runs_all_the_same(
    option: dict[str, str], env: dict[str, str], refused: str, drive: Drive, engine: Engine
) -> None:
    told = drive(*engine(), batch=3, run="1,3,2,1", env=env, **option)
    (context,) = told["contexts"]
    assert context["graphs"] == 0
    assert context["refused"].startswith(refused) and bool(context["refused"]) == bool(refused)
    assert [each["logits"] for each in context["runs"]] == [_answers(each) for each in (1, 3, 2, 1)]


def test_a_lost_gpu_is_told_once_and_for_all(drive: Drive, engine: Engine) -> None:
    env = {"FAKE_CUDA": "lost at the fifth run"}  # two of them before the first of ours
    (context,) = drive(*engine(), run="1,1,1,1", env=env)["contexts"]
    states = [each["status"] for each in context["runs"]]
    assert states == [OK, OK, FAILED, FAILED]
    first, then = (each["message"] for each in context["runs"][2:])
    assert first == ("cudaStreamSynchronize failed (an illegal memory access was encountered)")
    assert "was lost in an earlier run (an illegal memory access was encountered)" in then
    assert "start the process anew" in then


@pytest.mark.parametrize(
    ("env", "status", "words"),
    [
        ({"FAKE_NVINFER": "context"}, FAILED,
         "of int8.engine: no reason was given; 1 of 8 MiB of the GPU are free"),
        ({"FAKE_NVINFER": "enqueue"}, FAILED,
         "could not enqueue int8.engine: Cuda failure in enqueueV3"),
        ({"FAKE_CUDA": "no memory"}, NO_MEMORY, ""),
    ],
)  # fmt: skip
def test_what_the_library_cannot_do_for_a_context(
    env: dict[str, str], status: int, words: str, drive: Drive, engine: Engine
) -> None:
    told = drive(*engine(), env=env, run="1")
    assert told["status"] == OK
    assert told["contexts"][0]["status"] == status
    assert words in told["contexts"][0].get("message", "")


OTHER = "and this is tensorrt "
SPOILT: list[tuple[dict[str, Any], int, str]] = [
    ({"library": "tensorrt_rtx"}, INCOMPATIBLE, OTHER),
    ({"version": "8.6.1.6"}, INCOMPATIBLE, "this engine is for tensorrt 8.6.1.6, " + OTHER),
    ({"version": "99.0.0.0", "version_compatible": True}, INCOMPATIBLE, OTHER),
    ({"system": "qnx-aarch64"}, INCOMPATIBLE, "for qnx-aarch64, and this is linux-"),
    ({"device": "sm_8"}, INCOMPATIBLE, "this engine is for sm_8, and this is a GPU of sm_87"),
    ({"device": "sm_86+sm_89"}, INCOMPATIBLE, "for sm_86+sm_89, and this is a GPU of sm_87"),
    ({"gpu": "NVIDIA Orin with 16 multiprocessors"}, INCOMPATIBLE,
     "for NVIDIA Orin with 16 multiprocessors, and this is NVIDIA Orin with 8 multiprocessors"),
    ({"version_compatible": True}, INCOMPATIBLE, "set EDGEKD_HOST_CODE=1 if you trust"),
    ({"sha256": "0" * 64}, CORRUPT, "int8.engine is not the file that its side-car names"),
    ({"plan": "ftrt"}, FAILED, "cannot load int8.engine: Magic tag does not match"),
    ({"schema": "2.0"}, CORRUPT, "int8.json has schema 2.0, later than 1.0"),
    ({"schema": "one"}, CORRUPT, "int8.json lacks or misstates schema"),
    ({"gpu": ...}, CORRUPT, "int8.json lacks or misstates gpu"),
    ({"version_compatible": 1}, CORRUPT, "int8.json lacks or misstates version_compatible"),
    ({"flags": {"dla_core": 0}}, CORRUPT, "int8.json lacks or misstates flags.dla_core"),
    ({"bytes": True}, CORRUPT, "int8.json lacks or misstates bytes"),
    ({"inputs": {}}, CORRUPT, "int8.json lacks or misstates inputs"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "status", "words"), SPOILT)
def test_an_engine_that_does_not_belong_here(
    facts: dict[str, Any], status: int, words: str, drive: Drive, engine: Engine
) -> None:
    told = drive(*engine(**facts))
    assert told["status"] == status, told
    assert words in told["message"]


@pytest.mark.parametrize(
    "facts",
    [
        {"hardware": "ampere+", "device": "sm_86", "gpu": "another"},
        {"hardware": "same_compute_capability", "gpu": "another"},
        {"gpu": "", "device": "sm_86+sm_87"},
        {"flags": {"dla_core": "1"}},
        {"schema": "1.7"},
    ],
)
def test_an_engine_that_others_may_load(
    facts: dict[str, Any], drive: Drive, engine: Engine
) -> None:
    assert drive(*engine(**facts), run="1")["contexts"][0]["runs"][0]["status"] == OK


def test_host_code_is_a_user_s_choice(drive: Drive, engine: Engine) -> None:
    earlier = ".".join([_version().split(".")[0], "0", "0", "1"])
    files = engine(version_compatible=True, version=earlier)
    assert drive(*files, env={"EDGEKD_HOST_CODE": "1"})["status"] == OK
    assert drive(*files, env={"EDGEKD_HOST_CODE": "yes"})["status"] == INCOMPATIBLE


def test_files_that_are_missing_altered_or_no_plan(
    drive: Drive, engine: Engine, tmp_path: Path
) -> None:
    plan, sidecar = engine()
    assert drive(plan)["status"] == CORRUPT
    assert "has no side-car" in drive(plan)["message"]
    unbuilt = tmp_path / "int8.onnx"
    unbuilt.write_bytes(b"onnx")
    told = drive(unbuilt)
    assert told["status"] == INCOMPATIBLE
    assert "run `edgekd verify BUNDLE --rebuild` on the device" in told["message"]
    compiled = tmp_path / "int8.jit"
    compiled.write_bytes(b"compiled")
    told = drive(plan, sidecar, compiled)
    assert told["status"] == CORRUPT
    assert "int8.jit is not the file that its side-car names" in told["message"]
    plan, sidecar = engine(compiled_sha256=hashlib.sha256(b"compiled").hexdigest())
    assert drive(plan, sidecar, compiled)["status"] == OK
    for text in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"{}" + b" " * (1 << 20)):
        sidecar.write_bytes(text)
        told = drive(plan, sidecar)
        assert told["status"] == CORRUPT
        assert "int8.json" in told["message"]


def test_tensors_that_are_others_than_the_bundle_s(drive: Drive, engine: Engine) -> None:
    files = engine()
    assert "has no input 'pixels'" in drive(*files, input="pixels")["message"]
    assert "'image' of another type" in drive(*files, type=2)["message"]
    assert "'image' of another shape" in drive(*files, width=5)["message"]
    assert drive(*files, width=5)["status"] == INCOMPATIBLE


def test_devices(drive: Drive, engine: Engine) -> None:
    assert drive(*engine(), device="cuda")["status"] == OK
    assert drive(*engine(), device="cuda:0")["status"] == OK
    told = drive(*engine(), device="cuda:1")  # an sm_86
    assert (told["status"], "a GPU of sm_86" in told["message"]) == (INCOMPATIBLE, True)
    told = drive(*engine(), device="CPU")
    assert told["status"] == UNAVAILABLE
    assert "it has no device 'CPU', only cuda:0 to cuda:1" in told["message"]
    told = drive(*engine(device="sm_86"), device="cuda:1", run="1", batch=1)
    assert told["contexts"][0]["runs"][0]["logits"] == _answers(1)
    told = drive(*engine(), env={"FAKE_CUDA": "no GPU"})
    assert told["status"] == UNAVAILABLE
    assert told["message"] == (
        "tensorrt is unavailable: no NVIDIA GPU with a working driver was found: the driver sees"
        " no GPU"
    )


def test_no_library(drive: Drive, engine: Engine, tmp_path: Path) -> None:
    none = tmp_path / "none.so"
    told = drive(*engine(), env={"EDGEKD_TENSORRT_LIBRARY": str(none)})
    assert told["status"] == UNAVAILABLE
    assert str(none) in told["message"] and "EDGEKD_TENSORRT_LIBRARY" in told["message"]
    told = drive(*engine(), env={"EDGEKD_TENSORRT_LIBRARY": "libc.so.6"})
    assert told["message"].endswith("its library has no getInferLibMajorVersion")


@pytest.mark.parametrize("version", ["9,9,0,0", "99,0,0,0"])
def test_a_library_that_the_plugin_was_not_compiled_for(
    version: str, drive: Drive, engine: Engine, built: Path, tmp_path: Path
) -> None:
    other = build(
        tmp_path / "libother.so",
        [HERE / "fake_nvinfer.cpp"], *SANITIZED, "-Wno-deprecated-declarations", f"-I{built}",
        f"-DFAKE_NVINFER_VERSION={version}", built / "libfakecuda.so",
    )  # fmt: skip
    told = drive(*engine(), env={"EDGEKD_TENSORRT_LIBRARY": str(other)})
    assert told["status"] == UNAVAILABLE
    assert f"and {version.replace(',', '.')} is here" in told["message"]


def test_what_only_tensorrt_for_rtx_has(tmp_path: Path) -> None:
    plugins = f"-I{CPP / 'plugins'}"
    sources = [HERE / "contexts.cpp"]
    program = build(tmp_path / "contexts", sources, *STRICT, *SANITIZED, plugins)
    told = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert told == "all as it should be\n"


@pytest.fixture(scope="session")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin for RTX, with NVIDIA's real CUDA runtime.

    The headers are TensorRT's, said to be of RTX's version: where there is no GPU, no call comes
    so far that their difference would tell.
    """
    folder = tmp_path_factory.mktemp("rtx")
    include = folder / "include"
    shutil.copytree(INCLUDE, include)
    version = (include / "NvInferVersion.h").read_text()
    for part, number in (("MAJOR", 1), ("MINOR", 0)):
        version = re.sub(rf"(define NV_TENSORRT_{part}) \w+", rf"\1 {number}", version)
    (include / "NvInferVersion.h").write_text(version)
    return build(
        folder / "libedgekd_tensorrt-rtx.so", PLUGIN, *STRICT, "-DEDGEKD_TENSORRT_RTX",
        f"-L{CUDA / 'lib64'}", "-lcudart_static", "-lculibos", "-lcrypto", "-ldl", "-lrt",
        include=include,
    )  # fmt: skip


def test_a_real_plan_and_its_real_library_where_there_is_no_gpu(
    rtx: Path, drive: Drive, tmp_path: Path
) -> None:
    libs = pytest.importorskip("tensorrt_rtx_libs")
    if cuda.here() is not None:
        pytest.skip("there is a GPU")
    path = relu(tmp_path / "model.onnx", ("batch", 4))
    inputs, outputs = ((TensorSpec(name, "float32", ("batch", 4)),) for name in "xy")
    model = OnnxModel(path=path, opset=17, model_inputs=inputs, model_outputs=outputs, parity=0.0)
    engine = build_engine(model, "student", targets.load("tensorrt-rtx"), tmp_path)
    files = (engine.path, *engine.parts)
    env = {"EDGEKD_TENSORRT_RTX_LIBRARY": str(Path(libs.__file__).parent / "libtensorrt_rtx.so.1")}
    told = drive(*files, plugin=rtx, env=env)
    assert (told["name"], told["status"]) == ("tensorrt-rtx", UNAVAILABLE)
    assert told["message"].startswith(
        "tensorrt-rtx is unavailable: no NVIDIA GPU with a working driver was found: "
    )
    other = json.loads(engine.parts[0].read_text()) | {"version": "1.0.0.1"}
    engine.parts[0].write_text(json.dumps(other))
    told = drive(*files, plugin=rtx, env=env)
    assert told["status"] == INCOMPATIBLE
    assert f"this is tensorrt_rtx {engine.backend_version}:" in told["message"]
    engine.path.write_bytes(engine.path.read_bytes()[:-1] + b"!")
    assert drive(*files, plugin=rtx, env=env)["status"] == CORRUPT
