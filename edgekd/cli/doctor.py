"""``edgekd doctor``"""

from __future__ import annotations

from typing import Any

import click

from edgekd.cli import out


@click.command()
@out.json_option
def doctor(as_json: bool) -> int:
    """Say what can be built and run here, and what is missing."""
    from edgekd import targets
    from edgekd.backends.base import BACKENDS, find
    from edgekd.bench import host

    facts = host.facts()
    backends: dict[str, Any] = {}
    for name in BACKENDS:
        backend = find(name)
        found = backend.probe()
        aims = [targets.load(each) for each in targets.names()]
        mine = [each for each in aims if each.backend == name]
        # A target for "cuda" is built on the GPU that is here.
        builds = found.devices or any(each.device != "cuda" for each in mine)
        backends[name] = {
            "version": found.version or None,
            "installed": found.installed,
            "builds": bool(found.installed and builds),
            "runs_on": list(found.devices),
            "reason": found.reason,
            "install": "" if found.installed else f"pip install 'edgekd[{backend.extra}]'",
            "targets": [each.name for each in mine],
        }
    if as_json:
        out.document({"host": facts, "backends": backends})
        return 0
    click.echo(f"{facts['cpu']}, {facts['cores']} cores, {' '.join(facts['flags'])}")
    click.echo(f"Python {facts['python']}, {facts['system']}")
    click.echo("")
    for name, each in backends.items():
        if each["runs_on"]:
            state = f"{each['version']}: builds, and runs on {', '.join(each['runs_on'])}"
        elif each["builds"]:
            state = f"{each['version']}: builds, cannot run here: {each['reason']}"
        elif each["installed"]:
            state = f"{each['version']}: can neither build nor run here: {each['reason']}"
        else:
            state = f"missing: {each['install']}"
        click.echo(f"{name:14} {state}")
    return 0
