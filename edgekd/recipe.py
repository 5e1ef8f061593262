"""The recipe: what to build, from what, for where, and within which budget.

A recipe is a TOML file; every key has a default, so ``edgekd build --student dscnn-s`` needs
none. This is the only module that knows pydantic; stages receive the models below as plain
frozen records.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd.errors import RecipeError, near_matches

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    """A table of a recipe: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def canonical(self) -> dict[str, Any]:
        """The settings as JSON holds them, for a stage's key."""
        return self.model_dump(mode="json")


class DataSettings(Settings):
    """``[data]``"""

    source: str = "fashion-mnist"
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of the training images that is held out to validate."""
    seed: Seed = 0


class TrainSettings(Settings):
    """``[teacher.train]`` and ``[student.train]``: SGD with Nesterov momentum."""

    epochs: Positive = 30
    batch: Annotated[int, Field(gt=1)] = 128
    learning_rate: Above0 = 0.2
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: Fraction = 0.2
    """The share of the steps over which the learning rate rises."""
    flip: bool = True
    """Mirror half of the images."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Move each image by up to this many pixels."""
    views: Annotated[int, Field(ge=0)] = 0
    """Augmented views of the training set that the epochs take in turn; 0 for a new one each
    epoch. The teacher sees each view once, so a few views make distillation cheaper."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    autocast: Literal["auto", "off"] = "off"
    """``auto``: bf16 where the processor has instructions for it."""
    seed: Seed = 0


class TeacherTrainSettings(TrainSettings):
    """``[teacher.train]``"""

    autocast: Literal["auto", "off"] = "auto"


class TeacherSettings(Settings):
    """``[teacher]``"""

    model: str = "resnet20"
    weights: str = ""
    """A .safetensors file; with it the teacher is not trained."""
    train: TeacherTrainSettings = TeacherTrainSettings()


class StudentTrainSettings(TrainSettings):
    """``[student.train]``"""

    weight_decay: NonNegative = 1e-4


class StudentSettings(Settings):
    """``[student]``"""

    model: str = "dscnn-s"
    control: bool = True
    """Also train the student without the teacher, to show what the teacher brings."""
    train: StudentTrainSettings = StudentTrainSettings()


class DistillSettings(Settings):
    """``[distill]``: loss = ce_weight · CE + weight · the named loss, ``edgekd.distill.losses``."""

    loss: Literal["kl", "soft_cross_entropy", "mse_logits", "dkd", "dist", "logit_std_kl"] = "kl"
    temperature: Above0 = 2.0
    weight: NonNegative = 0.5
    ce_weight: NonNegative = 0.5
    target_weight: NonNegative = 1.0
    """``dkd``: of the right class against all others."""
    rest_weight: NonNegative = 8.0
    """``dkd``: among the other classes."""
    inter_weight: NonNegative = 1.0
    """``dist``: correlation over the classes of a sample."""
    intra_weight: NonNegative = 1.0
    """``dist``: correlation over the samples of a batch."""


class CalibrationSettings(Settings):
    """``[calibration]``"""

    samples: Positive = 512
    method: Literal["percentile", "minmax"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    seed: Seed = 0


class EngineSettings(Settings):
    """``[engines]``"""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "onnxruntime-cpu",
        "openvino-cpu",
    )
    precisions: Annotated[tuple[Literal["fp32", "int8"], ...], Field(min_length=1)] = (
        "fp32",
        "int8",
    )


class BenchSettings(Settings):
    """``[bench]``"""

    samples: Positive = 7000
    """Timed calls for each engine; p99.9 needs 6,636 to be told with 99 % confidence."""
    seconds: Above0 = 5.0
    """No engine is timed for longer than this; a slow one gets fewer samples."""
    blocks: Positive = 20
    """Into how many blocks the calls are cut, so that engines take turns."""
    threads: Positive = 1
    batch: Annotated[int, Field(gt=1)] = 32
    """The batch size of the throughput figure, beside batch 1."""
    seed: Seed = 0


class BudgetSettings(Settings):
    """``[budget]``: what the student must meet; a limit left out is not checked."""

    fps: Above0 | None = None
    """Frames a second: p99 latency must stay within 1/fps."""
    max_drop: NonNegative | None = None
    """Points of top-1 that the engine may lose against the teacher."""


class BundleSettings(Settings):
    """``[bundle]``"""

    teacher: bool = True
    """Put the teacher's ONNX in the bundle, so that the comparison can be run again."""


