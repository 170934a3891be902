"""Estimates how many parameter bytes are cached on the chip and how many are streamed.

The compiler pads weights to the tiles of the chip and adds scales and offsets per channel. The
padding below reproduces the parameter bytes of the compiled models at hand to 4 % (MobileNet v1
0.25, DeepLab v3, PoseNet); FULLY_CONNECTED is the figure of a public 256x256 layer (66 KiB).
Parameters and activations share the memory; how the compiler divides it is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.graph import Graph, Op

#: What the compiler reports as remaining for an empty model: 7.88 MiB.
CACHE_BYTES = int(7.88 * (1 << 20))
#: Relative error of the sum of the parameters on the compiled models at hand.
PARAMETER_ERROR = 0.05

_CONV_OUT, _CONV_IN, _CHANNEL_BYTES, _DEPTHWISE = 32, 32, 16, 64
_FC_CHANNEL_BYTES = 8
#: Requantisation of an operator without weights: 64 B each in split_concat.
_OTHER_BYTES = 64


@dataclass(frozen=True)
class ParameterEstimate:
    """Estimated parameter bytes, by where they are during inference."""

    cached_bytes: int
    streamed_bytes: int
    #: activations that are live at once, which take memory from the parameters
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.cached_bytes + self.streamed_bytes


def estimate(graph: Graph, mapped: Iterable[int]) -> ParameterEstimate:
    """Parameters of the mapped operators: whole operators are cached while they fit, in order."""
    chosen = set(mapped)
    ops = [op for op in graph.ops if op.index in chosen]
    if not ops:
        return ParameterEstimate(0, 0, 0)
    activation = max(_activation_bytes(graph, op) for op in ops)
    left = max(CACHE_BYTES - activation, 0)
    cached = streamed = 0
    for op in ops:
        nbytes = parameter_bytes(graph, op)
        if nbytes <= left:
            cached, left = cached + nbytes, left - nbytes
        else:
            streamed += nbytes
    return ParameterEstimate(cached, streamed, activation)


def _activation_bytes(graph: Graph, op: Op) -> int:
    around = {index for index in (*op.inputs, *op.outputs) if index >= 0}
    return sum(graph.tensors[i].nbytes for i in around if not graph.tensors[i].is_constant)


def parameter_bytes(graph: Graph, op: Op) -> int:
    """Bytes that an operator's parameters take on the chip."""
    if op.kind in ("CONV_2D", "TRANSPOSE_CONV"):
        shape = graph.tensors[op.inputs[1]].shape
        if len(shape) == 4:
            out, height, width, depth = shape
            taps = height * width * _up(depth, _CONV_IN)
            return _up(out, _CONV_OUT) * (taps + _CHANNEL_BYTES)
    if op.kind == "DEPTHWISE_CONV_2D":
        shape = graph.tensors[op.inputs[1]].shape
        if len(shape) == 4:
            return _up(shape[3], _DEPTHWISE) * (shape[1] * shape[2] + _CHANNEL_BYTES)
    if op.kind == "FULLY_CONNECTED":
        shape = graph.tensors[op.inputs[1]].shape
        if len(shape) == 2:
            return shape[0] * (_up(shape[1], 4) + _FC_CHANNEL_BYTES)
    weights = sum(
        graph.tensors[i].nbytes
        for i in {index for index in op.inputs if index >= 0}
        if graph.tensors[i].is_constant and graph.tensors[i].dtype in ("int8", "uint8")
    )
    return weights + _OTHER_BYTES


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
