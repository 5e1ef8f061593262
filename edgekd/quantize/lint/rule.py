"""What a lint rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekd.quantize.lint.forms import Odd
from edgekd.quantize.lint.view import View
from edgekd.targets import Target

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")

GROUPS = {
    "QDQ": "forms of Q/DQ",
    "PLC": "placement",
    "OPS": "operators, opsets and types",
    "SHP": "shapes",
    "PAY": "whether int8 pays",
    "OVN": "OpenVINO",
}


@dataclass(frozen=True)
class LintRule:
    """One row.

    Attributes:
        severity: by backend, or by ``backend:form`` where the target's form matters; targets
            that are not in it are not concerned.
        what: what is found, as a heading.
        why: what follows from it, in one sentence.
        mend: what to do, in one sentence; ``{target}`` is the target's name.
        check: yields each place where it is so.
    """

    id: str
    severity: Mapping[str, str]
    what: str
    why: str
    mend: str
    check: Callable[[View], Odd]

    def severity_for(self, target: Target) -> str:
        """How bad it is for a target; empty where it is not concerned."""
        of_form = self.severity.get(f"{target.backend}:{target.form}", "")
        return of_form or self.severity.get(target.backend, "")
