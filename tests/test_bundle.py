"""The bundle's format: every byte is accounted for, and no path leads out of it."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import edgekd
from edgekd import bundle as bundles
from edgekd.artifacts import EngineFile
from edgekd.backends.base import find
from edgekd.bundle import Bundle, read
from edgekd.errors import BackendUnavailable, BuildError, BundleError, CorruptBundle
from edgekd.manifest import SCHEMA, sealed
from edgekd.preprocessing import normalise
from tests.bad_manifests import CASES, good
from tests.conftest import ROOT, run_cli


def _manifest(bundle: Path, change: Any) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(sealed(manifest))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def test_every_file_but_the_manifest_is_hashed_and_nothing_else_is_there(bundle: Path) -> None:
    opened = read(bundle)
    there = {str(each.relative_to(bundle)) for each in bundle.rglob("*") if each.is_file()}
    assert there == {*opened.hashes(), "manifest.json"}
    opened.check()
    assert {
        "student.onnx",
        "student.int8.onnx",
        "teacher.onnx",
        "report.html",
        "report.json",
    } <= there


def _schema() -> Any:
    return json.loads((ROOT / "engines" / "manifest.schema.json").read_text())


def test_the_manifest_fits_its_schema(bundle: Path) -> None:
    Draft202012Validator.check_schema(_schema())
    Draft202012Validator(_schema()).validate(read(bundle).manifest)


def test_the_manifest_says_what_the_engines_take_and_give(bundle: Path) -> None:
    opened = read(bundle)
    assert opened.classes == tuple("0123456789")
    assert opened.manifest["schema"] == SCHEMA
    assert opened.manifest["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}
    ]
    for record in opened.engines:
        assert record["path"].startswith(f"engines/{record['target']}/")
        assert set(record) >= {
            "target",
            "backend",
            "version",
            "precision",
            "device",
            "path",
            "bytes",
            "sha256",
            "executed",
        }
    assert [each["executed"] for each in opened.engines] == [True] * 4 + [False] * 3


@pytest.mark.parametrize("name", ["student.onnx", "golden/images.npy", "report.html"])
@pytest.mark.parametrize(
    "fault",
    ["flipped bit", "truncated", "longer", "removed", "link", "pipe", "folder", "no folder"],
)
def test_a_changed_file_is_named(bundle: Path, name: str, fault: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    match fault:
        case "flipped bit":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "truncated":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"0")
        case "removed":
            path.unlink()
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "folder":
            path.unlink()
            path.mkdir()
        case "no folder":
            path.rename(bundle / "aside")
            if path.parent != bundle:
                path.parent.rename(bundle / "more")
                path.parent.write_text("")
        case "link":
            path.rename(bundle.parent / "outside")
            path.symlink_to(bundle.parent / "outside")
    with pytest.raises(CorruptBundle) as caught:
        read(bundle).check()
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", ["cut short", "more than 16 MiB", "engine's path: out", "another label"]
)
def test_a_manifest_that_breaks_a_rule_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_bytes(_bytes(CASES[name](good())))
    with pytest.raises(CorruptBundle, match="manifest.json"):
        read(tmp_path)


def test_a_link_on_the_way_is_refused(bundle: Path) -> None:
    (bundle / "engines").rename(bundle.parent / "moved")
    (bundle / "engines").symlink_to(bundle.parent / "moved")
    with pytest.raises(CorruptBundle, match="is a link"):
        read(bundle)


def test_of_a_file_of_another_size_no_byte_is_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(manifest: Any) -> None:
        manifest["files"]["report.html"][0] = 2**53

    _manifest(bundle, change)
    monkeypatch.setattr(bundles, "hash_file", lambda path: pytest.fail(f"reads {path}"))
    with pytest.raises(CorruptBundle, match="report.html is not the file that the manifest names"):
        read(bundle).file("report.html")


def test_a_name_that_is_too_long_for_a_disk_is_missing(bundle: Path) -> None:
    _manifest(bundle, lambda manifest: manifest["files"].update({"a" * 4096: [0, "1" * 64]}))
    with pytest.raises(CorruptBundle, match="cannot be read .File name too long"):
        read(bundle).check()


def test_two_records_of_one_file_are_both_held_against_it(bundle: Path) -> None:
    def change(manifest: Any) -> None:
        first = manifest["engines"][0]
        manifest["engines"][1].update(path=first["path"], bytes=first["bytes"], sha256="ab" * 32)

    _manifest(bundle, change)
    opened = read(bundle)
    opened.engine(opened.engines[0])
    with pytest.raises(CorruptBundle, match="is not the file"):
        opened.engine(opened.engines[1])
    with pytest.raises(CorruptBundle, match="is not the file"):
        opened.check()


@pytest.mark.parametrize("fault", ["text", "empty", "npz", "other type", "pickle", "header"])
def test_golden_images_that_are_no_array(bundle: Path, tmp_path: Path, fault: str) -> None:
    """Each is the file that the manifest names."""
    path = bundle / "golden" / "images.npy"
    match fault:
        case "text" | "empty":
            path.write_text("no array" if fault == "text" else "")
        case "npz":
            np.savez(tmp_path / "x.npz", np.zeros(1, np.uint8))
            path.write_bytes((tmp_path / "x.npz").read_bytes())
        case "other type":
            np.save(path, np.zeros((1, 1, 8, 8), np.float64))
        case "pickle":
            np.save(path, np.array([{}], object))
        case "header":  # 2**50 pixels, and none of them there
            np.save(path, np.zeros((1, 2**10), np.uint8))
            with path.open("r+b") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 2**10)}
                )

    def change(manifest: Any) -> None:
        content = path.read_bytes()
        manifest["files"]["golden/images.npy"] = [
            len(content), hashlib.sha256(content).hexdigest()
        ]  # fmt: skip

    _manifest(bundle, change)
    with pytest.raises(CorruptBundle, match="images.npy is not the array that it should be"):
        read(bundle).golden_images()


def test_a_file_that_the_manifest_does_not_name_is_not_given_out(bundle: Path) -> None:
    (bundle / "extra.onnx").write_bytes(b"evil")
    with pytest.raises(CorruptBundle, match="'extra.onnx' is not in the manifest"):
        read(bundle).file("extra.onnx")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleError, match="is not a bundle") as caught:
            read(path)
        assert caught.value.exit_code == 2


def test_versions_a_newer_minor_is_read_and_a_newer_major_refused(bundle: Path) -> None:
    _manifest(bundle, lambda manifest: manifest.update(schema="1.7", something_new={"a": 1}))
    read(bundle).check()
    _manifest(bundle, lambda manifest: manifest.update(schema="2.0"))
    with pytest.raises(BundleError, match=r"has schema 2\.0, .* reads 1: update edgekd") as told:
        read(bundle)
    assert not isinstance(told.value, CorruptBundle)


def test_a_manifest_that_is_no_file(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.unlink()
    os.mkfifo(path)  # to read it would never end
    with pytest.raises(CorruptBundle, match="manifest.json is no file"):
        read(bundle)


def test_a_manifest_that_is_a_link(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.rename(bundle.parent / "moved.json")
    path.symlink_to(bundle.parent / "moved.json")
    with pytest.raises(CorruptBundle, match="manifest.json is a link: copy the bundle again"):
        read(bundle)


@pytest.mark.parametrize("name", ["a\0b", "a\udfffb", "a" * 5000])
def test_a_path_that_no_system_takes(name: str) -> None:
    with pytest.raises(BundleError, match="is not a bundle") as caught:
        read(Path(name))
    assert not isinstance(caught.value, CorruptBundle)


@pytest.mark.parametrize("target", ["onnxruntime-cpu", "openvino-cpu"])
def test_what_was_hashed_is_what_is_opened(bundle: Path, target: str) -> None:
    """Files that become others in between change nothing."""
    opened = read(bundle)
    record = next(each for each in opened.engines if each["target"] == target)
    engine = opened.engine(record, in_memory=True)
    assert engine == opened.engine(record)
    feeds = {"image": normalise(opened.golden_images(), opened.preprocessing)}
    with find(engine.backend).open(opened.engine(record)) as session:
        wanted = session.run(feeds)["logits"]
    for path in (engine.path, *engine.parts):
        assert engine.read(path) == path.read_bytes()
        path.write_bytes(b"another")
    with find(engine.backend).open(engine) as session:
        again = session.another()  # type: ignore[attr-defined]
        del engine
        gc.collect()
        np.testing.assert_array_equal(session.run(feeds)["logits"], wanted)
        np.testing.assert_array_equal(again.run(feeds)["logits"], wanted)
    with pytest.raises(CorruptBundle, match="is not the file that the manifest names"):
        opened.engine(record, in_memory=True)


def test_a_file_swapped_between_hash_and_open_is_not_opened(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        next(each for each in read(bundle).engines if each["precision"] == precision
             and each["target"] == "onnxruntime-cpu")
        for precision in ("fp32", "int8")
    )  # fmt: skip
    images = read(bundle).golden_images()
    with edgekd.load(bundle, "onnxruntime-cpu", "fp32") as engine:
        wanted = engine(images)
    engine_of = Bundle.engine

    def swapped(self: Bundle, record: Any, **options: Any) -> EngineFile:
        found = engine_of(self, record, **options)
        (bundle / first["path"]).write_bytes((bundle / second["path"]).read_bytes())
        return found

    monkeypatch.setattr(Bundle, "engine", swapped)
    with edgekd.load(bundle, "onnxruntime-cpu", "fp32") as engine:
        np.testing.assert_array_equal(engine(images), wanted)


def test_an_open_engine_holds_none_of_its_bytes(bundle: Path) -> None:
    opened = read(bundle)
    for record in opened.engines[:4]:
        engine = opened.engine(record, in_memory=True)
        before = [sys.getrefcount(each) for each in engine.contents]
        with find(engine.backend).open(engine):
            gc.collect()
            assert [sys.getrefcount(each) for each in engine.contents] == before


def test_openvino_opens_nothing_but_an_ir(bundle: Path) -> None:
    opened = read(bundle)
    record = next(each for each in opened.engines if each["backend"] == "openvino")
    engine = opened.engine(record, in_memory=True)
    with pytest.raises(BuildError, match="OpenVINO refuses .*weights"):
        find("openvino").open(replace(engine, parts=(), contents=engine.contents[:1]))
    two = {"parts": engine.parts * 2, "contents": (*engine.contents, engine.contents[1])}
    for other in (two, {"path": bundle / "student.onnx"}):
        with pytest.raises(CorruptBundle, match="is no IR of OpenVINO"):
            find("openvino").open(replace(engine, **other))


def test_a_provider_without_batches_is_refused(bundle: Path) -> None:
    opened = read(bundle)
    record = next(each for each in opened.engines if each["backend"] == "onnxruntime")
    engine = replace(opened.engine(record), options={"provider": "CUDAExecutionProvider"})
    with pytest.raises(CorruptBundle, match="nobody says for which batches it was built"):
        find("onnxruntime").open(engine)


def test_an_engine_of_a_backend_that_nobody_knows_is_passed_over(bundle: Path) -> None:
    def change(manifest: Any) -> None:
        other = {**manifest["engines"][0], "backend": "tomorrow", "target": "tomorrow"}
        manifest["engines"].insert(0, other)

    _manifest(bundle, change)
    with edgekd.load(bundle) as engine:
        assert engine.target != "tomorrow"
    with pytest.raises(BackendUnavailable) as caught:
        edgekd.load(bundle, "tomorrow")
    assert str(caught.value) == "tomorrow is unavailable: this edgekd does not know it"
    result = run_cli("verify", bundle)
    assert result.returncode == 0, result.stderr
    assert "int8: not run here, tomorrow is unavailable" in result.stdout.replace("fp32", "int8")


def test_every_byte_of_the_manifest_counts(bundle: Path) -> None:
    path = bundle / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError):
            read(bundle)
    path.write_bytes(whole.replace(b"0.306", b"0.307"))  # well formed, and another
    with pytest.raises(CorruptBundle, match="manifest.json was changed: copy the bundle again"):
        read(bundle)


@pytest.mark.parametrize("key", ["backend", "tolerance", "options", "parts", "golden"])
def test_an_engine_without_what_it_needs(bundle: Path, key: str) -> None:
    _manifest(bundle, lambda manifest: manifest["engines"][0].pop(key))
    with pytest.raises(CorruptBundle, match=rf"lacks or misstates 'engines\[0\].{key}'"):
        read(bundle)


def test_writing_replaces_a_bundle_in_one_step_and_nothing_else(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_text("one")
    manifest = _empty("a/b")
    target = tmp_path / "out" / "x.edgekd"
    bundles.write(target, manifest, {"a/b": content})
    content.write_text("two")
    bundles.write(target, _empty("a/c"), {"a/c": content})
    assert read(target).file("a/c").read_text() == "two"
    assert not (target / "a" / "b").exists()
    assert [each.name for each in target.parent.iterdir()] == ["x.edgekd"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        bundles.write(tmp_path / "mine", manifest, {})


def _empty(images: str = "images.npy") -> dict[str, Any]:
    """A manifest without an engine, as the writer takes it."""
    filled = ("schema", "files", "content")
    kept = {name: each for name, each in json.loads(good()).items() if name not in filled}
    return {**kept, "engines": [], "golden": {"images": images}}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x.edgekd", tmp_path / "file"):
        with pytest.raises(BundleError, match="choose another --out"):
            bundles.write(place, _empty(), {})


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def test_a_bundle_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "x.edgekd"
    bundles.write(place, _empty(), {"images.npy": _file(tmp_path)})
    before = (place / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="x.edgekd cannot be written .No such file"):
        bundles.write(place, _empty(), {"a": tmp_path / "none"})
    assert {each.name for each in tmp_path.iterdir()} == {"x.edgekd", "file"}
    assert (place / "manifest.json").read_bytes() == before


def test_a_bundle_that_cannot_be_put_in_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.edgekd"
    bundles.write(place, _empty(), {"images.npy": _file(tmp_path)})
    before = (place / "manifest.json").read_bytes()
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        bundles.write(place, _empty(), {"images.npy": tmp_path / "file"})
    assert {each.name for each in tmp_path.iterdir()} == {"x.edgekd", "file"}
    assert (place / "manifest.json").read_bytes() == before
