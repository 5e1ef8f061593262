"""Compiles the C++ plugins for TensorRT, and the stand-ins that they run on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.conftest import ROOT

CPP = ROOT / "engines" / "cpp"
HERE = Path(__file__).parent / "tensorrt"
INCLUDE = Path(
    os.environ.get("EDGEKD_TENSORRT_INCLUDE")
    or Path(os.environ.get("TENSORRT_ROOT", "/usr")) / "include"
)
CUDA = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Wshadow", "-Werror"]
SANITIZED = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
PLUGIN = [*sorted((CPP / "plugins").glob("tensorrt*.cpp")), CPP / "src" / "files.cpp"]


def build(out: Path, sources: list[Path], *flags: str | Path, include: Path = INCLUDE) -> Path:
    system = [f"-isystem{each}" for each in (include, CUDA / "include")]
    shared = ["-shared", "-fPIC"] if out.suffix == ".so" else []
    libraries = [each for each in flags if str(each).startswith("-l") or str(each).endswith(".so")]
    others = [each for each in flags if each not in libraries]
    command = ["g++", f"-I{CPP / 'include'}", *system, *shared, *others, *sources, *libraries]
    result = subprocess.run(
        [*map(str, command), "-o", str(out)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return out


def stubs(header: str) -> str:
    """Each pure function of what TensorRT's objects hand on to, ending the process."""
    text = re.sub(r"//.*", "", header)
    made = ["#pragma once", "namespace nvinfer1::apiv {"]
    for name in ("Runtime", "CudaEngine", "ExecutionContext"):
        found = re.search(rf"class V{name} : public VRoot\s*{{(.*?)\n}};", text, re.DOTALL)
        assert found
        made.append(f"class {name}Stub : public V{name} {{ public:")
        for signature in re.findall(r"virtual\s+([^;{]*?)\s*=\s*0\s*;", found[1]):
            made.append(f"    {' '.join(signature.split())} override {{ std::abort(); }}")
        made.append("};")
    return "\n".join([*made, "}", ""])
