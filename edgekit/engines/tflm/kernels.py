"""What the kernels of TFLM and its kernel libraries take of the arena, operator by operator.

Each kernel may keep bytes for good (:func:`persistent_bytes`) and ask for scratch that lives
while its operator runs (:func:`scratch_bytes`). The sizes are those of the libraries' own
functions: CMSIS-NN ``arm_*_get_buffer_size`` (version 7, commit 4ab83cc3, with GCC or clang:
armclang's 1x1 convolution takes 4 bytes per input channel more), ESP-NN
``esp_nn_get_*_scratch_size`` (2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.engines.tflm.planner import align_up

if TYPE_CHECKING:
    from edgekit.graph import Graph, Op, Tensor
    from edgekit.targets import Target

LIBRARIES = ("reference", "cmsis-nn", "esp-nn")


@dataclass(frozen=True)
class Kernels:
    """A kernel library, and the build of it for a core.

    ``variant`` of CMSIS-NN: "mve" (Cortex-M55, M85), "dsp" (M4, M7, M33 with DSP) or "" (M0,
    M0+, M3); of ESP-NN: "s3" (ESP32-S3, vector unit) or "" (plain C, no scratch).
    """

    library: str
    variant: str = ""

    @property
    def title(self) -> str:
        names = {
            "reference": "TFLM reference kernels",
            "cmsis-nn": "CMSIS-NN",
            "esp-nn": "ESP-NN",
        }
        builds = {
            ("cmsis-nn", "mve"): " (MVE)",
            ("cmsis-nn", "dsp"): " (DSP)",
            ("cmsis-nn", ""): " (no DSP)",
            ("esp-nn", "s3"): " (ESP32-S3)",
            ("esp-nn", ""): " (plain C)",
        }
        return names[self.library] + builds.get((self.library, self.variant), "")


def kernels_for(target: Target, library: str | None = None) -> Kernels:
    """The kernel library for a target: the one named, the target file's, or its core's usual."""
    core = target.core or ""
    usual = "reference"
    if core.startswith("cortex-m"):
        usual = "cmsis-nn"
    elif "s3-simd" in target.isa or core.startswith(("xtensa", "esp", "riscv-esp")):
        usual = "esp-nn"
    name = library or target.engine_setting("tflm", "kernels") or usual
    if name == "cmsis-nn":
        return Kernels(name, "mve" if target.has("mve") else "dsp" if target.has("dsp") else "")
    if name == "esp-nn":
        return Kernels(name, "s3" if target.has("s3-simd") else "")
    return Kernels("reference")


#: Operators whose kernels in CMSIS-NN ask for scratch that is not modelled here.
UNMODELLED_CMSIS = ("BATCH_MATMUL", "SVDF", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM")


def persistent_bytes(graph: Graph, op: Op, kernels: Kernels) -> list[int]:
    """Bytes of each block that the operator's Prepare keeps for good, besides its structure."""
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weights = graph.tensors[op.inputs[1]]
        channels = weights.shape[0 if op.kind == "CONV_2D" else -1]
        integer = graph.tensors[op.inputs[0]].dtype in ("int8", "int16")
        return [4 * channels] * 2 if integer or kernels.library != "cmsis-nn" else []
    if op.kind == "TRANSPOSE_CONV":
        channels = graph.tensors[op.inputs[1]].shape[0]
        return [4 * channels] * 2
    if op.kind == "FULLY_CONNECTED":
        return _fully_connected_persistent(graph, op, kernels)
    if op.kind in ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"):
        # a copy of the output's dimensions
        return [4 + 4 * len(graph.tensors[op.outputs[0]].shape)]
    if op.kind == "SOFTMAX" and graph.tensors[op.inputs[0]].dtype == "int16":
        return [2 * 513] * 2
    return []


def _fully_connected_persistent(graph: Graph, op: Op, kernels: Kernels) -> list[int]:
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    if data.dtype != "int8":
        return []
    blocks = []
    if weights.quantization is not None and weights.quantization.per_channel:
        blocks += [4 * weights.shape[0]] * 2
    constant = weights.is_constant and _bias_is_constant(graph, op)
    if (
        kernels == Kernels("cmsis-nn", "mve")
        and constant
        and weights.dtype == "int8"
        and not _as_1x1(graph, op)
    ):
        # sums of each row of weights, computed once
        blocks.append(4 * weights.shape[0])
    return blocks


def _bias_is_constant(graph: Graph, op: Op) -> bool:
    return len(op.inputs) < 3 or op.inputs[2] < 0 or graph.tensors[op.inputs[2]].is_constant


def _as_1x1(graph: Graph, op: Op) -> bool:
    """Whether CMSIS-NN computes a fully connected operator as a 1x1 convolution."""
    depth = graph.tensors[op.inputs[1]].shape[-1]
    return len(graph.tensors[op.outputs[0]].shape) > 2 and depth % 4 == 0


