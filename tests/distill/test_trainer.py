"""Training on digits: it learns, it repeats itself, and it says what went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgekd.artifacts import Checkpoint, Dataset
from edgekd.data import splits
from edgekd.distill.trainer import accuracy, import_weights, train
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.recipe import DistillSettings, TrainSettings

QUICK = TrainSettings(epochs=3, batch=64, learning_rate=0.1, flip=False, shift=1)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(dataset, "resnet8", QUICK, tmp_path_factory.mktemp("teacher"))


def test_it_learns_and_records(teacher: Checkpoint, dataset: Dataset) -> None:
    assert teacher.metrics["validation_top1"] > 85
    validation = splits.read(dataset, "validation")
    again = accuracy(weights.load(teacher), validation, dataset.preprocessing, QUICK)
    assert again == pytest.approx(teacher.metrics["validation_top1"])
    assert teacher.history is not None
    history = json.loads(teacher.history.read_text())
    assert [each["epoch"] for each in history] == [1, 2, 3]
    assert history[-1]["ce"] < history[0]["ce"]


def test_it_never_reads_the_test_split(dataset: Dataset, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    read = splits.read

    def watched(dataset: Dataset, split: str, *rest: object) -> splits.Samples:
        assert split in ("train", "validation")
        return read(dataset, split, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(splits, "read", watched)
    train(dataset, "dscnn-s", QUICK.model_copy(update={"epochs": 1}), tmp_path)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("views", [0, 1])
def test_the_same_seed_gives_the_same_student(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path, schedule: str, views: int
) -> None:
    settings = QUICK.model_copy(update={"epochs": 2, "schedule": schedule, "views": views})
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
    other = train(dataset, "dscnn-s", settings.model_copy(update={"seed": 1}), tmp_path)
    assert not torch.equal(weights.load(other).state_dict()["head.weight"], a["head.weight"])


def test_the_teachers_file_is_as_it_was_and_its_voice_is_heard(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    before = teacher.weights.read_bytes()
    only_soft = DistillSettings(ce_weight=0, weight=1)
    student = train(dataset, "dscnn-s", QUICK, tmp_path, teacher=teacher, distill=only_soft)
    assert teacher.weights.read_bytes() == before
    assert student.history is not None
    assert set(json.loads(student.history.read_text())[0]) == {
        "epoch",
        "ce",
        "kl",
        "validation_top1",
    }
    assert student.metrics["validation_top1"] > 30  # learnt without seeing one label


@pytest.mark.parametrize("loss", ["mse_logits", "dkd", "dist", "logit_std_kl"])
def test_each_loss_of_a_recipe_teaches(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path, loss: str
) -> None:
    settings = DistillSettings.model_validate({"loss": loss, "weight": 0.5, "ce_weight": 0})
    student = train(dataset, "dscnn-s", QUICK, tmp_path, teacher=teacher, distill=settings)
    assert student.history is not None
    first, *_, last = json.loads(student.history.read_text())
    assert last[loss] < first[loss]
    assert student.metrics["validation_top1"] > 20  # of ten classes, without cross-entropy


def test_progress_reaches_the_end(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    train(dataset, "dscnn-s", QUICK, tmp_path, lambda *each: seen.append(each))
    done, total, note = seen[-1]
    assert done == total == len(seen)
    assert "epoch 3/3, loss" in note


@pytest.mark.parametrize(("batch", "warmup"), [(300, 0.2), (300, 0.0), (1100, 0.2), (300, 1.0)])
def test_a_schedule_of_a_few_steps(
    dataset: Dataset, tmp_path: Path, batch: int, warmup: float
) -> None:
    settings = QUICK.model_copy(update={"epochs": 1, "batch": batch, "warmup": warmup})
    assert train(dataset, "dscnn-s", settings, tmp_path).weights.is_file()


def test_a_loss_that_explodes_is_named(dataset: Dataset, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"learning_rate": 1e20, "warmup": 0.0})
    with pytest.raises(
        TrainError, match=r"the loss of dscnn-s is .* in epoch \d+, batch \d+: lower"
    ):
        train(dataset, "dscnn-s", settings, tmp_path)


def test_a_batch_larger_than_the_split_is_an_error(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="fewer than one batch of 5000: lower the batch size"):
        train(dataset, "dscnn-s", QUICK.model_copy(update={"batch": 5000}), tmp_path)


def test_given_weights_are_checked_and_measured(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    taken = import_weights(dataset, "resnet8", teacher.weights, QUICK, tmp_path)
    assert taken.metrics == teacher.metrics
    assert (taken.params, taken.macs) == (teacher.params, teacher.macs)
    with pytest.raises(TrainError, match="name the model that they belong to"):
        import_weights(dataset, "dscnn-s", teacher.weights, QUICK, tmp_path)
