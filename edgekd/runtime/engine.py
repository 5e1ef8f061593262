"""An opened engine of a bundle."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from numbers import Real
from threading import Lock
from time import perf_counter_ns
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from edgekd.artifacts import TensorSpec
from edgekd.backends.base import Arrays, Backend, GpuOptions, batches, find, run_any, sized
from edgekd.bundle import Bundle
from edgekd.errors import BackendUnavailable, CorruptBundle, EngineError, RecipeError, near_matches
from edgekd.manifest import REBUILD
from edgekd.runtime.arguments import instance, shown, whole
from edgekd.runtime.binding import Binding
from edgekd.runtime.images import as_array, image_shape, to_input
from edgekd.runtime.pool import Pool, closed, no_room
from edgekd.runtime.queue import Stream
from edgekd.runtime.tally import Stats, Tally


class Engine:
    """An opened engine of a bundle. Any thread may use it at any time; a context manager.

    Each thread that runs it while others do gets a context of its own, where the runtime has
    them: ONNX Runtime's session is made for that, OpenVINO gives an inference request to each.
    An engine of TensorRT or of PyTorch has one context, for which threads wait. On PyCUDA only
    the thread that opened an engine can run it.

    Attributes:
        classes: the class names; the index of a logit is an index into them.
        target: the target that the engine was built for.
        precision: such as ``fp32`` or ``int8``.
        inputs: what ``run`` takes: name, dtype, shape.
        outputs: likewise what comes out.

    Args:
        bundle: read.
        record: the engine's, of the bundle.
        threads, gpu, device, streams, deadline_ms: see ``edgekd.load``.
    """

    def __init__(
        self,
        bundle: Bundle,
        record: Mapping[str, Any],
        threads: int = 1,
        gpu: GpuOptions | None = None,
        *,
        device: str | None = None,
        streams: int = 1,
        deadline_ms: float | None = None,
    ) -> None:
        threads = whole("threads", threads, most=_MOST)
        streams = whole("streams", streams, most=_MOST)
        instance("device", device, str, "name")
        instance("gpu", gpu, GpuOptions, "GpuOptions")
        self._tally = Tally(_deadline_ns(deadline_ms, bundle.manifest["budget"]))
        self.classes = bundle.classes
        self.target: str = record["target"]
        self.precision: str = record["precision"]
        self._bundle = bundle
        self._record = record
        self._name = f"{bundle.root.name} {self.target} {self.precision}"
        held = bundle.engine(record, in_memory=True)
        session = _backend(record["backend"]).open(
            held, threads, gpu, device=device, streams=streams
        )
        self.inputs = session.inputs
        self.outputs = session.outputs
        self._file = replace(
            held, contents=(), model_inputs=self.inputs, model_outputs=self.outputs
        )
        self._pool = Pool(self._name, session, streams)
        self._preprocessing = bundle.preprocessing
        self._least, most = batches(self._file)
        self._most = most or sys.maxsize
        self._input, self._output = self.inputs[0].name, self.outputs[0].name
        self._dtype = np.dtype(self.inputs[0].dtype)
        self._seen: set[tuple[int, ...]] = set()  # shapes of single inputs that were in order
        self._lock = Lock()
        self._closed = False
        self._bindings: WeakSet[Binding] = WeakSet()
        self._streams: WeakSet[Stream] = WeakSet()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image.

        Raises:
            EngineError: the engine takes no images of a fixed size.
        """
        return image_shape(self.inputs[0], self._preprocessing.layout)

    def __call__(
        self, images: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], order: str = "RGB"
    ) -> npt.NDArray[np.float32]:
        """Logits, float32 (n, classes), of one image or several.

        Args:
            images: uint8 pixels (height, width, channels) of any size, or (height, width) in grey;
                several of one size with n in front, or a list of images of any sizes. In grey,
                (n, height, width) are images too where they are of the model's size. What has the
                model's own (channels, height, width), with or without n, is alone taken as cut out
                and resized already; float32 in the shape of the engine's input, for which grey may
                leave out its channel, is taken as preprocessed altogether.
            order: of the channels of pixels, ``RGB``, or ``BGR`` as OpenCV has them.

        Raises:
            EngineError: the shape or the type is another, there are none, or the engine is closed.
        """
        begin = perf_counter_ns()
        logits = self._answer(images, order)
        self._tally.add(perf_counter_ns() - begin)
        return logits

    def run(self, tensor: npt.NDArray[Any] | Arrays) -> npt.NDArray[Any]:
        """The first output for inputs that are preprocessed already, with nothing in between.

        Args:
            tensor: the input, with the batch in front, of any size; of several inputs, all by
                name.

        Raises:
            EngineError: the shape or the type is another, the batch is empty, or the engine is
                closed.
        """
        begin = perf_counter_ns()
        if (
            type(tensor) is np.ndarray
            and tensor.shape in self._seen
            and tensor.dtype is self._dtype
            and tensor.flags.c_contiguous
        ):
            pool = self._pool
            try:
                context = pool.free.pop()  # as ``take``, whose call would take as long
            except IndexError:
                context = pool.take()
            try:
                with context.busy:
                    output = context.session.run({self._input: tensor})[self._output]
            finally:
                pool.give(context)
        else:
            output = self._run(self._checked(tensor))
        self._tally.add(perf_counter_ns() - begin)
        return output

    def bind(self, batch: int | None = None) -> Binding:
        """Memory that the runtime reads and writes itself, for runs without a copy.

        Each thread needs a binding of its own. Where a context is (see the class), runs of its
        bindings and the engine's own wait for each other.

        Args:
            batch: how many images; None for the fewest that the engine takes.

        Raises:
            EngineError: the engine does not take that batch, there is no memory for it, or the
                engine is closed.
            RecipeError: the batch is no number.
        """
        batch = self._checked_batch(batch)
        with self._lock:
            self._check_open()
            binding = Binding(*self._pool.bind(batch), self._tally, self._name)
            self._bindings.add(binding)
        return binding

    def stream(self, depth: int = 1, policy: str = "drop-oldest", workers: int = 1) -> Stream:
        """Frames that are answered in the background, late ones treated by a policy.

        Args:
            depth: how many frames may wait.
            policy: ``queue``: every frame is answered, and who submits waits while the queue is
                full; ``drop-oldest``: a frame that comes while it is full takes the place of the
                oldest that waits; ``skip``: none waits, one that comes while all workers are busy
                is dropped.
            workers: how many frames are worked on at once, see ``streams`` of ``edgekd.load``.

        Raises:
            RecipeError: there is no such policy, or a number is none that makes sense.
            EngineError: the engine is closed.
        """
        with self._lock:
            self._check_open()
            stream = Stream(self._answer, self._tally, self._name, depth, policy, workers)
            self._streams.add(stream)
        return stream

    def warmup(self, runs: int = 10, batch: int | None = None) -> None:
        """Runs zeros so many times in each idle context, uncounted: first runs are slow ones.

        Args:
            runs: how many times.
            batch: see ``bind``.

        Raises:
            EngineError: an input has no fixed shape, or as ``bind``.
            RecipeError: a number is none that makes sense.
        """
        runs, batch = whole("runs", runs, least=0), self._checked_batch(batch)
        try:
            feeds = {each.name: np.zeros(sized(each, batch), each.dtype) for each in self.inputs}
        except (MemoryError, ValueError, OverflowError) as error:  # as numpy has it
            raise no_room(batch) from error
        contexts = self._pool.idle()
        try:
            for context in contexts:
                with context.busy:
                    for _ in range(runs):
                        context.session.run(feeds)
        finally:
            for context in contexts:
                self._pool.give(context)

    def stats(self) -> Stats:
        """What calls took, preprocessing included, and frames from submit to answer."""
        return self._tally.stats()

    def reset_stats(self) -> None:
        """Begins to count anew."""
        self._tally.reset()

    def check_golden(self) -> float:
        """Runs the golden images; returns the largest difference to the recorded outputs.

        Raises:
            CorruptBundle: the difference is larger than the manifest allows, or they are of
                another shape.
        """
        expected = self._bundle.golden_outputs(self._record)
        found = self._answer(self._bundle.golden_images(), "RGB")
        if found.shape != expected.shape:
            raise CorruptBundle(
                f"{self._bundle.root}: {self.target} {self.precision} gives outputs of shape"
                f" {found.shape}, and the golden ones are {expected.shape}",
                REBUILD,
            )
        difference = float(np.abs(found - expected).max())
        allowed = float(self._record["tolerance"])
        if not difference <= allowed:
            raise CorruptBundle(
                f"{self._bundle.root}: {self.target} {self.precision} differs from the golden"
                f" outputs by {difference:.3g}, and {allowed:.3g} is allowed",
                "this machine's runtime computes something else; build the bundle again here",
            )
        return difference

    def close(self) -> None:
        """Waits for whoever runs it, and gives the engine's memory back.

        Frames that wait in a stream are dropped. A second time does nothing. In a stream's own
        thread, such as a future's callback is in, it does not wait for the streams' threads.
        """
        with self._lock:
            self._closed = True
            streams, bindings = list(self._streams), list(self._bindings)
        for stream in streams:
            stream.close(cancel=True)
        for binding in bindings:
            binding._end(closed(self._name))
        self._pool.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, images: Any, order: str) -> npt.NDArray[np.float32]:
        batch = to_input(images, order, self.inputs[0], self._preprocessing)
        feeds = {self._input: np.ascontiguousarray(batch)}
        return np.asarray(self._run(feeds), np.float32)

    def _run(self, feeds: Arrays) -> npt.NDArray[Any]:
        """The first output, of a batch of any size."""
        context = self._pool.take()
        try:
            with context.busy:
                found = run_any(context.session, self._file, feeds)
        finally:
            self._pool.give(context)
        output: npt.NDArray[Any] = found[self._output]
        return output

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self._name)

    def _checked_batch(self, asked: int | None) -> int:
        if asked is None:
            return self._least
        batch = whole("batch", asked, least=-sys.maxsize)
        if not self._least <= batch <= self._most:
            most = f"to {self._most}" if self._most < sys.maxsize else "on"
            raise EngineError(
                f"{self._name} takes batches from {self._least} {most}, and {batch} was asked for"
            )
        return batch

    def _checked(self, given: Any) -> Arrays:
        """The inputs by name, of the right types and shapes."""
        fed = dict(given) if isinstance(given, Mapping) else {self._input: given}
        names = [each.name for each in self.inputs]
        for name in fed:
            if name not in names:
                raise EngineError(f"no input is called '{name}'", near_matches(str(name), names))
        for spec in self.inputs:
            if spec.name not in fed:
                raise EngineError(f"input '{spec.name}' is not given", "give all inputs by name")
            fed[spec.name] = _checked(spec, fed[spec.name])
        if len({len(each) for each in fed.values()}) > 1:
            told = ", ".join(f"{name} {len(each)}" for name, each in fed.items())
            raise EngineError(f"the inputs are of different batches: {told}")
        shape = fed[self._input].shape
        if len(names) == 1 and self._least <= shape[0] <= self._most and len(self._seen) < _SEEN:
            self._seen.add(shape)
        return fed


