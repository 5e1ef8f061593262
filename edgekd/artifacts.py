"""What passes between stages: frozen dataclasses, with the unit in the name of each figure.

A stage returns one artefact whose paths lie under the folder it was given. The store that
keeps it fills in ``key``, ``content``, ``files``, ``inputs`` and ``producer_versions``.
Nothing here does anything; nothing here imports anything heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model; a string in ``shape`` is a dimension left free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


COLORS = {1: "L", 3: "RGB"}
"""What an image of so many channels shows."""


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into the model's input: ``(pixel / 255 - mean) / std`` at the end.

    Attributes:
        mean: of pixel / 255, one figure a channel, measured on the training split.
        std: the deviation, likewise.
        layout: what the model takes, NCHW or NHWC; images are kept as (n, channels, height,
            width).
        color: ``L`` where the model takes grey, ``RGB`` where it takes colour, None where its
            channels are neither; left out: as their number says.
        crop: the share, by length, of the largest box of the model's proportions that is cut out
            of the middle before resizing; None: the whole image is stretched.
        resize: how the size is changed; ``bilinear`` is Pillow's, with antialias.
        dtype: of the model's input.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str = "NCHW"
    color: str | None = ""
    crop: float | None = None
    resize: str = "bilinear"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.color == "":
            object.__setattr__(self, "color", COLORS.get(len(self.mean)))


@dataclass(frozen=True)
class FileHash:
    """A file's size and the sha256 of its bytes."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What the store knows of every artefact.

    Attributes:
        key: sha256 of what went in: stage, its version, settings, inputs, libraries.
        content: sha256 of what came out; the same content gives later stages the same key.
        files: path relative to the artefact's folder, and its hash.
        inputs: the inputs by name, each by its content hash.
        producer_versions: the libraries that made it.
    """

    key: str = ""
    content: str = ""
    files: Mapping[str, FileHash] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    producer_versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dataset(Artifact):
    """A source of images, cut into splits.

    Attributes:
        source: its name, such as ``fashion-mnist``; of a folder or a file only the last part
            of its path, so that it may be moved.
        licence: the terms under which the images may be used.
        fingerprint: sha256 of the decoded images, labels and classes.
        shape: channels, height, width of one image.
        splits: a .npz with the ids ``train``, ``validation`` and ``test``, the ids ``labelled``
            of train's images whose label is used, and ``labels``. Ids are rows of ``pixels``;
            without it they are places in the source's own training part, and test is its own.
        pixels: uint8 (n, channels, height, width) .npy with the decoded images; None where a
            built-in source is read anew.
        sizes: images in each split; ``unlabelled``, if there are any, are a part of train.
        seed: the seed that the validation split was drawn with.
        settings: the recipe's, as far as the splits and the pixels depend on them;
            ``unlabelled`` is that source's name, and where the images lie is not told.
        audit: what is odd about the images, see ``edgekd.data.audit``.
    """

    source: str
    licence: str
    fingerprint: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    splits: Path
    sizes: Mapping[str, int]
    seed: int
    settings: Mapping[str, Any]
    preprocessing: Preprocessing
    audit: Mapping[str, Any]
    pixels: Path | None = None


@dataclass(frozen=True)
class Member:
    """One network of a given teacher: how images become its input, and its outputs classes.

    Attributes:
        model: the architecture's name, or ``onnx:FILE`` or ``bundle:NAME`` for what it was.
        weights: safetensors, or an ONNX file.
        weight: its share in the mean over the members that know a class.
        outputs: for each output the index of the data's class, -1 where it is not used.
        channels: of its input; grey images are repeated where it is 3.
        size: height and width of its input; empty where it takes the data's.
        scale: what turns the data's normalised image into its own, ``x * scale + shift``, one
            figure a channel; empty where they are the same.
        shift: see ``scale``.
        log: its outputs are probabilities, whose logarithm is taken.
        channels_last: its input is (n, height, width, channels).
    """

    model: str
    weights: Path
    weight: float
    outputs: tuple[int, ...]
    channels: int
    size: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    log: bool = False
    channels_last: bool = False

    @property
    def onnx(self) -> bool:
        """Whether ONNX Runtime runs it, so that there is no torch network."""
        return self.weights.suffix == ".onnx"


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Artifact):
    """A network with its weights, or the members of a given teacher.

    Attributes:
        weights: safetensors; the first member's file where there are members.
        model: the architecture's name; the members', joined by `` + ``.
        metrics: figures by name; accuracies in percent.
        history: JSON, one record an epoch; None where the weights were given.
        members: empty for a network that takes the data's images and names its classes.
    """

    weights: Path
    model: str
    classes: int
    shape: tuple[int, int, int]
    params: int
    macs: int
    metrics: Mapping[str, float]
    history: Path | None = None
    members: tuple[Member, ...] = ()

    @property
    def onnx(self) -> bool:
        """Whether a member is run by ONNX Runtime, so that torch cannot export the whole."""
        return any(each.onnx for each in self.members)


@dataclass(frozen=True, kw_only=True)
class TeacherLogits(Artifact):
    """A teacher's logits for every view of the training split: .npy (views, n, classes)."""

    path: Path
    views: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class OnnxModel(Artifact):
    """An fp32 ONNX model; ``parity`` is its largest absolute difference to the original."""

    path: Path
    opset: int
    model_inputs: tuple[TensorSpec, ...]
    model_outputs: tuple[TensorSpec, ...]
    parity: float
    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class CalibrationSet(Artifact):
    """Which samples ranges are measured on; ``sha256`` is of their pixels, in order."""

    manifest: Path
    sha256: str
    samples: int


