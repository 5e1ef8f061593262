"""``edgekd doctor``"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import out
from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.backends.base import Availability, Backend
    from edgekd.targets import Target

_JETSON = Path("/etc/nv_tegra_release")
_JETPACK = "sudo apt install python3-libnvinfer, and use a venv made with --system-site-packages"


@click.command()
@out.json_option
def doctor(as_json: bool) -> int:
    """Say what can be built and run here, and what is missing."""
    from edgekd import targets
    from edgekd.backends.base import BACKENDS, find
    from edgekd.bench import host

    backends = [find(name) for name in BACKENDS]
    probes = {each.name: each.probe() for each in backends}
    aims = [targets.load(name) for name in targets.names()]
    providers = _providers() if probes["onnxruntime"].installed else {}
    outlook = [_target(each, probes[each.backend], providers) for each in aims]
    found = {
        "host": host.facts(),
        "nvidia": _nvidia(),
        "backends": {each.name: _backend(each, probes[each.name], outlook) for each in backends},
        "providers": providers,
        "targets": outlook,
    }
    if as_json:
        out.document(found)
    else:
        _print(found)
    return 0


def _nvidia() -> dict[str, Any]:
    """Driver, CUDA and GPUs: None for a version that is not known, and why there is no GPU."""
    from edgekd.backends import cuda

    gpus = [
        {"name": each.name, "sm": each.sm, "memory_bytes": each.memory_bytes}
        for each in cuda.gpus()
    ]
    versions = {name: value or None for name, value in cuda.versions().items()}
    return {**versions, "gpus": gpus, "reason": "" if gpus else _no_gpu()}


def _no_gpu() -> str:
    from edgekd.backends import cuda
    from edgekd.backends.base import GpuOptions

    try:
        cuda.open_device(GpuOptions.device_layer, "")
    except EdgekdError as error:
        return error.message
    return "a GPU can be opened, and none is listed"


def _backend(
    backend: Backend, found: Availability, outlook: list[dict[str, Any]]
) -> dict[str, Any]:
    """Its version and distributions, what it is good for here, or what installs it."""
    from edgekd.store import installed

    mine = [each for each in outlook if each["backend"] == backend.name]
    present = {
        name: version
        for name, version in installed(backend.packages).items()
        if version != "absent"
    }
    return {
        "version": found.version or None,
        "packages": present,
        "installed": found.installed,
        "builds": any(each["builds"] for each in mine),
        "runs_on": list(found.devices),
        "reason": found.reason,
        "package": backend.packages[0],
        "install": "" if found.installed or present else _install(backend),
        "targets": [each["name"] for each in mine],
    }


def _install(backend: Backend) -> str:
    if backend.name == "tensorrt" and platform.machine() == "aarch64" and _JETSON.exists():
        return _JETPACK  # TensorRT comes with JetPack, and is built for it
    return f"pip install 'edgekd[{backend.extra}]'"


def _providers() -> dict[str, bool | None]:
    """ONNX Runtime's providers here, and whether each is of use; None for what is not tried."""
    from edgekd.backends import ort_providers

    known = ort_providers.PROVIDERS
    return {
        name: ort_providers.usable(name) if name in known else None
        for name in ort_providers.providers()
    }


def _target(
    target: Target, found: Availability, providers: dict[str, bool | None]
) -> dict[str, Any]:
    """Whether its engines can be built here and run here, and why not."""
    from edgekd.backends.ort_providers import PROVIDERS

    here, provider = set(found.devices), target.options.get("provider")
    any_gpu = target.device == "cuda" and not provider  # whichever is here, and for that one
    if provider:
        fits = bool(providers.get(str(provider)))
    elif any_gpu:
        fits = any(each.startswith("sm_") for each in here)
    else:
        fits = not here.isdisjoint(target.device.split("+"))
    elsewhere = target.built != "anywhere" and not fits
    if elsewhere:
        why = "its ONNX waits in the bundle, for `edgekd verify --rebuild` on the device"
    elif not found.installed:
        why = f"{target.backend} is missing"
    elif fits:
        why = ""
    elif provider:
        needs = f"missing: edgekd[{PROVIDERS[str(provider)].extra}]"
        why = f"{provider} is {'of no use here' if provider in providers else needs}"
    else:
        has = ", ".join(found.devices) or "no device"
        why = f"it is for {target.device}, and {target.backend} has {has} here"
    return {
        "name": target.name,
        "backend": target.backend,
        "builds": found.installed and (fits or (target.built == "anywhere" and not any_gpu)),
        "elsewhere": elsewhere,
        "runs": found.installed and fits,
        "why": why,
    }


def _print(found: dict[str, Any]) -> None:
    host, nvidia, backends = found["host"], found["nvidia"], found["backends"]
    click.echo(f"{host['cpu']}, {host['cores']} cores, {' '.join(host['flags'])}")
    click.echo(f"Python {host['python']}, {host['system']}")
    click.echo(
        f"NVIDIA driver {nvidia['driver'] or 'unknown'},"
        f" which supports CUDA {nvidia['driver_cuda'] or 'unknown'};"
        f" CUDA runtime {nvidia['cuda_runtime'] or 'unknown'}"
    )
    for each in nvidia["gpus"]:
        click.echo(f"  {each['name']}, {each['sm']}, {each['memory_bytes'] / 2**30:.1f} GiB")
    if nvidia["reason"]:
        click.echo(f"  {nvidia['reason']}")
    click.echo()
    headings = ("backend", "version", "installed as", "state")
    rows = [
        (name, each["version"] or "-", ", ".join(each["packages"]) or "-", _state(each))
        for name, each in backends.items()
    ]
    out.table(headings, rows, words=headings)
    if found["providers"]:
        use = {True: " (of use)", False: " (of no use here)", None: ""}
        named = [f"{name}{use[each]}" for name, each in found["providers"].items()]
        click.echo(f"ONNX Runtime has {', '.join(named)}")
    for name, each in backends.items():
        if each["install"]:
            click.echo(f"to install {name} ({each['package']}): {each['install']}")
    click.echo()
    yes = {True: "yes", False: "no"}
    headings = ("target", "builds", "runs", "why not")
    rows = [
        (
            each["name"],
            "there" if each["elsewhere"] else yes[each["builds"]],
            yes[each["runs"]],
            each["why"],
        )
        for each in found["targets"]
    ]
    out.table(headings, rows, words=headings)


def _state(backend: dict[str, Any]) -> str:
    if backend["runs_on"]:
        return f"builds, and runs on {', '.join(backend['runs_on'])}"
    if backend["builds"]:
        return f"builds, cannot run here: {backend['reason']}"
    if backend["installed"]:
        return f"can neither build nor run here: {backend['reason']}"
    if backend["packages"]:
        return f"installed, and of no use: {backend['reason']}"
    return "missing"
