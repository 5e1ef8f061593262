"""The recipe: what to build, from what, for where, and within which budget.

Every key has a default, so ``edgekd build --student dscnn-s`` needs no file; ``recipe_file``
reads one. Stages receive the models below as plain frozen records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from edgekd.errors import RecipeError, near_matches

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Countable = Annotated[float, Field(gt=0, ge=1e-6, le=1e9, allow_inf_nan=False)]
"""Above nought, and such that a clock's nanoseconds can count it."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]

DATA_FILES = ("folder", "npz")
"""Before the colon of a data source that is a path."""
TEACHER_FILES = ("onnx", "bundle")
"""Before the colon of a teacher that is a file, and so cannot be trained."""
PRETRAINED = "pretrained"
"""In place of a teacher's weights file: its library's own."""


class Settings(BaseModel):
    """A table of a recipe: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def canonical(self) -> dict[str, Any]:
        """The settings as JSON holds them, for a stage's key."""
        return self.model_dump(mode="json")


def _pair(size: tuple[int, ...]) -> tuple[int, ...]:
    if len(size) not in (0, 2):
        raise ValueError("give [height, width], or []")
    return size


def _with_size(crop: float, info: ValidationInfo) -> float:
    if crop and info.data.get("size") == ():
        raise ValueError("must be 0 where data.size is not set")
    return crop


class DataSettings(Settings):
    """``[data]``"""

    source: str = "fashion-mnist"
    """A built-in name, ``folder:PATH``, ``npz:PATH`` or ``module:function``."""
    unlabelled: str = ""
    """Further training images without labels; as ``source``, but no built-in name."""
    labelled: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the training images whose labels are used; the others' are hidden."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of the training images that is held out to validate."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share that is held out to test, where the source has no test part of its own."""
    size: Annotated[tuple[Positive, ...], AfterValidator(_pair)] = ()
    """Height and width that every image is brought to; empty: all have one size already."""
    crop: Annotated[float, Field(ge=0, le=1), AfterValidator(_with_size)] = 0.0
    """The share, by length, of the largest box of ``size``'s proportions that is cut out of an
    image's middle and then resized; 0: the whole image is stretched."""
    channels: Literal[0, 1, 3] = 0
    """Grey or colour; 0: grey if every image is."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode image files; 0: this one does."""
    corrupt: Literal["stop", "skip"] = "stop"
    """What to do about an image that cannot be decoded."""
    seed: Seed = 0


class TrainSettings(Settings):
    """``[teacher.train]`` and ``[student.train]``."""

    epochs: Positive = 30
    batch: Annotated[int, Field(gt=1)] = 128
    """Images a step, of all processes together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD has Nesterov momentum; AdamW wants a learning rate around 0.002."""
    learning_rate: Above0 = 0.2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's; AdamW's first beta."""
    weight_decay: NonNegative = 5e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: Fraction = 0.2
    """The share of the steps over which the learning rate rises."""
    flip: bool = True
    """Mirror half of the images."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Move each image by up to this many pixels."""
    views: Annotated[int, Field(ge=0)] = 0
    """Augmented views of the training set that the epochs take in turn; 0 for a new one each
    epoch. The teacher's answers to a few views can be kept, which makes distillation cheaper."""
    mixup: NonNegative = 0.0
    """Blend pairs of images by a share from Beta(mixup, mixup); 0: never."""
    cutmix: NonNegative = 0.0
    """Paste a box of one image into another, its area from Beta(cutmix, cutmix); 0: never."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: NonNegative = 0.0
    """The largest norm of the gradient; 0: any."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay, by step, of the averaged weights that are validated and kept; 0: no average."""
    keep: Literal["last", "best"] = "last"
    """Which epoch's weights are kept; the best is judged on validation."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many epochs without a better validation accuracy; 0: never."""
    autocast: Literal["auto", "bf16", "fp16", "off"] = "off"
    """``auto``: bf16 where the processor has instructions for it. fp16 is for GPUs."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Write a checkpoint every so many steps, beside the one after each epoch; 0: none."""
    seed: Seed = 0

    def distinct_views(self) -> int:
        """How many different views of the training set there are; 0 where each is a new one."""
        return self.views if self.flip or self.shift else 1


class TeacherTrainSettings(TrainSettings):
    """``[teacher.train]``"""

    autocast: Literal["auto", "bf16", "fp16", "off"] = "auto"


