"""Every error EdgeKD raises on purpose.

    EdgekdError                     message, hint, exit_code
    ├── RecipeError          2      the recipe, or an argument, is wrong
    ├── DataError            4      a data set is missing, damaged or unusable
    ├── CalibrationError     4      a calibration set or table cannot be made or used
    ├── StageError           4      a stage of the pipeline failed
    │   ├── TrainError
    │   ├── ExportError
    │   ├── QuantizeError
    │   ├── BuildError
    │   ├── BenchError
    │   └── DeviceError         a call of a GPU's driver failed
    ├── BackendUnavailable   3      a runtime is not installed, or cannot run here
    ├── EngineIncompatible   4      an engine does not belong on this machine
    │   └── HostCodeRefused  4      it brings code for the CPU, which nobody allowed
    ├── EngineError          4      an open engine was asked for what it cannot do
    └── BundleError          2      not a bundle
        └── CorruptBundle    4      a bundle whose files are not what its manifest says

A user's mistake becomes one of these and is printed in one line; anything else that
escapes is a bug, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class EdgekdError(Exception):
    """What went wrong, and what to do about it.

    Args:
        message: what is wrong and where, in one sentence without a full stop.
        hint: what to do, in one sentence; may be empty.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class RecipeError(EdgekdError):
    """The recipe, or an argument in its place, is wrong.

    Args:
        path: the recipe's file with its line where known, or the argument's name.
        field: the dotted key, such as ``student.train.epochs``; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "", *, path: str = "", field: str = "") -> None:
        where = ": ".join(part for part in (path, field) if part)
        super().__init__(f"{where}: {message}" if where else message, hint)
        self.path = path
        self.field = field


class DataError(EdgekdError):
    """A data set is missing, damaged or unusable."""


class CalibrationError(EdgekdError):
    """A calibration set or table cannot be made or used."""


class StageError(EdgekdError):
    """A stage of the pipeline failed; what the stages before it made is kept."""


class TrainError(StageError):
    """Training failed."""


class ExportError(StageError):
    """A model could not be exported, or its export does not agree with it."""


class QuantizeError(StageError):
    """A model could not be quantised."""


class BuildError(StageError):
    """A backend could not build an engine.

    Args:
        nodes: the model's nodes that it does not take, where it names them.
    """

    def __init__(self, message: str, hint: str = "", *, nodes: Iterable[str] = ()) -> None:
        super().__init__(message, hint)
        self.nodes = tuple(nodes)


class BenchError(StageError):
    """A measurement could not be made."""


class DeviceError(StageError):
    """A call of a GPU's driver failed.

    Args:
        lost: the GPU does nothing more for this process.
        out_of_memory: there was no room, on the GPU or for page-locked memory.
    """

    def __init__(
        self, message: str, hint: str = "", *, lost: bool = False, out_of_memory: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.lost = lost
        self.out_of_memory = out_of_memory


class BackendUnavailable(EdgekdError):
    """A runtime is not installed, or cannot run here.

    Args:
        name: the backend.
        extra: the extra of this package that installs it; may be empty.
        reason: why it is unavailable.
    """

    exit_code = 3

    def __init__(self, name: str, extra: str, reason: str) -> None:
        super().__init__(
            f"{name} is unavailable: {reason}",
            f"install it with: pip install 'edgekd[{extra}]'" if extra else "",
        )
        self.name = name
        self.extra = extra
        self.reason = reason


class EngineIncompatible(EdgekdError):
    """An engine was built for another runtime version or device than this one.

    Args:
        expected: what the engine is for.
        found: what is here.
        hint: what to do, where it is not the usual.
    """

    def __init__(self, expected: str, found: str, hint: str = "") -> None:
        super().__init__(
            f"this engine is for {expected}, and this is {found}",
            hint or "build it again here, or load another engine of the bundle",
        )
        self.expected = expected
        self.found = found


class HostCodeRefused(EngineIncompatible):
    """An engine brings code that would run on the CPU, and the user has not allowed that."""


class EngineError(EdgekdError):
    """An open engine was given what it does not take, was in use, or is closed."""


class BundleError(EdgekdError):
    """A path that is not a bundle, or a bundle of a form this version cannot read."""

    exit_code = 2


class CorruptBundle(BundleError):
    """A file of the bundle is missing, or is not the one its manifest names."""

    exit_code = 4


def near_matches(name: str, known: Iterable[str]) -> str:
    """A hint naming the known names nearest to one that is not known.

    >>> near_matches("dscn-s", ["dscnn-s", "dscnn-m", "resnet8"])
    "did you mean 'dscnn-s' or 'dscnn-m'?"
    """
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return "the known ones are " + ", ".join(names)
