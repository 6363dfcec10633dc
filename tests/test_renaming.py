"""Names of before: calls, attributes, `replace` and described configs take them, and a warning tells today's name."""

import copy
import inspect
import pickle
from dataclasses import dataclass, replace
from typing import Any

import pytest

from retentive.models.registry import config_class, config_from_dict, config_to_dict, described_now
from retentive.models.retro import RetroConfig, retro_over
from retentive.renaming import by_new_names, old_names, renamed


@renamed(size="width", deep="depth")
@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    width: int
    depth: int = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, but is {self.width}.")


@renamed(size="width")
def doubled(width: int, *, by: int = 2) -> int:
    return width * by


Old: Any = Shape
"""The same for a type checker that knows today's names alone."""
old_doubled: Any = doubled


def test_an_old_name_is_taken_for_the_new_one_with_a_warning():
    for call, expected in ((lambda: Old(size=3), Shape(width=3)), (lambda: old_doubled(size=3, by=3), 9)):
        with pytest.warns(DeprecationWarning, match=r"^size of (Shape|doubled) is called width now: give width="):
            assert call() == expected
    with pytest.warns(DeprecationWarning, match=r"size of Shape is called width now: read \.width"):
        assert Old(width=3).size == 3
    with (
        pytest.warns(DeprecationWarning, match="now: "),
        pytest.raises(ValueError, match="width must be at least 1, but is 0"),
    ):
        Old(size=0)


def test_replace_takes_the_old_name():
    shape = Shape(width=3, depth=2)
    with pytest.warns(DeprecationWarning, match="called width now"):
        assert replace(shape, size=5) == Shape(width=5, depth=2)
    with pytest.warns(DeprecationWarning, match="now: "):
        assert replace(shape, size=5, deep=7) == Shape(width=5, depth=7)


def test_both_names_are_refused():
    message = "must not be given both width and size, its former name; leave size out"
    for call in (
        lambda: Old(width=1, size=1),
        lambda: Old(size=1, width=1),
        lambda: Old(width=1, depth=1, size=1),
        lambda: old_doubled(width=1, size=1),
        lambda: replace(Shape(width=1), width=2, size=2),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with (
        pytest.raises(TypeError, match="multiple values for argument 'width'"),
        pytest.warns(DeprecationWarning, match="now: "),
    ):
        old_doubled(1, size=1)
    with pytest.raises(ValueError, match="Shape must not have both width and size"):
        by_new_names(Shape, {"width": 1, "size": 1})


def test_nothing_else_changes(recwarn: pytest.WarningsRecorder):
    shape = Shape(width=3)
    assert list(inspect.signature(Shape).parameters) == ["width", "depth"]
    assert list(inspect.signature(doubled).parameters) == ["width", "by"]
    assert repr(shape) == "Shape(width=3, depth=1)"
    assert copy.deepcopy(shape) == pickle.loads(pickle.dumps(shape)) == replace(shape, depth=1) == shape  # noqa: S301
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Old(width=1, sise=2)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'width'"):
        Old()
    assert old_names(Shape) == {"size": "width", "deep": "depth"}
    assert old_names(dict) == {}
    assert not recwarn.list


def test_a_retro_takes_its_backbone_as_a_base(recwarn: pytest.WarningsRecorder):
    backbone = config_class("transformer")(vocab_size=9, hidden_size=8, num_layers=2, num_heads=2)
    other = config_class("retnet")(vocab_size=9, hidden_size=8, num_layers=2, num_heads=2)
    old: Any = RetroConfig
    config: Any = retro_over(backbone)
    values = {name: value for name, value in config_to_dict(config).items() if name not in ("family", "backbone")}
    before = {"family": "retro", "base": config_to_dict(backbone), **values}
    assert config_from_dict(before) == config
    assert described_now(before) == described_now(config_to_dict(config))
    # Of a family inside another one, and what cannot be read stays as it is.
    assert described_now({**before, "depth": 3}) == {**before, "depth": 3}
    assert not recwarn.list
    with pytest.raises(ValueError, match="RetroConfig must not have both backbone and base"):
        config_from_dict({**before, "backbone": config_to_dict(backbone)})
    with pytest.warns(DeprecationWarning, match="base of RetroConfig is called backbone now"):
        assert old(base=backbone, **{**values, "cross_layers": (2,)}) == config
    with pytest.warns(DeprecationWarning, match="now: "):
        assert replace(config, base=other).backbone == other
    with pytest.warns(DeprecationWarning, match="now: "):
        assert config.base == backbone