class MemberSettings(Settings):
    """One teacher: ``[teacher]`` itself, or a table of ``[[teacher.also]]``."""

    model: str
    """A network's name, or ``onnx:FILE`` or ``bundle:FOLDER``."""
    weights: str = ""
    """A file of safetensors or of PyTorch, or ``pretrained`` for a library's own; with it the
    teacher is not trained."""
    weight: Above0 = 1.0
    """Its share, relative to the others', in the logits of classes that several know."""
    classes: tuple[str, ...] = ()
    """The data's class that each output is, or an empty name; empty: all, in their order."""
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    """Of its own preprocessing, one figure a channel, of pixel / 255; empty: the data's."""
    std: tuple[Above0, ...] = ()
    size: tuple[Positive, ...] = ()
    """Height and width that images are resized to for it; empty: none, or what its file fixes."""


class TeacherSettings(MemberSettings):
    """``[teacher]``"""

    model: str = "resnet20"
    also: tuple[MemberSettings, ...] = ()
    """Further teachers, heard together with this one."""
    train: TeacherTrainSettings = TeacherTrainSettings()


class StudentTrainSettings(TrainSettings):
    """``[student.train]``"""

    weight_decay: NonNegative = 1e-4


class StudentSettings(Settings):
    """``[student]``"""

    model: str = "dscnn-s"
    control: bool = True
    """Also train the student without the teacher, to show what the teacher brings."""
    train: StudentTrainSettings = StudentTrainSettings()


LogitLossName = Literal[
    "ce", "kl", "soft_cross_entropy", "mse_logits", "dkd", "dist", "logit_std_kl",
]  # fmt: skip
FeatureLossName = Literal["hint", "attention", "gram", "similarity", "rkd", "vid", "crd"]
LossName = Literal[LogitLossName, FeatureLossName]

FEATURE_LOSSES: tuple[FeatureLossName, ...] = get_args(FeatureLossName)
"""Those that compare features of layers, and so need a teacher whose layers can be reached."""

STANDARD_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "kl": {"ce": 0.5, "kl": 0.5},
    "soft_cross_entropy": {"ce": 0.5, "soft_cross_entropy": 0.5},
    "mse_logits": {"ce": 0.5, "mse_logits": 0.5},
    "dkd": {"ce": 0.5, "dkd": 0.5},
    "dist": {"ce": 1.0, "dist": 2.0},
    "logit_std_kl": {"ce": 0.2, "logit_std_kl": 2.0},
    "hint": {"ce": 1.0, "hint": 1.0},
    "attention": {"ce": 1.0, "attention": 1000.0},
    "gram": {"ce": 1.0, "gram": 1.0},
    "similarity": {"ce": 1.0, "similarity": 3000.0},
    "rkd": {"ce": 1.0, "rkd": 25.0},
    "vid": {"ce": 1.0, "vid": 1.0},
    "crd": {"ce": 1.0, "crd": 0.8},
}
"""What ``--distill NAME`` sets. On features they are RepDistiller's for CIFAR-100 where a
learning rate of 0.2 bears them; on logits they were chosen by validation, docs/decisions.md."""


def standard_weights(names: Sequence[str]) -> dict[str, float]:
    """The standard weights of several losses together; cross-entropy's is the largest of theirs.

    Raises:
        RecipeError: there is no loss of that name.
    """
    weights: dict[str, float] = {}
    for name in names:
        if name not in STANDARD_WEIGHTS:
            raise RecipeError(
                f"no loss is called '{name}'",
                near_matches(name, STANDARD_WEIGHTS),
                path=f"--distill {name}",
            )
        for term, weight in STANDARD_WEIGHTS[name].items():
            weights[term] = max(weight, weights.get(term, 0.0))
    return weights


