"""``edgekd verify``"""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import out


@click.command()
@out.bundle_argument
@out.json_option
def verify(bundle: str, as_json: bool) -> int:
    """Check a bundle's files and golden outputs.

    Every file is held against its sha256; then each engine that can run here is run on the
    golden images. Exit code 4: something is not as it should be.
    """
    from edgekd import bundle as bundles
    from edgekd.errors import BackendUnavailable, EngineIncompatible
    from edgekd.runtime import Engine

    opened = bundles.read(Path(bundle))
    opened.check()
    results = []
    for record in opened.engines:
        result = {
            "target": record["target"],
            "precision": record["precision"],
            "executed": False,
            "difference": None,
            "allowed": record["tolerance"],
            "reason": "",
        }
        try:
            with Engine(opened, record, threads=1) as engine:
                result |= {"executed": True, "difference": engine.check_golden()}
        except (BackendUnavailable, EngineIncompatible) as error:
            result["reason"] = str(error)
        results.append(result)
    if as_json:
        out.document({"bundle": bundle, "files": len(opened.hashes()), "engines": results})
        return 0
    click.echo(f"{len(opened.hashes())} files are what the manifest says")
    for each in results:
        name = f"{each['target']} {each['precision']}"
        if each["executed"]:
            click.echo(
                f"{name}: golden outputs given, to {each['difference']:.2g}"
                f" ({each['allowed']:.2g} allowed)"
            )
        else:
            click.echo(f"{name}: not run here, {each['reason']}")
    return 0
