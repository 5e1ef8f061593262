"""A user's own function, named in a recipe as ``module:function``."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.errors import RecipeError, near_matches

_SPEC = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


def function(spec: str, field: str) -> Callable[..., Any]:
    """What ``module:function`` names, looked up in the working directory first.

    The working directory stays on Python's path, as under ``python -m``, so that the function
    may import its neighbours when it is called.

    Args:
        spec: such as ``mypackage.data:load``.
        field: the recipe's key, for the error.

    Raises:
        RecipeError: the module cannot be imported, or has nothing callable of that name.
    """
    module, name = _module(spec, field)
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        hint = near_matches(name, known) if known else "it defines nothing"
        raise RecipeError(f"{module.__name__} has no '{name}'", hint, field=field)
    found: Any = getattr(module, name)
    if not callable(found):
        raise RecipeError(
            f"{spec} is no function but a {type(found).__name__}", "name a function", field=field
        )
    called: Callable[..., Any] = found
    return called


def source_hash(spec: str) -> str:
    """sha256 of the file of a spec's module, for a stage's key.

    Raises:
        RecipeError: the module cannot be imported, or does not come from a file.
    """
    module, _ = _module(spec, "")
    file = getattr(module, "__file__", None)
    if file is None:  # Python's own, or a folder without code
        raise RecipeError(f"{module.__name__} is not a file", "name a module that is one")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def blame(error: BaseException, spec: str) -> str:
    """An exception of a user's code in one line: type, message, file and line.

    The place is the deepest one in the spec's own module, or else the deepest of all.
    """
    told = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(spec.partition(":")[0]), "__file__", None)
    places = [each for each in frames if each.filename == own] or list(frames)
    return f"{told} ({places[-1].filename}:{places[-1].lineno})" if places else told


def _module(spec: str, field: str) -> tuple[ModuleType, str]:
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise RecipeError(
            f"'{spec}' is not of the form module:function",
            "such as mypackage.data:load",
            field=field,
        )
    here = str(Path.cwd())
    if not {"", here} & set(sys.path[:1]):
        sys.path[:] = [here, *(each for each in sys.path if each != here)]
    invalidate_caches()  # the file may have been written a moment ago
    try:
        return import_module(found[1]), found[2]
    except ModuleNotFoundError as error:
        if error.name is None or not f"{found[1]}.".startswith(f"{error.name}."):
            raise RecipeError(
                f"{found[1]} cannot be imported: {blame(error, spec)}", field=field
            ) from error
        raise RecipeError(
            f"no module is called '{error.name}'",
            f"it is looked for in {here}{os.sep} and where Python finds packages",
            field=field,
        ) from error
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"{found[1]} cannot be imported: {blame(error, spec)}",
            "mend it: importing it must only define things",
            field=field,
        ) from error
