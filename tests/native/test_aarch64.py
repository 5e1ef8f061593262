"""The library for 64-bit Arm, built by a cross compiler and run by qemu, with ONNX Runtime's own
library for that processor. What qemu tells is which numbers come out, and nothing of time."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.bundle import read
from tests.conftest import ROOT
from tests.native.conftest import SOURCE, Outputs, build, null_bundle, run

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None, reason="needs qemu-user and the cross compiler"
)
Qemu = Callable[..., bytes]


@pytest.fixture(scope="module")
def on_arm() -> Qemu:
    """Runs a test program on the other processor and gives what it writes."""
    import onnxruntime

    sysroot = Path(sys.prefix, "aarch64-sysroot")
    own = {**os.environ, "PYTHON": sys.executable, "ONNXRUNTIME": onnxruntime.__version__}
    made = run(ROOT / "tools" / "aarch64-sysroot", sysroot, env=own)
    assert made.returncode == 0, made.stderr
    folder = build(
        ROOT / "build" / "native-aarch64", "-DEDGEKD_TESTS=ON", f"-DEDGEKD_SYSROOT={sysroot}",
        f"-DCMAKE_TOOLCHAIN_FILE={SOURCE / 'cmake' / 'aarch64-linux-gnu.cmake'}",
        f"-DEDGEKD_ONNXRUNTIME_LIBRARY={sysroot / 'libonnxruntime.so.1'}",
    )  # fmt: skip
    libraries = f"LD_LIBRARY_PATH={sysroot / 'usr' / 'lib' / 'aarch64-linux-gnu'}"

    def ask(program: str, *words: str | Path, images: bytes = b"", **env: str) -> bytes:
        emulated = ("qemu-aarch64", "-L", sysroot, "-E", libraries, folder / program, *words)
        found = run(*emulated, input=images, text=False, env={**os.environ, **env})
        assert found.returncode == 0, found.stdout + found.stderr
        return bytes(found.stdout)

    return ask


def test_the_library_is_sound(on_arm: Qemu, null_bundles: Path) -> None:
    on_arm("test_parts")
    on_arm("test_interface", EDGEKD_TEST_BUNDLES=str(null_bundles))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_gives_the_golden_outputs(
    on_arm: Qemu, built: dict[str, Path], precision: str
) -> None:
    opened = read(built["bundle"])
    images = opened.golden_images()
    (record,) = (
        each
        for each in opened.engines
        if (each["target"], each["precision"]) == ("onnxruntime-cpu", precision)
    )
    words = (built["bundle"], "onnxruntime-cpu", precision, "8", "8", "1", "RGB", "1")
    raw = on_arm("outputs", *words, images=images.transpose(0, 2, 3, 1).tobytes())
    found = np.frombuffer(raw, np.float32).reshape(len(images), -1)
    np.testing.assert_allclose(
        found, opened.golden_outputs(record), rtol=0, atol=record["tolerance"]
    )
    assert b"0 wrong" in on_arm("threads", *words[:3], "2", "5")


def test_images_are_prepared_to_the_same_bits(
    on_arm: Qemu, outputs: Outputs, tmp_path: Path
) -> None:
    """The null backend adds up its inputs one by one, so any other bit would show."""
    path = null_bundle(tmp_path, "bits")
    images = np.random.default_rng(6).integers(0, 256, (20, 31, 47, 3), np.uint8)
    here = outputs(path, "cpu", "fp32", images)
    raw = on_arm(
        "outputs", path, "cpu", "fp32", "47", "31", "3", "RGB", "1", images=images.tobytes()
    )
    assert raw == here.tobytes()
