"""A given teacher: whatever it comes as, it gives the logits that it gave at home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models, targets
from edgekd.artifacts import Checkpoint, Dataset, OnnxModel
from edgekd.backends.base import build_engine, find
from edgekd.bench.worker import from_json, to_json
from edgekd.data import splits
from edgekd.distill.given import change, given, is_probabilities
from edgekd.distill.teachers import state_hash
from edgekd.errors import CorruptBundle, RecipeError, TrainError
from edgekd.export import export
from edgekd.models import weights
from edgekd.preprocessing import normalise
from edgekd.recipe import TeacherSettings
from tests.models import nets, onnx_files
from tests.models.bundles import DIGITS, bundle_of

POOLED = "tests.models.nets:pooled"


def _given(dataset: Dataset, folder: Path, **values: Any) -> Checkpoint:
    folder.mkdir()
    return given(dataset, TeacherSettings.model_validate(values), folder)


def _images(dataset: Dataset) -> torch.Tensor:
    images = splits.read(dataset, "validation").images[:32]
    return torch.from_numpy(normalise(images, dataset.preprocessing))


def _ask(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model.eval()(x)
    return out


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def _kept(folder: Path, name: str, classes: int, channels: int = 1) -> tuple[torch.nn.Module, str]:
    """A small network with statistics of its own, and its file."""
    torch.manual_seed(len(name) + classes)
    model = nets.pooled(classes, channels).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(32, channels, 8, 8))
    path = folder / f"{name}.pt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    return model.eval(), str(path)


def test_a_plain_network_stays_one(
    checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    taken = _given(dataset, tmp_path / "t", model="resnet8", weights=str(checkpoint.weights))
    assert taken.members == ()
    assert taken.model == "resnet8"
    assert (taken.params, taken.macs) == (checkpoint.params, checkpoint.macs)
    loaded, x = weights.load(taken), _images(dataset)
    assert torch.equal(_ask(loaded, x), _ask(weights.load(checkpoint), x))
    validation = splits.read(dataset, "validation")
    whole = torch.from_numpy(normalise(validation.images, dataset.preprocessing))
    right = _ask(loaded, whole).argmax(1).numpy() == validation.labels
    assert taken.metrics["validation_top1"] == pytest.approx(100 * right.mean())


@pytest.mark.parametrize("form", [{}, {"batch": 1}, {"channels_last": True}, {"softmax": True}])
def test_an_onnx_teacher_is_the_network_that_it_was_exported_from(
    form: dict[str, Any],
    checkpoint: Checkpoint,
    onnx_model: OnnxModel,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    path = onnx_files.change(onnx_model.path, tmp_path / "t.onnx", **form)
    taken = _given(dataset, tmp_path / "t", model=f"onnx:{path}")
    path.unlink()  # it was copied
    member = taken.members[0]
    assert taken.onnx
    assert taken.model == "onnx:t.onnx"
    assert member.log is bool(form.get("softmax"))
    assert member.channels_last is bool(form.get("channels_last"))
    assert taken.macs == checkpoint.macs
    assert taken.params == pytest.approx(checkpoint.params, rel=0.01)
    x = _images(dataset)
    expected = _ask(weights.load(checkpoint), x)
    if form.get("softmax"):
        expected = expected.log_softmax(1)
    assert _close(_ask(weights.load(taken), x), expected)


def test_a_bundles_student_teaches_with_its_own_preprocessing_and_labels(
    checkpoint: Checkpoint, onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path / "b.edgekd", onnx_model.path, DIGITS[::-1], (0.2,), (0.4,))
    taken = _given(dataset, tmp_path / "t", model=f"bundle:{bundle}")
    assert taken.model == "bundle:b.edgekd"
    images = splits.read(dataset, "validation").images[:32]
    own = torch.from_numpy((images / 255 - 0.2) / 0.4).float()
    expected = _ask(weights.load(checkpoint), own).flip(1)
    assert _close(_ask(weights.load(taken), _images(dataset)), expected)
    stranger = bundle_of(tmp_path / "s.edgekd", onnx_model.path, ("cat", *DIGITS[1:]))
    with pytest.raises(RecipeError, match=r"teacher.classes: bundle:s.edgekd has a class 'cat'"):
        _given(dataset, tmp_path / "s", model=f"bundle:{stranger}")
    (bundle / "student.onnx").write_bytes(b"another")
    with pytest.raises(CorruptBundle, match="is not the file that the manifest names"):
        _given(dataset, tmp_path / "u", model=f"bundle:{bundle}")


def test_two_teachers_of_some_classes_each_stand_side_by_side(
    dataset: Dataset, tmp_path: Path
) -> None:
    low, low_file = _kept(tmp_path, "low", 4)
    high, high_file = _kept(tmp_path, "high", 7)
    taken = _given(
        dataset,
        tmp_path / "t",
        model=POOLED,
        weights=low_file,
        classes=["3", "2", "1", "0"],
        also=[
            {
                "model": POOLED,
                "weights": high_file,
                "weight": 5.0,
                "classes": ["4", "5", "", "6", "7", "8", "9"],
            }
        ],
    )
    x, loaded = _images(dataset), weights.load(taken)
    a, b = _ask(low, x), _ask(high, x)
    expected = torch.cat([a.flip(1), b[:, [0, 1, 3, 4, 5, 6]]], 1)
    assert torch.allclose(_ask(loaded, x), expected, atol=1e-6)
    assert taken.model == f"{POOLED} + {POOLED}"
    knows = loaded.knows
    assert knows[:4, :4].all()
    assert knows[4:, 4:].all()
    assert not knows[:4, 4:].any()
    assert not knows[4:, :4].any()


def test_one_teachers_own_mean_deviation_and_size(dataset: Dataset, tmp_path: Path) -> None:
    network, file = _kept(tmp_path, "w", 10)
    taken = _given(
        dataset, tmp_path / "t", model=POOLED, weights=file, mean=[0.3], std=[0.6], size=[16, 12]
    )
    images = splits.read(dataset, "validation").images[:32]
    own = torch.from_numpy((images / 255 - 0.3) / 0.6).float()
    own = torch.nn.functional.interpolate(own, (16, 12), mode="bilinear", antialias=True)
    assert torch.allclose(
        _ask(weights.load(taken), _images(dataset)), _ask(network, own), atol=1e-5
    )
    assert taken.macs == 16 * 12 * 6 * 9 + 24 * 10


def test_a_torch_network_that_ends_in_a_softmax_is_heard_as_logarithms(
    dataset: Dataset, tmp_path: Path
) -> None:
    model = nets.probable(10, 1).eval()
    weights.save(model, tmp_path / "w.safetensors")
    taken = _given(
        dataset,
        tmp_path / "t",
        model="tests.models.nets:probable",
        weights=str(tmp_path / "w.safetensors"),
    )
    assert taken.members[0].log
    x = _images(dataset)
    assert torch.allclose(_ask(weights.load(taken), x), _ask(model, x).log(), atol=1e-5)


def test_grey_images_are_repeated_for_a_file_that_takes_three_channels(
    dataset: Dataset, tmp_path: Path
) -> None:
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("Flatten", ["c"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(kernel, "k")],
    )
    onnx_files.save(graph, tmp_path / "c.onnx")
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    taken = _given(dataset, tmp_path / "t", model=f"onnx:{tmp_path / 'c.onnx'}", mean=mean, std=std)
    images = splits.read(dataset, "validation").images[:32] / 255
    rgb = (images - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    expected = np.einsum("nchw,kchw->nk", rgb, kernel)
    found = _ask(weights.load(taken), _images(dataset)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (taken.params, taken.macs) == (1920, 1920)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"classes": []}, RecipeError, "teacher .*pooled has 3 classes and the data 10: name them"),
        ({"classes": ["0", "1"]}, RecipeError, "has 3 classes, and 2 are named"),
        ({"classes": ["0", "1", "22"]}, RecipeError, r"teacher.classes: .* '22'.*did you mean '2'"),
        ({"classes": ["", "", ""]}, RecipeError, "no output of .*pooled is used"),
        ({"classes": ["0", "1", "2"]}, RecipeError, "no teacher knows class '3' nor 6 more"),
        (
            {"classes": ["0", "1", "2"], "mean": [0.1] * 3, "std": [0.1] * 3},
            RecipeError,
            "teacher.mean: 3 figures are not one for each of the 1 channels",
        ),
        ({"model": "tests.models.nets:linear", "size": [9, 9]}, TrainError, "hold the unknown"),
        ({"model": "tests.models.nets:maps"}, TrainError, "weights .*w.pt miss"),
    ],
)
def test_classes_that_do_not_fit_are_named(
    values: dict[str, Any],
    error: type[Exception],
    words: str,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    _, file = _kept(tmp_path, "w", 3)
    with pytest.raises(error, match=words):
        _given(dataset, tmp_path / "t", **({"model": POOLED, "weights": file} | values))


def test_an_onnx_file_that_does_not_fit_is_told(
    onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    source = f"onnx:{onnx_model.path}"
    with pytest.raises(RecipeError, match=r"has 10 classes, and 3 are named"):
        _given(dataset, tmp_path / "a", model=source, classes=["0", "1", "2"])
    with pytest.raises(RecipeError, match="teacher.size: model.onnx takes 8×8 and no other size"):
        _given(dataset, tmp_path / "b", model=source, size=[16, 16])
    flat = onnx_files.change(onnx_model.path, tmp_path / "flat.onnx", flat=True)
    with pytest.raises(TrainError, match=r"onnx:flat.onnx gives \(1280,\) for 128 images"):
        _given(dataset, tmp_path / "c", model=f"onnx:{flat}")


def test_outputs_that_are_not_finite_are_told(dataset: Dataset, tmp_path: Path) -> None:
    model = nets.pooled(10, 1)
    with torch.no_grad():
        model[5].bias[3] = float("nan")
    weights.save(model, tmp_path / "w.safetensors")
    with pytest.raises(TrainError, match="pooled gives outputs that are not finite"):
        _given(dataset, tmp_path / "t", model=POOLED, weights=str(tmp_path / "w.safetensors"))


def test_probabilities_are_told_from_logits() -> None:
    rows = torch.rand(8, 5).softmax(1)
    assert is_probabilities(rows)
    assert is_probabilities(torch.eye(5))
    assert not is_probabilities(rows * 1.01)
    assert not is_probabilities(rows - rows[:, :1].min() * 1.5)
    assert not is_probabilities(torch.cat([rows, torch.zeros(1, 5)]))


def test_the_datas_own_preprocessing_is_no_change(dataset: Dataset) -> None:
    own = dataset.preprocessing
    assert change(dataset, own.mean, own.std) == ((), ())
    assert change(dataset, (), ()) == ((), ())
    scale, shift = change(dataset, (0.5, 0.1), (0.25, 0.5))
    pixels = np.linspace(0, 1, 5)
    x = (pixels - own.mean[0]) / own.std[0]
    np.testing.assert_allclose(x * scale[0] + shift[0], (pixels - 0.5) / 0.25, atol=1e-12)
    np.testing.assert_allclose(x * scale[1] + shift[1], (pixels - 0.1) / 0.5, atol=1e-12)


@pytest.fixture(scope="module")
def two(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two torch networks with maps of their own, one with its own preprocessing."""
    folder = tmp_path_factory.mktemp("two")
    _, one = _kept(folder, "one", 10)
    _, other = _kept(folder, "other", 6)
    return _given(
        dataset,
        folder / "t",
        model=POOLED,
        weights=one,
        classes=list(DIGITS[::-1]),
        also=[
            {
                "model": POOLED,
                "weights": other,
                "weight": 0.5,
                "classes": ["1", "1", "", "4", "9", "4"],
                "mean": [0.5],
                "std": [0.5],
                "size": [6, 6],
            }
        ],
    )


