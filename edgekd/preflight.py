"""What can be known to fail before any work is done."""

from __future__ import annotations

from pathlib import Path

from edgekd import data, models, targets
from edgekd.backends.base import find, require
from edgekd.bundle import SUFFIX, check_place
from edgekd.errors import BackendUnavailable, RecipeError
from edgekd.recipe import Recipe
from edgekd.store import installed
from edgekd.targets import Target
from edgekd.verdict import BASELINE

_PACKAGES = {
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "jinja2": "report",
    "matplotlib": "report",
}
"""What stages need beside the backends, and the extra that brings it."""


def check(recipe: Recipe, out: Path) -> list[Target]:
    """Refuses what would fail later; returns the recipe's targets.

    Raises:
        RecipeError: the recipe names what does not exist, or what does not fit together.
        BackendUnavailable: something that a stage needs is not installed, or not here.
        BundleError: the bundle could not be written into ``out``.
    """
    check_place(out / f"{recipe.name}{SUFFIX}")
    data.open_source(recipe.data.source)
    models.check(recipe.teacher.model, "teacher")
    models.check(recipe.student.model, "student")
    chosen = [targets.load(name) for name in dict.fromkeys(recipe.engines.targets)]
    for target in chosen:
        if target.name == BASELINE:
            raise RecipeError(
                f"'{BASELINE}' is the baseline, which is always measured and never shipped",
                "choose another target",
                field="engines.targets",
            )
        backend = find(target.backend)
        require(backend)
        if target.device == "cuda" and not (found := backend.probe()).devices:
            raise BackendUnavailable(backend.name, "", f"it builds on the GPU, and {found.reason}")
        largest = target.options.get("max_batch")
        if isinstance(largest, int) and recipe.bench.batch > largest:
            raise RecipeError(
                f"{recipe.bench.batch} is more than the {largest} that {target.name} is built for",
                "lower it",
                field="bench.batch",
            )
    require(find(BASELINE))
    for package, extra in _PACKAGES.items():
        if installed([package])[package] == "absent":
            raise BackendUnavailable(package, extra, "it is not installed")
    require(find("onnxruntime"))  # calibration, and the export's check
    return chosen
