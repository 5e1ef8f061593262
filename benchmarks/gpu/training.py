"""The part ``training``: images a second of a distillation step, by precision, layout, compiler.

A step is what EdgeKD's is: the teacher's logits, the student's, ``kl`` and cross-entropy, SGD.
Inputs are drawn, of Fashion-MNIST's shape, and lie on the device. All ways of a pair take turns in
blocks, timed by the GPU's own clock; the compiler's first steps are not counted but told.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import Job, Row, failed, skipped
from networks import STUDENT, TEACHER, Networks
from torch.nn import functional as F

from edgekd import models
from edgekd.distill import losses, optim, ranks
from edgekd.recipe import DistillSettings, TrainSettings

SHAPE, CLASSES = (1, 28, 28), 10
PAIRS = ((TEACHER, STUDENT), (TEACHER, "resnet8"))
PRECISIONS = ("fp32", "tf32", "bf16")
WITHIN = 0.05
"""Of the first way's: how far another way's first loss may lie from it; bf16 has 8 bits."""
WARM = 3
"""Steps at the beginning of each turn that are not timed."""


@dataclass
class Way:
    """One way to take the same step.

    Attributes:
        name: what tells it from the others.
        precision: see ``PRECISIONS``.
        step: takes one, and gives its loss.
        loss: of the first step, which all ways take from the same weights and images.
        warm_up_s: the first steps, with the compiler's work.
        rates: images a second, of each block.
    """

    name: str
    precision: str
    step: Callable[[], torch.Tensor]
    loss: float = 0.0
    warm_up_s: float = 0.0
    rates: list[float] = field(default_factory=list)


def rows(job: Job) -> Iterator[Row]:
    """Every way of every pair, and EdgeKD's own trainer."""
    if job.device == "cuda" and not torch.cuda.is_available():
        built = "finds no GPU that it can use" if torch.version.cuda else "is built without CUDA"
        yield skipped("distillation", f"torch {torch.__version__} {built}")
        return
    for teacher, student in PAIRS[: 1 if job.quick else None]:
        yield from _pair(teacher, student, job)
    if ranks.device().type != job.device:
        yield skipped("EdgeKD's trainer", "it trains on the GPU where there is one")
    elif job.over():
        yield job.too_late("EdgeKD's trainer")
    else:
        yield _trainer(job)


def _pair(teacher: str, student: str, job: Job) -> Iterator[Row]:
    batch, steps, blocks = (32, 2, 2) if job.quick else (256, 20, 7)
    # Compiled ways come last: where time is short, they are what is left out.
    ways, late = [], []
    for compiled, precision, last in product((False, True), PRECISIONS, (False, True)):
        name = f"{teacher} to {student}, {precision}"
        name += ", channels-last" * last + ", compiled" * compiled
        if precision == "tf32" and job.device == "cpu":
            late.append(skipped(name, "a CPU has no TF32"))
        elif compiled and job.quick:
            late.append(skipped(name, "--quick compiles nothing"))
        elif compiled and job.over():
            late.append(job.too_late(name))
        else:
            way = Way(
                name, precision, _step(teacher, student, precision, last, compiled, job, batch)
            )
            try:
                begin = time.monotonic()
                _set(way.precision)
                way.loss = way.step().item()
                _timed(way, WARM, job.device)
                way.warm_up_s = time.monotonic() - begin
            except torch._dynamo.exc.TorchDynamoException as error:
                late.append(skipped(name, f"torch.compile: {str(error).strip().splitlines()[0]}"))
                continue
            ways.append(way)
    rng = np.random.default_rng(0)
    for _ in range(blocks):
        for index in rng.permutation(len(ways)):
            _timed(ways[index], WARM, job.device)
            ways[index].rates.append(steps * batch / _timed(ways[index], steps, job.device))
    for way in ways:
        over = [one / base for one, base in zip(way.rates, ways[0].rates, strict=True)]
        figures = {
            "images_per_s": statistics.median(way.rates),
            "from": min(way.rates),
            "to": max(way.rates),
            "times_the_first": statistics.median(over),
            "warm_up_s": way.warm_up_s,
            "first_loss": way.loss,
        }
        right = abs(way.loss - ways[0].loss) <= WITHIN * ways[0].loss
        why = "" if right else f"the first loss is not within {WITHIN} of {ways[0].loss:.4g}"
        yield Row(way.name, figures, "ran" if right else "failed", why)
    yield from late


def _step(
    teacher: str, student: str, precision: str, last: bool, compiled: bool, job: Job, batch: int
) -> Callable[[], torch.Tensor]:
    """One step of the optimizer; every way starts from the same weights and images."""
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    big: Any = models.create(teacher, CLASSES, 1).eval().requires_grad_(False)
    small: Any = models.create(student, CLASSES, 1).train()
    big, small = (each.to(job.device, memory_format=layout) for each in (big, small))
    optimizer = optim.optimizer(small, TrainSettings(batch=batch, learning_rate=0.01))
    x = torch.randn(batch, *SHAPE).to(job.device, memory_format=layout)
    labels = torch.randint(CLASSES, (batch,)).to(job.device)
    weights, temperature = DistillSettings().weights, DistillSettings().temperature
    if compiled:
        torch._dynamo.config.recompile_limit = 64  # each way compiles the same classes anew
        big, small = torch.compile(big), torch.compile(small)

    def step() -> torch.Tensor:
        with torch.autocast(job.device, torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                taught = big(x)
            logits = small(x)
        logits = logits.float()
        loss = weights["ce"] * F.cross_entropy(logits, labels)
        loss = loss + weights["kl"] * losses.kl(logits, taught.float(), temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _set(precision: str) -> None:
    """Whether float32 is multiplied in TF32."""
    with warnings.catch_warnings():
        # torch's newer settings of TF32 make its own compiler fail (pytorch/pytorch#166387), and
        # the older ones are deprecated.
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _timed(way: Way, steps: int, device: str) -> float:
    """Seconds of some steps: between two events, or on a CPU by its clock."""
    _set(way.precision)
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(steps):
            way.step()
        return time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(steps):
        way.step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


class Enough(Exception):
    """The trainer has taken the steps that are timed."""


def _trainer(job: Job) -> Row:
    """EdgeKD's trainer as a build runs it: images from the host, the teacher in bf16."""
    from edgekd.distill.trainer import train

    networks = Networks(job)
    teacher = networks.checkpoints["teacher"]
    name = f"EdgeKD's trainer, {teacher.model} to {STUDENT}"
    batch, steps = (32, 6) if job.quick else (128, 60)
    times: list[float] = []

    def progress(done: int, total: int, note: str = "", scalars: Any = None) -> None:
        times.append(time.perf_counter())
        if len(times) > steps:
            raise Enough

    folder = Path(job.work / "trainer")
    folder.mkdir(exist_ok=True)
    settings = TrainSettings(epochs=20, batch=batch, learning_rate=0.01)
    with suppress(Enough):
        train(
            networks.dataset,
            STUDENT,
            settings,
            folder,
            progress,
            teacher=teacher,
            distill=DistillSettings(),
        )
    seconds = np.diff(times)[WARM:]
    if not len(seconds):
        return failed(name, "it took no step")
    return Row(name, {"images_per_s": batch / float(np.median(seconds))})
