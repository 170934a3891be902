"""What the lowering of an operator sees and what it returns.

An operator's file in :mod:`edgekit.engines.aot.ops` turns a :class:`Node` into candidate
:class:`Kernel` calls. Nothing here knows about C text or about memory offsets: the memory plan
and the emitter come later and read these records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from typing import Literal as OneOf

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Tensor

#: C type of an element in the arena or in flash, by TFLite type.
CTYPES: Mapping[str, str] = {
    "int8": "int8_t", "uint8": "uint8_t", "bool": "uint8_t",
    "int16": "int16_t", "uint16": "uint16_t",
    "int32": "int32_t", "uint32": "uint32_t",
    "int64": "int64_t", "uint64": "uint64_t", "float32": "float",
}  # fmt: skip

#: Bytes of one element by C type.
CTYPE_BYTES: Mapping[str, int] = {
    "int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4,
    "int64_t": 8, "uint64_t": 8, "float": 4,
}  # fmt: skip

#: Array type of a table's values by C type.
CTYPE_DTYPES: Mapping[str, str] = {
    ctype: "float32" if ctype == "float" else ctype.removesuffix("_t") for ctype in CTYPE_BYTES
}


class Unsupported(Exception):
    """The engine cannot run this node exactly; the text is the reason, without the place."""


@dataclass(frozen=True)
class Node:
    """One thing to run: an operator of the model, or several that a pass fused.

    Shapes and constants are as they will run: dead channels are already gone from both, and
    views (RESHAPE and the like) have vanished. ``options`` are the schema's, except that a
    pass may have replaced ``padding`` by the string ``"EXPLICIT"`` with
    ``pads=(top, bottom, left, right)`` beside it (see :func:`padding`), or
    ``fused_activation_function`` by one that was an operator of its own.
    """

    kind: str
    #: indices of the model's operators that it stands for
    ops: tuple[int, ...]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    #: the fused nodes, in order, where ``kind`` is a fusion
    parts: tuple[Node, ...] = ()

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    def activation_input(self, index: int) -> Tensor:
        """Input ``index``, which must be computed at run time.

        Raises:
            Unsupported: it is absent or a constant.
        """
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None or tensor.is_constant:
            raise Unsupported(f"input {index} must be computed at run time")
        return tensor

    def constant_input(self, index: int, name: str) -> Tensor:
        """Input ``index``, which must be a constant.

        Raises:
            Unsupported: it is absent or computed at run time.
        """
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None or not tensor.is_constant:
            raise Unsupported(f"its {name} must be constant")
        return tensor

    def optional_constant(self, index: int, name: str) -> Tensor | None:
        """Input ``index`` if it is there, which must then be a constant."""
        if index >= len(self.inputs) or self.inputs[index] is None:
            return None
        return self.constant_input(index, name)


# -- arguments of a kernel, in the order of the C function's parameters --------------------


@dataclass(frozen=True)
class Input:
    """Pointer to the node's input ``index`` (which is in the arena, or a constant in flash)."""

    index: int = 0


@dataclass(frozen=True)
class Output:
    """Pointer to the node's output ``index``."""

    index: int = 0


@dataclass(frozen=True)
class Scratch:
    """Pointer to the step's scratch bytes, as ``ctype``."""

    ctype: str = "int8_t"


@dataclass(frozen=True)
class Data:
    """Pointer to one of the kernel's :class:`Table` s, by its name."""

    table: str


@dataclass(frozen=True)
class Literal:
    """A number: an int (passed as ``int32_t``) or a float (passed as ``float``).

    A hard literal (shapes, strides, padding) is always compiled in: steps that differ in one
    get instances of their own. A ``soft`` one (zero points, clamps, multipliers) becomes a
    run-time parameter of the shared instance when only it differs. An ``extent`` is a hard one
    that the kernel can also take at run time (the bound of a loop, not a constraint of inline
    assembly): it becomes a parameter with ``optimize=flash``, and for steps in which too few
    instructions are spent to pay for code of their own.
    """

    name: str
    value: int | float
    soft: bool = False
    extent: bool = False


Argument = Input | Output | Scratch | Data | Literal


@dataclass(frozen=True)
class Table:
    """A constant array in flash, e.g. ``Table("weights", "int8_t", array)``."""

    name: str
    ctype: str
    values: NDArray[Any] = field(repr=False)
    align_bytes: int = 4

    @property
    def nbytes(self) -> int:
        return int(self.values.size) * CTYPE_BYTES[self.ctype]


