"""Export: the file is the network, for any batch, or the build stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edgekd.artifacts import Checkpoint, Dataset, OnnxModel
from edgekd.data import splits
from edgekd.errors import ExportError
from edgekd.export import compare, write
from edgekd.models import weights
from edgekd.preprocessing import normalise


def test_the_export_is_checked_and_its_difference_recorded(onnx_model: OnnxModel) -> None:
    assert 0 <= onnx_model.parity < 1e-4
    assert onnx_model.model_inputs[0].shape == ("batch", 1, 8, 8)
    assert onnx_model.model_outputs[0].shape == ("batch", 10)


def test_it_is_self_contained_valid_and_has_its_batch_norm_folded(onnx_model: OnnxModel) -> None:
    model = onnx.load(onnx_model.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {each.version for each in model.opset_import if each.domain == ""} == {18}
    assert {each.domain for each in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    kinds = {each.op_type for each in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert {"Conv", "Relu", "Add", "Gemm"} <= kinds
    assert not any(each.external_data for each in model.graph.initializer)
    assert list(onnx_model.path.parent.iterdir()) == [onnx_model.path]


def test_a_difference_stops_the_build(
    onnx_model: OnnxModel, checkpoint: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    model = onnx.load(onnx_model.path)
    first = model.graph.initializer[0]
    changed = numpy_helper.to_array(first) * np.float32(1.05)
    first.CopyFrom(numpy_helper.from_array(changed, first.name))
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    x = normalise(splits.read(dataset, "validation").images[:16], dataset.preprocessing)
    network = weights.load(checkpoint)
    with pytest.raises(ExportError, match="the ONNX model differs from torch by"):
        compare(network, path, x)
    assert compare(network, onnx_model.path, x) < 1e-4


class Undecided(nn.Module):
    """Its path depends on its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A network in form alone."""
        return x if x.sum() > 0 else -x


def test_a_network_that_the_exporter_refuses_is_named(tmp_path: Path) -> None:
    x = np.ones((2, 1, 8, 8), np.float32)
    with pytest.raises(ExportError, match="undecided cannot be exported: "):
        write(Undecided(), x, tmp_path / "m.onnx", "undecided")
    assert not list(tmp_path.iterdir())
