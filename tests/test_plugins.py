"""``module:function``: found in the working directory, and each mistake is one line."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from edgekd.errors import RecipeError
from edgekd.plugins import blame, function, source_hash

CODE = """
from pathlib import Path
LIMIT = 3

def load():
    from plugin_neighbour import answer
    return answer

def fail():
    return inner()

def inner():
    return int("seven")
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the module ``plugin``, which nothing has imported."""
    (tmp_path / "plugin.py").write_text(CODE)
    (tmp_path / "plugin_neighbour.py").write_text("answer = 42")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if each.startswith("plugin")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_working_directory_comes_first_and_neighbours_can_be_imported(here: Path) -> None:
    (here / "plugin_pkg").mkdir()
    (here / "plugin_pkg" / "data.py").write_text("def load(): return 7")
    assert function("plugin:load", "data.source")() == 42
    assert function("plugin_pkg.data:load", "data.source")() == 7
    assert sys.path.count(str(here)) == 1


def test_what_python_finds_elsewhere_counts_as_well() -> None:
    assert function("json:dumps", "data.source") is json.dumps


def test_the_hash_is_that_of_the_module_s_file(here: Path) -> None:
    expected = hashlib.sha256((here / "plugin.py").read_bytes()).hexdigest()
    assert source_hash("plugin:load") == expected
    with pytest.raises(RecipeError, match="sys is not a file"):
        source_hash("sys:exit")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("plugin", "'plugin' is not of the form module:function"),
        ("plugin:", "is not of the form"),
        ("plugin/data:load", "is not of the form"),
        ("plugin_none:load", "no module is called 'plugin_none': it is looked for in"),
        ("plugin.data:load", "plugin.data.* cannot be imported|no module is called 'plugin.data'"),
        ("plugin:laod", "plugin has no 'laod': did you mean 'load'"),
        ("plugin:LIMIT", "plugin:LIMIT is no function but a int"),
        ("plugin_bad:load", r"cannot be imported: ValueError: no good \(.*plugin_bad.py:2\)"),
        ("plugin_exit:load", r"cannot be imported: SystemExit: 3 \(.*plugin_exit.py:1\)"),
        ("plugin_text:load", r"cannot be imported: SyntaxError: .*plugin_text.py:1\)"),
        ("plugin_need:load", r"plugin_need cannot be imported: ModuleNotFoundError.*'plugin_no'"),
    ],
)
def test_a_mistake_is_told_with_the_key_of_the_recipe(here: Path, spec: str, words: str) -> None:
    (here / "plugin_bad.py").write_text("\nraise ValueError('no\\n good')")
    (here / "plugin_exit.py").write_text("raise SystemExit(3)")
    (here / "plugin_text.py").write_text("this is no python")
    (here / "plugin_need.py").write_text("import plugin_no")
    with pytest.raises(RecipeError, match=words) as caught:
        function(spec, "data.source")
    assert str(caught.value).startswith("data.source: ")


def test_the_blame_is_laid_on_the_deepest_line_of_the_user_s_own_file(here: Path) -> None:
    with pytest.raises(ValueError, match="seven") as caught:
        function("plugin:fail", "")()
    assert blame(caught.value, "plugin:fail") == (
        f"ValueError: invalid literal for int() with base 10: 'seven' ({here / 'plugin.py'}:13)"
    )
