"""A chain from DEQUANTIZE over float operators to QUANTIZE, as a table (see
:mod:`edgekit.engines.aot.passes.fuse_float`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.engines.aot.lowering import Kernel, Node, Unsupported
from edgekit.engines.aot.ops._elementwise import lookup
from edgekit.engines.aot.ops._fixed_point import saturate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_, output = node.activation_input(0), node.output
    codes = np.arange(-128, 128)
    # As DEQUANTIZE's reference: the product in double precision, then float32.
    values = (np.float64(input_.scale) * (codes - input_.zero_point)).astype(np.float32)
    for part in node.parts[1:-1]:
        values = _apply(part.kind, values)
    if not np.isfinite(values).all():
        raise Unsupported("a float operator in between is not defined for every input")
    ratio = (values / np.float32(output.scale)).astype(np.float64)
    rounded = np.copysign(np.floor(np.abs(ratio) + 0.5), ratio)
    answers = [saturate(int(v) + output.zero_point, -128, 127) for v in rounded]
    return lookup(node, lambda x: answers[x + 128])


def _apply(kind: str, values: NDArray[Any]) -> NDArray[Any]:
    zero, six = np.float32(0), np.float32(6)
    functions: dict[str, Any] = {
        "NEG": np.negative,
        "ABS": np.abs,
        "SQUARE": np.square,
        "SQRT": np.sqrt,
        "RELU": lambda x: np.maximum(x, zero),
        "RELU6": lambda x: np.minimum(np.maximum(x, zero), six),
        "FLOOR": np.floor,
        "CEIL": np.ceil,
    }
    with np.errstate(invalid="ignore"):
        found: NDArray[Any] = functions[kind](values)
    return found