class Recipe(Settings):
    """Everything that a build depends on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "model"
    """The bundle's name: ``NAME.edgekd``."""
    data: DataSettings = DataSettings()
    teacher: TeacherSettings = TeacherSettings()
    student: StudentSettings = StudentSettings()
    distill: DistillSettings = DistillSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    engines: EngineSettings = EngineSettings()
    bench: BenchSettings = BenchSettings()
    budget: BudgetSettings = BudgetSettings()
    bundle: BundleSettings = BundleSettings()


def load(
    path: Path | None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """Reads a recipe, and lays the command line over it.

    Args:
        path: a TOML file; None for the defaults.
        flags: values by dotted key, such as ``{"student.model": "dscnn-s"}``.
        assignments: ``KEY=VALUE`` texts; a value is read as TOML, or else as plain text.

    Raises:
        RecipeError: naming the file with its line or the argument, the key and the mend.
    """
    document: dict[str, Any] = {}
    text = ""
    if path is not None:
        try:
            text = path.read_text()
        except IsADirectoryError:
            raise RecipeError("this is a folder", "name a .toml file", path=str(path)) from None
        except OSError as error:
            hint = "`edgekd init` writes one to start from"
            raise RecipeError(f"cannot be read: {error.strerror}", hint, path=str(path)) from error
        except UnicodeDecodeError as error:
            raise RecipeError("is not UTF-8 text", path=str(path)) from error
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"is not TOML: {error}", path=str(path)) from error
        document.setdefault("name", _safe_name(path.stem))
        teacher = document.get("teacher")
        if isinstance(teacher, dict) and teacher.get("weights"):
            # A path in a file means the same wherever the command is run.
            teacher["weights"] = str(path.parent / str(teacher["weights"]))
    overlaid: dict[str, str] = {}
    for key, value in (flags or {}).items():
        _lay(document, key, value, "the command line")
        overlaid[key] = "the command line"
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals or not key:
            raise RecipeError("expected KEY=VALUE", path=f"--set {assignment}")
        _lay(document, key.strip(), _toml_value(raw), f"--set {assignment}")
        overlaid[key.strip()] = f"--set {assignment}"
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise _explain(error, text, path, overlaid) from None


def _safe_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "model"


def _lay(document: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        inner = document.setdefault(table, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"'{table}' is not a table", path=where, field=key)
        document = inner
    document[last] = value


def _toml_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(
    error: ValidationError, text: str, path: Path | None, overlaid: Mapping[str, str]
) -> RecipeError:
    """The first fault of a recipe in one line, with the number of further ones."""
    faults = error.errors()
    fault = faults[0]
    keys = [str(each) for each in fault["loc"]]
    field = ".".join(keys)
    where = next((w for k, w in overlaid.items() if field == k or field.startswith(k + ".")), "")
    if not where and path is not None:
        line = _line_of(text, keys)
        where = f"{path}:{line}" if line else str(path)
    if fault["type"] == "extra_forbidden":
        message = "there is no such key"
        hint = near_matches(keys[-1], _known_keys(keys[:-1]))
    else:
        message = str(fault["msg"])[:1].lower() + str(fault["msg"])[1:]
        if not isinstance(fault["input"], dict):
            message += f", not {fault['input']!r}"
        hint = ""
    if len(faults) > 1:
        message += f" (and {len(faults) - 1} more)"
    return RecipeError(message, hint, path=where, field=field)


def _known_keys(tables: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for table in tables:
        model = model.model_fields[table].annotation  # type: ignore[assignment]
    return list(model.model_fields)


def _line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line on which a dotted key stands, if it is written in the plain way."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1].split(".")
            if table == list(keys):
                return number
        elif (entry := re.match(r"\s*([\w.-]+)\s*=", line)) and [
            *table,
            *entry[1].split("."),
        ] == list(keys[: len(table) + entry[1].count(".") + 1]):
            return number
    return None
