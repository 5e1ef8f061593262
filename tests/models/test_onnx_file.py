"""A teacher's ONNX file gives what the network gave that it was exported from."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from edgekd.artifacts import Checkpoint, OnnxModel
from edgekd.errors import TrainError
from edgekd.models import onnx_file, weights
from edgekd.models.onnx_file import Interface, OnnxNetwork
from tests.models.onnx_files import change, of_type


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch": 1},
        {"batch": 4},
        {"channels_last": True},
        {"channels_last": True, "batch": 1},
    ],
)
@pytest.mark.parametrize("n", [1, 7])
def test_any_form_gives_the_networks_logits(
    form: dict[str, object], n: int, onnx_model: OnnxModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = change(onnx_model.path, tmp_path / "t.onnx", **form)  # type: ignore[arg-type]
    face = onnx_file.interface(path, 1)
    last = bool(form.get("channels_last"))
    assert face == Interface(1, (8, 8), last, form.get("batch", 0))  # type: ignore[arg-type]
    x = torch.randn(n, 1, 8, 8)
    model = OnnxNetwork(path, face.channels_last)
    with torch.inference_mode():
        assert _close(model(x), weights.load(checkpoint)(x))


def test_it_has_no_parameters_and_can_be_copied(onnx_model: OnnxModel) -> None:
    model = OnnxNetwork(onnx_model.path)
    x = torch.randn(2, 1, 8, 8)
    expected = model(x)
    assert not model.state_dict()
    other = copy.deepcopy(model)
    assert other._opened == {}
    assert torch.equal(other(x), expected)


def test_half_precision_and_a_free_size_are_read(tmp_path: Path) -> None:
    path = of_type(tmp_path / "h.onnx", TensorProto.FLOAT16, ["n", 3, "h", None])
    assert onnx_file.interface(path, 3) == Interface(3, (), False, 0)
    assert onnx_file.interface(path, 1) == Interface(3, (), False, 0)  # grey is repeated
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(OnnxNetwork(path)(x), x.half().float())


@pytest.mark.parametrize(
    ("shape", "channels", "found"),
    [
        (["n", 3, 5, 6], 3, Interface(3, (5, 6), False, 0)),
        ([1, 5, 6, 3], 3, Interface(3, (5, 6), True, 1)),
        (["n", 3, 5, 3], 3, Interface(3, (5, 3), False, 0)),  # both may be: the usual one
        ([None, None, None, None], 3, Interface(3, (), False, 0)),
        (["n", None, None, 1], 1, Interface(1, (), True, 0)),
    ],
)
def test_channels_are_told_by_their_place(
    shape: list[int | str | None], channels: int, found: Interface, tmp_path: Path
) -> None:
    path = of_type(tmp_path / "t.onnx", TensorProto.FLOAT, shape)
    assert onnx_file.interface(path, channels) == found


@pytest.mark.parametrize(
    ("kind", "shape", "inputs", "words"),
    [
        (TensorProto.FLOAT, ["n", 1, 8, 8], 2, r"has 2 inputs \(x0, x1\), and a teacher has one"),
        (TensorProto.UINT8, ["n", 1, 8, 8], 1, "takes tensor.uint8., and a teacher takes float"),
        (TensorProto.FLOAT, ["n", 64], 1, r"takes \['n', 64\], and images have four dimensions"),
        (TensorProto.FLOAT, ["n", 4, 8, 8], 1, "no second or last dimension is the images' 1 ch"),
    ],
)
def test_what_takes_no_images_is_told(
    kind: int, shape: list[int | str | None], inputs: int, words: str, tmp_path: Path
) -> None:
    path = of_type(tmp_path / "t.onnx", kind, shape, inputs)
    with pytest.raises(TrainError, match=words):
        onnx_file.interface(path, 1)


def test_a_file_that_is_no_model_or_fails_is_one_line(
    onnx_model: OnnxModel, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    for call in (onnx_file.files, onnx_file.open_session, lambda each: onnx_file.cost(each, ())):
        with pytest.raises(TrainError, match="bad.onnx") as caught:
            call(bad)  # type: ignore[operator]
        assert "\n" not in str(caught.value)
    with pytest.raises(TrainError, match="ONNX Runtime fails on model.onnx: .*") as caught:
        OnnxNetwork(onnx_model.path)(torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainError, match="cannot be read .No such file"):
        onnx_file.files(tmp_path / "none.onnx")


def test_tensors_beside_the_file_come_along(onnx_model: OnnxModel, tmp_path: Path) -> None:
    apart = tmp_path / "apart.onnx"
    onnx.save(
        onnx.load(onnx_model.path), apart, save_as_external_data=True, location="apart.data",
        size_threshold=0,
    )  # fmt: skip
    assert onnx_file.files(apart) == [apart, tmp_path / "apart.data"]
    whole = tmp_path / "whole" / "whole.onnx"
    whole.parent.mkdir()
    onnx_file.copy(apart, whole)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(OnnxNetwork(whole)(x), OnnxNetwork(onnx_model.path)(x))
    (tmp_path / "apart.data").unlink()
    with pytest.raises(TrainError, match="keeps its tensors in apart.data, which is not beside"):
        onnx_file.copy(apart, whole)
    model = onnx.load(apart, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../secret" if entry.key == "location" else entry.value
    onnx.save(model, apart)
    with pytest.raises(TrainError, match="names '../secret', outside its folder"):
        onnx_file.files(apart)


@pytest.mark.parametrize("form", [{}, {"batch": 1}, {"channels_last": True}])
def test_the_cost_is_that_of_the_network(
    form: dict[str, object], onnx_model: OnnxModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = change(onnx_model.path, tmp_path / "t.onnx", **form)  # type: ignore[arg-type]
    params, macs = onnx_file.cost(path, (8, 8, 1) if "channels_last" in form else (1, 8, 8))
    assert macs == checkpoint.macs
    # Its batch norms are folded, two tensors of each into the convolution's bias.
    assert params == pytest.approx(checkpoint.params, rel=0.01)