def test_torch_members_are_exported_as_one(
    two: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    made = export(two, dataset, tmp_path)
    assert made.parity < 1e-4
    assert not two.onnx


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_the_baseline_engine_carries_members(
    kind: str, two: Checkpoint, onnx_model: OnnxModel, dataset: Dataset, tmp_path: Path
) -> None:
    teacher = two
    if kind == "onnx":
        source = f"onnx:{onnx_model.path}"
        teacher = _given(
            dataset, tmp_path / "t", model=source, also=[{"model": source, "mean": [0], "std": [1]}]
        )
    place = tmp_path / "engine"
    place.mkdir()
    engine = build_engine(teacher, "teacher", targets.load("torch"), place)
    assert len({engine.path, *engine.parts}) == 2
    assert all(each.parent == place for each in (engine.path, *engine.parts))
    x = _images(dataset)
    with find("torch").open(from_json(to_json(engine))) as session:
        found = session.run({"image": x.numpy()})["logits"]
        single = session.run({"image": x[:1].numpy()})["logits"]
    expected = _ask(weights.load(teacher), x).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(single, expected[:1], atol=1e-5)


def test_nothing_of_it_moves_when_it_is_used(two: Checkpoint, dataset: Dataset) -> None:
    files = [each.weights.read_bytes() for each in two.members]
    loaded = weights.load(two)
    before = state_hash(loaded)
    for _ in range(3):
        loaded(_images(dataset))
    assert state_hash(loaded) == before
    assert [each.weights.read_bytes() for each in two.members] == files


@pytest.mark.zoo
def test_a_librarys_own_weights_teach_the_classes_that_are_named(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    own = torchvision.models.shufflenet_v2_x0_5()
    monkeypatch.setattr(
        torchvision.models._api,
        "load_state_dict_from_url",
        lambda *args, **more: own.state_dict(),
    )
    name = "torchvision:shufflenet_v2_x0_5"
    settings = {"model": name, "weights": "pretrained", "size": [32, 32]}
    with pytest.raises(RecipeError, match="has 1000 classes and the data 10"):
        _given(dataset, tmp_path / "a", **settings)
    labels = [*DIGITS[::-1], *[""] * 990]
    taken = _given(dataset, tmp_path / "b", **settings, classes=labels)
    assert taken.members[0].channels == 3
    images = splits.read(dataset, "validation").images[:32] / 255
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rgb = (images - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    x = torch.nn.functional.interpolate(torch.from_numpy(rgb).float(), (32, 32), mode="bilinear")
    expected = _ask(own, x)[:, :10].flip(1)
    assert torch.allclose(_ask(weights.load(taken), _images(dataset)), expected, atol=1e-4)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"])
def test_a_librarys_network_is_taught_as_any_other(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip(name.partition(":")[0], reason="it is not installed")
    model = models.create(name, 10, 1)
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    taken = _given(dataset, tmp_path / "t", model=name, weights=str(path))
    assert taken.members == ()
    (tmp_path / "onnx").mkdir()
    assert export(taken, dataset, tmp_path / "onnx").parity < 1e-3
    x = _images(dataset)
    assert torch.equal(_ask(weights.load(taken), x), _ask(model, x))