@dataclass(frozen=True)
class Trial:
    """One method as ``auto`` tried it on validation samples.

    Attributes:
        method: its label, such as ``percentile 99.99``.
        metric: what was compared: ``top1`` in percent, or ``sqnr`` in dB.
        values: the metric by form.
        sqnr: of the outputs to those of the fp32 model, in dB, by form.
    """

    method: str
    metric: str
    values: Mapping[str, float]
    sqnr: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CalibrationTable(Artifact):
    """The range (low, high) of every float tensor of a model over a calibration set.

    Attributes:
        method: how ranges were found, see ``edgekd.calibration.methods``; of a table that
            TensorRT wrote, the first line of its file.
        set_sha256: of the samples; empty where they are not known.
        model_sha256: of the fp32 model's file; empty where it is not known.
        preprocessing_sha256: empty where samples were taken as they are.
        percentile: what the method ``percentile`` used.
        extremes: the smallest and largest value by tensor, zero always within.
        clipped: the share of a tensor's values that lies outside its range.
        moved: by how much of its width the range moved in the second half of the samples.
        tried: what ``auto`` compared; empty where the method was given.
    """

    method: str
    ranges: Mapping[str, tuple[float, float]]
    set_sha256: str
    samples: int
    model_sha256: str = ""
    preprocessing_sha256: str = ""
    percentile: float = 100.0
    extremes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    clipped: Mapping[str, float] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)
    tried: tuple[Trial, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Proof(Artifact):
    """That the forms of a model agree: signal to quantisation noise of their outputs, in dB.

    Attributes:
        to_fp32: by form, to the fp32 model.
        between: by ``a/b``, of form b to form a.
        samples: how many real samples the outputs are of.
        top1: on them, in percent, by form and of ``fp32``; empty where it cannot be told.
    """

    to_fp32: Mapping[str, float]
    between: Mapping[str, float]
    samples: int
    top1: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuantizedModel(Artifact):
    """An ONNX model with Q/DQ in one target family's form.

    Attributes:
        form: ``s8s8`` (TensorRT) or ``u8s8`` (ONNX Runtime CPU, OpenVINO).
        kept_float: the names of the compute nodes that were left in float.
        calibration_sha256: of the ranges in it.
    """

    path: Path
    form: str
    model_inputs: tuple[TensorSpec, ...]
    model_outputs: tuple[TensorSpec, ...]
    kept_float: tuple[str, ...]
    precision: str = "int8"
    calibration_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Int8Check(Artifact):
    """Top-1 on validation, in percent: of the fp32 model, and of each int8 form of it."""

    fp32: float
    forms: Mapping[str, float]

    def lost(self, form: str) -> float:
        """Points that a form loses."""
        return self.fp32 - self.forms[form]


@dataclass(frozen=True)
class LayerLoss:
    """What int8 costs where one layer alone is int8, and all others are float.

    Attributes:
        name: the node's.
        op: its operator.
        macs: multiply-accumulates for one sample; None where the shapes are not known.
        lost: points of top-1; None where the samples have no labels.
        sqnr: of the outputs to those of the fp32 model, in dB.
    """

    name: str
    op: str
    macs: int | None
    lost: float | None
    sqnr: float


@dataclass(frozen=True)
class Mix:
    """An int8 model in which some layers stay in float.

    Attributes:
        kept: their names, the most sensitive first.
        lost: points of top-1; None where the samples have no labels.
        sqnr: of the outputs to those of the fp32 model, in dB.
        latency_ns: p50 and p99 by target, for the targets that can be run here.
    """

    kept: tuple[str, ...]
    lost: float | None
    sqnr: float
    latency_ns: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Artifact):
    """Which layers of a model int8 hurts, and what it gains to keep the worst in float.

    Attributes:
        form: the form that all of it is in.
        layers: the most sensitive first.
        layer_samples: validation samples that the layers were judged on.
        mixes: by the number of layers kept; the first keeps none.
        mix_samples: validation samples that the mixes were judged on.
        fp32_ns: p50 and p99 of the fp32 model by target, timed side by side with the mixes.
        chosen: the place in ``mixes`` of the one that ships.
    """

    form: str
    layers: tuple[LayerLoss, ...]
    layer_samples: int
    mixes: tuple[Mix, ...]
    mix_samples: int
    fp32_ns: Mapping[str, Mapping[str, int]]
    chosen: int


