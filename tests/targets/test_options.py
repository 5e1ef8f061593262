"""What a recipe's ``[tensorrt]`` makes of a target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd import targets
from edgekd.errors import RecipeError
from edgekd.recipe import TensorRtSettings
from edgekd.targets.options import BATCHES, apply

NONE = TensorRtSettings().canonical()
SIZES = st.none() | st.integers(1, 64)


@pytest.mark.parametrize(
    "name", [each for each in targets.names() if targets.load(each).backend.startswith("tensorrt")]
)
def test_what_is_not_said_is_the_targets_own(name: str) -> None:
    target = targets.load(name)
    found = apply(target, NONE)
    for key, value in target.options.items():
        assert found.options[key] == value
    assert None not in found.options.values()


@given(SIZES, SIZES, SIZES)
def test_batches_are_in_order_or_refused(
    least: int | None, best: int | None, most: int | None
) -> None:
    given_sizes = dict(zip(BATCHES, (least, best, most), strict=True))
    try:
        found = apply(targets.load("tensorrt"), NONE | given_sizes)
    except RecipeError:
        sizes = [each for each in (least, best, most or 32) if each is not None]
        assert sizes != sorted(sizes)
        return
    sizes = [found.options[each] for each in BATCHES]
    assert sizes == sorted(sizes)
    for name, value in given_sizes.items():
        assert value is None or found.options[name] == value


@pytest.mark.parametrize(
    ("name", "core", "told"),
    [
        ("jetson-orin-nano", 0, "no accelerator 0 on jetson-orin-nano: it has none"),
        ("jetson-agx-orin", 2, "no accelerator 2 on jetson-agx-orin: it has 2, numbered from 0"),
        ("rtx-40", 0, "it has none"),
    ],
)
def test_an_accelerator_that_is_not_there_is_refused(name: str, core: int, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        apply(targets.load(name), NONE | {"dla_core": core})
    assert apply(targets.load("jetson-agx-orin"), NONE | {"dla_core": 1}).options["dla_core"] == 1


def test_an_accelerator_takes_one_batch() -> None:
    orin = targets.load("jetson-agx-orin")
    for given_sizes, batch in (({}, 1), ({"opt_batch": 4}, 4), ({"max_batch": 8}, 8)):
        found = apply(orin, NONE | {"dla_core": 0} | given_sizes)
        assert {found.options[each] for each in BATCHES} == {batch}
    with pytest.raises(RecipeError, match="takes one batch size, not 2 and 4: give opt_batch"):
        apply(orin, NONE | {"dla_core": 0, "opt_batch": 2, "max_batch": 4})


@pytest.mark.parametrize(
    "option", [{"hardware_compatible": "ampere+"}, {"version_compatible": True}]
)
def test_rtx_has_no_compatible_plans(option: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="has no such plans: leave it out"):
        apply(targets.load("rtx-40"), NONE | option)
    assert apply(targets.load("l4"), NONE | option)
