"""Who imports whom: between our layers, and from us to other people's libraries."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "edgekd"

# Every library but the standard one, and where in the package it may be imported.
MAY_IMPORT = {
    "numpy": ["*"],
    "tomli": ["recipe_file.py", "targets/__init__.py"],  # before Python 3.11
    "pydantic": ["recipe.py", "recipe_file.py"],
    "click": ["cli/*"],
    "rich": ["cli/*"],
    "PIL": ["data/pixels.py", "report/*"],
    "jinja2": ["report/*"],
    "matplotlib": ["report/charts/*", "report/render.py"],
    "filelock": ["store.py"],
    "platformdirs": ["store.py", "data/fashion_mnist.py"],
    "sklearn": ["data/digits.py"],
    "safetensors": ["models/weights.py"],
    "torch": [
        "models/*",
        "distill/*",
        "distill/losses/*",
        "export.py",
        "quantize/fake.py",
        "quantize/operators.py",
        "backends/torch_eager.py",
    ],
    "onnx": [
        "onnx_cost.py",
        "bench/roofline.py",
        "calibration/*",
        "quantize/*",
        "quantize/lint/*",
        "models/onnx_file.py",
    ],
    "onnxruntime": [
        "backends/ort.py",
        "backends/ort_providers.py",
        "models/onnx_file.py",
        "quantize/fp16.py",
    ],
    "openvino": ["backends/openvino.py"],
    "tensorrt": ["backends/tensorrt/*"],
    "cuda": ["backends/cuda/*"],
    "pycuda": ["backends/cuda/*"],
    "pynvml": ["bench/nvml.py"],
    "mlperf_loadgen": ["bench/loadgen.py"],
}

# Files that are nothing without torch, so that they import it at the top.
NEED_TORCH = {
    "edgekd.distill.adaptors",
    "edgekd.distill.checkpoint",
    "edgekd.distill.distiller",
    "edgekd.distill.fit",
    "edgekd.distill.given",
    "edgekd.distill.losses",
    "edgekd.distill.mixing",
    "edgekd.distill.objectives",
    "edgekd.distill.optim",
    "edgekd.distill.ranks",
    "edgekd.distill.sampling",
    "edgekd.distill.taps",
    "edgekd.distill.teachers",
    "edgekd.distill.trainer",
    "edgekd.distill.validation",
    "edgekd.models.dscnn",
    "edgekd.models.ensemble",
    "edgekd.models.onnx_file",
    "edgekd.models.resnet",
    "edgekd.quantize.fake",
    "edgekd.quantize.operators",
}

OPTIONAL = [
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "pycuda",
    "pynvml",
    "mlperf_loadgen",
    "sklearn",
    "scipy",
    "safetensors",
    "jinja2",
    "matplotlib",
    "PIL",
]


def _imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"edgekd"}


def test_layers() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout


def test_a_library_is_imported_only_where_it_belongs() -> None:
    strays = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        for name in _imported(path):
            if not any(inside.match(where) for where in MAY_IMPORT.get(name, [])):
                strays[name].append(str(inside))
    assert not strays


def test_every_file_is_python_3_10_as_jetpack_6_has_it() -> None:
    """mypy checks that what is called exists there; this checks the grammar."""
    for path in PACKAGE.rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 10))


_BARE = """
import json, pkgutil, sys
from importlib import import_module
for name in sys.argv[1].split():
    sys.modules[name] = None
import edgekd
failed = {}
for module in pkgutil.walk_packages(edgekd.__path__, "edgekd."):
    if module.name == "edgekd.__main__":
        continue
    try:
        import_module(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
print(json.dumps(failed))
"""


def test_every_module_can_be_imported_without_any_optional_library() -> None:
    command = [sys.executable, "-c", _BARE, " ".join(OPTIONAL)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    failed = json.loads(result.stdout)
    assert failed.keys() == NEED_TORCH
    assert all("torch" in each for each in failed.values())


_LOADED = """
import sys
{}
print(*(name for name in sys.argv[1].split() if name in sys.modules))
"""


def _loaded(code: str, *more: str) -> list[str]:
    names = " ".join([*OPTIONAL, *more])
    command = [sys.executable, "-c", _LOADED.format(code), names]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1].split()


def test_importing_the_package_loads_nothing() -> None:
    assert _loaded("import edgekd", "numpy", "pydantic", "click", "rich") == []


def test_help_loads_no_network_library_no_runtime_and_no_numbers() -> None:
    code = "from edgekd.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert _loaded(code, "numpy", "pydantic", "rich") == []


def test_applications_load_numpy_and_one_runtime(built: dict[str, Path]) -> None:
    code = f"import edgekd; edgekd.load({str(built['bundle'])!r}, 'onnxruntime-cpu')"
    assert _loaded(code, "pydantic", "click", "rich") == ["onnxruntime"]
