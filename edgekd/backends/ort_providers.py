"""ONNX Runtime's GPU providers: which are here, and whether a model really runs on one.

A provider that cannot be loaded is left out with a line in the log, and a node that it does not
take goes to the CPU with none. So a session is asked, once it is made, what was placed where.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.artifacts import TensorSpec
from edgekd.errors import BackendUnavailable, BuildError, EngineIncompatible

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """What EdgeKD knows of a GPU provider.

    Attributes:
        extra: the extra of this package that installs it.
        library: its file beside ONNX Runtime's own; empty for a plug-in.
        plugin: the module that names a plug-in's file.
        options: those that are not left as they are.
        profile: the prefix of its options for a free batch; empty where it needs none.
    """

    extra: str
    library: str = ""
    plugin: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""


PROVIDERS = {
    "CUDAExecutionProvider": Provider(
        extra="onnxruntime-gpu",
        library="libonnxruntime_providers_cuda.so",
        options={
            # Its default times every algorithm of cuDNN at the first call for a shape.
            "cudnn_conv_algo_search": "HEURISTIC",
            # Off, against its default: an fp32 engine is the reference and computes in fp32.
            "use_tf32": "0",
        },
    ),
    # TensorRT uses TF32 for fp32, and this provider has no option for it. Without trt_fp16_enable
    # and trt_int8_enable the network is strongly typed (microsoft/onnxruntime#18707).
    "TensorrtExecutionProvider": Provider(
        extra="onnxruntime-gpu",
        library="libonnxruntime_providers_tensorrt.so",
        profile="trt_profile",
    ),
    # nvidia.github.io/TensorRT-RTX-EP-ABI, "Installation", "Provider options".
    "NvTensorRTRTXExecutionProvider": Provider(
        extra="onnxruntime-rtx",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        profile="nv_profile",
    ),
}

# What a network computes in; anything else, such as a Shape, may stay on the CPU.
COMPUTE = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul"),
    *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm"),
    *("FusedConv", "FusedGemm", "FusedMatMul", "NhwcConv", "NhwcFusedConv"),
}
_SHOWN = 4

# y = Relu(x) of one float: the smallest model that a provider can be tried with.
_SMALLEST = bytes.fromhex(
    "080812003a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a00100d"
)


def providers() -> tuple[str, ...]:
    """The providers that are compiled into ONNX Runtime here, and the plug-ins beside it.

    Whether one can be used is another question, which ``usable`` answers.
    """
    import onnxruntime as rt

    plugins = [name for name, each in PROVIDERS.items() if each.plugin and find_spec(each.plugin)]
    return tuple(dict.fromkeys([*rt.get_available_providers(), *plugins]))


def usable(name: str) -> bool:
    """Whether a GPU provider runs a small model here."""
    import onnxruntime as rt

    try:
        gpu_session(_SMALLEST, rt.SessionOptions(), name, {})
    except (BackendUnavailable, BuildError, EngineIncompatible):
        return False
    return True


def settings(name: str, inputs: Sequence[TensorSpec], batches: Sequence[int]) -> dict[str, str]:
    """A provider's options for a model.

    Args:
        name: the provider.
        inputs: the model's; the batch is free where it is no number.
        batches: the least, the one to tune for, and the most.
    """
    provider = PROVIDERS[name]
    chosen = dict(provider.options)
    free = [each for each in inputs if each.shape and not isinstance(each.shape[0], int)]
    if provider.profile and free:  # without it an engine is made again for every new batch
        for word, batch in zip(("min", "opt", "max"), batches, strict=True):
            shapes = ("x".join(str(each) for each in (batch, *spec.shape[1:])) for spec in free)
            chosen[f"{provider.profile}_{word}_shapes"] = ",".join(
                f"{spec.name}:{shape}" for spec, shape in zip(free, shapes, strict=True)
            )
    return chosen


def gpu_session(
    model: Path | bytes,
    options: onnxruntime.SessionOptions,
    name: str,
    chosen: Mapping[str, str],
) -> tuple[onnxruntime.InferenceSession, dict[str, int]]:
    """Opens a model on a GPU provider, and refuses one that would compute elsewhere.

    Returns:
        The session, and how many nodes each provider runs; empty where ONNX Runtime is too old
        to tell, in which case none is left to the CPU.

    Raises:
        BackendUnavailable: the provider is not here, cannot be loaded, or finds no GPU.
        EngineIncompatible: products were placed on the CPU.
        BuildError: ONNX Runtime refuses the model.
    """
    import onnxruntime as rt

    require(name)
    options.log_severity_level = 4  # its errors are raised, and need not be logged as well
    tells = hasattr(rt.InferenceSession, "get_provider_graph_assignment_info")
    if tells:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted: dict[str, Any] = {}
    if PROVIDERS[name].plugin:
        options.add_provider_for_devices(_plug_in(name), dict(chosen))
    else:
        if hasattr(rt, "preload_dlls"):
            with redirect_stdout(StringIO()):  # what is missing is told below
                rt.preload_dlls()  # pip puts CUDA and cuDNN where no loader looks
        # The CPU may not be named where falling back to it is forbidden.
        wanted = {"providers": [(name, dict(chosen)), *([CPU] if tells else [])]}
    refusals: tuple[type[Exception], ...] = (*errors(), RuntimeError, ValueError)
    try:
        session = rt.InferenceSession(model, options, enable_fallback=0, **wanted)
    except refusals as error:
        if "fallback to CPU EP" in str(error):
            raise _leaves_to_the_cpu(name, ["at least one node"]) from error
        if isinstance(error, RuntimeError) or "CUDA failure" in str(error):  # not of the model
            unloaded = "Please install" in str(error)  # which does not say what is missing
            why = _why_not_loaded(name) if unloaded else reason(error)
            raise BackendUnavailable(name, "", why) from error
        raise BuildError(f"{name} refuses {_called(model)}: {reason(error)}") from error
    if name not in session.get_providers():
        raise BackendUnavailable(name, "", _why_not_loaded(name))
    if not tells:
        return session, {}
    placed = session.get_provider_graph_assignment_info()
    if strays := computes_elsewhere(placed, name):
        raise _leaves_to_the_cpu(name, strays)
    return session, count(placed)


def require(name: str) -> None:
    """Refuses a provider that ONNX Runtime does not have, and any where there is no GPU.

    Raises:
        BackendUnavailable: saying which, and what brings it.
    """
    provider = PROVIDERS[name]
    if name not in providers():
        raise BackendUnavailable(name, provider.extra, f"onnxruntime has no {name}")
    if why := _no_gpu():
        raise BackendUnavailable(name, "", why)


def count(placed: Iterable[Any]) -> dict[str, int]:
    """How many nodes each provider runs, of ONNX Runtime's ``OrtEpAssignedSubgraph`` objects."""
    counts: Counter[str] = Counter()
    for each in placed:
        counts[each.ep_name] += len(each.get_nodes())
    return dict(counts)


