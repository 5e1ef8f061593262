"""From an ONNX file to a plan: profiles, options, progress, and what went wrong by node."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.backends.tensorrt.library import Capabilities, logger
from edgekd.errors import BuildError
from edgekd.progress import Progress
from edgekd.targets import Target

if TYPE_CHECKING:
    import tensorrt as trt

MIB = 1 << 20
_HARDWARE = {"ampere+": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}
_HINTS = {
    "FP32 GEMM is not supported": "Turing has none in TensorRT for RTX: build fp16, or int8 over"
    " fp16",
    "HW-specific datatypes: fp8": "fp8 needs a GPU of compute capability 8.9 or later",
    "libnvinfer_lean": "version_compatible needs TensorRT's lean runtime, which is not installed",
    "ut of memory|OutOfMemory|insufficient memory": "lower tensorrt.workspace_mib or"
    " tensorrt.max_batch, or free memory of the device",
}
"""What a library's own words mean to a user."""


def build(
    library: Any,
    can: Capabilities,
    path: Path,
    target: Target,
    gpus: Iterable[str],
    timing_cache: Path | None,
    progress: Progress,
) -> tuple[bytes, dict[str, str]]:
    """Parses and builds.

    Args:
        library: the module.
        can: what it can do.
        path: the ONNX file; tensors that lie beside it are found.
        target: its options, see ``targets.options``.
        gpus: to build for, such as ``SM86``, where the library is told.
        timing_cache: kernel times of earlier builds by the same library on the same GPU; read and
            written where the library times kernels.
        progress: told as the library goes on.

    Returns:
        The plan, and the options that it was built with.

    Raises:
        BuildError: the library refuses the model; the nodes are named where it names them.
    """
    log = logger(library)
    log.errors.clear()
    builder: trt.Builder = library.Builder(log)
    network: trt.INetworkDefinition = builder.create_network(can.network_flags)
    parser: trt.OnnxParser = library.OnnxParser(network, log)
    if int(_option(target, "dla_core", -1)) >= 0:
        parser.set_flag(library.OnnxParserFlag.ADJUST_FOR_DLA)  # shapes as the accelerator has them
    if not parser.parse_from_file(str(path)):
        raise _refusal(library, path, parser)
    config: trt.IBuilderConfig = builder.create_builder_config()
    profile, batches = _profile(builder, network, target)
    config.add_optimization_profile(profile)
    _aim(library, can, config, gpus)
    options = batches | _configure(library, config, target)
    cache = _load_times(can, config, timing_cache)
    watch = _monitor(library, progress)
    config.progress_monitor = watch
    with _stoppable(watch):
        plan = builder.build_serialized_network(network, config)
    if watch.stopped is not None:
        log.errors.clear()
        raise watch.stopped
    if plan is None:
        raise _failure(library, path, log.told())
    if cache is not None and timing_cache is not None:
        _keep(timing_cache, bytes(memoryview(cache.serialize())))
    return bytes(memoryview(plan)), options


def _profile(
    builder: trt.Builder, network: trt.INetworkDefinition, target: Target
) -> tuple[trt.IOptimizationProfile, dict[str, str]]:
    """The batches to build for; one that the model fixes stays as it is."""
    wanted = [int(_option(target, f"{each}_batch", 1)) for each in ("min", "opt", "max")]
    profile: trt.IOptimizationProfile = builder.create_optimization_profile()
    fixed_batch = 0
    for index in range(network.num_inputs):
        tensor: trt.ITensor = network.get_input(index)
        shape: Any = tensor.shape  # the stubs know Dims alone; the library gives and takes tuples
        fixed: Any = tuple(shape)
        if not fixed:  # what has no shape is taken for a number, without a word
            raise BuildError(f"input '{tensor.name}' has no shape", "give it one in the model")
        if -1 in fixed[1:]:
            raise BuildError(f"input '{tensor.name}' leaves more than the batch free: {fixed}")
        if -1 not in fixed:
            fixed_batch = max(fixed_batch, int(fixed[0]))
            continue
        sizes: list[Any] = [(batch, *fixed[1:]) for batch in wanted]
        profile.set_shape(tensor.name, *sizes)
    if fixed_batch:
        wanted = [fixed_batch] * 3
    return profile, {
        f"{name}_batch": str(size) for name, size in zip(("min", "opt", "max"), wanted, strict=True)
    }


