"""Float operators in TensorFlow, on batches and with gradients: what the quantiser computes with.

``OPERATORS[kind](call)`` gives an operator's results before its fused activation. Tensors have
the graph's shapes, with the first dimension multiplied by the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.geometry import windows
from edgekit.graph.model import Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Call:
    """One operator to compute: its inputs (``None`` where an optional one is absent).

    ``samples`` is how many samples are stacked along the first dimension of activations.
    """

    tf: Any
    graph: Graph
    op: Op
    inputs: Sequence[Any]
    samples: Any

    def option(self, name: str, default: Any = None) -> Any:
        return self.op.options.get(name, default)

    def parameter(self, at: int) -> NDArray[Any]:
        """A constant input that steers (axes, sizes, paddings)."""
        tensor = self.graph.tensors[self.op.inputs[at]]
        if tensor.raw is None:
            raise ModelError(
                f"{self.op.kind} whose input {at} is computed has no integer form",
                f"operator {self.op.index} {self.op.kind}",
            )
        return tensor.data()

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor for one sample."""
        return self.graph.tensors[index].shape

    def result_shape(self, at: int = 0) -> list[Any]:
        """The shape of a result for all samples."""
        first, *rest = self.shape(self.op.outputs[at]) or (1,)
        return [first * self.samples, *rest]


Operator = Callable[[Call], Any]


def activate(tf: Any, name: str, values: Any) -> Any:
    """A fused activation."""
    if name == "NONE":
        return values
    if name == "RELU":
        return tf.nn.relu(values)
    if name == "RELU6":
        return tf.clip_by_value(values, 0.0, 6.0)
    if name == "RELU_N1_TO_1":
        return tf.clip_by_value(values, -1.0, 1.0)
    if name == "TANH":
        return tf.tanh(values)
    raise ModelError(f"the fused activation {name} has no integer form")


def _conv_2d(call: Call) -> Any:
    tf, (x, weights, bias) = call.tf, _linear_inputs(call)
    # [out, h, w, in] to [h, w, in, out]
    filters = tf.transpose(weights, [1, 2, 3, 0])
    options: dict[str, Any] = {
        "strides": [call.option("stride_h", 1), call.option("stride_w", 1)],
        "padding": call.option("padding", "SAME"),
        "dilations": [call.option("dilation_h_factor", 1), call.option("dilation_w_factor", 1)],
    }
    groups = x.shape[-1] // weights.shape[-1]
    if groups == 1:
        result = tf.nn.conv2d(x, filters, **options)
    else:
        parts = zip(tf.split(x, groups, -1), tf.split(filters, groups, -1), strict=True)
        result = tf.concat([tf.nn.conv2d(a, b, **options) for a, b in parts], -1)
    return result if bias is None else result + bias


