"""Lint: what a runtime would refuse, get wrong or run slowly, told before it is asked.

Needs ``onnx`` alone; no runtime, no GPU.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.errors import BuildError, RecipeError, near_matches
from edgekd.quantize.graphs import title
from edgekd.quantize.lint.facts import CUSTOM
from edgekd.quantize.lint.rule import SEVERITIES
from edgekd.quantize.lint.rules import BY_ID, RULES
from edgekd.quantize.lint.view import read
from edgekd.targets import Target


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule.

    Attributes:
        id: the rule's, such as ``QDQ001``.
        severity: ``error``: the runtime refuses the model, or gets it wrong; ``warning``: int8
            does not run, or loses what it need not; ``note``: worth knowing.
        node: its name, or the first tensor it gives; empty where it is about the whole model.
        detail: what is there.
        reason: what follows from it.
        mend: what to do.
    """

    id: str
    severity: str
    node: str
    detail: str
    reason: str
    mend: str


def lint(
    path: Path,
    target: Target,
    capabilities: tuple[str, ...] = (),
    ignore: Collection[str] = (),
) -> tuple[Finding, ...]:
    """Everything that the rules find in an ONNX file, the worst first.

    Args:
        path: of the file; tensors beside it are not read.
        target: where the model is to run.
        capabilities: of the GPU, such as ``8.9``; the target's own if not given.
        ignore: ids of rules to leave out.

    Raises:
        RecipeError: there is no such file or rule, or the target takes no ONNX, or no GPU.
        QuantizeError: it is not an ONNX file.
    """
    target = _ruled(target)
    if target.backend not in CUSTOM:
        takers = ", ".join(sorted(CUSTOM))
        raise RecipeError(
            f"the target '{target.name}' takes no ONNX file",
            f"choose one whose backend is among {takers}",
            path="--target",
        )
    for each in ignore:
        if each not in BY_ID:
            raise RecipeError(
                f"no rule is called '{each}'", near_matches(each, BY_ID), path="--ignore"
            )
    view = read(path, target, capabilities or capabilities_of(target))
    findings = [
        Finding(
            id=rule.id,
            severity=severity,
            node=title(node) if node is not None else "",
            detail=detail,
            reason=rule.why,
            mend=rule.mend.format(target=target.name),
        )
        for rule in RULES
        if rule.id not in ignore and (severity := rule.severity_for(target))
        for node, detail in rule.check(view)
    ]
    return tuple(sorted(findings, key=lambda each: SEVERITIES.index(each.severity)))


_RULES_OF = {
    "TensorrtExecutionProvider": "tensorrt",
    "NvTensorRTRTXExecutionProvider": "tensorrt-rtx",
}
"""Providers of ONNX Runtime that are another library within, whose rules hold."""


def _ruled(target: Target) -> Target:
    """The target by whose backend's rules a model is judged."""
    provider = str(target.options.get("provider", ""))
    return replace(target, backend=_RULES_OF.get(provider, target.backend))


def explain(error: BuildError, path: Path, target: Target) -> BuildError:
    """A runtime's refusal with the rule that foresees it, where there is one.

    Args:
        error: what the runtime said; its nodes are looked for among the findings.
        path: of the ONNX file.
        target: where it was to run.
    """
    for found in lint(path, target):
        if found.severity == "error" and found.node in error.nodes:
            told = f"{error.message}; rule {found.id}: {found.detail}, {found.reason}"
            return BuildError(told, found.mend, nodes=error.nodes)
    return error


def foresee(path: Path, target: Target) -> None:
    """Holds a model that nothing here can build against the rules.

    Raises:
        BuildError: the runtime would refuse it.
    """
    errors = [each for each in lint(path, target) if each.severity == "error"]
    if errors:
        worst = errors[0]
        where = f"node '{worst.node}'" if worst.node else path.name
        raise BuildError(
            f"{target.name} would refuse {where}, rule {worst.id}: {worst.detail}, {worst.reason}",
            worst.mend,
            nodes=[each.node for each in errors if each.node],
        )


def capabilities_of(target: Target) -> tuple[str, ...]:
    """The compute capabilities that a target's device names, such as ``8.7``."""
    return tuple(
        f"{number[:-1]}.{number[-1]}"
        for each in target.device.split("+")
        if (number := each.removeprefix("sm_")) != each
    )
