"""``edgekd verify``"""

from __future__ import annotations

from pathlib import Path

import click

from edgekd.cli import out


@click.command()
@out.bundle_argument
@click.option(
    "--rebuild",
    "again",
    is_flag=True,
    help="Build plans that do not fit this GPU, check and measure them, and write the bundle.",
)
@out.json_option
def verify(bundle: str, again: bool, as_json: bool) -> int:
    """Check a bundle's files and golden outputs.

    Every file is held against its sha256; then each engine that can run here is run on the
    golden images. Exit code 4: something is not as it should be.

    With --rebuild, TensorRT engines that are for another GPU or version, or that were left to be
    built on the device, are built here from the bundle's ONNX. The bundle is replaced once all of
    them give the golden outputs and were measured. Engines of other devices are kept. Exit code 1:
    the budget is missed here; 3: nothing can run here, or the library for this GPU is missing.
    """
    if again:
        return _rebuild(Path(bundle), as_json)
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


def _rebuild(path: Path, as_json: bool) -> int:
    from edgekd.cli.build import EXIT_CODES
    from edgekd.cli.watch import watcher
    from edgekd.rebuild import rebuild
    from edgekd.recipe import BenchSettings

    with watcher() as watching:
        found = rebuild(path, BenchSettings(), watching)
    bench = found["bench"]
    status = bench["verdict"]["status"]
    if as_json:
        out.document({"bundle": str(path), **found})
        return EXIT_CODES[status]
    for each in found["engines"]:
        told = f"{each['target']} {each['precision']}: {_STATUS[each['status']]}"
        if each["difference"] is not None:
            told += f"; golden outputs given, to {each['difference']:.2g}"
        click.echo(told + (f" ({each['reason']})" if each["reason"] else ""))
    click.echo("")
    out.engines(bench["engines"], bench["preferred"])
    for told in (*bench["advice"], *bench["verdict"]["reasons"]):
        click.echo(f"  {told}")
    wrote = f"{path} is written anew" if found["written"] else f"{path} is as it was"
    click.echo(f"{status.upper()}  {wrote}")
    return EXIT_CODES[status]


_STATUS = {
    "rebuilt": "built again",
    "added": "added",
    "fits": "fits",
    "kept": "kept, not run here",
    "refused": "refused, kept as it was",
    "not added": "refused, not added",
}