@dataclass(frozen=True)
class Int8:
    """What quantisation came to.

    Attributes:
        chosen: the calibration set.
        table: the ranges.
        forms: the models, by form.
        before: what calibration alone loses; None where it was not asked.
        after: the forms that were fine-tuned; None where none was. One ships fine-tuned where
            that made it better.
        sensitivity: by form, of those whose layers were looked into.
        proofs: that the forms which ship agree with what they were made of; one for each fp32
            model that they were made of.
    """

    chosen: CalibrationSet
    table: CalibrationTable
    forms: Mapping[str, QuantizedModel]
    before: Int8Check | None
    after: Int8Check | None
    sensitivity: Mapping[str, Sensitivity]
    proofs: tuple[Proof, ...]


@dataclass(frozen=True, kw_only=True)
class EngineFile(Artifact):
    """A vendor's own file, ready to be opened by its backend.

    Attributes:
        role: whose engine it is: ``teacher``, ``student`` or ``control``.
        device: what it was built for, such as ``cpu`` or ``sm_80+sm_86``.
        path: the vendor's file, untouched.
        parts: further files that the vendor keeps beside ``path``.
        executed: whether the machine that built it could also run it.
        options: what the backend needs to open it again.
        contents: of ``path``, then of ``parts``, where they were read and hashed on the way: these
            are opened, not the files. Empty where the files are.
    """

    role: str
    target: str
    backend: str
    backend_version: str
    device: str
    precision: str
    path: Path
    model_inputs: tuple[TensorSpec, ...]
    model_outputs: tuple[TensorSpec, ...]
    executed: bool
    parts: tuple[Path, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    contents: tuple[bytes, ...] = field(default=(), repr=False, compare=False)

    @property
    def name(self) -> str:
        """The engine's name in tables: role, target and precision."""
        return f"{self.role}/{self.target}/{self.precision}"

    def read(self, path: Path) -> bytes:
        """What ``path`` or one of ``parts`` holds, from ``contents`` where they are."""
        if not self.contents:
            return path.read_bytes()
        return self.contents[(self.path, *self.parts).index(path)]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Artifact):
    """One engine over the whole test split.

    Attributes:
        engine: ``EngineFile.name``.
        value: the metric, in percent, with its 95 % interval ``low`` to ``high``.
        agreement: percent of the images on which it and the teacher name the same class;
            None for the reference itself.
        outputs: .npy with the raw outputs, one row a sample.
        emulated: the engine cannot run here; its Q/DQ graph was run instead, nothing fused.
    """

    engine: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    agreement: float | None
    outputs: Path
    emulated: bool = False


@dataclass(frozen=True, kw_only=True)
class Difference(Artifact):
    """How far each engine's metric lies from a reference's, in points, paired by sample.

    Attributes:
        reference: its name.
        deltas: by engine, (difference, low, high) with 95 % confidence, by formula.
        bootstrap: the same by resampling samples as pairs.
        p: by engine, of McNemar's exact test that both are right equally often.
    """

    reference: str
    deltas: Mapping[str, tuple[float, float, float]]
    bootstrap: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    p: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Golden(Artifact):
    """Images and the outputs that engines must give for them.

    Attributes:
        images: .npy, uint8 (n, channels, height, width).
        outputs: .npy by engine name, float32 (n, classes).
        tolerances: by engine name, the largest difference allowed on another machine.
    """

    images: Path
    outputs: Mapping[str, Path]
    tolerances: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Report(Artifact):
    """The report; ``status`` is pass, fail or insufficient."""

    html: Path
    json: Path
    status: str
    preferred: str