_SEEN = 64
_MOST = 1024
"""Threads, and streams; as in C++."""
_LONGEST_MS = 1e9
"""What a manifest allows beyond that is none, here and in C++."""


def _backend(name: str) -> Backend:
    """As ``find``, of a manifest that a newer version may have written."""
    try:
        return find(name)
    except RecipeError as error:
        raise BackendUnavailable(name, "", "this edgekd does not know it") from error


def _checked(spec: TensorSpec, value: Any) -> npt.NDArray[Any]:
    array = as_array(f"input '{spec.name}'", value)
    same = (
        array.ndim == len(spec.shape)
        and all(  # but for the batch, which ``run_any`` fits
            isinstance(size, str) or size == given
            for size, given in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
    )
    if array.dtype != spec.dtype or not same or not array.ndim:
        wanted = f"{spec.dtype} of shape ({', '.join(map(str, spec.shape))})"
        came = f"{array.dtype} of shape ({', '.join(map(str, array.shape))})"
        raise EngineError(f"input '{spec.name}' must be {wanted}, and {came} came")
    return np.ascontiguousarray(array)


def _deadline_ns(asked_ms: float | None, budget: Mapping[str, Any]) -> int:
    """The deadline that was asked for, else the budget's, else that of its rate; 0 for none."""
    if asked_ms is not None:
        instance("deadline_ms", asked_ms, Real, "number")
        if not (0 <= asked_ms < _LONGEST_MS or asked_ms == inf):
            raise RecipeError(
                f"{shown(asked_ms)} is no time up to {_LONGEST_MS:g} ms",
                "0 is for none",
                path="deadline_ms",
            )
        return max(1, round(asked_ms * 1e6)) if 0 < asked_ms < inf else 0
    own_ms = budget.get("deadline_ms")
    if own_ms is None:
        own_ms = 1000 / budget["fps"] if (budget["fps"] or 0) > 0 else 0
    return round(own_ms * 1e6) if 0 < own_ms < _LONGEST_MS else 0