class DistillSettings(Settings):
    """``[distill]``: the student's loss is the sum of weight × term, ``edgekd.distill.losses``."""

    weights: Annotated[dict[LossName, NonNegative], Field(min_length=1)] = {"ce": 0.5, "kl": 0.5}
    """The weight of each term; ``ce`` is the cross-entropy with the labels."""
    temperature: Above0 = 2.0
    """Of the losses on logits."""
    target_weight: NonNegative = 1.0
    """``dkd``: of the right class against all others."""
    rest_weight: NonNegative = 2.0
    """``dkd``: among the other classes."""
    inter_weight: NonNegative = 1.0
    """``dist``: correlation over the classes of a sample."""
    intra_weight: NonNegative = 1.0
    """``dist``: correlation over the samples of a batch."""
    distance_weight: NonNegative = 1.0
    """``rkd``: distances of pairs."""
    angle_weight: NonNegative = 2.0
    """``rkd``: angles of triplets."""
    layers: dict[str, str] = {}
    """Losses on features: the teacher's layer = the student's, by module path, in their order;
    empty for the stages of the built-in networks."""
    embedding: Positive = 128
    """``crd``: dimensions of the space in which images are contrasted."""
    negatives: Positive = 1024
    """``crd``: other images that each image is contrasted with."""
    contrast_temperature: Above0 = 0.07
    """``crd``"""
    autocast: Literal["auto", "off"] = "auto"
    """``auto``: the teacher answers in bf16 where the processor has instructions for it."""
    cache: Literal["auto", "on", "off"] = "auto"
    """Keep the teacher's logits on disk: where that saves questions; or always, or never."""
    cache_dtype: Literal["float32", "float16"] = "float32"

    def canonical(self) -> dict[str, Any]:
        """See ``Settings``; the order of the layers counts, and JSON's keys have none."""
        return {**super().canonical(), "layers": list(self.layers.items())}

    def features(self) -> tuple[str, ...]:
        """The losses on features that have a weight."""
        return tuple(name for name in FEATURE_LOSSES if self.weights.get(name))

    def uncacheable(self, train: TrainSettings) -> str:
        """Why the teacher's logits cannot be kept; empty where they can."""
        if not train.distinct_views():
            return "every epoch draws new views: set student.train.views to their number"
        if train.mixup or train.cutmix:
            return "mixup and cutmix make new images: the teacher must see them"
        if self.features():
            return f"'{self.features()[0]}' needs the teacher's features, not its logits alone"
        return ""

    def caches(self, train: TrainSettings) -> bool:
        """Whether the teacher's logits are kept: ``auto`` does where views come back."""
        if self.cache == "auto":
            return not self.uncacheable(train) and train.distinct_views() < train.epochs
        return self.cache == "on"


class CalibrationSettings(Settings):
    """``[calibration]``"""

    samples: Positive = 512
    method: Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"] = "auto"
    """``auto``: each is tried, and the best on validation taken."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    draw: Literal["stratified", "coverage", "random"] = "stratified"
    """By class; or so that the images lie as far apart as they can; or any."""
    seed: Seed = 0


class QuantizeSettings(Settings):
    """``[quantize]``"""

    min_sqnr: Annotated[float, Field(allow_inf_nan=False)] = 10.0
    """Decibels by which an int8 model's outputs must stand above their difference to fp32; below
    it is taken to be wrong, and the build stops."""
    mixed: Literal["auto", "always", "never"] = "auto"
    """Whether to find the layers that int8 hurts most and keep them in float: where it loses more
    than ``max_drop``; ``always`` looks for them, and keeps none that need not be."""
    max_drop: NonNegative = 0.5
    """Points of validation top-1 that int8 may lose."""


class QatSettings(Settings):
    """``[qat]``: fine-tuning with simulated int8, where calibration alone loses too much."""

    when: Literal["auto", "always", "never"] = "auto"
    max_loss: NonNegative = 0.5
    """``auto``: points of validation top-1 that int8 may lose without it."""
    teacher: Literal["student", "teacher"] = "student"
    """Whom int8 learns from: the fp32 student, or its teacher."""
    epochs: Positive = 2
    batch: Annotated[int, Field(gt=1)] = 128
    learning_rate: Above0 = 0.001
    """AdamW's, falling to zero on a cosine."""
    weights: Annotated[dict[LogitLossName, NonNegative], Field(min_length=1)] = {
        "ce": 0.5,
        "kl": 0.5,
    }
    """The weight of each term, as in ``[distill]``; of logits alone."""
    temperature: Above0 = 2.0


class EngineSettings(Settings):
    """``[engines]``"""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "onnxruntime-cpu",
        "openvino-cpu",
    )
    precisions: Annotated[
        tuple[Literal["fp32", "fp16", "int8", "fp8"], ...], Field(min_length=1)
    ] = ("fp32", "fp16", "int8", "fp8")
    """Each target is built in those of them that it has; the best measured wins."""