@dataclass(frozen=True)
class Overlap:
    """How the output may share memory with an input that nobody needs afterwards.

    With ``shift = output offset - input offset`` (bytes), it may if ``min_shift <= shift <=
    max_shift`` (``None``: no bound) and ``shift`` is a multiple of ``multiple``. A kernel that
    reads and writes forward element by element allows ``max_shift=0``; one that slides allows
    ``max_shift=sliding_shift(...)``; one that works in place only, ``min_shift=max_shift=0``.
    Where several are given, one of them must hold. Buffers that do not overlap are always fine.

    A kernel that can walk either way gives two: forward with a ``max_shift``, backward with a
    ``min_shift`` and ``literals=(("direction", -1),)``. The literals replace those of the call
    when the plan makes use of this overlap; else the call stays as the kernel states it.
    """

    input: int = 0
    min_shift: int | None = None
    max_shift: int | None = None
    multiple: int = 1
    output: int = 0
    literals: tuple[tuple[str, int], ...] = ()

    def allows(self, shift: int) -> bool:
        return (
            (self.min_shift is None or shift >= self.min_shift)
            and (self.max_shift is None or shift <= self.max_shift)
            and shift % self.multiple == 0
        )


@dataclass(frozen=True)
class Kernel:
    """One exact way to run a node: a call of a function in ``firmware/kernels/<header>``."""

    #: name of the C function, e.g. ``ek_fully_connected_s8``; with it a user forces the choice
    function: str
    #: file under ``firmware/kernels`` that defines it
    header: str
    #: in the order of the function's parameters: inputs first, output last
    args: tuple[Argument, ...]
    tables: tuple[Table, ...] = ()
    #: ISA extensions of the target that it needs, e.g. ``("dsp",)``
    requires: tuple[str, ...] = ()
    #: cores that it is for, by name; empty: all that have what it requires
    cores: tuple[str, ...] = ()
    scratch_bytes: int = 0
    scratch_align: int = 4
    overlaps: tuple[Overlap, ...] = ()
    #: how often a call reads through its tables, roughly
    table_reads: float = 1.0
    #: estimated instructions of one call; only compared between candidates of one node
    cost: float = 0.0
    #: alignment that inputs and outputs in the arena must have, besides their element's own
    align_bytes: int = 1
    #: layout of each input ("nhwc" where the tuple ends) and of the output
    input_layouts: tuple[str, ...] = ()
    output_layout: str = "nhwc"

    def input_layout(self, index: int) -> str:
        return self.input_layouts[index] if index < len(self.input_layouts) else "nhwc"


# -- quantisation ---------------------------------------------------------------------------


def quantize_multiplier(real: float) -> tuple[int, int]:
    """``real`` as ``multiplier * 2**(shift - 31)``, the multiplier in [2^30, 2^31) or 0.

    TensorFlow Lite's QuantizeMultiplier (kernels/internal/quantization_util.cc) with its
    double rounding: a real below 2^-31 becomes 0.

    Raises:
        Unsupported: ``real`` is negative, not finite, or too large for a shift of 30.
    """
    if not math.isfinite(real) or real < 0:
        raise Unsupported(f"its scales give the multiplier {real}")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    # C's round() goes away from zero at a half; the fraction is positive.
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return (1 << 31) - 1, 30
    return multiplier, shift


def activation_range(function: str, tensor: Tensor) -> tuple[int, int]:
    """The clamp of an int8 (or int16) output for a fused activation.

    TensorFlow Lite's CalculateActivationRangeQuantized: bounds are
    ``zero_point + round(x / scale)`` computed in float32.

    Raises:
        Unsupported: the activation is none of NONE, RELU, RELU6, RELU_N1_TO_1.
    """
    low, high = (-32768, 32767) if tensor.dtype == "int16" else (-128, 127)
    if function == "NONE":
        return low, high
    bounds: dict[str, tuple[float, float | None]] = {
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
    }
    if function not in bounds:
        raise Unsupported(f"the fused activation {function} has no int8 kernel")

    def quantized(real: float) -> int:
        ratio = np.float32(real) / np.float32(tensor.scale)
        return tensor.zero_point + int(math.copysign(math.floor(abs(float(ratio)) + 0.5), ratio))

    bottom, top = bounds[function]
    low = max(low, quantized(bottom))
    high = high if top is None else min(high, quantized(top))
    return low, high


