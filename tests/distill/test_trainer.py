"""Training on digits: it learns, it repeats itself, and it says what went wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgekd import models
from edgekd.artifacts import Checkpoint, Dataset
from edgekd.data import splits
from edgekd.distill.distiller import Distiller
from edgekd.distill.teachers import Teacher, record, state_hash
from edgekd.distill.trainer import train
from edgekd.distill.validation import accuracy
from edgekd.errors import RecipeError, TrainError
from edgekd.models import weights
from edgekd.recipe import (
    FEATURE_LOSSES,
    STANDARD_WEIGHTS,
    DistillSettings,
    TrainSettings,
    standard_weights,
)
from tests.conftest import state_of

QUICK = TrainSettings(epochs=3, batch=64, learning_rate=0.1, flip=False, shift=1)


def quick(**changes: Any) -> TrainSettings:
    return QUICK.model_copy(update=changes)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(dataset, "resnet8", QUICK, tmp_path_factory.mktemp("teacher"))


def history(checkpoint: Checkpoint) -> list[dict[str, float]]:
    assert checkpoint.history is not None
    found: list[dict[str, float]] = json.loads(checkpoint.history.read_text())
    return found


def test_it_learns_and_records(teacher: Checkpoint, dataset: Dataset) -> None:
    assert teacher.metrics["validation_top1"] > 85
    validation = splits.read(dataset, "validation")
    cpu = torch.device("cpu")
    again = accuracy(weights.load(teacher), validation, dataset.preprocessing, QUICK, cpu)
    assert again == pytest.approx(teacher.metrics["validation_top1"])
    epochs = history(teacher)
    assert [each["epoch"] for each in epochs] == [1, 2, 3]
    assert epochs[-1]["ce"] == epochs[-1]["loss"] < epochs[0]["ce"]
    assert epochs[-1]["learning_rate"] < epochs[0]["learning_rate"]


def test_it_never_reads_the_test_split(dataset: Dataset, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    read = splits.read

    def watched(dataset: Dataset, split: str, *rest: object) -> splits.Samples:
        assert split in ("train", "validation")
        return read(dataset, split, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(splits, "read", watched)
    train(dataset, "dscnn-s", quick(epochs=1), tmp_path)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_same_seed_gives_the_same_student(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path, schedule: str, optimizer: str
) -> None:
    rate = 0.01 if optimizer == "adamw" else 0.1
    settings = quick(epochs=2, schedule=schedule, optimizer=optimizer, learning_rate=rate)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(
            train(
                dataset,
                "dscnn-s",
                settings,
                tmp_path / name,
                teacher=teacher,
                distill=DistillSettings(),
            )
        )
    a, b = (weights.load(each).state_dict() for each in made)
    for name in a:
        assert torch.equal(a[name], b[name])
    other = train(dataset, "dscnn-s", quick(epochs=1, seed=1), tmp_path)
    assert not torch.equal(weights.load(other).state_dict()["head.weight"], a["head.weight"])


@pytest.mark.parametrize("name", STANDARD_WEIGHTS)
def test_every_method_teaches_and_leaves_nothing_of_itself_behind(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path, name: str
) -> None:
    before = teacher.weights.read_bytes()
    settings = DistillSettings(weights=standard_weights([name]), negatives=64)
    student = train(dataset, "dscnn-s", QUICK, tmp_path, teacher=teacher, distill=settings)
    first, *_, last = history(student)
    assert last[name] < first[name]
    assert last["loss"] == pytest.approx(
        sum(weight * last[term] for term, weight in settings.weights.items()), rel=1e-4
    )
    assert student.metrics["validation_top1"] > 20  # of ten classes
    assert teacher.weights.read_bytes() == before
    plain = models.create("dscnn-s", 10, 1)
    assert load_file(student.weights).keys() == plain.state_dict().keys()


def test_without_cross_entropy_the_student_learns_from_the_teacher_alone(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    only_soft = DistillSettings(weights={"kl": 1})
    student = train(dataset, "dscnn-s", QUICK, tmp_path, teacher=teacher, distill=only_soft)
    assert "ce" not in history(student)[0]
    assert student.metrics["validation_top1"] > 30


def test_a_student_may_have_the_teachers_architecture(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    settings = DistillSettings(weights=standard_weights(["kl", "hint"]))
    student = train(dataset, "resnet8", QUICK, tmp_path, teacher=teacher, distill=settings)
    assert student.metrics["validation_top1"] > 85


def test_a_distilled_student_exports_as_an_undistilled_one(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    import onnx

    from edgekd.export import export

    graphs = []
    hints = DistillSettings(weights=standard_weights(["hint", "vid"]))
    for name, more in (("plain", {}), ("hinted", {"teacher": teacher, "distill": hints})):
        (tmp_path / name).mkdir()
        made = train(dataset, "dscnn-s", quick(epochs=1), tmp_path / name, **more)  # type: ignore[arg-type]
        graphs.append(onnx.load(export(made, dataset, tmp_path / name).path).graph)
    plain, hinted = graphs
    assert [(n.op_type, n.name) for n in plain.node] == [(n.op_type, n.name) for n in hinted.node]
    assert [(i.name, i.dims) for i in plain.initializer] == [
        (i.name, i.dims) for i in hinted.initializer
    ]


def test_teacher_and_student_see_the_same_pixels_and_the_modes_are_right(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    seen: list[tuple[str, torch.Tensor]] = []
    ask, forward = Teacher.ask, Distiller.forward

    def watched_ask(self: Teacher, x: torch.Tensor):  # type: ignore[no-untyped-def]
        seen.append(("teacher", x.clone()))
        assert not self._model.training
        assert not any(each.requires_grad for each in self._model.parameters())
        return ask(self, x)

    def watched_forward(self: Distiller, x: torch.Tensor, *rest: Any):  # type: ignore[no-untyped-def]
        seen.append(("student", x.clone()))
        assert self.student.training  # after a validation as well
        return forward(self, x, *rest)

    monkeypatch.setattr(Teacher, "ask", watched_ask)
    monkeypatch.setattr(Distiller, "forward", watched_forward)
    settings = quick(epochs=2, flip=True, mixup=0.5, cutmix=1.0)
    train(dataset, "dscnn-s", settings, tmp_path, teacher=teacher, distill=DistillSettings())
    assert [who for who, _ in seen] == ["teacher", "student"] * (len(seen) // 2)
    for (_, theirs), (_, ours) in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(theirs, ours)


class _Drifting(torch.nn.Module):
    """A teacher that counts its calls in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.flatten(1)[:, :10]


