"""The bundle's format: every byte is accounted for, and no path leads out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgekd import bundle as bundles
from edgekd.bundle import read
from edgekd.errors import BundleError, CorruptBundle
from tests.conftest import ROOT


def _manifest(bundle: Path, change: Any) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(bundles.sealed(manifest))


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


@given(st.text("a./\\", min_size=1, max_size=12))
def test_the_schema_and_the_reader_agree_on_paths(name: str) -> None:
    pattern = _schema()["$defs"]["path"]
    allowed = Draft202012Validator(pattern).is_valid(name)
    try:
        bundles._inside(Path("/nowhere"), name)
    except CorruptBundle:
        assert not allowed or not Path(name).parts
    else:
        assert allowed


def test_the_manifest_says_what_the_engines_take_and_give(bundle: Path) -> None:
    opened = read(bundle)
    assert opened.classes == tuple("0123456789")
    assert opened.manifest["schema"] == bundles.SCHEMA
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
@pytest.mark.parametrize("fault", ["flipped bit", "truncated", "removed", "link"])
def test_a_changed_file_is_named(bundle: Path, name: str, fault: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    match fault:
        case "flipped bit":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "truncated":
            path.write_bytes(content[:-1])
        case "removed":
            path.unlink()
        case "link":
            path.rename(bundle.parent / "outside")
            path.symlink_to(bundle.parent / "outside")
    with pytest.raises(CorruptBundle) as caught:
        read(bundle).check()
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "engines/../../x", "..\\up", ""]
)
def test_a_path_out_of_the_bundle_is_refused_before_anything_is_read(
    bundle: Path, name: str
) -> None:
    _manifest(bundle, lambda manifest: manifest["files"].update({name: [0, "0"]}))
    with pytest.raises(CorruptBundle, match="outside the bundle"):
        read(bundle)
    _manifest(bundle, lambda manifest: manifest["files"].pop(name))
    _manifest(bundle, lambda manifest: manifest["engines"][0].update(path=name))
    with pytest.raises(CorruptBundle, match="outside the bundle"):
        read(bundle)


def test_a_link_on_the_way_is_refused(bundle: Path) -> None:
    (bundle / "engines").rename(bundle.parent / "moved")
    (bundle / "engines").symlink_to(bundle.parent / "moved")
    with pytest.raises(CorruptBundle, match="is a link"):
        read(bundle)


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
    with pytest.raises(BundleError, match=r"has schema 2\.0, .* reads up to 1\.0: update edgekd"):
        read(bundle)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": "x"}', "\x00\x01", '{"schema": "1.0"}']
)
def test_a_manifest_that_is_none(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(CorruptBundle):
        read(bundle)


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
    with pytest.raises(CorruptBundle, match=f"manifest.json lacks or misstates '{key}'"):
        read(bundle)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["schema", "files", "engines", "inputs", "path", "parts"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_manifest_makes_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleError):
        read(folder)


def test_writing_replaces_a_bundle_in_one_step_and_nothing_else(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_text("one")
    manifest = _empty()
    target = tmp_path / "out" / "x.edgekd"
    bundles.write(target, manifest, {"a/b": content})
    content.write_text("two")
    bundles.write(target, manifest, {"a/c": content})
    assert read(target).file("a/c").read_text() == "two"
    assert not (target / "a" / "b").exists()
    assert [each.name for each in target.parent.iterdir()] == ["x.edgekd"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        bundles.write(tmp_path / "mine", manifest, {})


def _empty() -> dict[str, Any]:
    return {
        "name": "x",
        "budget": {"fps": None, "max_drop": None},
        "verdict": {"status": "pass", "reasons": []},
        "golden": {"images": "golden/images.npy"},
        "engines": [],
        "inputs": [],
        "outputs": [],
        "labels": [],
        "preprocessing": {"mean": [], "std": [], "layout": "NCHW"},
    }


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "x.edgekd", tmp_path / "file"):
        with pytest.raises(BundleError, match="choose another --out"):
            bundles.write(place, _empty(), {})


def test_a_bundle_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "x.edgekd"
    bundles.write(place, _empty(), {})
    before = (place / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="x.edgekd cannot be written .No such file"):
        bundles.write(place, _empty(), {"a": tmp_path / "none"})
    assert [each.name for each in tmp_path.iterdir()] == ["x.edgekd"]
    assert (place / "manifest.json").read_bytes() == before


def test_a_bundle_that_cannot_be_put_in_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.edgekd"
    bundles.write(place, _empty(), {})
    before = (place / "manifest.json").read_bytes()
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        bundles.write(place, _empty(), {})
    assert [each.name for each in tmp_path.iterdir()] == ["x.edgekd"]
    assert (place / "manifest.json").read_bytes() == before
