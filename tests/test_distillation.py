"""Distillation from end to end, on digits: each method, teachers and data of all kinds, bad input.

Data, teacher and student are made as a build makes them, by its stages and in its store; one build
goes all the way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from edgekd import pipeline
from edgekd.artifacts import Checkpoint, Dataset
from edgekd.cli import main
from edgekd.data import open_source, splits
from edgekd.distill import sampling
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.progress import Nobody
from edgekd.recipe import STANDARD_WEIGHTS, Recipe
from edgekd.recipe_file import load
from edgekd.stages import Stages
from edgekd.store import Store
from tests.conftest import assert_one_line

DIGITS = tuple("0123456789")
RECIPE = """
[data]
source = "digits"
validation = 0.15
[teacher]
model = "resnet8"
[teacher.train]
epochs = 6
batch = 64
learning_rate = 0.1
flip = false
[student]
model = "dscnn-s"
control = false
[student.train]
epochs = 2
batch = 64
learning_rate = 0.1
flip = false
shift = 1
[engines]
targets = ["onnxruntime-cpu"]
precisions = ["fp32"]
[bench]
samples = 100
seconds = 0.2
blocks = 2
"""


class _Kept(Nobody):
    """Remembers which stages worked, and which were in the store."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.reused: list[str] = []

    def end(self, stage: str, reused: bool, seconds: float) -> None:
        (self.reused if reused else self.made).append(stage)


@dataclass(frozen=True)
class Home:
    """A store in which the teacher of ``RECIPE`` is made already."""

    path: Path
    store: Store
    dataset: Dataset
    teacher: Checkpoint

    def recipe(self, **changes: Any) -> Recipe:
        return load(self.path, {key.replace("__", "."): each for key, each in changes.items()})

    def stages(self, recipe: Recipe, watcher: Nobody | None = None) -> Stages:
        return Stages(recipe, [], self.store, watcher or Nobody())

    def student(self, recipe: Recipe, watcher: Nobody | None = None) -> tuple[Dataset, Checkpoint]:
        stages = self.stages(recipe, watcher)
        dataset = stages.data()
        return dataset, stages.student("student", dataset, stages.teacher(dataset))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    path = folder / "recipe.toml"
    path.write_text(RECIPE)
    store = Store(folder / "store")
    stages = Stages(load(path), [], store, Nobody())
    dataset = stages.data()
    teacher = stages.teacher(dataset)
    assert teacher.metrics["validation_top1"] > 93
    return Home(path, store, dataset, teacher)


