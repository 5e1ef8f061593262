"""What can be known to fail before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from edgekd import data, models, targets
from edgekd.backends.base import find, require
from edgekd.backends.cuda import sm_here
from edgekd.backends.tensorrt import BACKENDS as TENSORRT
from edgekd.backends.tensorrt import is_elsewhere
from edgekd.backends.tensorrt.sidecar import HOST_CODE
from edgekd.bundle import SUFFIX, check_place
from edgekd.errors import BackendUnavailable, RecipeError, near_matches
from edgekd.models import members
from edgekd.recipe import Recipe
from edgekd.store import installed
from edgekd.targets import Target, options
from edgekd.verdict import BASELINE

_PACKAGES = {
    "safetensors": "train",
    "onnx": "train",
    "onnxscript": "train",
    "pillow": "train",
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
    if recipe.data.unlabelled:
        data.open_unlabelled(recipe.data.unlabelled)
    members.check(recipe.teacher)
    models.check(recipe.student.model, "student")
    chosen = []
    for name in dict.fromkeys(recipe.engines.targets):
        target = targets.load(name)
        if target.name == BASELINE:
            raise RecipeError(
                f"'{BASELINE}' is the baseline, which is always measured and never shipped",
                "choose another target",
                field="engines.targets",
            )
        if target.backend in TENSORRT:
            target = options.apply(target, recipe.tensorrt.canonical())
            _check_host_code(target)
        if not set(target.precisions) & set(recipe.engines.precisions):
            raise RecipeError(
                f"{target.name} is built in none of {', '.join(recipe.engines.precisions)}",
                f"it has {', '.join(target.precisions)}",
                field="engines.precisions",
            )
        chosen.append(target)
        if target.backend in TENSORRT and is_elsewhere(target, sm_here()):
            continue  # its engines are built there: nothing of it need be here
        backend = find(target.backend)
        require(backend)
        if target.backend in TENSORRT and target.device == "cuda":
            found = backend.probe()
            if not found.devices:
                reason = f"it builds on the GPU, and {found.reason}"
                raise BackendUnavailable(backend.name, "", reason)
    require(find(BASELINE))
    for package, extra in _PACKAGES.items():
        if installed([package])[package] == "absent":
            raise BackendUnavailable(package, extra, "it is not installed")
    require(find("onnxruntime"))  # calibration, and the export's check
    _check_losses(recipe)
    return chosen


def _check_host_code(target: Target) -> None:
    """Refuses plans that this machine would build and not be let run.

    Raises:
        RecipeError: saying how to allow it.
    """
    allowed = os.environ.get(HOST_CODE) == "1"
    if target.options.get("version_compatible") and not allowed and sm_here():
        raise RecipeError(
            "its plans bring code for the CPU, which must be allowed to run here",
            f"set {HOST_CODE}=1, or leave it out",
            field="tensorrt.version_compatible",
        )


def _check_losses(recipe: Recipe) -> None:
    """Refuses losses that do not go with the teacher or the training.

    Raises:
        RecipeError: naming both.
    """
    settings, train, features = recipe.distill, recipe.student.train, recipe.distill.features()
    if not any(settings.weights.values()):
        raise RecipeError("every weight is zero", "give one", field="distill.weights")
    if settings.cache == "on" and (reason := settings.uncacheable(train)):
        raise RecipeError(
            f"the teacher's logits cannot be kept: {reason}",
            "or leave cache at 'auto'",
            field="distill.cache",
        )
    if "crd" in features and (train.mixup or train.cutmix):
        raise RecipeError(
            "'crd' contrasts one image with others, and mixup and cutmix blend them",
            "leave out the one or the other",
            field="distill.weights",
        )
    if features:
        for model, places in (
            (recipe.teacher.model, settings.layers.keys()),
            (recipe.student.model, settings.layers.values()),
        ):
            known = models.layers(model) if model in models.MODELS else []
            for path in (each.partition(":")[0] for each in places):
                if known and path not in known:
                    raise RecipeError(
                        f"{model} has no layer '{path}'",
                        near_matches(path, known),
                        field="distill.layers",
                    )
    file_kind, _ = members.place(recipe.teacher.model)
    if features and (file_kind or recipe.teacher.also):
        whose = "several teachers" if recipe.teacher.also else f"a teacher that is {file_kind}:"
        raise RecipeError(
            f"'{features[0]}' compares layers, and {whose} gives logits alone",
            "choose losses on logits, such as kl or dist",
            field="distill.weights",
        )