class TensorRtSettings(Settings):
    """``[tensorrt]``: how plans are built and run; what is left out is as the target has it."""

    min_batch: Positive | None = None
    """The smallest batch that a plan takes."""
    opt_batch: Positive | None = None
    """The batch that it is tuned for."""
    max_batch: Positive | None = None
    """The largest; memory for it is taken when the plan is opened."""
    workspace_mib: Positive | None = None
    """Memory that a layer may use while it runs; any, if the target does not say either."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    """How long the builder looks for faster kernels; the library's own is 3."""
    timing_cache: bool = True
    """Keep kernel times for later builds by the same library on the same GPU."""
    version_compatible: bool = False
    """Later versions of the same major may load the plan, which then brings code for the CPU."""
    hardware_compatible: Literal["none", "ampere+", "same_compute_capability"] = "none"
    """Which GPUs but the one that builds may load the plan; it may be slower for it."""
    sparse: bool = False
    """Use kernels for weights of which two in four are zero."""
    dla_core: Annotated[int, Field(ge=0)] | None = None
    """Run on this deep-learning accelerator of a Jetson; what it does not take, on the GPU."""
    device_layer: Literal["cuda-python", "pycuda"] = "cuda-python"
    """What allocates and copies."""
    cuda_graph: bool = True
    """Launch a network as one CUDA graph."""


class BenchSettings(Settings):
    """``[bench]``"""

    samples: Positive = 7000
    """Timed calls for each engine; p99.9 needs 6,636 to be told with 99 % confidence."""
    seconds: Above0 = 5.0
    """No engine is timed for longer than this; a slow one gets fewer samples."""
    blocks: Positive = 20
    """Into how many blocks the calls are cut, so that engines take turns."""
    threads: Positive = 1
    batch: Annotated[int, Field(gt=1)] = 32
    """The batch size of the throughput figure, beside batch 1."""
    policy: Literal["queue", "drop-oldest", "skip"] = "drop-oldest"
    """What becomes of a camera's frames that come while another is worked on."""
    camera: bool = True
    """With ``budget.fps``: give the preferred engine a camera's frames."""
    camera_seconds: NonNegative = 0.0
    """For how long at most; 0: as long as the budget needs to be told."""
    profile: bool = True
    """Time the preferred engine's layers, where its runtime can tell."""
    timeout: Above0 = 60.0
    """Seconds after which a call is taken to hang."""
    seed: Seed = 0


class BudgetSettings(Settings):
    """``[budget]``: what the student must meet; a limit left out is not checked."""

    fps: Countable | None = None
    """Frames a second; each must be answered within ``deadline_ms``."""
    deadline_ms: Countable | None = None
    """After a frame was due; where it is left out, 1/fps."""
    miss_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The share of the frames that may be late or dropped."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """With which that must be shown."""
    max_drop: NonNegative | None = None
    """Points of top-1 that the engine may lose against the teacher."""
    max_memory_mb: Above0 | None = None
    """Peak resident memory of a process that runs it, in 10⁶ bytes."""
    max_size_mb: Above0 | None = None
    """Of its files, in 10⁶ bytes."""

    @property
    def deadline_ns(self) -> int | None:
        """When a frame must be answered, in nanoseconds after it was due; None for whenever."""
        if self.deadline_ms is not None:
            return round(self.deadline_ms * 1e6)
        return None if self.fps is None else round(1e9 / self.fps)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        limits = (self.deadline_ns, self.max_drop, self.max_memory_mb, self.max_size_mb)
        return all(each is None for each in limits)


class BundleSettings(Settings):
    """``[bundle]``"""

    teacher: bool = True
    """Put the teacher's ONNX in the bundle, so that the comparison can be run again."""


class Recipe(Settings):
    """Everything that a build depends on."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "model"
    """The bundle's name: ``NAME.edgekd``."""
    data: DataSettings = DataSettings()
    teacher: TeacherSettings = TeacherSettings()
    student: StudentSettings = StudentSettings()
    distill: DistillSettings = DistillSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    quantize: QuantizeSettings = QuantizeSettings()
    qat: QatSettings = QatSettings()
    engines: EngineSettings = EngineSettings()
    tensorrt: TensorRtSettings = TensorRtSettings()
    bench: BenchSettings = BenchSettings()
    budget: BudgetSettings = BudgetSettings()
    bundle: BundleSettings = BundleSettings()