def check_dtype(tensor: Tensor, *allowed: str) -> None:
    """Refuses a tensor whose type is not among ``allowed``, or that lacks quantisation."""
    if tensor.dtype not in allowed:
        raise Unsupported(
            f"tensor '{tensor.name}' is {tensor.dtype}, where only {', '.join(allowed)} runs"
        )
    if tensor.dtype in ("int8", "int16") and tensor.quantization is None:
        raise Unsupported(f"tensor '{tensor.name}' is {tensor.dtype} without a quantisation")


# -- geometry -------------------------------------------------------------------------------


def padding(
    node: Node, in_size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int],
    dilation: tuple[int, int], out_size: tuple[int, int],
) -> tuple[int, int]:  # fmt: skip
    """``(top, left)`` padding of a windowed operator; sizes are ``(height, width)``.

    SAME is TensorFlow Lite's ComputePaddingWithOffset: half of the total, rounded down, goes
    to the top and left. VALID is none. EXPLICIT is what a fused PAD left in ``pads``.
    """
    kind = node.options.get("padding", "VALID")
    if kind == "EXPLICIT":
        top, _, left, _ = node.options["pads"]
        return int(top), int(left)
    if kind == "VALID":
        return 0, 0
    first, second = (
        max(0, (out - 1) * step + (size - 1) * spread + 1 - have) // 2
        for have, size, step, spread, out in zip(
            in_size, window, stride, dilation, out_size, strict=True
        )
    )
    return first, second


def sliding_shift(
    in_shape: tuple[int, int, int], out_shape: tuple[int, int, int], *,
    window: tuple[int, int] = (1, 1), stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0),
    order: OneOf["pixel", "channel"] = "pixel", block: int = 1, buffered: bool = False,
) -> int:  # fmt: skip
    """The greatest shift (``Overlap.max_shift``) at which a windowed int8 kernel that walks its
    output pixels in ascending order (rows, then columns) never overwrites what it still needs.

    Args:
        in_shape, out_shape: (height, width, channels) of NHWC tensors with batch 1.
        window, stride, dilation, pad: (height, width); ``pad`` is (top, left).
        order: ``pixel``: all input channels of a window are read for each output channel
            (a convolution). ``channel``: output channel ``c`` reads only input channel ``c``
            and channels are written in ascending order (depthwise with multiplier 1, pooling).
        block: output pixels whose results are computed together: all of a block's reads of one
            output channel (group) happen before its writes, but other channels' reads follow.
        buffered: every result of a block is kept elsewhere (registers, scratch) until all of
            the block's reads are done, and only then written.

    Returns:
        ``max_shift`` in bytes, zero or negative (or positive where the input outruns the output).
    """
    in_h, in_w, in_c = in_shape
    out_h, out_w, out_c = out_shape
    rows = _first_taps(out_h, window[0], stride[0], dilation[0], pad[0], in_h)
    columns = _first_taps(out_w, window[1], stride[1], dilation[1], pad[1], in_w)
    # First input pixel that an output pixel reads, and what it and all later ones still read.
    first = (rows[:, None] * in_w + columns[None, :]).reshape(-1)
    pixels = first.size
    later = np.minimum.accumulate(first[::-1])[::-1]
    starts = np.arange(0, pixels, block)
    ends = np.minimum(starts + block, pixels)  # one past the block's last pixel
    after = np.append(later, in_h * in_w)[ends]
    if buffered:
        # The block's last written byte is below the first byte that later blocks read.
        return int(np.min(after * in_c - ends * out_c))
    if order == "channel" and block == 1:
        # Byte p*C + c is written; channels above c of this pixel and all later pixels remain.
        within = later[starts] * in_c - starts * out_c
        return int(min(np.min(within), np.min(after * in_c - ends * out_c)))
    return int(np.min(later[starts] * in_c - ends * out_c))


def _first_taps(
    count: int, window: int, stride: int, dilation: int, pad: int, limit: int
) -> NDArray[Any]:
    """First in-bounds input coordinate per output coordinate (clamped into the input)."""
    start = np.arange(count) * stride - pad
    below = np.maximum(0, -(start // dilation))  # taps that fall before the input
    return np.clip(start + np.minimum(below, window - 1) * dilation, 0, limit - 1)
