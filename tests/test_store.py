"""The store: an artefact is whole or absent, and is found by what it was made from."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.artifacts import Artifact, TensorSpec
from edgekd.errors import StageError
from edgekd.store import Stage, Store, canonical_json, sha256_of
from tests.conftest import ROOT


@dataclass(frozen=True, kw_only=True)
class Note(Artifact):
    """One of every kind of field that artefacts have."""

    path: Path
    number: float
    specs: tuple[TensorSpec, ...]
    pairs: dict[str, tuple[float, float] | None]
    maybe: Path | None = None


def _stage(**settings: object) -> Stage:
    return Stage("note", 1, settings, ("numpy",))


def _write(text: str, number: float = 1.5):  # type: ignore[no-untyped-def]
    def produce(folder: Path) -> Note:
        (folder / "sub").mkdir()
        (folder / "sub" / "note.txt").write_text(text)
        return Note(
            path=folder / "sub" / "note.txt",
            number=number,
            specs=(TensorSpec("x", "float32", ("batch", 3)),),
            pairs={"a": (0.5, 1.5), "b": None},
        )

    return produce


def _forbidden(folder: Path) -> Note:
    raise AssertionError("made again")


def test_what_was_made_is_found_and_equal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make(_stage(), {}, Note, _write("hello"))
    found = store.make(_stage(), {}, Note, _forbidden)
    assert found == made
    assert found.path.read_text() == "hello"
    assert found.specs == (TensorSpec("x", "float32", ("batch", 3)),)
    assert found.pairs == {"a": (0.5, 1.5), "b": None}
    assert list(found.files) == ["sub/note.txt"]
    assert "numpy" in found.producer_versions


def test_the_key_holds_name_version_settings_inputs_and_libraries(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = store.make(_stage(a=1), {}, Note, _write("1"))
    other = store.make(_stage(a=2), {}, Note, _write("2"))
    keys = {
        store.key(_stage(a=1), {}),
        store.key(_stage(a=2), {}),
        store.key(Stage("note", 2, {"a": 1}, ("numpy",)), {}),
        store.key(Stage("eton", 1, {"a": 1}, ("numpy",)), {}),
        store.key(Stage("note", 1, {"a": 1}, ("numpy", "click")), {}),
        store.key(_stage(a=1), {"in": one}),
        store.key(_stage(a=1), {"in": other}),
        store.key(_stage(a=1), {"out": one}),
    }
    assert len(keys) == 8


def test_the_same_content_gives_later_stages_the_same_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = store.make(_stage(a=1), {}, Note, _write("same"))
    other = store.make(_stage(a=2), {}, Note, _write("same"))
    assert one.key != other.key
    assert store.key(_stage(), {"in": one}) == store.key(_stage(), {"in": other})


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(folder: Path) -> Note:
        (folder / "half").write_text("half")
        raise StageError("no")

    with pytest.raises(StageError, match="no"):
        store.make(_stage(), {}, Note, fail)
    assert store.find(_stage(), {}, Note) is None
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    "fault", ["changed", "removed", "record", "record is not JSON", "no record"]
)
def test_a_damaged_entry_is_told_and_made_again(tmp_path: Path, fault: str) -> None:
    warnings: list[str] = []
    store = Store(tmp_path, warnings.append)
    made = store.make(_stage(), {}, Note, _write("good"))
    record = made.path.parent.parent / "artifact.json"
    match fault:
        case "changed":
            made.path.write_text("evil")
        case "removed":
            made.path.unlink()
        case "record":
            record.write_text(record.read_text().replace("1.5", "2.5"))
        case "record is not JSON":
            record.write_text("{")
        case "no record":
            record.unlink()
    again = store.make(_stage(), {}, Note, _write("good"))
    assert again.path.read_text() == "good"
    assert again.content == made.content
    assert len(warnings) >= 1
    assert "damaged" in warnings[0]
    assert "making it again" in warnings[0]
    assert store.make(_stage(), {}, Note, _forbidden) == again


def test_two_makers_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[int] = []
    warnings: list[str] = []

    def slowly(folder: Path) -> Note:
        made.append(1)
        time.sleep(0.3)
        return _write("x")(folder)  # type: ignore[no-any-return]

    def work() -> None:
        Store(tmp_path, warnings.append).make(_stage(), {}, Note, slowly)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert made == [1]
    assert "waiting" in warnings[0]


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_store import Note, _stage, _write
from edgekd.store import Store
def produce(folder):
    _write("x" * 100000)(folder)
    print("working", flush=True)
    time.sleep(60)
Store(Path({store!r})).make(_stage(), {{}}, Note, produce)
"""


def test_a_killed_maker_leaves_nothing_that_is_found_or_in_the_way(tmp_path: Path) -> None:
    code = _KILLED.format(root=str(ROOT), store=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "working\n"
        child.send_signal(signal.SIGKILL)
    assert list((tmp_path / "tmp").iterdir())  # what it left behind
    store = Store(tmp_path)
    assert store.find(_stage(), {}, Note) is None
    assert store.make(_stage(), {}, Note, _write("x")).path.read_text() == "x"
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB, where we may mount one; else one that a tmpfs stands for."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    store.make(_stage(a=1), {}, Note, _write("finished"))
    with pytest.raises(StageError, match=r"note: the disk that holds .* is full: free some space"):
        store.make(_stage(a=2), {}, Note, _write("x" * 10**6))
    assert store.make(_stage(a=1), {}, Note, _forbidden).path.read_text() == "finished"


def test_a_vendor_that_fails_on_a_full_disk_in_its_own_words(small_disk: Path) -> None:
    def produce(folder: Path) -> Note:
        with pytest.raises(OSError, match="No space"):
            (folder / "big").write_bytes(b"x" * 10**6)
        raise RuntimeError("stream error")

    with pytest.raises(StageError, match="is full"):
        Store(small_disk / "store").make(_stage(), {}, Note, produce)


def test_a_store_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be written .*EDGEKD_STORE"):
        Store(tmp_path / "file").make(_stage(), {}, Note, _write("x"))


def test_other_errors_are_bugs_and_pass(tmp_path: Path) -> None:
    def produce(folder: Path) -> Note:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        Store(tmp_path).make(_stage(), {}, Note, produce)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), values))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)
    assert sha256_of(value) == sha256_of(turned)


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_the_store_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.store import default_root

    monkeypatch.setenv("EDGEKD_STORE", "/somewhere")
    assert default_root() == Path("/somewhere")
    monkeypatch.delenv("EDGEKD_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/edgekd/store")
