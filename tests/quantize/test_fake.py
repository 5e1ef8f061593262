"""Training with simulated quantisation: what is trained is what is shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from edgekd import models, targets
from edgekd.artifacts import CalibrationTable, Dataset, OnnxModel, QuantizedModel, TensorSpec
from edgekd.backends import ort
from edgekd.backends.base import build_engine
from edgekd.calibration import sets
from edgekd.calibration.feeds import of_images
from edgekd.calibration.table import calibrate
from edgekd.data import splits
from edgekd.errors import QuantizeError
from edgekd.export import write
from edgekd.preprocessing import normalise
from edgekd.quantize import forms
from edgekd.quantize.fake import compare, export_trained, trainable, weight_scales
from edgekd.quantize.qdq import quantize
from edgekd.recipe import CalibrationSettings

SETTINGS = CalibrationSettings(samples=128, method="percentile")
FORMS = ("s8s8", "u8s8", "f8")


class Mixed(nn.Module):
    """What the built-in students lack: joins, gates, transposed products, attention, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.left = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.right = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.mix = nn.Linear(16, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.attend = nn.Linear(16, 48)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) to (n, 10)."""
        x = self.stem(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = F.max_pool2d(F.avg_pool2d(x * self.gate(x), 2), 3, 2, 1)
        x = x + F.avg_pool2d(F.relu(self.up(x)), 2)
        x = x.flatten(2).transpose(1, 2)
        x = x + F.gelu(self.mix(x))
        query, key, value = self.attend(x).split(16, -1)
        x = x + (query @ key.transpose(1, 2) / 4).softmax(-1) @ value
        found: torch.Tensor = self.head(self.drop(x.mean(1)))
        return found


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: models.create("resnet8", 10, 1),
    "dscnn-s": lambda: models.create("dscnn-s", 10, 1),
    "mixed": Mixed,
}


@dataclass
class Case:
    """A network's export, its ranges and its Q/DQ models by form."""

    model: OnnxModel
    table: CalibrationTable
    quantized: dict[str, QuantizedModel]
    kernels: set[str]


@pytest.fixture(scope="module")
def x(dataset: Dataset) -> np.ndarray:
    images = splits.read(dataset, "validation").images[:128]
    return normalise(images, dataset.preprocessing)


@pytest.fixture(scope="module", params=NETWORKS)
def case(
    request: pytest.FixtureRequest,
    dataset: Dataset,
    x: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    with torch.no_grad():
        for _ in range(30):
            network(torch.from_numpy(x))  # batch norm's statistics
    path = folder / "model.onnx"
    write(network.eval(), x[:2], path, request.param)
    model = OnnxModel(
        path=path,
        opset=18,
        model_inputs=(TensorSpec("image", "float32", ("batch", 1, 8, 8)),),
        model_outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
        parity=0.0,
    )
    chosen = sets.choose(dataset, SETTINGS, folder)
    images = of_images("image", sets.images(chosen, dataset), dataset.preprocessing)
    table = calibrate(model, images, SETTINGS, chosen, folder)
    quantized = {}
    for form in FORMS:
        (folder / form).mkdir()
        quantized[form] = quantize(model, table, form, folder / form)
    kernels = {name for name, each in network.named_parameters() if each.ndim > 1}
    return Case(model, table, quantized, kernels)


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    """Plain semantics: nothing is fused."""
    with ort.open_model(path, optimise=False) as session:
        return np.asarray(session.run({"image": x})["logits"])


def _logits(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(x)))


@pytest.mark.parametrize("form", FORMS)
def test_it_gives_what_the_quantised_model_gives(case: Case, form: str, x: np.ndarray) -> None:
    """To float32's last bits; where a sum falls between two steps, to a step of one tensor."""
    network = trainable(case.model, case.table, form)
    ours, theirs = _logits(network, x), _run(case.quantized[form].path, x)
    largest = np.abs(theirs).max()
    assert np.median(np.abs(ours - theirs)) < 1e-6 * largest
    step = 0.05 if form == "f8" else 0.03
    assert np.abs(ours - theirs).max() < step * largest
    assert compare(network, case.quantized[form], x) < step * largest
    assert np.abs(ours - _run(case.model.path, x)).max() > 0.005 * largest  # it does round


