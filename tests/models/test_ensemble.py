"""Several teachers as one: every figure is what the members' own give by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgekd.artifacts import Checkpoint, Member
from edgekd.distill.teachers import state_hash
from edgekd.errors import TrainError
from edgekd.models import weights
from edgekd.models.ensemble import Ensemble, Reader, reader
from tests.models import nets


class _Given(nn.Module):
    """A network that gives the same scores for every image."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.register_buffer("scores", torch.tensor(scores))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(x), -1)  # type: ignore[operator]


def _member(outputs: tuple[int, ...], **more: object) -> Member:
    values = {"model": "m", "weights": Path("w.safetensors"), "weight": 1.0, "channels": 1}
    return Member(outputs=outputs, **(values | more))  # type: ignore[arg-type]


def _logits(classes: int, *pairs: tuple[Member, list[float]]) -> torch.Tensor:
    together = Ensemble([Reader(m, _Given(scores)) for m, scores in pairs], classes).eval()
    out: torch.Tensor = together(torch.zeros(2, 1, 4, 4))
    assert out.dtype == torch.float32
    assert torch.equal(out[0], out[1])
    return out[0]


def _near(found: torch.Tensor, expected: list[float]) -> bool:
    return torch.allclose(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_one_label_set_gives_the_weighted_mean() -> None:
    a, b = _member((0, 1), weight=1.0), _member((1, 0), weight=3.0)
    found = _logits(2, (a, [1.0, 2.0]), (b, [10.0, 20.0]))
    assert _near(found, [(1 + 3 * 20) / 4, (2 + 3 * 10) / 4])


def test_disjoint_label_sets_stand_side_by_side_whatever_their_weights() -> None:
    a, b = _member((3, 0), weight=0.1), _member((2, 1), weight=7.0)
    assert _near(_logits(4, (a, [1.0, 2.0]), (b, [3.0, 4.0])), [2.0, 4.0, 3.0, 1.0])


def test_label_sets_that_overlap_are_averaged_where_they_do() -> None:
    a, b = _member((0, 1), weight=1.0), _member((1, 2), weight=1.0)
    assert _near(_logits(3, (a, [1.0, 2.0]), (b, [4.0, 5.0])), [1.0, 3.0, 5.0])


def test_outputs_that_are_one_class_are_joined_and_unused_ones_are_not_heard() -> None:
    member = _member((0, -1, 0, 1, 0))
    found = _logits(2, (member, [1.0, 50.0, 2.0, 3.0, -4.0]))
    assert _near(found, [float(np.log(np.exp([1.0, 2.0, -4.0]).sum())), 3.0])


def test_probabilities_become_logarithms_and_zero_stays_finite() -> None:
    found = _logits(3, (_member((0, 1, 2), log=True), [0.25, 0.75, 0.0]))
    assert _near(found[:2], [float(np.log(0.25)), float(np.log(0.75))])
    assert found[2].isfinite()
    joined = _logits(2, (_member((0, 1, 1), log=True), [0.25, 0.5, 0.25]))
    assert _near(joined, [float(np.log(0.25)), float(np.log(0.75))])


scores = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9)