def computes_elsewhere(placed: Iterable[Any], name: str) -> list[str]:
    """The products that another provider runs, as ``Conv 'stem'``."""
    return [
        f"{node.op_type} '{node.name}'"
        for each in placed
        if each.ep_name != name
        for node in each.get_nodes()
        if node.op_type in COMPUTE
    ]


def errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its exceptions have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def reason(error: Exception) -> str:
    """The first line, without the code or the place in a source file that it starts with."""
    line = str(error).splitlines()[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    return re.sub(r"^/\S+\.cc:\d+ .*?\) (?=[A-Z])", "", line).strip()


def _leaves_to_the_cpu(name: str, nodes: Sequence[str]) -> EngineIncompatible:
    more = len(nodes) - _SHOWN
    some = ", ".join(nodes[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return EngineIncompatible(name, f"a provider that leaves {some} to {CPU}")


def _plug_in(name: str) -> list[Any]:
    """The devices of a provider that is registered at run time.

    Raises:
        BackendUnavailable: its library cannot be loaded, or finds no device.
    """
    import onnxruntime as rt

    if not hasattr(rt, "register_execution_provider_library"):
        raise BackendUnavailable(name, "", f"onnxruntime {rt.__version__} takes no plug-ins")
    devices = [each for each in rt.get_ep_devices() if each.ep_name == name]
    if not devices:
        library = Path(import_module(PROVIDERS[name].plugin).get_library_path())
        if why := _load_cudart(library.parent) or _register(name, library):
            raise BackendUnavailable(name, "", why)
        devices = [each for each in rt.get_ep_devices() if each.ep_name == name]
    if not devices:
        raise BackendUnavailable(name, "", "it finds no GPU that it runs on")
    return devices


def _why_not_loaded(name: str) -> str:
    """The reason that ONNX Runtime wrote to its log, got by loading the library once more."""
    import onnxruntime.capi as capi

    library = Path(capi.__path__[0], PROVIDERS[name].library)
    return _register(name, library) or "ONNX Runtime left it out and does not say why"


def _load_cudart(folder: Path) -> str:
    """Loads CUDA's runtime where a plug-in brings it, as 0.5.0 does under a name it cannot find."""
    try:
        for each in folder.glob("libcudart.so.*"):
            ctypes.CDLL(str(each), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return ""


def _register(name: str, library: Path) -> str:
    """Registers a provider's library; why it could not be loaded, or nothing."""
    import onnxruntime as rt

    try:
        rt.register_execution_provider_library(name, str(library))
    except errors() as error:
        # "Failed to load library /long/path.so with error: libcudnn.so.9: cannot open ..."
        return reason(error).split(" with error: ")[-1]
    return ""


def _no_gpu() -> str:
    """Why NVIDIA's driver has no GPU to give; empty where it has one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"there is no NVIDIA driver ({error})"
    found = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found))
    if code:
        return f"the NVIDIA driver has no GPU to give (CUDA error {code})"
    return "" if found.value else "the NVIDIA driver finds no GPU"


def _called(model: Path | bytes) -> str:
    return str(model) if isinstance(model, Path) else "the model"
