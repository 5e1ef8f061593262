"""A TensorRT engine that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import EngineFile, TensorSpec
from edgekd.backends.base import Arrays
from edgekd.backends.cuda import Device, Graphs
from edgekd.backends.cuda.arrays import DeviceArray, device_array
from edgekd.backends.tensorrt.memory import Buffer, Shape, TensorRtBinding, nbytes_of, sized
from edgekd.errors import DeviceError, EngineIncompatible, StageError, near_matches

if TYPE_CHECKING:
    import tensorrt as trt

_ALIGNMENT = 256  # of a tensor's address, in bytes (TensorRT, IExecutionContext.setTensorAddress)

Fed = Mapping[str, "npt.NDArray[Any] | DeviceArray"]


@dataclass(frozen=True)
class Split:
    """Where the GPU's time of one run went: copies to it, the network, copies from it."""

    h2d_ns: int
    gpu_ns: int
    d2h_ns: int


class TensorRtSession:
    """An execution context with one stream, and memory for its largest batch, taken at open.

    An input that lies in GPU memory already (see ``cuda.arrays``) is used where it lies. With
    CUDA graphs, the second run in a row with the same shapes and addresses is captured, and
    launched as a whole from then on; a run with others ends that graph, since TensorRT
    prepares its context for one shape at a time, outside of what can be captured.

    Args:
        engine: what TensorRT loaded, kept alive for ``context``.
        context: its execution context, of the session alone.
        device: where it runs, of any layer.
        file: what it was loaded from; ``options`` holds ``max_batch``, may hold ``min_batch``.
        types: numpy's name of each of TensorRT's data types.
        cuda_graph: whether to use CUDA graphs, where they can be had.

    Attributes:
        context: TensorRT's own, until the session is closed.
        graph_refused: why there is no CUDA graph although one was asked for; empty otherwise.
        graph_launched: whether the last run was one launch of a CUDA graph.

    Raises:
        EngineIncompatible: the plan's tensors have other types than the engine's file says.
        DeviceError: the GPU has not enough memory, or refuses.
    """

    def __init__(
        self,
        engine: trt.ICudaEngine,
        context: trt.IExecutionContext,
        device: Device,
        file: EngineFile,
        types: dict[Any, str],
        *,
        cuda_graph: bool = True,
    ) -> None:
        self._engine = engine
        self.context = context
        self._device = device
        self._name = file.name
        self._smallest = int(file.options.get("min_batch", "1"))
        self._largest = int(file.options["max_batch"])
        self.inputs = file.model_inputs
        self.outputs = file.model_outputs
        for spec in (*self.inputs, *self.outputs):
            declared = types[engine.get_tensor_dtype(spec.name)]
            if declared != spec.dtype:
                raise EngineIncompatible(f"{spec.name} of {spec.dtype}", declared)
        self._graphs: Graphs | None = device.graphs if cuda_graph else None
        self.graph_refused = ""
        if cuda_graph and self._graphs is None:
            self.graph_refused = "the device layer has no CUDA graphs"
        self.graph_launched = False
        self._graph: int | None = None
        self._captured: object = None  # the shapes and addresses that the graph is of
        self._warm: object = None  # those of the last run
        self._shapes: dict[str, Shape] = {}  # what the context has been told
        self._addresses: dict[str, int] = {}
        self._events: list[int] = []
        self._busy = False  # the stream may hold work that uses our memory
        self._closed = False
        self._lost = ""
        try:
            with ExitStack() as held:
                self._stream = device.stream()
                held.callback(device.destroy_stream, self._stream)
                self._buffers = {
                    spec.name: self._take(spec, held) for spec in (*self.inputs, *self.outputs)
                }
                self._held = held.pop_all()
        except DeviceError as error:
            if not error.out_of_memory:
                raise
            raise self._no_room(error) from error

    def run(self, feeds: Arrays) -> Arrays:
        """See ``Session.run``; an input may lie in GPU memory, the outputs come to the host.

        Raises:
            StageError: an input is not what the engine takes, or TensorRT refuses; the next
                run works.
            DeviceError: likewise of CUDA; where ``lost`` is set, no further run works.
        """
        with self._settling():
            return self._run(feeds, [])

    def timed(self, feeds: Arrays) -> tuple[Arrays, Split]:
        """As ``run``, and where the time went, by the GPU's own clock."""
        with self._settling():
            if not self._events:
                self._events = self._take_events()
            results = self._run(feeds, self._events)
            spans = zip(self._events, self._events[1:], strict=False)
            return results, Split(*(self._device.elapsed_ns(*span) for span in spans))

    def close(self) -> None:
        """Gives back everything; a second time does nothing.

        Raises:
            DeviceError: CUDA did not take something back, although the GPU works.
        """
        if self._closed:
            return
        self._closed = True
        del self.context, self._engine
        if self._graphs is not None and self._graph is not None:
            self._held.callback(self._graphs.destroy_graph, self._graph)
        try:
            self._held.close()
        except DeviceError:
            if not self._lost:  # else the driver gives everything back when the process ends
                raise

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run_between(self, inputs: Arrays, outputs: Arrays) -> None:
        """As ``run``, from and to page-locked arrays of one batch."""
        with self._settling():
            self._run_between(inputs, outputs, [])

    def bind(self, batch: int) -> TensorRtBinding:
        """See ``Binds.bind``: page-locked arrays, which the GPU reads and writes itself."""
        self._check_usable()
        self._check_batch({spec.name: (batch,) for spec in self.inputs})
        return TensorRtBinding(self.inputs, self.outputs, batch, self._device, self.run_between)

    def _run(self, feeds: Arrays, events: list[int]) -> Arrays:
        fed = self._checked(feeds)
        batch = self._check_batch({name: tuple(each.shape) for name, each in fed.items()})
        results = {
            spec.name: self._buffers[spec.name].view(sized(spec, batch), spec.dtype)
            for spec in self.outputs
        }
        staged = {name: self._staged(name, each) for name, each in fed.items()}
        self._run_between(staged, results, events)
        return {name: array.copy() for name, array in results.items()}

    def _run_between(self, inputs: Fed, outputs: Arrays, events: list[int]) -> None:
        self._busy = True
        self._mark(events, 0)
        addresses = {name: each.pointer for name, each in self._buffers.items()}
        for name, value in inputs.items():
            addresses[name] = self._upload(self._buffers[name], value)
        self._mark(events, 1)
        shapes = {name: tuple(each.shape) for name, each in inputs.items()}
        self._bind(shapes, addresses)
        self._execute((shapes, addresses))
        self._mark(events, 2)
        for name, array in outputs.items():
            self._device.download(array, self._buffers[name].pointer, self._stream)
        self._mark(events, 3)
        self._device.wait(self._stream)
        self._busy = False

    def _checked(self, feeds: Arrays) -> Fed:
        """The inputs in the engine's order, of the right types and, but for the batch, shapes."""
        names = [spec.name for spec in self.inputs]
        for name in feeds:
            if name not in names:
                raise StageError(f"no input is called '{name}'", near_matches(name, names))
        fed: dict[str, npt.NDArray[Any] | DeviceArray] = {}
        for spec in self.inputs:
            if spec.name not in feeds:
                raise StageError(f"input '{spec.name}' is not given")
            value = feeds[spec.name]
            array: npt.NDArray[Any] | DeviceArray | None
            array = device_array(spec.name, value, self._device, self._stream)
            if array is None:
                array = _host_array(spec.name, value)
            wanted = f"{spec.dtype} of shape ({', '.join(map(str, spec.shape))})"
            same = len(array.shape) == len(spec.shape) and all(
                isinstance(size, str) or size == given
                for size, given in zip(spec.shape, array.shape, strict=True)
            )
            if str(array.dtype) != spec.dtype or not same:
                came = f"{array.dtype} of shape ({', '.join(map(str, array.shape))})"
                raise StageError(f"input '{spec.name}' must be {wanted}, and {came} came")
            fed[spec.name] = array
        return fed

    def _check_batch(self, shapes: dict[str, Shape]) -> int:
        given = {name: shape[0] for name, shape in shapes.items()}
        if len(set(given.values())) > 1:
            told = ", ".join(f"{name} {batch}" for name, batch in given.items())
            raise StageError(f"the inputs are of different batches: {told}")
        batch = next(iter(given.values()))
        if not self._smallest <= batch <= self._largest:
            built_for = f"{self._smallest} to {self._largest}"
            raise StageError(
                f"a batch of {batch} was given to an engine built for {built_for}",
                "split the batch, or raise max_batch of the target and build again",
            )
        return batch

    def _upload(self, buffer: Buffer, value: npt.NDArray[Any] | DeviceArray) -> int:
        """Brings one input to the GPU, and says to which address."""
        if isinstance(value, DeviceArray):
            if value.pointer % _ALIGNMENT == 0:
                return value.pointer
            nbytes = prod(value.shape) * np.dtype(value.dtype).itemsize
            self._device.copy(buffer.pointer, value.pointer, nbytes, self._stream)
        else:
            self._device.upload(buffer.pointer, value, self._stream)
        return buffer.pointer

    def _staged(self, name: str, value: Any) -> npt.NDArray[Any] | DeviceArray:
        """What lies on the host, copied to page-locked memory."""
        if isinstance(value, DeviceArray):
            return value
        staged = self._buffers[name].view(value.shape, value.dtype.name)
        staged[...] = value
        return staged

    def _bind(self, shapes: dict[str, Shape], addresses: dict[str, int]) -> None:
        """Tells the context what is new, since it prepares itself anew for each shape."""
        for name, shape in shapes.items():
            if self._shapes.pop(name, None) != shape and not self.context.set_input_shape(
                name, shape
            ):
                raise StageError(f"TensorRT refuses the shape {shape} for input '{name}'")
            self._shapes[name] = shape
        for name, address in addresses.items():
            if self._addresses.pop(name, None) != address and not (
                self.context.set_tensor_address(name, address)
            ):
                raise StageError(f"TensorRT refuses the memory of '{name}'")
            self._addresses[name] = address

    def _execute(self, key: object) -> None:
        """Puts the network into the stream, for the shapes and addresses ``key``."""
        graphs = self._graphs
        if graphs is not None and key != self._captured:
            self._drop_graph(graphs)
            if key == self._warm and not self.graph_refused:
                self._capture(graphs, key)
        self.graph_launched = graphs is not None and self._graph is not None
        if graphs is not None and self._graph is not None:
            graphs.launch(self._graph, self._stream)
        elif not self.context.execute_async_v3(self._stream):
            raise StageError("TensorRT could not enqueue the engine")
        self._warm = key

    def _capture(self, graphs: Graphs, key: object) -> None:
        """Makes the graph, or says in ``graph_refused`` why there will be none."""
        capturable = getattr(self.context, "is_stream_capturable", None)  # TensorRT for RTX's
        if capturable is not None and not capturable(self._stream):
            self.graph_refused = "TensorRT says that this engine cannot be captured"
            return
        try:
            graphs.begin_capture(self._stream)
            enqueued = self.context.execute_async_v3(self._stream)
            self._graph = graphs.end_capture(self._stream)  # in any case, for the stream's sake
        except DeviceError as error:
            self.graph_refused = f"the engine could not be captured: {error.message}"
            return
        self._captured = key
        if not enqueued:
            self.graph_refused = "TensorRT could not enqueue the engine while it was captured"
            self._drop_graph(graphs)

    def _drop_graph(self, graphs: Graphs) -> None:
        graph, self._graph, self._captured = self._graph, None, None
        if graph is not None:
            graphs.destroy_graph(graph)

    @contextmanager
    def _settling(self) -> Iterator[None]:
        """Around whatever uses the GPU: whether it may, and what follows when it fails."""
        self._check_usable()
        try:
            if self._busy:  # a run before this one was interrupted, and may still use our memory
                self._device.wait(self._stream)
            yield
        except StageError as error:
            told = self._settle(error)
            if told is error:
                raise
            raise told from error

    def _settle(self, error: StageError) -> StageError:
        """Waits until nothing that is half done uses our memory; what to tell instead."""
        told = error
        if self._busy and not _is_loss(error):
            self._captured = self._warm = None
            try:
                self._device.wait(self._stream)
                self._busy = False
            except DeviceError as after:  # which is why TensorRT refused, if it did
                told = after
        if self._busy or _is_loss(told):
            self._lost = told.message
        elif isinstance(told, DeviceError) and told.out_of_memory:
            return self._no_room(told)
        return told

    def _check_usable(self) -> None:
        if self._closed:
            raise StageError(f"{self._name} is closed", "open the engine again")
        if self._lost:
            raise DeviceError(
                f"the GPU was lost in an earlier run ({self._lost})",
                "start the process anew and open the engine again",
                lost=True,
            )

    def _mark(self, events: list[int], index: int) -> None:
        if events:
            self._device.record(events[index], self._stream)

    def _take(self, spec: TensorSpec, held: ExitStack) -> Buffer:
        nbytes = nbytes_of(spec, self._largest)
        pointer = self._device.malloc(nbytes)
        held.callback(self._device.free, pointer)
        host = self._device.pinned(nbytes)
        held.callback(self._device.unpin, host)
        return Buffer(pointer, host)

    def _take_events(self) -> list[int]:
        """One before and one behind each of the three parts of a run."""
        events = []
        with ExitStack() as made:
            for _ in range(4):
                events.append(self._device.event())
                made.callback(self._device.destroy_event, events[-1])
            self._held.push(made.pop_all())
        return events

    def _no_room(self, error: DeviceError) -> DeviceError:
        needed = sum(nbytes_of(spec, self._largest) for spec in (*self.inputs, *self.outputs))
        free, total = self._device.memory()
        return DeviceError(
            f"{self._name} ran out of memory for batches of up to {self._largest}: its inputs"
            f" and outputs need {needed} bytes of the GPU and as many of page-locked memory,"
            f" and {free} of the GPU's {total} are free ({error.message})",
            "free memory of the GPU, or build the engine for a smaller max_batch",
            out_of_memory=True,
        )


def _host_array(name: str, value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # as the value's own library has it
        raise StageError(f"input '{name}' is no array ({error})") from error


def _is_loss(error: StageError) -> bool:
    return isinstance(error, DeviceError) and error.lost