@given(scores, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_a_map_that_permutes_classes_permutes_logits(
    z: list[float], random: object, weight: float
) -> None:
    order = list(range(len(z)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = _logits(len(z), (_member(tuple(order), weight=weight), z))
    assert torch.equal(found[order], torch.tensor(z))


@given(scores, st.floats(0.01, 100), st.floats(0.01, 100))
def test_members_that_agree_are_one(z: list[float], one: float, other: float) -> None:
    every = tuple(range(len(z)))
    both = [(_member(every, weight=weight), z) for weight in (one, other)]
    assert _near(_logits(len(z), *both), z)


@given(st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=6), min_size=1, max_size=3))
def test_knows_pairs_of_classes_that_one_member_compares(maps: list[list[int]]) -> None:
    maps = [*maps, [0, 1, 2, 3, 4][: 5 - len(maps)], *([each] for each in range(5))]
    members = [Reader(_member(tuple(each)), _Given([0.0] * len(each))) for each in maps]
    knows = Ensemble(members, 5).knows
    for y in range(5):
        for c in range(5):
            assert knows[y, c] == any(y in each and c in each for each in maps)


def test_a_members_own_mean_deviation_channels_and_size() -> None:
    class Keep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x
            return x.mean((2, 3))

    keep = Keep()
    member = _member(
        (0, 1, 2), channels=3, size=(4, 6), scale=(1.0, 2.0, 3.0), shift=(0.5, 0.0, -1.0)
    )
    x = torch.randn(2, 1, 8, 6)
    Ensemble([Reader(member, keep)], 3)(x)
    pairs = x.reshape(2, 1, 4, 2, 6)
    expected = pairs.mean(3)
    assert keep.seen.shape == (2, 3, 4, 6)
    for channel, (scale, shift) in enumerate(((1, 0.5), (2, 0), (3, -1))):
        inner = (keep.seen[:, channel, 1:-1] - shift) / scale
        # Antialiased: a window as wide as two steps, so that neighbours weigh 1/8 each.
        around = (expected[:, 0, 1:-1] * 6 + pairs[:, 0, :-2, 1] + pairs[:, 0, 2:, 0]) / 8
        assert torch.allclose(inner, around, atol=1e-5)


def test_grey_is_repeated_without_a_mean_of_its_own() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert torch.equal(x[:, 0], x[:, 2])
            return x.sum((2, 3))

    assert Ensemble([Reader(_member((0, 1, 2), channels=3), Sum())], 3)(
        torch.ones(1, 1, 2, 2)
    ).tolist() == [[4.0, 4.0, 4.0]]


def _checkpoint(folder: Path, *members: Member) -> Checkpoint:
    return Checkpoint(
        weights=folder, model="m", classes=10, shape=(1, 8, 8), params=0, macs=0, metrics={},
        members=members,
    )  # fmt: skip


def _kept(folder: Path, name: str) -> Member:
    path = folder / f"{name}.safetensors"
    weights.save(nets.pooled(10, 1), path)
    return _member(tuple(range(10)), model="tests.models.nets:pooled", weights=path)


def test_it_is_loaded_frozen_and_the_same_after_use(tmp_path: Path) -> None:
    a, b = _kept(tmp_path, "a"), _kept(tmp_path, "b")
    together = weights.load(_checkpoint(tmp_path, a, b))
    assert not any(each.training for each in together.modules())
    before, x = state_hash(together), torch.randn(5, 1, 8, 8)
    first = together(x)
    expected = (reader(a)(x) + reader(b)(x)) / 2
    assert torch.allclose(first, expected, atol=1e-6)
    assert state_hash(together) == before
    assert torch.allclose(copy.deepcopy(together)(x), first)


def test_layers_are_looked_up_in_the_one_torch_network(tmp_path: Path) -> None:
    a, b = _kept(tmp_path, "a"), _kept(tmp_path, "b")
    file = _member(tuple(range(10)), model="onnx:t.onnx", weights=tmp_path / "t.onnx")
    alone = weights.load(_checkpoint(tmp_path, a))
    assert weights.network(alone).get_submodule("0") is alone.readers[0].network[0]
    beside = weights.load(_checkpoint(tmp_path, file, a))
    assert isinstance(weights.network(beside), nn.Sequential)
    with pytest.raises(TrainError, match="an ONNX teacher gives logits alone"):
        weights.network(weights.load(_checkpoint(tmp_path, file)))
    with pytest.raises(TrainError, match="the teacher is 2 networks"):
        weights.network(weights.load(_checkpoint(tmp_path, a, b)))


def test_half_precision_inside_gives_float32_outside(tmp_path: Path) -> None:
    together = weights.load(_checkpoint(tmp_path, _kept(tmp_path, "a")))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = together(x)
    assert out.dtype == torch.float32
    assert torch.allclose(out, together(x), atol=0.05)