@pytest.mark.parametrize("form", FORMS)
def test_without_rounding_or_without_ranges_it_is_the_fp32_network(
    case: Case, form: str, x: np.ndarray
) -> None:
    fp32 = _run(case.model.path, x)
    network = trainable(case.model, case.table, form)
    network.rounding = False
    no_ranges = trainable(case.model, replace(case.table, ranges={}), form)
    for each in (network, no_ranges):
        np.testing.assert_allclose(_logits(each, x), fp32, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_weight_and_bias(case: Case, form: str, x: np.ndarray) -> None:
    network = trainable(case.model, case.table, form).train()
    network(torch.from_numpy(x)).square().mean().backward()
    held = {each.name for each in onnx.load(case.model.path).graph.initializer}
    assert set(network.names) <= held
    kernels = [
        name for name, each in zip(network.names, network.weights, strict=True) if each.ndim > 1
    ]
    assert len(kernels) == len(case.kernels)
    assert len(network.names) == 2 * len(kernels)  # each with its bias
    for name, each in zip(network.names, network.weights, strict=True):
        assert each.grad is not None and each.grad.abs().sum() > 0, name
    assert sum(1 for _ in network.parameters()) == len(network.names)


def test_a_batch_gives_what_its_images_give_alone(case: Case, x: np.ndarray) -> None:
    network = trainable(case.model, case.table, "s8s8")
    whole = _logits(network, x[:16])
    alone = np.concatenate([_logits(network, each[None]) for each in x[:16]])
    assert np.median(np.abs(whole - alone)) < 1e-6 * np.abs(whole).max()
    assert np.abs(whole - alone).max() < 0.03 * np.abs(whole).max()


def test_trained_weights_go_back_into_the_graph_and_are_what_is_shipped(
    case: Case, dataset: Dataset, x: np.ndarray, tmp_path: Path
) -> None:
    labels = torch.from_numpy(splits.read(dataset, "validation").labels[: len(x)])
    for form in FORMS:
        network = trainable(case.model, case.table, form).train()
        optimizer = torch.optim.SGD(network.parameters(), 0.02)
        losses = []
        for _ in range(8):
            loss = F.cross_entropy(network(torch.from_numpy(x)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        folder = tmp_path / form
        (folder / "int8").mkdir(parents=True)
        trained = export_trained(network, case.model, x, folder)
        assert trained.parity < 1e-4 * np.abs(_run(trained.path, x)).max()
        quantized = quantize(trained, case.table, form, folder / "int8")
        largest = np.abs(_run(quantized.path, x)).max()
        assert compare(network, quantized, x) < 0.03 * largest
        with pytest.raises(QuantizeError, match="differs by .* from the network it was trained"):
            compare(network, replace(quantized, path=_spoilt(quantized.path, tmp_path)), x)
        before, after = (onnx.load(each.path).graph for each in (case.model, trained))
        assert after.node == before.node
        changed = {
            old.name
            for old, new in zip(before.initializer, after.initializer, strict=True)
            if old != new
        }
        assert changed == set(network.names)
        assert (trained.model_inputs, trained.opset) == (case.model.model_inputs, 18)
        if form == "s8s8":
            engine = build_engine(quantized, "student", targets.load("tensorrt-rtx"), folder)
            assert engine.precision == "int8"


def test_a_network_whose_training_diverged_is_said_to_have(tmp_path: Path) -> None:
    model = _one_conv(tmp_path, np.ones((1, 1, 1, 1), np.float32))
    network = trainable(model, _table(0.0, 1.0), "s8s8")
    with torch.no_grad():
        network.weights[0].fill_(torch.nan)
    (tmp_path / "out").mkdir()
    x = np.ones((1, 1, 1, 3), np.float32)
    with pytest.raises(QuantizeError, match="gives NaN or infinity: lower its learning rate"):
        export_trained(network, model, x, tmp_path / "out")


def _spoilt(path: Path, folder: Path) -> Path:
    """A copy in which one stored weight's scale is doubled."""
    model = onnx.load(path)
    scale = next(i for i in model.graph.initializer if i.name.endswith("weight_scale"))
    doubled = 2 * numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(doubled, scale.name))
    onnx.save(model, folder / "spoilt.onnx")
    return folder / "spoilt.onnx"


def _one_conv(
    folder: Path, weight: np.ndarray, bias: np.ndarray | None = None, **attributes: object
) -> OnnxModel:
    """Image (n, channels, 1, k) to logits, by one convolution."""
    held = {"w": weight} if bias is None else {"w": weight, "b": bias}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", *held], ["logits"], "conv", **attributes)],
        "g",
        [helper.make_tensor_value_info("image", 1, ["batch", weight.shape[1], 1, "k"])],
        [helper.make_tensor_value_info("logits", 1, ["batch", len(weight), 1, "k"])],
        [numpy_helper.from_array(each, name) for name, each in held.items()],
    )
    path = folder / "m.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return OnnxModel(path=path, opset=18, model_inputs=(), model_outputs=(), parity=0.0)


def _table(low: float, high: float) -> CalibrationTable:
    return CalibrationTable(
        method="minmax", ranges={"image": (low, high)}, set_sha256="", samples=1
    )


@pytest.mark.parametrize(
    ("form", "high", "kept"),
    [
        ("s8s8", 127, (-128, 127)),
        *((form, 127, (-128, 127)) for form in ("u8s8", "a8s8")),
        *((form, 255, (0, 255)) for form in ("u8s8", "a8s8")),
    ],
)
def test_ties_go_to_even_and_what_is_beyond_the_range_is_cut_as_onnx_does(
    form: str, high: int, kept: tuple[int, int], tmp_path: Path
) -> None:
    """In halves of a step of 1/16 all is exact, and so must the agreement be."""
    model = _one_conv(tmp_path, np.full((1, 1, 1, 1), 127, np.float32))
    table = _table(0.0 if high == 255 else -high / 16, high / 16)
    (tmp_path / "q").mkdir()
    quantized = quantize(model, table, form, tmp_path / "q")
    steps = np.arange(-600, 600, dtype=np.float32).reshape(1, 1, 1, -1) / 2
    expected = np.clip(np.rint(steps), *kept) / 16 * 127
    x = torch.from_numpy(steps / 16).requires_grad_()
    found = trainable(model, table, form)(x)
    np.testing.assert_array_equal(found.detach().numpy(), expected)
    np.testing.assert_array_equal(_run(quantized.path, steps / 16), expected)
    found.sum().backward()
    inside = (kept[0] <= np.rint(steps)) & (np.rint(steps) <= kept[1])
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), 127.0 * inside)  # straight through


