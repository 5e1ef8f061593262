"""The commands that take a bundle: ``report``, ``run``, ``verify``; ``bench`` has its own file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgekd.bundle import read, sealed
from edgekd.cli.report import read as report_of
from edgekd.cli.report import report
from edgekd.cli.run import run
from edgekd.data import pixels
from edgekd.errors import CorruptBundle, DataError
from edgekd.runtime import load
from tests.conftest import assert_one_line, run_cli


def _json(*arguments: str | Path, code: int = 0) -> Any:
    result = run_cli(*arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


# report


def test_report_prints_the_verdict_and_draws_the_same_page(
    built: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "r.html"
    result = run_cli("report", built["bundle"], "-o", page)
    assert result.returncode == 0
    assert "20 FPS (50 ms): PASS; " in result.stdout
    assert result.stdout.endswith(f"  {page}\n")
    assert "student/openvino-cpu/int8" in result.stdout
    assert "built, not executed here: student/tensorrt-rtx/fp32" in result.stdout
    best = json.loads((built["bundle"] / "report.json").read_text())["preferred"]
    assert f"* {best}" in result.stdout
    assert page.read_bytes() == (built["bundle"] / "report.html").read_bytes()
    whole = json.loads((built["bundle"] / "report.json").read_text())
    assert _json("report", built["bundle"]) == whole


def test_report_into_a_folder_that_is_not_there(built: dict[str, Path], tmp_path: Path) -> None:
    result = run_cli("report", built["bundle"], "-o", tmp_path / "none" / "r.html")
    assert_one_line(result, 2, "r.html: cannot be written: No such file or directory")


def _without(found: Any, place: tuple[str | int, ...]) -> Any:
    """A copy of JSON without what lies at a place."""
    changed = json.loads(json.dumps(found))
    *way, last = place
    inner = changed
    for each in way:
        inner = inner[each]
    del inner[last]
    return changed


def test_a_kept_report_needs_no_more_than_what_it_tells(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """`edgekd bench` writes no manifest, so that nothing vouches for what is in the file."""
    facts = json.loads((built["bundle"] / "report.json").read_text())
    place = tmp_path / "report.json"
    for name in ("preferred", "notes", "command", "camera"):
        place.write_text(json.dumps(_without(facts, (name,))))
        found = CliRunner().invoke(report, [str(tmp_path), "--markdown", str(tmp_path / "r.md")])
        assert found.exit_code == 0, name
    timed = next(n for n, each in enumerate(facts["engines"]) if each["latency_ns"])
    cases: tuple[tuple[tuple[str | int, ...], str], ...] = (
        (("schema",), "it has no 'schema'"),
        (("verdict",), "verdict has no 'status'"),
        (("engines", 0, "name"), "engines.0 has no 'name'"),
        (("engines", timed, "bytes"), f"engines.{timed} has no 'bytes'"),
        (("engines", timed, "latency_ns", "p99"), f"engines.{timed}.latency_ns has no 'p99'"),
        (("waterfall", 1, "ci"), "waterfall.1 has no 'ci'"),
    )
    for missing, words in cases:
        place.write_text(json.dumps(_without(facts, missing)))
        with pytest.raises(CorruptBundle, match=f"report.json is no report .{words}"):
            report_of(tmp_path)
    for text in ("[]", "{", '{"engines": 5, "schema": "1.0"}', '{"verdict": []}'):
        place.write_text(text)
        with pytest.raises(CorruptBundle, match="is no report"):
            report_of(tmp_path)
    assert_one_line(run_cli("report", tmp_path), 4, "is no report", "measure again")


# run


def test_run_on_arrays_and_pictures(built: dict[str, Path], tmp_path: Path) -> None:
    bundle = read(built["bundle"])
    images = bundle.golden_images()
    expected = bundle.golden_outputs(bundle.engines[0]).argmax(1)
    np.save(tmp_path / "all.npy", images)
    Image.fromarray(images[0, 0]).save(tmp_path / "first.png")
    found = _json("run", built["bundle"], tmp_path / "all.npy", tmp_path / "first.png")
    labels = [bundle.classes[each] for each in expected]
    assert [each["label"] for each in found["results"]] == [*labels, labels[0]]
    assert all(0.1 <= each["share"] <= 1 for each in found["results"])
    text = run_cli("run", built["bundle"], tmp_path / "first.png").stdout
    assert text.startswith(f"{tmp_path / 'first.png'}: {labels[0]} (")


def test_run_on_pictures_of_any_size_turned_as_they_say(
    built: dict[str, Path], tmp_path: Path
) -> None:
    """As a data set's images are read: by Pillow, with the training's own code."""
    colours = np.random.default_rng(0).integers(0, 256, (30, 21, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(colours).convert("P").save(tmp_path / "b.png")
    Image.fromarray(colours).save(tmp_path / "c.jpg", exif=turned)
    np.save(tmp_path / "d.npy", colours)
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.jpg", "d.npy")]
    found = _json("run", built["bundle"], *paths)
    images = [pixels.read(each, (1, 8, 8)) for each in (*paths[:3], paths[0])]
    with load(built["bundle"]) as engine:
        for each, image in zip(found["results"], images, strict=True):
            assert each["logits"] == engine(image)[0].tolist()
    assert pixels.look(paths[2], sized=True) == (3, 21, 30)


def test_run_with_one_target_and_precision(built: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", read(built["bundle"]).golden_images())
    choice = ("--target", "openvino-cpu", "--precision", "int8")
    found = _json("run", built["bundle"], tmp_path / "x.npy", *choice)
    assert (found["target"], found["precision"]) == ("openvino-cpu", "int8")


def test_run_on_what_is_no_image(built: dict[str, Path], tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "torn.png": (b"\x89PNG\r\n\x1a\n\0\0", "torn.png cannot be read ("),
        "text.npy": (b"hello", "cannot be read as .npy"),
        "empty.npy": (b"", "cannot be read as .npy"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert_one_line(run_cli("run", built["bundle"], tmp_path / name), 4, name, words)
    assert_one_line(
        run_cli("run", built["bundle"], tmp_path / "none.png"), 4, "No such file or directory"
    )


def test_run_on_arrays_that_are_not_what_they_say(built: dict[str, Path], tmp_path: Path) -> None:
    pieces = {"a": np.zeros((8, 8), np.uint8)}
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, **pieces)
    np.save(tmp_path / "lies.npy", pieces["a"])
    whole = (tmp_path / "lies.npy").read_bytes()
    # In place of blanks, so that the header is as long as it was.
    larger = whole.replace(b"(8, 8), }        ", b"(8, 8000000000), }"[:17].ljust(17))
    (tmp_path / "lies.npy").write_bytes(larger)
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 8, 8), np.uint8))
    np.save(tmp_path / "nan.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    for name, words in {
        "several.npy": "cannot be read as .npy (it is an archive of several)",
        "lies.npy": "cannot be read as .npy",
        "none.npy": "a batch of no images was given",
        "nan.npy": "the engine answers with NaN or infinity",
    }.items():
        for more in ((), ("--json",)):
            found = CliRunner().invoke(run, [str(built["bundle"]), str(tmp_path / name), *more])
            assert isinstance(found.exception, DataError), name
            assert words in str(found.exception)
            assert "\n" not in str(found.exception)
    assert_one_line(run_cli("run", built["bundle"], tmp_path / "nan.npy", "--json"), 4, "nan.npy")


def test_run_tells_an_output_without_a_label_by_its_number(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["labels"] = ["zero", "one"]
    manifest["outputs"][0]["shape"][1] = "classes"  # else its reader would have said so
    (bundle / "manifest.json").write_text(sealed(manifest))
    np.save(tmp_path / "x.npy", read(bundle).golden_images())
    found = _json("run", bundle, tmp_path / "x.npy")["results"]
    best = [int(np.argmax(each["logits"])) for each in found]
    assert max(best) > 1
    assert [each["label"] for each in found] == [
        ["zero", "one", *"23456789"][each] for each in best
    ]


def test_run_on_a_pickle_does_not_open_it(built: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([print], object), allow_pickle=True)
    result = run_cli("run", built["bundle"], tmp_path / "evil.npy")
    assert_one_line(result, 4, "evil.npy cannot be read as .npy")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((28, 28, 4), np.uint8), "has 4 channels: give 1 or 3"),
        (np.zeros((28, 28), np.float32), "expected (n, 1×8×8) or (1×8×8)"),
        (np.zeros((8, 8), np.float64), "float64: give uint8 pixels, or float32 inputs"),
    ],
)
def test_run_on_another_size_or_type(
    built: dict[str, Path], tmp_path: Path, array: np.ndarray[Any, Any], words: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    assert_one_line(run_cli("run", built["bundle"], tmp_path / "x.npy"), 4, "x.npy", words)


# verify


def test_verify_runs_the_golden_images(built: dict[str, Path]) -> None:
    found = _json("verify", built["bundle"])
    executed = [each for each in found["engines"] if each["executed"]]
    assert len(found["engines"]) == 7
    assert len(executed) >= 4
    for each in executed:
        assert 0 <= each["difference"] <= each["allowed"]
    text = run_cli("verify", built["bundle"]).stdout
    assert "files are what the manifest says" in text
    assert "golden outputs given" in text


def test_verify_finds_one_changed_byte_in_any_file(bundle: Path) -> None:
    for name in [*read(bundle).hashes()]:
        path = bundle / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        if name in {"student.onnx", "report.html"} or name.endswith("int8.onnx"):
            result = run_cli("verify", bundle)
            assert_one_line(result, 4, f"{name} is not the file that the manifest names", "copy")
        else:  # the same check, without a process for each
            with pytest.raises(Exception, match="is not the file that the manifest names"):
                read(bundle).check()
        path.write_bytes(whole)
    read(bundle).check()


def test_a_changed_engine_is_never_opened(bundle: Path, tmp_path: Path) -> None:
    best = read(bundle).engines[0]
    path = bundle / best["path"]
    path.write_bytes(path.read_bytes() + b"\0")
    np.save(tmp_path / "x.npy", np.zeros((8, 8), np.uint8))
    for command in (["run", bundle, tmp_path / "x.npy"], ["bench", bundle]):
        assert_one_line(run_cli(*command), 4, path.name, "is not the file")


def test_a_missing_file(bundle: Path) -> None:
    shutil.rmtree(bundle / "golden")
    assert_one_line(run_cli("verify", bundle), 4, "golden", "is missing")
