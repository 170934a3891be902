"""What each operator needs to compute in integers: the 8-bit and the 16x8 form.

The facts are those of TensorFlow Lite's 8-bit and 16x8 quantisation specifications
(tensorflow.org/lite/performance/quantization_spec), narrowed where TensorFlow Lite Micro's kernels
take less: its RELU6 does not rescale, its int16 kernels are fewer. Data only: a new operator is
a row.

An activation in int8 is affine, in int16 symmetric. Weights are int8, symmetric, -127 to 127,
biases int32 (int64 beside int16 activations) with the scale of the input times that of the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Number format of an operator's activations.
Form = Literal["int8", "int16"]
FORMS: tuple[Form, ...] = ("int8", "int16")

Output = Literal["own", "same", "clip", "fixed", "none"]


@dataclass(frozen=True)
class Rule:
    """An operator's integer forms.

    ``output`` says where the scale of its results comes from: ``own`` (their range), ``same``
    (that of its operands, which are all alike), ``clip`` (likewise, and the results' range is
    enough, since what lies outside of it never comes out), ``fixed`` (the specification's, in
    ``fixed``), ``none`` (they are not real numbers).

    ``weights`` and ``bias`` are places among the inputs, ``axis`` the one of the weights that
    has a scale per slice. ``versions`` has the operator's version for each form there is;
    ``options`` what a form changes among its options.
    """

    output: Output
    versions: Mapping[Form, int]
    weights: int | None = None
    axis: int = 0
    bias: int | None = None
    fixed: Mapping[Form, tuple[float, int]] = field(default_factory=dict)
    options: Mapping[Form, Mapping[str, Any]] = field(default_factory=dict)

    def has(self, form: Form) -> bool:
        return form in self.versions


def _own(int8: int, int16: int | None = None, **more: Any) -> Rule:
    return Rule("own", _versions(int8, int16), **more)


def _same(int8: int, int16: int | None = None) -> Rule:
    return Rule("same", _versions(int8, int16))


def _versions(int8: int, int16: int | None) -> Mapping[Form, int]:
    return {"int8": int8} if int16 is None else {"int8": int8, "int16": int16}


_UNIT = (1 / 256, -128)
_UNIT_16 = (1 / 32768, 0)
#: 16-bit sums are shifted by kernels that take any scale; otherwise only powers of two.
_ANY_SCALE: Mapping[Form, Mapping[str, Any]] = {"int16": {"pot_scale_int16": False}}
#: 64-bit biases are announced to kernels that choose their accumulator by it.
_BIAS_64: Mapping[Form, Mapping[str, Any]] = {"int16": {"quantized_bias_type": 4}}

RULES: Mapping[str, Rule] = {
    # linear operators
    "CONV_2D": _own(3, 8, weights=1, axis=0, bias=2, options=_BIAS_64),
    "DEPTHWISE_CONV_2D": _own(3, 5, weights=1, axis=3, bias=2),
    "FULLY_CONNECTED": _own(4, 11, weights=1, axis=0, bias=2, options=_BIAS_64),
    "TRANSPOSE_CONV": _own(3, 5, weights=1, axis=0, bias=3, options=_BIAS_64),
    "BATCH_MATMUL": _own(2, 3),
    # arithmetic
    "ADD": _own(2, 3, options=_ANY_SCALE),
    "SUB": _own(2, 5, options=_ANY_SCALE),
    "MUL": _own(2, 4),
    "DIV": _own(2),
    "SQUARED_DIFFERENCE": _own(2, 3),
    "MEAN": _own(2, 3),
    "SUM": _own(2, 3),
    "ABS": _own(2, 3),
    "RSQRT": _own(2, 3),
    "EXP": _own(2),
    "LOG": _own(2),
    # activations
    "RELU": _own(2, 3),
    "RELU6": Rule("clip", _versions(2, 3)),
    "RELU_N1_TO_1": Rule("clip", _versions(1, None)),
    "RELU_0_TO_1": Rule("clip", _versions(1, None)),
    "LEAKY_RELU": _own(1, 2),
    "PRELU": _own(1),
    "ELU": _own(1),
    "GELU": _own(2),
    "HARD_SWISH": _own(1),
    "LOGISTIC": Rule("fixed", _versions(2, 3), fixed={"int8": _UNIT, "int16": _UNIT_16}),
    "TANH": Rule("fixed", _versions(2, 3), fixed={"int8": (1 / 128, 0), "int16": _UNIT_16}),
    "SOFTMAX": Rule("fixed", _versions(2, 3), fixed={"int8": _UNIT, "int16": _UNIT_16}),
    "LOG_SOFTMAX": Rule("fixed", _versions(2, None), fixed={"int8": (16 / 256, 127)}),
    "L2_NORMALIZATION": Rule("fixed", _versions(2, None), fixed={"int8": (1 / 128, 0)}),
    # operands and results alike
    "AVERAGE_POOL_2D": _same(2, 3),
    "MAX_POOL_2D": _same(2, 3),
    "REDUCE_MAX": _same(2),
    "REDUCE_MIN": _same(2),
    "MAXIMUM": Rule("clip", _versions(2, 4)),
    "MINIMUM": Rule("clip", _versions(2, 4)),
    "RESHAPE": _same(1, 1),
    "SQUEEZE": _same(1, 1),
    "EXPAND_DIMS": _same(1, 1),
    "TRANSPOSE": _same(2, 4),
    "CONCATENATION": _same(2, 3),
    "PACK": _same(2, 4),
    "UNPACK": _same(2, 4),
    "SPLIT": _same(2, 4),
    "SPLIT_V": _same(2, 2),
    "SLICE": _same(2, 4),
    "STRIDED_SLICE": _same(2, 4),
    "PAD": _same(2, 3),
    "PADV2": _same(2, 3),
    "MIRROR_PAD": _same(2),
    "GATHER": _same(2),
    "GATHER_ND": _same(2),
    "TILE": _same(2),
    "BROADCAST_TO": _same(3, 3),
    "REVERSE_V2": _same(2, 2),
    "SPACE_TO_DEPTH": _same(2),
    "DEPTH_TO_SPACE": _same(2),
    "SPACE_TO_BATCH_ND": _same(2),
    "BATCH_TO_SPACE_ND": _same(2),
    "RESIZE_NEAREST_NEIGHBOR": _same(2, 4),
    "RESIZE_BILINEAR": _same(2),
    "SELECT": _same(2, 2),
    "SELECT_V2": _same(1, 1),
    # results that are no real numbers
    "ARG_MAX": Rule("none", _versions(2, None)),
    "ARG_MIN": Rule("none", _versions(2, None)),
    "EQUAL": Rule("none", _versions(2, None)),
    "NOT_EQUAL": Rule("none", _versions(2, None)),
    "GREATER": Rule("none", _versions(2, None)),
    "GREATER_EQUAL": Rule("none", _versions(2, None)),
    "LESS": Rule("none", _versions(2, None)),
    "LESS_EQUAL": Rule("none", _versions(2, None)),
}

#: Operators whose results are a weighted sum of their input along its channels, plus a bias.
LINEAR = tuple(kind for kind, rule in RULES.items() if rule.weights is not None)

#: The versions of the operators that edgekit inserts where number formats change.
QUANTIZE_VERSION, DEQUANTIZE_VERSION = 1, 2