@pytest.fixture
def cli(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """``edgekd build`` of the recipe, in this process and with the store that has its teacher."""
    monkeypatch.setenv("EDGEKD_STORE", str(home.store.root))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def build(*arguments: str) -> CompletedProcess[str]:
        with pytest.raises(SystemExit) as end:
            main(["build", str(home.path), "--out", str(tmp_path), *arguments])
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return CompletedProcess([], end.value.code, said.out, said.err)

    return build


def _history(checkpoint: Checkpoint) -> list[dict[str, float]]:
    assert checkpoint.history is not None
    found: list[dict[str, float]] = json.loads(checkpoint.history.read_text())
    return found


def _right(checkpoint: Checkpoint, dataset: Dataset) -> tuple[Any, Any]:
    """Which test images are named rightly, and all their labels."""
    test = splits.read(dataset, "test")
    with torch.inference_mode():
        x = sampling.tensor(test.images[:], dataset.preprocessing)
        named = weights.load(checkpoint)(x).argmax(1).numpy()
    return named == test.labels, test.labels


@pytest.mark.parametrize("name", STANDARD_WEIGHTS)
def test_a_method_trains_by_its_name_in_a_recipe_or_on_the_command_line(
    name: str, home: Home, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = "\n".join(f"{term} = {weight}" for term, weight in STANDARD_WEIGHTS[name].items())
    path = tmp_path / home.path.name
    path.write_text(f"{RECIPE}\n[distill]\nnegatives = 64\n[distill.weights]\n{terms}\n")
    recipe = load(path)
    asked: list[Recipe] = []

    def watched(recipe: Recipe, *rest: Any, **more: Any) -> None:
        asked.append(recipe)
        raise TrainError("no further")

    monkeypatch.setattr(pipeline, "build", watched)
    cli("--distill", name, "--set", "distill.negatives=64")
    assert asked == [recipe]

    _, student = home.student(recipe)
    first, last = _history(student)
    assert last[name] < first[name]
    assert last["ce"] < first["ce"]


def test_a_build_with_losses_by_name_goes_all_the_way(cli: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = cli("--distill", "dist", "--distill", "hint", "--tensorboard", str(runs), "--json")
    assert result.returncode == 0, result.stderr
    assert "✓ teacher: from the store" in result.stderr
    facts = json.loads(result.stdout)
    assert facts["models"]["student"]["top1"] > 30
    assert (Path(facts["bundle"]) / "student.onnx").is_file()
    terms = ["epoch 2, ce ", ", dist ", ", hint ", ", loss "]
    told = [each for each in result.stderr.splitlines() if all(term in each for term in terms)]
    assert len(told) == 1
    assert list(runs.glob("events.out.tfevents.*"))


def test_an_onnx_file_alone_teaches_without_a_label(home: Home, tmp_path: Path) -> None:
    exported = home.stages(home.recipe()).export("teacher", home.teacher, home.dataset)
    path = tmp_path / "teacher.onnx"
    path.write_bytes(exported.path.read_bytes())
    recipe = home.recipe(
        teacher__model=f"onnx:{path}", distill__weights={"kl": 1.0}, student__train__epochs=5
    )
    dataset, student = home.student(recipe)
    assert "ce" not in _history(student)[0]
    right, _ = _right(student, dataset)
    assert right.mean() > 0.75


@pytest.fixture(scope="module")
def halves(home: Home) -> list[Path]:
    """The weights of a teacher of digits 0 to 4, and of one of 5 to 9 in their reverse order."""
    kept = []
    parts = {part: open_source("digits").read(part) for part in ("train", "test")}  # type: ignore[attr-defined]
    for name, known in (("low", DIGITS[:5]), ("high", DIGITS[:4:-1])):
        arrays: dict[str, Any] = {"classes": np.array(known)}
        for part, (images, labels) in parts.items():
            ids = np.flatnonzero(np.isin(labels, [int(each) for each in known]))
            arrays[f"{part}_images"] = images[ids]
            arrays[f"{part}_labels"] = [known.index(str(each)) for each in labels[ids]]
        path = home.path.parent / f"{name}.npz"
        np.savez(path, **arrays)
        stages = home.stages(home.recipe(data__source=f"npz:{path}"))
        kept.append(stages.teacher(stages.data()).weights)
    return kept


def test_two_teachers_with_no_class_in_common_teach_their_union(
    home: Home, halves: list[Path]
) -> None:
    low, high = map(str, halves)
    recipe = home.recipe(
        teacher__weights=low,
        teacher__classes=DIGITS[:5],
        teacher__also=[{"model": "resnet8", "weights": high, "classes": DIGITS[:4:-1]}],
        distill__weights={"kl": 1.0},
        student__train__epochs=5,
    )
    dataset, student = home.student(recipe)
    right, labels = _right(student, dataset)
    assert right[labels < 5].mean() > 0.7
    assert right[labels >= 5].mean() > 0.7


def test_a_folder_of_few_labels_is_made_up_for_by_images_that_the_teacher_labels(
    home: Home, tmp_path: Path
) -> None:
    labelled = 6
    for part in ("train", "test"):
        images, labels = open_source("digits").read(part)  # type: ignore[attr-defined]
        seen: dict[int, int] = {}
        for number, (image, label) in enumerate(zip(images[:, 0], labels.tolist(), strict=True)):
            seen[label] = seen.get(label, 0) + 1
            known = part == "test" or seen[label] <= labelled
            path = tmp_path / (f"few/{part}/{label}" if known else "frames") / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    own = home.dataset.preprocessing
    recipe = home.recipe(
        data__source=f"folder:{tmp_path / 'few'}",
        data__unlabelled=f"folder:{tmp_path / 'frames'}",
        teacher__weights=str(home.teacher.weights),
        teacher__mean=own.mean,
        teacher__std=own.std,
        distill__weights={"kl": 1.0},
        student__train__epochs=5,
    )
    dataset, student = home.student(recipe)
    assert dataset.sizes["unlabelled"] > 20 * (dataset.sizes["train"] - dataset.sizes["unlabelled"])
    control = home.stages(recipe).student("control", dataset, None)
    taught, alone = (_right(each, dataset)[0].mean() for each in (student, control))
    assert taught > max(0.8, alone + 0.2)


def test_kept_logits_are_used_for_the_very_same_question_alone(home: Home) -> None:
    def asked(**changes: Any) -> str:
        watcher = _Kept()
        once = {"student__train__epochs": 2, "student__train__batch": 512}
        home.student(home.recipe(**{**once, **changes}), watcher)
        logits = "teacher's logits"
        return "made" if logits in watcher.made else "found" if logits in watcher.reused else "none"

    views = {"student__train__views": 1}
    assert asked() == "none"  # each epoch has a new view
    assert asked(**views) == "made"
    assert asked(**views, distill__weights={"ce": 1, "dist": 1}) == "found"
    for other in (
        {"student__train__shift": 2},
        {"student__train__flip": True},
        {"teacher__train__epochs": 1},
        {"data__seed": 1, "teacher__train__epochs": 1},
        {"distill__cache_dtype": "float16"},
        {"distill__autocast": "off"},
    ):
        assert asked(**{**views, **other}) == "made", other


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"])
def test_a_librarys_network_teaches_with_weights_of_a_file(
    name: str, home: Home, tmp_path: Path
) -> None:
    pytest.importorskip(name.partition(":")[0], reason="it is not installed")
    stages = home.stages(home.recipe(teacher__model=name))
    trained = stages.teacher(home.dataset)
    path = tmp_path / "weights.pth"
    torch.save(load_file(trained.weights), path)
    recipe = home.recipe(
        teacher__model=name, teacher__weights=str(path), distill__weights={"kl": 1.0}
    )
    _, student = home.student(recipe)
    first, last = _history(student)
    assert last["kl"] < first["kl"]


def _folder(tmp_path: Path, home: Home) -> list[str]:
    for label, image in zip("abc", splits.read(home.dataset, "test").images[:3], strict=True):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(image[0]).save(tmp_path / "photos" / label / "1.png")
    (tmp_path / "photos" / "c" / "1.png").unlink()
    return ["--data", f"folder:{tmp_path / 'photos'}"]


def _function(tmp_path: Path, home: Home) -> list[str]:
    (tmp_path / "my_images.py").write_text("def load():\n    return {'images': [1] / 255}\n")
    return ["--data", "my_images:load"]


def _without(tmp_path: Path, home: Home) -> list[str]:
    state = load_file(home.teacher.weights)
    del state["head.bias"]
    save_file(state, tmp_path / "w.safetensors")
    return ["--set", f"teacher.weights={tmp_path / 'w.safetensors'}"]


def _pickle(tmp_path: Path, home: Home) -> list[str]:
    torch.save(weights.load(home.teacher), tmp_path / "whole.pt")
    return ["--set", f"teacher.weights={tmp_path / 'whole.pt'}"]


def _half(tmp_path: Path, home: Home) -> list[str]:
    state = load_file(home.teacher.weights)
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][:5].clone()
    save_file(state, tmp_path / "w.safetensors")
    return ["--set", f"teacher.weights={tmp_path / 'w.safetensors'}"]


def _layer(tmp_path: Path, home: Home) -> list[str]:
    return ["--distill", "hint", "--set", 'distill.layers={layer3 = "blok5"}']


def _explosion(tmp_path: Path, home: Home) -> list[str]:
    settings = ("learning_rate=1e20", "warmup=0.0", "checkpoint_steps=1")
    return [each for name in settings for each in ("--set", f"student.train.{name}")]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (_half, 2, ["teacher resnet8 has 5 classes and the data 10", "teacher.classes"]),
        (_layer, 2, ["distill.layers", "no layer 'blok5'", "did you mean 'block5'"]),
        (_explosion, 4, ["the loss of dscnn-s is", "in epoch 1, batch", "checkpoint is in"]),
        (_folder, 4, ["photos/c holds no PNG or JPEG file"]),
        (_without, 4, ["w.safetensors miss 'head.bias'"]),
        (_pickle, 4, ["whole.pt holds more than tensors; it is not opened"]),
        (_function, 4, ["my_images:load failed: TypeError", "my_images.py:2"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_lost(
    spoil: Any, code: int, words: list[str], home: Home, cli: Any, tmp_path: Path
) -> None:
    result = cli(*spoil(tmp_path, home))
    assert_one_line(result, code, *words)
    if spoil is _explosion:
        unfinished = home.store.root / "unfinished" / "student"
        assert len(list(unfinished.glob("*/step-*.pt"))) in (1, 2)
    assert not list((home.store.root / "tmp").iterdir())
    watcher = _Kept()
    stages = home.stages(home.recipe(), watcher)
    assert stages.teacher(stages.data()) == home.teacher
    assert watcher.made == []
