"""RELU6, int8: clamps, without requantisation. Reference: Relu6Quantized of TFLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.engines.aot.lowering import Kernel, Node, check_dtype
from edgekit.engines.aot.ops._elementwise import clamp
from edgekit.engines.aot.ops._fixed_point import round_away, saturate

if TYPE_CHECKING:
    from edgekit.targets import Target


def lower(node: Node, target: Target | None) -> tuple[Kernel, ...]:
    input_ = node.activation_input(0)
    check_dtype(input_, "int8")
    check_dtype(node.output, "int8")
    six = round_away(float(np.float32(6.0) / np.float32(input_.scale))) + input_.zero_point
    return clamp(node, input_.zero_point, saturate(six, -128, 127))