def scratch_bytes(graph: Graph, op: Op, kernels: Kernels) -> list[int]:
    """Bytes of each scratch buffer that the operator's Prepare asks for."""
    own: list[int] = []
    weights = graph.tensors[op.inputs[1]] if len(op.inputs) > 1 else None
    if (
        op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        and weights is not None
        and weights.dtype == "int4"
        and kernels.library != "cmsis-nn"
    ):
        own.append(weights.elements)
    elif op.kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        own += _reduce(graph, op)
    elif op.kind == "TRANSPOSE_CONV":
        output = graph.tensors[op.outputs[0]]
        own += {"int8": [4 * output.elements], "int16": [8 * output.elements]}.get(output.dtype, [])
    if kernels.library == "cmsis-nn":
        own += _cmsis(graph, op, kernels.variant)
    elif kernels.library == "esp-nn":
        own += _esp(graph, op, kernels.variant)
    return [size for size in own if size > 0]


def _reduce(graph: Graph, op: Op) -> list[int]:
    data, axes = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    indices = [4 * len(data.shape), 4 * axes.elements]
    output = graph.tensors[op.outputs[0]]
    if op.kind in ("MEAN", "SUM") and output.dtype in ("int8", "int16"):
        return [*indices, 4 * output.elements]
    return indices


def _cmsis(graph: Graph, op: Op, variant: str) -> list[int]:
    data = graph.tensors[op.inputs[0]] if op.inputs else None
    if data is None:
        return []
    if op.kind == "CONV_2D" and data.dtype == "int8":
        return [_cmsis_convolve(graph, op, variant)]
    if op.kind == "CONV_2D" and data.dtype == "int16":
        weights = graph.tensors[op.inputs[1]]
        columns = weights.elements // weights.shape[0]
        if variant == "mve":
            return [4 * align_up(columns, 8) * 2]
        return [2 * align_up(columns, 4) * 2]
    if op.kind == "DEPTHWISE_CONV_2D" and data.dtype == "int8":
        return [_cmsis_depthwise(graph, op, variant)]
    if op.kind == "FULLY_CONNECTED" and data.dtype == "int8":
        weights = graph.tensors[op.inputs[1]]
        if weights.dtype != "int8":
            return []
        if _as_1x1(graph, op):
            per_channel = weights.quantization is not None and weights.quantization.per_channel
            return [] if per_channel else [8 * weights.shape[0]]
        constant = weights.is_constant and _bias_is_constant(graph, op)
        return [4 * weights.shape[0]] if variant == "mve" and not constant else []
    if op.kind == "AVERAGE_POOL_2D" and data.dtype in ("int8", "int16") and variant == "dsp":
        return [4 * data.shape[-1]]
    return []


def _cmsis_convolve(graph: Graph, op: Op, variant: str) -> int:
    """``arm_convolve_wrapper_s8_get_buffer_size``."""
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    _, height, width, _ = weights.shape
    one_by_one = height == width == 1 and _dilation(op) == (1, 1) and _padding(graph, op) == (0, 0)
    if one_by_one and weights.shape[-1] == data.shape[-1]:
        return 0
    return _cmsis_im2col(data.shape[-1] * height * width, variant)


def _cmsis_im2col(columns: int, variant: str) -> int:
    if variant == "mve":
        return 4 * align_up(columns, 16)
    return 2 * align_up(columns, 4) * 2


#: Channels that CMSIS-NN's depthwise kernel for MVE treats at a time.
_MVE_BLOCK_CHANNELS = 124


def _cmsis_depthwise(graph: Graph, op: Op, variant: str) -> int:
    """``arm_depthwise_conv_wrapper_s8_get_buffer_size``."""
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    _, height, width, channels = weights.shape
    if variant == "mve" and data.shape[-1] == 1 and channels > 1:
        # turned into a convolution, whose weights are transposed into the buffer
        return _cmsis_im2col(height * width, variant) + weights.elements
    if data.shape[-1] != channels or data.shape[0] != 1 or _dilation(op) != (1, 1):
        return 0
    if variant == "mve":
        return 4 * _MVE_BLOCK_CHANNELS * width * height
    pad_height, pad_width = _padding(graph, op)
    if width == height == 3 and pad_height <= 1 and pad_width <= 1:
        return 0
    return 2 * channels * width * height if variant == "dsp" else 0


def _esp(graph: Graph, op: Op, variant: str) -> list[int]:
    if variant != "s3" or op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return []
    if graph.tensors[op.inputs[0]].dtype != "int8":
        return []
    if op.kind == "CONV_2D":
        return [_esp_convolve(graph, op)]
    return [_esp_depthwise(graph, op)]