def test_fp8_is_rounded_and_cut_as_onnx_runtime_does(tmp_path: Path) -> None:
    model = _one_conv(tmp_path, np.full((1, 1, 1, 1), 448, np.float32))
    table = _table(-1.0, 1.0)
    (tmp_path / "q").mkdir()
    quantized = quantize(model, table, "f8", tmp_path / "q")
    steps = np.concatenate([np.arange(-w, w, w / 2048) for w in (1, 32, 512)])
    values = (steps / 448).astype(np.float32).reshape(1, 1, 1, -1)
    x = torch.from_numpy(values).requires_grad_()
    found = trainable(model, table, "f8")(x)
    np.testing.assert_array_equal(found.detach().numpy(), _run(quantized.path, values))
    assert len(np.unique(found.detach().numpy())) == 2 * 126 + 1  # all that it can hold
    found.sum().backward()
    assert x.grad is not None
    inside = np.abs(steps) <= 448
    np.testing.assert_allclose(x.grad.numpy().ravel(), 448.0 * inside)  # straight through


@pytest.mark.parametrize("form", FORMS)
def test_a_node_kept_in_float_is_not_rounded(form: str, case: Case, x: np.ndarray) -> None:
    nodes = [node.name for node in onnx.load(case.model.path).graph.node]
    network = trainable(case.model, case.table, form, keep_float=nodes)
    np.testing.assert_allclose(_logits(network, x), _run(case.model.path, x), rtol=1e-4, atol=1e-5)


def test_an_output_that_is_stored_as_int8_is_rounded_too(tmp_path: Path) -> None:
    model = _one_conv(tmp_path, np.full((1, 1, 1, 1), 127, np.float32))
    table = replace(_table(-1.0, 1.0), ranges={"image": (-1.0, 1.0), "logits": (-64.0, 127.0)})
    (tmp_path / "q").mkdir()
    quantized = quantize(model, table, "u8s8", tmp_path / "q")
    values = np.linspace(-1, 1, 101, dtype=np.float32).reshape(1, 1, 1, -1)
    found = _logits(trainable(model, table, "u8s8"), values)
    np.testing.assert_array_equal(found, _run(quantized.path, values))
    assert (found == np.rint(found)).all()


@pytest.mark.parametrize("dtype", forms.LARGEST)
@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-1e3, 1e3, width=32)), st.integers(-3, 2))
def test_scales_of_weights_follow_the_weights_by_the_rule_of_the_forms(
    dtype: str, weight: np.ndarray, axis: int
) -> None:
    found = weight_scales(torch.from_numpy(weight).requires_grad_(), axis, dtype)
    np.testing.assert_array_equal(found.numpy(), forms.weight_scales(weight, axis, dtype))


def test_a_bias_that_would_overflow_int32_widens_its_weights_scale_here_too(
    tmp_path: Path,
) -> None:
    weight = np.array([[[[1e-9]]], [[[1.0]]]], np.float32)
    model = _one_conv(tmp_path, weight, np.array([1e3, 0.5], np.float32))
    (tmp_path / "q").mkdir()
    quantized = quantize(model, _table(0.0, 1.0), "u8s8", tmp_path / "q")
    network = trainable(model, _table(0.0, 1.0), "u8s8")
    x = np.linspace(0, 1, 7, dtype=np.float32).reshape(1, 1, 1, 7)
    np.testing.assert_array_equal(_logits(network, x), _run(quantized.path, x))
    network(torch.from_numpy(x)).sum().backward()
    assert network.weights[1].grad is not None
    assert network.weights[1].grad.tolist() == [7, 7]


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    model = _one_conv(tmp_path, np.ones((1, 1, 1, 1), np.float32), auto_pad="SAME_UPPER")
    with pytest.raises(QuantizeError, match=r"node 'conv' \(Conv\) cannot be trained .*auto_pad"):
        trainable(model, _table(0.0, 1.0), "s8s8")
    proto = onnx.load(model.path)
    proto.graph.node[0].op_type = "Scatter"
    onnx.save(proto, model.path)
    with pytest.raises(QuantizeError, match=r"\(Scatter\) cannot be trained .*no such operator"):
        trainable(model, _table(0.0, 1.0), "s8s8")
