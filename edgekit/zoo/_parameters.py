"""What an architecture can be asked for: typed parameters with ranges.

A builder's signature is the declaration, and the only one::

    @checked
    def build(*, width: Annotated[float, Number("multiplies the channels", 0.1, 2)] = 1.0) -> Model:

:func:`checked` reads every argument through its parameter, so that a builder is as strict when
it is called from Python as it is on the command line.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args

from edgekit.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Parameter:
    """A parameter's meaning and what it takes; ``help`` continues "the parameter …"."""

    help: str

    @property
    def values(self) -> str:
        """What it takes, in words: "a number from 0.1 to 2"."""
        raise NotImplementedError

    def read(self, value: object) -> Any:
        """The value in the builder's type; text is read as the command line gives it.

        Raises:
            ValueError: it is none of :attr:`values`.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Number(Parameter):
    """A finite number of a range, both ends included."""

    low: float
    high: float

    @property
    def values(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        number = float(value)
        if not (math.isfinite(number) and self.low <= number <= self.high):
            raise ValueError
        return number


@dataclass(frozen=True)
class Whole(Parameter):
    """A whole number of a range, both ends included, in steps from the lowest."""

    low: int
    high: int
    step: int = 1

    @property
    def values(self) -> str:
        steps = f" in steps of {self.step}" if self.step > 1 else ""
        return f"a whole number from {self.low:,} to {self.high:,}{steps}"

    def read(self, value: object) -> int:
        number = _whole(value)
        if not self.low <= number <= self.high or (number - self.low) % self.step:
            raise ValueError
        return number


@dataclass(frozen=True)
class Size(Parameter):
    """Height and width: ``96x64``, ``(96, 64)``, or one number for a square."""

    low: int
    high: int

    @property
    def values(self) -> str:
        return f"HxW or one number, each from {self.low} to {self.high}"

    def read(self, value: object) -> tuple[int, int]:
        parts: list[object]
        if isinstance(value, str):
            parts = list(value.lower().split("x"))
        elif isinstance(value, (tuple, list)):
            parts = list(value)
        else:
            parts = [value]
        if len(parts) == 1:
            parts *= 2
        sizes = tuple(_whole(part) for part in parts)
        if len(sizes) != 2 or not all(self.low <= size <= self.high for size in sizes):
            raise ValueError
        return sizes[0], sizes[1]


@dataclass(frozen=True)
class Choice(Parameter):
    """One of a few words."""

    options: tuple[str, ...]

    @property
    def values(self) -> str:
        return " or ".join(self.options)

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise ValueError
        return value


@dataclass(frozen=True)
class Flag(Parameter):
    """Yes or no."""

    @property
    def values(self) -> str:
        return "yes or no"

    def read(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        words = {"yes": True, "true": True, "no": False, "false": False}
        if str(value).lower() not in words:
            raise ValueError
        return words[str(value).lower()]


def _whole(value: object) -> int:
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit():
            raise ValueError
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


@dataclass(frozen=True)
class Declared:
    """A parameter of one builder."""

    name: str
    parameter: Parameter
    default: Any

    def read(self, value: object, place: str) -> Any:
        """The value in the builder's type.

        Raises:
            UsageError: it is none that the parameter takes.
        """
        try:
            return self.parameter.read(value)
        except (ValueError, OverflowError):
            raise UsageError(
                f"{self.name} cannot be {text(value)}: it is {self.parameter.values}", place
            ) from None


def text(value: object) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def declared(builder: Callable[..., Any]) -> tuple[Declared, ...]:
    """The parameters of a builder, in the order of its signature."""
    found = []
    for name, argument in inspect.signature(builder, eval_str=True).parameters.items():
        if argument.annotation is argument.empty or argument.default is argument.empty:
            raise TypeError(f"{builder.__module__}: {name} needs a Parameter and a default")
        (parameter,) = (a for a in get_args(argument.annotation) if isinstance(a, Parameter))
        found.append(Declared(name, parameter, argument.default))
    return tuple(found)


def checked(builder: Callable[P, R]) -> Callable[P, R]:
    """A builder that refuses what its parameters do not take.

    Raises (when called):
        UsageError: a value out of range, or a combination that the architecture cannot have.
    """

    @functools.wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> R:
        place = f"zoo model {builder.__module__.rpartition('.')[2]}"
        given: dict[str, Any] = dict(kwargs)
        known = {item.name: item for item in declared(builder)}
        values = {
            name: known[name].read(value, place) if name in known else value
            for name, value in given.items()
        }
        try:
            return builder(*args, **values)
        except UsageError as error:
            raise UsageError(error.what, error.where or place, error.fix) from None

    return build


# -- parameters that several architectures share ---------------------------------------------

Width = Annotated[float, Number("multiplies the channels of every layer", 0.1, 2)]
Resolution = Annotated[tuple[int, int], Size("height and width of the image", 8, 320)]
Channels = Annotated[int, Whole("channels of the image: 1 grey, 3 colour", 1, 16)]
Classes = Annotated[int, Whole("classes: the output has one probability each", 2, 1000)]
Dropout = Annotated[float, Number("share of the features that training drops at the end", 0, 0.9)]
Steps = Annotated[int, Whole("time steps of a window", 2, 512)]
Features = Annotated[int, Whole("features, or sensor channels, of a time step", 1, 512)]