def _esp_convolve(graph: Graph, op: Op) -> int:
    """``esp_nn_get_conv_scratch_size_esp32s3``; the larger of its 3x3 path and the general one."""
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    output = graph.tensors[op.outputs[0]]
    _, in_height, in_width, in_channels = data.shape
    channels, height, width, _ = weights.shape
    _, out_height, out_width, _ = output.shape
    pad_height, pad_width = _padding(graph, op)
    stride_height, stride_width = _stride(op)
    margin = 64
    if (height, width, pad_height, pad_width, stride_height, stride_width) == (1, 1, 0, 0, 1, 1):
        transpose = 0 if in_width * in_height < 8 else 16 * align_up(in_channels, 8)
        batched = 24 * in_channels + 8 * channels
        panel = 24 * in_channels + 16 * 1024 if in_channels * channels > 24 * 1024 else 0
        return max(transpose, batched, panel) + margin
    row, window = width * in_channels, width * height * in_channels
    im2col = channels * 4 + 16 + channels * align_up(window) + 16 + align_up(window) + margin
    if row < 16 <= window:
        return im2col
    right = max(0, (out_width - 1) * stride_width + width - pad_width - in_width)
    bottom = max(0, (out_height - 1) * stride_height + height - pad_height - in_height)
    padded = 0
    if pad_width or pad_height or right or bottom:
        padded = (in_width + pad_width + right) * (in_height + pad_height + bottom) * in_channels
    filters = max(align_up(row) * height * channels, window * channels)
    return max(padded + filters + margin + channels * 4, im2col if height == width == 3 else 0)


def _esp_depthwise(graph: Graph, op: Op) -> int:
    """``esp_nn_get_depthwise_conv_scratch_size_esp32s3``."""
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    output = graph.tensors[op.outputs[0]]
    _, in_height, in_width, channels = data.shape
    _, height, width, out_channels = weights.shape
    _, out_height, out_width, _ = output.shape
    pad_height, pad_width = _padding(graph, op)
    stride_height, stride_width = _stride(op)
    multiplier = out_channels // channels
    filters, pixels = width * height * out_channels, in_width * in_height
    budget = 40 * 1024
    if multiplier == 1 and channels % 8 == 0 and width == height == 3 and channels % 16 == 0:
        wide = max(pad_width, (out_width - 1) * stride_width + width - in_width)
        high = max(pad_height, (out_height - 1) * stride_height + height - in_height)
        if not wide and not high:
            return filters + 16
        row = (in_width + wide) * channels
        if row * (in_height + high) <= budget:
            return filters + row * (in_height + high) + 16
        rows = max(height, (budget - filters - 32) // row)
        return filters + min(rows, in_height + high) * row + 32
    if multiplier == 1 and channels % 8 == 0 and width == height == 3 and channels >= 12:
        padded = align_up(channels)
        wide = 2 * pad_width + max(0, out_width * stride_width + 2 - in_width)
        high = 2 * pad_height + max(0, out_height * stride_height + 2 - in_height)
        image = (in_width + wide) * (in_height + high)
        return padded * (9 + image + out_width * out_height + 12) + 64
    if multiplier == 1 and channels % 8 == 0:
        total = 2 * (filters + pixels * channels)
        if width == height == 3 or total <= 48 * 1024:
            return total + 32
        return 2 * filters + 2 * in_width * height * channels + 32
    if multiplier == 1 and channels > 3:
        padded = align_up(channels, 8)
        parts = (
            2 * width * height * padded,
            2 * pixels * padded,
            out_width * out_height * padded,
            12 * padded,
        )
        return sum(align_up(part) for part in parts) + 16
    if multiplier % 4 == 0:
        return 2 * (filters + pixels * channels) + 32
    return 32


def _stride(op: Op) -> tuple[int, int]:
    return op.options["stride_h"], op.options["stride_w"]


def _dilation(op: Op) -> tuple[int, int]:
    return op.options["dilation_h_factor"], op.options["dilation_w_factor"]


def _padding(graph: Graph, op: Op) -> tuple[int, int]:
    """Rows above and columns left of the image, as TFLM's ``ComputePaddingHeightWidth``."""
    if op.options["padding"] != "SAME":
        return 0, 0
    data, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    sizes: Sequence[Tensor] = (data, weights, graph.tensors[op.outputs[0]])
    pads = []
    for axis, (stride, dilation) in enumerate(zip(_stride(op), _dilation(op), strict=True), 1):
        image, window, result = (tensor.shape[axis] for tensor in sizes)
        total = (result - 1) * stride + (window - 1) * dilation + 1 - image
        pads.append(max(0, total) // 2)
    return pads[0], pads[1]