def _depthwise_conv_2d(call: Call) -> Any:
    tf, (x, weights, bias) = call.tf, _linear_inputs(call)
    height, width = weights.shape[1:3]
    channels = x.shape[-1]
    filters = tf.reshape(weights, [height, width, channels, -1])
    stride = call.option("stride_h", 1), call.option("stride_w", 1)
    dilation = [call.option("dilation_h_factor", 1), call.option("dilation_w_factor", 1)]
    if stride[0] == stride[1] and (stride[0] == 1 or dilation == [1, 1]):
        result = tf.nn.depthwise_conv2d(
            x, filters, [1, *stride, 1], call.option("padding", "SAME"), dilations=dilation
        )
    else:
        # TensorFlow has no other strides: every position, of which the wanted ones are taken.
        axes = windows(call.shape(call.op.inputs[0]), (height, width), call.op.options)
        pads = [[0, 0]]
        for axis in axes:
            reach = (axis.out - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1
            pads.append([axis.before, max(reach - axis.size - axis.before, 0)])
        result = tf.nn.depthwise_conv2d(
            tf.pad(x, [*pads, [0, 0]]), filters, [1, 1, 1, 1], "VALID", dilations=dilation
        )
        result = result[:, :: stride[0], :: stride[1]][:, : axes[0].out, : axes[1].out]
    return result if bias is None else result + bias


def _fully_connected(call: Call) -> Any:
    tf, (x, weights, bias) = call.tf, _linear_inputs(call)
    rows = tf.reshape(x, [-1, weights.shape[1]])
    result = tf.matmul(rows, weights, transpose_b=True)
    if bias is not None:
        result = result + tf.reshape(bias, [-1])
    return tf.reshape(result, call.result_shape())


def _transpose_conv(call: Call) -> Any:
    tf, x, weights = call.tf, call.inputs[2], call.inputs[1]
    bias = call.inputs[3] if len(call.inputs) > 3 else None
    # [out, h, w, in] to [h, w, out, in]
    result = tf.nn.conv2d_transpose(
        x, tf.transpose(weights, [1, 2, 0, 3]), call.result_shape(),
        [call.option("stride_h", 1), call.option("stride_w", 1)], call.option("padding", "SAME"),
    )  # fmt: skip
    return result if bias is None else result + bias


def _linear_inputs(call: Call) -> tuple[Any, Any, Any]:
    x, weights, *rest = call.inputs
    return x, weights, rest[0] if rest else None


def _batch_matmul(call: Call) -> Any:
    return call.tf.matmul(
        *call.inputs,
        transpose_a=call.option("adj_x", False),
        transpose_b=call.option("adj_y", False),
    )


def _pool(call: Call, function: Any) -> Any:
    return function(
        call.inputs[0],
        [call.option("filter_height", 1), call.option("filter_width", 1)],
        [call.option("stride_h", 1), call.option("stride_w", 1)],
        call.option("padding", "SAME"),
    )


def _reduce(call: Call, function: Any) -> Any:
    axes = [int(a) for a in call.parameter(1).reshape(-1)]
    return function(call.inputs[0], axis=axes, keepdims=call.option("keep_dims", False))


def _reshape(call: Call) -> Any:
    # The batch is the outermost dimension before and after, whatever becomes of the others.
    return call.tf.reshape(call.inputs[0], call.result_shape())


def _transpose(call: Call) -> Any:
    return call.tf.transpose(call.inputs[0], [int(a) for a in call.parameter(1)])


def _gather(call: Call) -> Any:
    values, indices = call.inputs
    if call.option("batch_dims", 0):
        raise ModelError("GATHER with batch dimensions has no integer form here")
    return call.tf.gather(values, indices, axis=call.option("axis", 0))


def _pad(call: Call, value: Any = 0.0) -> Any:
    return call.tf.pad(call.inputs[0], call.parameter(1).astype(int), constant_values=value)


def _mirror_pad(call: Call) -> Any:
    mode = "SYMMETRIC" if call.option("mode") in (1, "SYMMETRIC") else "REFLECT"
    return call.tf.pad(call.inputs[0], call.parameter(1).astype(int), mode=mode)


def _split(call: Call) -> Any:
    axis = int(call.parameter(0).reshape(-1)[0])
    return call.tf.split(call.inputs[1], call.option("num_splits"), axis)


def _split_v(call: Call) -> Any:
    axis = int(call.parameter(2).reshape(-1)[0])
    return call.tf.split(call.inputs[0], [int(s) for s in call.parameter(1)], axis)


def _slice(call: Call) -> Any:
    begin = [int(b) for b in call.parameter(1)]
    sizes = list(call.shape(call.op.outputs[0]))
    # The first dimension is whole: see ``batchable``.
    return call.tf.slice(call.inputs[0], [0, *begin[1:]], [-1, *sizes[1:]])


def _strided_slice(call: Call) -> Any:
    begin, end, strides = ([int(v) for v in call.parameter(i)] for i in (1, 2, 3))
    whole = (call.option("begin_mask", 0) | 1, call.option("end_mask", 0) | 1)
    return call.tf.strided_slice(
        call.inputs[0], begin, end, strides, begin_mask=whole[0], end_mask=whole[1],
        ellipsis_mask=call.option("ellipsis_mask", 0),
        new_axis_mask=call.option("new_axis_mask", 0),
        shrink_axis_mask=call.option("shrink_axis_mask", 0),
    )  # fmt: skip


def _resize(call: Call, method: str) -> Any:
    tf = call.tf
    raw = {
        "images": call.inputs[0],
        "size": [int(s) for s in call.parameter(1)],
        "align_corners": call.option("align_corners", False),
        "half_pixel_centers": call.option("half_pixel_centers", False),
    }
    if method == "bilinear":
        return tf.raw_ops.ResizeBilinear(**raw)
    return tf.raw_ops.ResizeNearestNeighbor(**raw)


def _prelu(call: Call) -> Any:
    tf, (x, alpha) = call.tf, call.inputs
    return tf.maximum(x, 0.0) + alpha * tf.minimum(x, 0.0)


def _l2_normalization(call: Call) -> Any:
    return call.tf.math.l2_normalize(call.inputs[0], axis=-1)


def _space_to_batch(call: Call) -> Any:
    return call.tf.space_to_batch_nd(
        call.inputs[0], call.parameter(1).astype(int), call.parameter(2).astype(int)
    )


def _batch_to_space(call: Call) -> Any:
    return call.tf.raw_ops.BatchToSpaceND(
        input=call.inputs[0],
        block_shape=call.parameter(1).astype(int),
        crops=call.parameter(2).astype(int),
    )


def _softmax(call: Call) -> Any:
    return call.tf.nn.softmax(call.inputs[0] * call.option("beta", 1.0))


def _arg(call: Call, function: Any) -> Any:
    dtype = call.graph.tensors[call.op.outputs[0]].dtype
    return function(call.inputs[0], int(call.parameter(1).reshape(-1)[0]), output_type=dtype)


def _broadcast_to(call: Call) -> Any:
    return call.tf.broadcast_to(call.inputs[0], call.result_shape())


OPERATORS: Mapping[str, Operator] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": lambda c: c.inputs[0] + c.inputs[1],
    "SUB": lambda c: c.inputs[0] - c.inputs[1],
    "MUL": lambda c: c.inputs[0] * c.inputs[1],
    "DIV": lambda c: c.inputs[0] / c.inputs[1],
    "SQUARED_DIFFERENCE": lambda c: c.tf.math.squared_difference(*c.inputs),
    "MAXIMUM": lambda c: c.tf.maximum(*c.inputs),
    "MINIMUM": lambda c: c.tf.minimum(*c.inputs),
    "MEAN": lambda c: _reduce(c, c.tf.reduce_mean),
    "SUM": lambda c: _reduce(c, c.tf.reduce_sum),
    "REDUCE_MAX": lambda c: _reduce(c, c.tf.reduce_max),
    "REDUCE_MIN": lambda c: _reduce(c, c.tf.reduce_min),
    "ABS": lambda c: c.tf.abs(c.inputs[0]),
    "RSQRT": lambda c: c.tf.math.rsqrt(c.inputs[0]),
    "EXP": lambda c: c.tf.exp(c.inputs[0]),
    "LOG": lambda c: c.tf.math.log(c.inputs[0]),
    "RELU": lambda c: c.tf.nn.relu(c.inputs[0]),
    "RELU6": lambda c: activate(c.tf, "RELU6", c.inputs[0]),
    "RELU_N1_TO_1": lambda c: activate(c.tf, "RELU_N1_TO_1", c.inputs[0]),
    "RELU_0_TO_1": lambda c: c.tf.clip_by_value(c.inputs[0], 0.0, 1.0),
    "LEAKY_RELU": lambda c: c.tf.nn.leaky_relu(c.inputs[0], c.option("alpha", 0.0)),
    "PRELU": _prelu,
    "ELU": lambda c: c.tf.nn.elu(c.inputs[0]),
    "GELU": lambda c: c.tf.nn.gelu(c.inputs[0], c.option("approximate", False)),
    "HARD_SWISH": lambda c: c.inputs[0] * c.tf.clip_by_value(c.inputs[0] + 3.0, 0.0, 6.0) / 6.0,
    "LOGISTIC": lambda c: c.tf.sigmoid(c.inputs[0]),
    "TANH": lambda c: c.tf.tanh(c.inputs[0]),
    "SOFTMAX": _softmax,
    "LOG_SOFTMAX": lambda c: c.tf.nn.log_softmax(c.inputs[0]),
    "L2_NORMALIZATION": _l2_normalization,
    "AVERAGE_POOL_2D": lambda c: _pool(c, c.tf.nn.avg_pool2d),
    "MAX_POOL_2D": lambda c: _pool(c, c.tf.nn.max_pool2d),
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "TRANSPOSE": _transpose,
    "CONCATENATION": lambda c: c.tf.concat(list(c.inputs), c.option("axis", 0)),
    "PACK": lambda c: c.tf.stack(list(c.inputs), c.option("axis", 0)),
    "UNPACK": lambda c: c.tf.unstack(c.inputs[0], c.option("num"), c.option("axis", 0)),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "PAD": _pad,
    "PADV2": lambda c: _pad(c, float(c.parameter(2).reshape(-1)[0])),
    "MIRROR_PAD": _mirror_pad,
    "GATHER": _gather,
    "GATHER_ND": lambda c: c.tf.gather_nd(c.inputs[0], c.parameter(1).astype(int)),
    "TILE": lambda c: c.tf.tile(c.inputs[0], c.parameter(1).astype(int)),
    "BROADCAST_TO": _broadcast_to,
    "REVERSE_V2": lambda c: c.tf.reverse(c.inputs[0], [int(a) for a in c.parameter(1).reshape(-1)]),
    "SPACE_TO_DEPTH": lambda c: c.tf.nn.space_to_depth(c.inputs[0], c.option("block_size")),
    "DEPTH_TO_SPACE": lambda c: c.tf.nn.depth_to_space(c.inputs[0], c.option("block_size")),
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "RESIZE_BILINEAR": lambda c: _resize(c, "bilinear"),
    "RESIZE_NEAREST_NEIGHBOR": lambda c: _resize(c, "nearest"),
    "SELECT": lambda c: c.tf.where(*c.inputs),
    "SELECT_V2": lambda c: c.tf.where(*c.inputs),
    "ARG_MAX": lambda c: _arg(c, c.tf.argmax),
    "ARG_MIN": lambda c: _arg(c, c.tf.argmin),
    "EQUAL": lambda c: c.tf.equal(*c.inputs),
    "NOT_EQUAL": lambda c: c.tf.not_equal(*c.inputs),
    "GREATER": lambda c: c.tf.greater(*c.inputs),
    "GREATER_EQUAL": lambda c: c.tf.greater_equal(*c.inputs),
    "LESS": lambda c: c.tf.less(*c.inputs),
    "LESS_EQUAL": lambda c: c.tf.less_equal(*c.inputs),
    "CAST": lambda c: c.tf.cast(c.inputs[0], c.graph.tensors[c.op.outputs[0]].dtype),
}