def _aim(library: Any, can: Capabilities, config: trt.IBuilderConfig, gpus: Iterable[str]) -> None:
    """Says which GPUs the plan is for, where the library is told."""
    if not can.names_gpus:
        return
    ahead: Any = config  # TensorRT for RTX alone has these calls
    names = list(gpus)
    known = library.ComputeCapability.__members__
    ahead.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if name not in known or not ahead.set_compute_capability(known[name], index):
            has = ", ".join(each for each in known if each.startswith("SM"))
            raise BuildError(f"{library.__name__} does not build for {name}", f"it knows {has}")


def _configure(library: Any, config: trt.IBuilderConfig, target: Target) -> dict[str, str]:
    """Sets the target's options; returns those that are not as the library has them."""
    set_to: dict[str, str] = {}
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # for the inspector
    if workspace := int(_option(target, "workspace_mib", 0)):
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace * MIB)
        set_to["workspace_mib"] = str(workspace)
    if (level := int(_option(target, "optimization_level", -1))) >= 0:
        config.builder_optimization_level = level
        set_to["optimization_level"] = str(level)
    for option, flag in (
        ("version_compatible", "VERSION_COMPATIBLE"),
        ("sparse", "SPARSE_WEIGHTS"),
    ):
        if _option(target, option, False):
            config.set_flag(getattr(library.BuilderFlag, flag))
            set_to[option] = "true"
    hardware = str(_option(target, "hardware_compatible", "none"))
    if hardware != "none":
        wanted = getattr(library.HardwareCompatibilityLevel, _HARDWARE[hardware])
        config.hardware_compatibility_level = wanted
        set_to["hardware_compatible"] = hardware
    if (core := int(_option(target, "dla_core", -1))) >= 0:
        config.default_device_type = library.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(library.BuilderFlag.GPU_FALLBACK)  # for what it does not take
        set_to["dla_core"] = str(core)
    return set_to


def _load_times(can: Capabilities, config: trt.IBuilderConfig, path: Path | None) -> Any:
    """Gives the builder the kernel times that are kept; what does not fit it starts anew.

    There are none where they could not be kept: a service's user need not have a home.
    """
    if not can.times_kernels or path is None or not _writable(path.parent):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_bytes() if path.is_file() else b""
    for content in (kept, b""):
        cache: trt.ITimingCache | None = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    raise BuildError(f"no timing cache can be made, not even an empty one ({path})")


def _keep(path: Path, content: bytes) -> None:
    """Replaces a file at once, so that builds beside this one read it whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        try:
            fresh.write_bytes(content)
        except OSError as error:
            raise BuildError(
                f"{path} cannot be written ({error.strerror})",
                "make room, or set tensorrt.timing_cache = false",
            ) from error
        fresh.replace(path)


def _writable(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _monitor(library: Any, progress: Progress) -> Any:
    """Passes the library's phases on, and stops it when somebody wants to.

    No exception may pass through the library: it is kept, and raised once that has stopped.
    """

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._outer = ""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            if not parent:
                self._outer = name
            if name == self._outer:
                self._tell(0, name)

        def step_complete(self, name: str, step: int) -> bool:
            if name == self._outer:
                self._tell(step + 1, name)
            return self.stopped is None

        def phase_finish(self, name: str) -> None:
            if name == self._outer:
                self._tell(self._steps[name], name)

        def _tell(self, done: int, note: str) -> None:
            try:
                progress(done, max(self._steps.get(self._outer, 1), 1), note)
            except BaseException as error:  # noqa: BLE001
                self.stopped = error

    return Monitor()


@contextmanager
def _stoppable(watch: Any) -> Iterator[None]:
    """Ctrl-C stops the library at its next step, and is raised after that.

    Python's own handler would raise it in the library's call of ``watch``, which ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        watch.stopped = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refusal(library: Any, path: Path, parser: trt.OnnxParser) -> BuildError:
    """What the parser does not take, by node."""
    errors: list[trt.ParserError] = [parser.get_error(each) for each in range(parser.num_errors)]
    logger(library).errors.clear()  # it says the same at length
    told = "; ".join(
        dict.fromkeys(
            f"node '{each.node_name()}' ({each.node_operator()}): {each.desc()}" for each in errors
        )
    )
    return BuildError(
        f"{library.__name__} cannot parse {path.name}: {told or 'no reason was given'}",
        nodes=dict.fromkeys(each.node_name() for each in errors),
    )


def _failure(library: Any, path: Path, told: str) -> BuildError:
    hint = next((mend for words, mend in _HINTS.items() if re.search(words, told)), "")
    nodes = re.findall(r"operation '([^']+)'", told)
    return BuildError(f"{library.__name__} cannot build {path.name}: {told}", hint, nodes=nodes)


def _option(target: Target, name: str, default: Any) -> Any:
    return target.options.get(name, default)
