"""Small float ``.tflite`` models for the quantiser's tests: one per operator, and random graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tflite_builder import TfliteBuilder

Rng = np.random.Generator


class FloatBuilder(TfliteBuilder):
    """Builds float graphs; activations are float32 unless told otherwise."""

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self.rng = rng
        self.shapes: dict[int, tuple[int, ...]] = {}

    def real(self, shape: tuple[int, ...], name: str | None = None) -> int:
        index = self.tensor(shape, dtype="float32", name=name)
        self.shapes[index] = shape
        return index

    def values(self, *shape: int, spread: float = 1.0) -> int:
        return self.constant(self.rng.normal(0, spread, shape).astype(np.float32))

    def integers(self, values: Any) -> int:
        return self.constant(np.array(values, np.int32))

    def apply(self, kind: str, inputs: list[int], shape: tuple[int, ...], **options: Any) -> int:
        result = self.real(shape)
        self.op(kind, inputs, [result], **options)
        return result

    def conv(
        self, x: int, out: int, kernel: int = 3, *, stride: int = 1, act: str = "NONE",
        padding: str = "SAME", bias: bool = True, weights: np.ndarray | None = None,
        bias_values: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        _, h, w, c = self.shapes[x]
        if weights is None:
            weights = self.rng.normal(0, 1 / np.sqrt(kernel * kernel * c), (out, kernel, kernel, c))
        if bias_values is None:
            bias_values = self.rng.normal(0, 0.3, out)
        inputs = [x, self.constant(weights.astype(np.float32))]
        if bias:
            inputs.append(self.constant(bias_values.astype(np.float32)))
        size = [
            -(-s // stride) if padding == "SAME" else (s - kernel) // stride + 1 for s in (h, w)
        ]
        return self.apply(
            "CONV_2D", inputs, (1, *size, out), padding=padding, stride_h=stride, stride_w=stride,
            dilation_h_factor=1, dilation_w_factor=1, fused_activation_function=act,
        )  # fmt: skip

    def depthwise(
        self, x: int, *, multiplier: int = 1, kernel: int = 3, stride: int = 1, act: str = "NONE",
        weights: np.ndarray | None = None, strides: tuple[int, int] | None = None,
    ) -> int:  # fmt: skip
        _, h, w, c = self.shapes[x]
        out = c * multiplier
        if weights is None:
            weights = self.rng.normal(0, 1 / kernel, (1, kernel, kernel, out))
        bias = self.rng.normal(0, 0.3, out).astype(np.float32)
        sh, sw = strides or (stride, stride)
        return self.apply(
            "DEPTHWISE_CONV_2D",
            [x, self.constant(weights.astype(np.float32)), self.constant(bias)],
            (1, -(-h // sh), -(-w // sw), out), padding="SAME", stride_h=sh, stride_w=sw,
            dilation_h_factor=1, dilation_w_factor=1, depth_multiplier=multiplier,
            fused_activation_function=act,
        )  # fmt: skip

    def dense(
        self, x: int, out: int, *, act: str = "NONE", bias: bool = True,
        weights: np.ndarray | None = None,
    ) -> int:  # fmt: skip
        width = int(np.prod(self.shapes[x][1:]))
        if weights is None:
            weights = self.rng.normal(0, 1 / np.sqrt(width), (out, width))
        inputs = [x, self.constant(weights.astype(np.float32))]
        if bias:
            inputs.append(self.values(out, spread=0.3))
        return self.apply("FULLY_CONNECTED", inputs, (1, out), fused_activation_function=act)

    def pool(self, x: int, kind: str = "AVERAGE_POOL_2D", size: int = 2) -> int:
        _, h, w, c = self.shapes[x]
        return self.apply(
            kind, [x], (1, h // size, w // size, c), padding="VALID", stride_h=size,
            stride_w=size, filter_height=size, filter_width=size,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class FloatCase:
    """A model and inputs of one sample each."""

    raw: bytes
    inputs: list[list[np.ndarray]]


def samples(rng: Rng, shapes: list[tuple[int, ...]], count: int, spread: float = 1.0) -> Any:
    return [[rng.normal(0, spread, s).astype(np.float32) for s in shapes] for _ in range(count)]


def case(
    rng: Rng, build: Callable[[FloatBuilder, int], int | list[int]], *,
    shape: tuple[int, ...] = (1, 4, 4, 8), count: int = 24, positive: bool = False,
) -> FloatCase:  # fmt: skip
    """A model of one input, which ``build`` continues from."""
    b = FloatBuilder(rng)
    x = b.real(shape, "x")
    outputs = build(b, x)
    inputs = samples(rng, [shape], count)
    if positive:
        inputs = [[np.abs(v) + np.float32(0.2) for v in s] for s in inputs]
    return FloatCase(b.build([x], outputs if isinstance(outputs, list) else [outputs]), inputs)


_ALL = (1, 4, 4, 8)


def _unary(kind: str, **options: Any) -> Callable[[FloatBuilder, int], int]:
    return lambda b, x: b.apply(kind, [x], b.shapes[x], **options)


def _binary(kind: str, **options: Any) -> Callable[[FloatBuilder, int], int]:
    def build(b: FloatBuilder, x: int) -> int:
        other = b.conv(x, 8, 1)
        return b.apply(kind, [x, other], b.shapes[x], **options)

    return build


def _reduce(kind: str, keep: bool = False) -> Callable[[FloatBuilder, int], int]:
    shape = (1, 1, 1, 8) if keep else (1, 8)
    return lambda b, x: b.apply(kind, [x, b.integers([1, 2])], shape, keep_dims=keep)


def _split(b: FloatBuilder, x: int) -> list[int]:
    parts = [b.real((1, 4, 4, 4)) for _ in range(2)]
    b.op("SPLIT", [b.integers(3), x], parts, num_splits=2)
    return parts


def _split_v(b: FloatBuilder, x: int) -> list[int]:
    parts = [b.real((1, 4, 4, 2)), b.real((1, 4, 4, 6))]
    b.op("SPLIT_V", [x, b.integers([2, 6]), b.integers(3)], parts, num_splits=2)
    return parts


def _unpack(b: FloatBuilder, x: int) -> list[int]:
    parts = [b.real((1, 4, 8)) for _ in range(4)]
    b.op("UNPACK", [x], parts, num=4, axis=1)
    return parts


def _compare(kind: str, select: str = "SELECT_V2") -> Callable[[FloatBuilder, int], int]:
    def build(b: FloatBuilder, x: int) -> int:
        other = b.conv(x, 8, 1)
        truth = b.tensor(_ALL, dtype="bool")
        b.op(kind, [x, other], [truth])
        return b.apply(select, [truth, x, other], _ALL)

    return build


def _arg(kind: str) -> Callable[[FloatBuilder, int], list[int]]:
    def build(b: FloatBuilder, x: int) -> list[int]:
        result = b.tensor((1, 4, 4), dtype="int32")
        b.op(kind, [x, b.integers(3)], [result], output_type=2)
        return [result]

    return build


def _transpose_conv(b: FloatBuilder, x: int) -> int:
    weights = b.values(6, 3, 3, 8, spread=0.2)
    return b.apply(
        "TRANSPOSE_CONV", [b.integers([1, 8, 8, 6]), weights, x, b.values(6)], (1, 8, 8, 6),
        padding="SAME", stride_h=2, stride_w=2,
    )  # fmt: skip


def _batch_matmul(b: FloatBuilder, x: int) -> int:
    rows = b.apply("RESHAPE", [x, b.integers([1, 16, 8])], (1, 16, 8))
    scores = b.apply("BATCH_MATMUL", [rows, rows], (1, 16, 16), adj_y=True)
    return b.apply("BATCH_MATMUL", [scores, b.values(1, 16, 4, spread=0.3)], (1, 16, 4))


_PADS = [[0, 0], [1, 1], [2, 0], [0, 0]]
_NHWC2 = (1, 6, 6, 8)

#: One model for every operator that has an integer form.
CASES: dict[str, Callable[[FloatBuilder, int], Any]] = {
    "CONV_2D": lambda b, x: b.conv(x, 6, 3, stride=2, act="RELU"),
    "DEPTHWISE_CONV_2D": lambda b, x: b.depthwise(x, multiplier=2, act="RELU6"),
    "FULLY_CONNECTED": lambda b, x: b.dense(x, 5),
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _binary("ADD", fused_activation_function="RELU"),
    "SUB": _binary("SUB"),
    "MUL": _binary("MUL"),
    "DIV": lambda b, x: b.apply("DIV", [x, b.constant(np.full(8, 3.0, np.float32))], _ALL),
    "SQUARED_DIFFERENCE": _binary("SQUARED_DIFFERENCE"),
    "MEAN": _reduce("MEAN"),
    "SUM": _reduce("SUM", keep=True),
    "ABS": _unary("ABS"),
    "RSQRT": _unary("RSQRT"),
    "EXP": _unary("EXP"),
    "LOG": _unary("LOG"),
    "RELU": _unary("RELU"),
    "RELU6": _unary("RELU6"),
    "RELU_N1_TO_1": _unary("RELU_N1_TO_1"),
    "RELU_0_TO_1": _unary("RELU_0_TO_1"),
    "LEAKY_RELU": _unary("LEAKY_RELU", alpha=0.2),
    "PRELU": lambda b, x: b.apply("PRELU", [x, b.values(1, 1, 8, spread=0.3)], _ALL),
    "ELU": _unary("ELU"),
    "GELU": _unary("GELU"),
    "HARD_SWISH": _unary("HARD_SWISH"),
    "LOGISTIC": _unary("LOGISTIC"),
    "TANH": _unary("TANH"),
    "SOFTMAX": _unary("SOFTMAX", beta=1.0),
    "LOG_SOFTMAX": _unary("LOG_SOFTMAX"),
    "L2_NORMALIZATION": _unary("L2_NORMALIZATION"),
    "AVERAGE_POOL_2D": lambda b, x: b.pool(x),
    "MAX_POOL_2D": lambda b, x: b.pool(x, "MAX_POOL_2D"),
    "REDUCE_MAX": _reduce("REDUCE_MAX"),
    "REDUCE_MIN": _reduce("REDUCE_MIN"),
    "MAXIMUM": _binary("MAXIMUM"),
    "MINIMUM": _binary("MINIMUM"),
    "RESHAPE": lambda b, x: b.apply("RESHAPE", [x, b.integers([1, 128])], (1, 128)),
    "SQUEEZE": lambda b, x: b.apply("SQUEEZE", [b.pool(x, size=4)], (1, 8), squeeze_dims=[1, 2]),
    "EXPAND_DIMS": lambda b, x: b.apply("EXPAND_DIMS", [x, b.integers(1)], (1, 1, 4, 4, 8)),
    "TRANSPOSE": lambda b, x: b.apply("TRANSPOSE", [x, b.integers([0, 3, 1, 2])], (1, 8, 4, 4)),
    "CONCATENATION": lambda b, x: b.apply(
        "CONCATENATION", [x, b.conv(x, 6, 1)], (1, 4, 4, 14), axis=3
    ),
    "PACK": lambda b, x: b.apply(
        "PACK", [x, b.conv(x, 8, 1)], (1, 2, 4, 4, 8), axis=1, values_count=2
    ),
    "UNPACK": _unpack,
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SLICE": lambda b, x: b.apply(
        "SLICE", [x, b.integers([0, 1, 1, 2]), b.integers([1, 2, 3, 4])], (1, 2, 3, 4)
    ),
    "STRIDED_SLICE": lambda b, x: b.apply(
        "STRIDED_SLICE",
        [x, b.integers([0, 0, 0, 0]), b.integers([1, 4, 4, 8]), b.integers([1, 2, 1, 2])],
        (1, 2, 4, 4),
    ),
    "PAD": lambda b, x: b.apply("PAD", [x, b.integers(_PADS)], _NHWC2),
    "PADV2": lambda b, x: b.apply(
        "PADV2", [x, b.integers(_PADS), b.constant(np.array([-1e9], np.float32))], _NHWC2
    ),
    "MIRROR_PAD": lambda b, x: b.apply(
        "MIRROR_PAD", [x, b.integers(_PADS)], _NHWC2, mode="REFLECT"
    ),
    "GATHER": lambda b, x: b.apply("GATHER", [x, b.integers([2, 0])], (1, 4, 2, 8), axis=2),
    "GATHER_ND": lambda b, x: b.apply(
        "GATHER_ND", [x, b.integers([[0, 1], [0, 3]])], (2, 4, 8)
    ),
    "TILE": lambda b, x: b.apply("TILE", [x, b.integers([1, 2, 1, 1])], (1, 8, 4, 8)),
    "BROADCAST_TO": lambda b, x: b.apply(
        "BROADCAST_TO", [b.pool(x, size=4), b.integers([1, 3, 1, 8])], (1, 3, 1, 8), version=2
    ),
    "REVERSE_V2": lambda b, x: b.apply("REVERSE_V2", [x, b.integers([1])], _ALL),
    "SPACE_TO_DEPTH": lambda b, x: b.apply("SPACE_TO_DEPTH", [x], (1, 2, 2, 32), block_size=2),
    "DEPTH_TO_SPACE": lambda b, x: b.apply("DEPTH_TO_SPACE", [x], (1, 8, 8, 2), block_size=2),
    "SPACE_TO_BATCH_ND": lambda b, x: b.apply(
        "SPACE_TO_BATCH_ND", [x, b.integers([2, 2]), b.integers([[0, 0], [0, 0]])], (4, 2, 2, 8)
    ),
    "BATCH_TO_SPACE_ND": lambda b, x: b.apply(
        "BATCH_TO_SPACE_ND",
        [
            b.apply("SPACE_TO_BATCH_ND", [x, b.integers([2, 2]), b.integers([[0, 0], [0, 0]])],
                    (4, 2, 2, 8)),
            b.integers([2, 2]), b.integers([[0, 0], [0, 0]]),
        ],
        _ALL,
    ),  # fmt: skip
    "RESIZE_NEAREST_NEIGHBOR": lambda b, x: b.apply(
        "RESIZE_NEAREST_NEIGHBOR", [x, b.integers([8, 8])], (1, 8, 8, 8)
    ),
    "RESIZE_BILINEAR": lambda b, x: b.apply(
        "RESIZE_BILINEAR", [x, b.integers([8, 8])], (1, 8, 8, 8)
    ),
    "SELECT_V2": _compare("GREATER"),
    "SELECT": _compare("LESS", "SELECT"),
    "ARG_MAX": _arg("ARG_MAX"),
    "ARG_MIN": _arg("ARG_MIN"),
    **{
        kind: _compare(kind)
        for kind in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
    },
}  # fmt: skip
POSITIVE = frozenset({"LOG", "RSQRT"})


def operator_case(kind: str, rng: Rng) -> FloatCase:
    """The model of one operator."""
    return case(rng, CASES[kind], positive=kind in POSITIVE)


class RandomGraph:
    """Grows a random float network: residuals, joins, pools, activations."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.b = FloatBuilder(rng)
        self.kinds: list[str] = []

    def grow(self, x: int) -> int:
        b, rng = self.b, self.rng
        _, h, w, c = b.shapes[x]
        choice = int(rng.integers(0, 9))
        act = str(rng.choice(["NONE", "RELU", "RELU6"]))
        if choice <= 1:
            return b.conv(x, int(rng.integers(2, 9)), int(rng.choice([1, 3])), act=act)
        if choice == 2:
            return b.depthwise(x, multiplier=int(rng.integers(1, 3)), act=act)
        if choice == 3:
            return b.apply("ADD", [x, b.conv(x, c, 1, act=act)], b.shapes[x],
                           fused_activation_function="RELU")  # fmt: skip
        if choice == 4:
            other = b.apply(str(rng.choice(["LOGISTIC", "TANH", "RELU"])), [x], b.shapes[x])
            return b.apply("CONCATENATION", [x, other], (1, h, w, 2 * c), axis=3)
        if choice == 5 and h >= 4 and w >= 4:
            return b.pool(x, str(rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])))
        if choice == 6:
            gate = b.apply("LOGISTIC", [b.conv(x, c, 1)], b.shapes[x])
            return b.apply("MUL", [x, gate], b.shapes[x])
        if choice == 7:
            return b.apply("PAD", [x, b.integers([[0, 0], [1, 0], [0, 1], [0, 0]])],
                           (1, h + 1, w + 1, c))  # fmt: skip
        return b.apply("LEAKY_RELU", [x], b.shapes[x], alpha=0.1)

    def build(self, depth: int) -> FloatCase:
        b = self.b
        x = current = b.real((1, 8, 8, 3), "x")
        for _ in range(depth):
            current = self.grow(current)
        _, _, _, c = b.shapes[current]
        mean = b.apply("MEAN", [current, b.integers([1, 2])], (1, c), keep_dims=False)
        output = b.apply("SOFTMAX", [b.dense(mean, 5)], (1, 5), beta=1.0)
        return FloatCase(b.build([x], [output]), samples(self.rng, [(1, 8, 8, 3)], 24))