def test_a_teacher_that_does_not_stay_frozen_is_found_out() -> None:
    frozen = Teacher(models.create("resnet8", 10, 1).train(), torch.device("cpu"))
    frozen.ask(torch.randn(4, 1, 8, 8))
    frozen.check_frozen()
    drifting = Teacher(_Drifting(), torch.device("cpu"))
    drifting.ask(torch.randn(4, 1, 8, 8))
    with pytest.raises(TrainError, match="changed while the student learnt"):
        drifting.check_frozen()


def test_kept_logits_give_the_very_student_that_asking_gives(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    settings, distill = quick(views=2), DistillSettings()
    for name in ("asked", "kept", "logits"):
        (tmp_path / name).mkdir()
    logits = record(dataset, teacher, settings, distill, tmp_path / "logits")
    made = [
        train(
            dataset,
            "dscnn-s",
            settings,
            tmp_path / name,
            teacher=teacher,
            distill=distill,
            logits=given,
        )
        for name, given in (("asked", None), ("kept", logits))
    ]
    # Batches of another size may round otherwise in the last bit, so not bit by bit.
    asked, kept = (history(each) for each in made)
    assert asked[-1]["kl"] == pytest.approx(kept[-1]["kl"], rel=0.05)
    assert asked[0]["kl"] == pytest.approx(kept[0]["kl"], rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9},
        {"clip": 0.5},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"label_smoothing": 0.1},
        {"autocast": "bf16"},
    ],
    ids=str,
)
def test_each_setting_trains_and_makes_a_difference(
    dataset: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_it = train(dataset, "dscnn-s", quick(epochs=4, **changes), tmp_path / "a")
    without = train(dataset, "dscnn-s", quick(epochs=4), tmp_path / "b")
    assert with_it.metrics["validation_top1"] > 20
    assert state_of(with_it) != state_of(without)


def test_the_best_epoch_by_validation_is_kept_where_asked_for(
    dataset: Dataset, tmp_path: Path
) -> None:
    settings = quick(epochs=6, keep="best", learning_rate=0.3, schedule="cosine")
    made = train(dataset, "dscnn-s", settings, tmp_path)
    by_epoch = {each["epoch"]: each["validation_top1"] for each in history(made)}
    best = max(by_epoch.values())
    assert made.metrics["validation_top1"] == best
    assert made.metrics["epoch"] == min(n for n, top1 in by_epoch.items() if top1 == best)
    validation, cpu = splits.read(dataset, "validation"), torch.device("cpu")
    found = accuracy(weights.load(made), validation, dataset.preprocessing, settings, cpu)
    assert found == pytest.approx(best)


def test_it_stops_when_validation_no_longer_improves(dataset: Dataset, tmp_path: Path) -> None:
    # A step so small that nothing is learnt: the first epoch stays the best, or nearly so.
    settings = quick(epochs=30, learning_rate=1e-9, patience=2)
    seen: list[tuple[int, int]] = []
    made = train(
        dataset,
        "dscnn-s",
        settings,
        tmp_path,
        lambda done, total, note="", scalars=None: seen.append((done, total)),
    )
    assert 3 <= len(history(made)) < 30
    assert seen[-1][0] == seen[-1][1]


def test_progress_reaches_the_end_with_each_epochs_figures(
    dataset: Dataset, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    figures = []

    def progress(done: int, total: int, note: str = "", scalars: Any = None) -> None:
        seen.append((done, total, note))
        if scalars:
            figures.append(scalars)

    made = train(dataset, "dscnn-s", QUICK, tmp_path, progress)
    done, total, note = seen[-1]
    assert done == total
    assert "epoch 3/3, loss" in note
    assert figures == history(made)


@pytest.mark.parametrize(("batch", "warmup"), [(300, 0.2), (300, 0.0), (1100, 0.2), (300, 1.0)])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_a_schedule_of_a_few_steps(
    dataset: Dataset, tmp_path: Path, batch: int, warmup: float, schedule: str
) -> None:
    settings = quick(epochs=1, batch=batch, warmup=warmup, schedule=schedule)
    assert train(dataset, "dscnn-s", settings, tmp_path).weights.is_file()


def test_a_loss_that_explodes_is_named_and_the_last_good_checkpoint_kept(
    dataset: Dataset, tmp_path: Path
) -> None:
    settings = quick(learning_rate=1e20, warmup=0.0, checkpoint_steps=1)
    with pytest.raises(
        TrainError,
        match=r"the loss of dscnn-s is .* in epoch \d+, batch \d+; the last good checkpoint is in"
        r" .*work: lower learning_rate",
    ):
        train(dataset, "dscnn-s", settings, tmp_path, work=tmp_path / "work")
    assert list((tmp_path / "work").glob("step-*.pt"))


def test_a_batch_larger_than_the_split_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="fewer than one batch of 5000: lower the batch size"):
        train(dataset, "dscnn-s", quick(batch=5000), tmp_path)


def test_layers_are_found_by_path_or_named_with_their_like(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    def hinted(layers: dict[str, str]) -> Checkpoint:
        settings = DistillSettings(weights={"ce": 1, "hint": 1}, layers=layers)
        return train(
            dataset, "dscnn-s", quick(epochs=1), tmp_path, teacher=teacher, distill=settings
        )

    assert hinted({"layer2.0.conv1": "block2.0.2", "layer3": "block4"}).weights.is_file()
    with pytest.raises(RecipeError, match=r"distill.layers: Sequential has no layer 'layer4'"):
        hinted({"layer4": "block4"})
    with pytest.raises(RecipeError, match=r"no layer 'blok4': did you mean 'block4'"):
        hinted({"layer3": "blok4"})


def test_a_network_of_unknown_stages_needs_its_layers_named() -> None:
    from edgekd.distill.objectives import pairs

    settings = DistillSettings(weights={"hint": 1})
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(RecipeError, match="the student's layers are not known, which 'hint'"):
        pairs(settings, models.create("resnet8", 10, 1), plain)


def test_the_feature_losses_are_those_with_adaptors() -> None:
    from edgekd.distill.adaptors import ADAPTORS

    assert set(FEATURE_LOSSES) == ADAPTORS.keys()


def test_a_state_hash_sees_every_bit() -> None:
    model = models.create("resnet8", 10, 1)
    before = state_hash(model)
    model.stem[1].running_mean[3] += 1e-7  # type: ignore[index, operator]
    assert state_hash(model) != before
