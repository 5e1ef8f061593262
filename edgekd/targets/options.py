"""What a recipe's ``[tensorrt]`` sets on a target, and what does not go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgekd.errors import RecipeError
from edgekd.targets import Target

TABLE = "tensorrt"
BATCHES = ("min_batch", "opt_batch", "max_batch")
NAMES = (
    *BATCHES, "workspace_mib", "optimization_level", "timing_cache", "version_compatible",
    "hardware_compatible", "sparse", "dla_core", "device_layer", "cuda_graph",
)  # fmt: skip
"""All that ``[tensorrt]`` sets."""


def apply(target: Target, given: Mapping[str, Any]) -> Target:
    """A target with these options over its own; None leaves the target's.

    Raises:
        RecipeError: an option is not this target's, or the batches are not in order.
    """
    options: dict[str, Any] = dict(target.options)
    options |= {name: value for name, value in given.items() if value is not None}
    least, best, most = (int(options.setdefault(name, 1)) for name in BATCHES)
    if given.get("min_batch") is None:  # one given size draws the target's own along
        least = min(least, best, most)
    if given.get("opt_batch") is None:
        best = min(max(best, least), most) if least <= most else best
    if not least <= best <= most:
        raise RecipeError(
            f"the batches of {target.name} are {least}, {best} and {most}",
            "min_batch, opt_batch and max_batch must each be at least the one before",
            field=TABLE,
        )
    core, cores = options.get("dla_core"), options.get("dla_cores", 0)
    if core is not None and core >= cores:
        has = f"{cores}, numbered from 0" if cores else "none"
        raise RecipeError(
            f"there is no accelerator {core} on {target.name}: it has {has}",
            "leave it out, or choose another target",
            field=f"{TABLE}.dla_core",
        )
    if (
        core is not None
    ):  # it takes one batch alone (NVIDIA, "DLA Supported Layers and Restrictions")
        asked = {int(given[name]) for name in BATCHES if given.get(name) is not None}
        if len(asked) > 1:
            raise RecipeError(
                f"an accelerator takes one batch size, not {' and '.join(map(str, sorted(asked)))}",
                "give opt_batch alone",
                field=TABLE,
            )
        least = best = most = next(iter(asked), best)
    options |= zip(BATCHES, (least, best, most), strict=True)
    if "compute_capabilities" in options:
        for name in ("hardware_compatible", "version_compatible"):
            if options.get(name, False) not in (False, "none"):
                raise RecipeError(
                    f"TensorRT for RTX, which {target.name} is built with, has no such plans",
                    "leave it out; its plans are for each capability that the target names",
                    field=f"{TABLE}.{name}",
                )
    return replace(target, options=options)


def to_text(target: Target) -> dict[str, str]:
    """What is set on a target, as an engine's file holds it."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name in NAMES
        if (value := target.options.get(name)) is not None
    }


def from_text(options: Mapping[str, str]) -> dict[str, Any]:
    """The inverse: what an engine was built with, to build another so."""
    words = {"true": True, "false": False}
    return {
        name: words.get(text, int(text) if text.isdigit() else text)
        for name, text in options.items()
        if name in NAMES
    }
