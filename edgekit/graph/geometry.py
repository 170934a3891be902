"""Windows of convolutions and pools: padding, and where a window hangs over the edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


_MAX_TAPS = 1 << 24
#: No real window is longer.
_MAX_KERNEL = 4_096


@dataclass(frozen=True)
class Axis:
    """A sliding window along one axis: sizes and steps in elements.

    ``before`` is the padding in front of the first element. TensorFlow's rule for SAME: the
    output has ``ceil(size / stride)`` positions, and of an odd total the larger half is behind.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int

    def taps(self) -> NDArray[Any]:
        """``[out, kernel]`` booleans: whether the tap lies within the input.

        Raises:
            ValueError: there are more than 16 million.
        """
        import numpy as np

        if self.out * self.kernel > _MAX_TAPS:
            raise ValueError(f"a window with {self.out} positions of {self.kernel} taps")
        position = (
            np.arange(self.out)[:, None] * self.stride
            - self.before
            + np.arange(self.kernel)[None, :] * self.dilation
        )
        inside: NDArray[Any] = (position >= 0) & (position < self.size)
        return inside

    @property
    def inside(self) -> int:
        """How many taps of all positions together lie within the input."""
        if self.kernel > _MAX_KERNEL:
            raise ValueError(f"a window of {self.kernel} taps")
        count = 0
        for tap in range(self.kernel):
            offset = tap * self.dilation - self.before
            # Positions p with 0 <= p * stride + offset < size.
            first = max(0, -(offset // self.stride))
            last = min(self.out - 1, (self.size - 1 - offset) // self.stride)
            count += max(0, last - first + 1)
        return count

    @property
    def padded(self) -> bool:
        """Whether any window hangs over an edge."""
        reach = (self.out - 1) * self.stride - self.before + (self.kernel - 1) * self.dilation
        return self.out > 0 and (self.before > 0 or reach >= self.size)


def window_axis(
    size: int, kernel: int, stride: int, dilation: int, padding: str, out: int | None = None
) -> Axis:
    """The window along an axis of ``size`` elements.

    Raises:
        ValueError: a size or step is not positive, or the padding is neither SAME nor VALID.
    """
    if min(size, kernel, stride, dilation) < 1:
        raise ValueError(f"window of {kernel} with stride {stride} over {size} elements")
    extent = (kernel - 1) * dilation + 1
    if padding == "SAME":
        computed = -(-size // stride)
        before = max((computed - 1) * stride + extent - size, 0) // 2
    elif padding == "VALID":
        computed = max(-(-(size - extent + 1) // stride), 0)
        before = 0
    else:
        raise ValueError(f"padding {padding}")
    return Axis(size, computed if out is None else out, kernel, stride, dilation, before)


def windows(
    shape: tuple[int, ...], kernel: tuple[int, int], options: Mapping[str, Any]
) -> tuple[Axis, Axis]:
    """The vertical and horizontal window of a convolution or pool over an NHWC ``shape``.

    Raises:
        ValueError: the shape is not NHWC, or the options make no window.
    """
    if len(shape) != 4:
        raise ValueError(f"a window over the shape {list(shape)}")
    padding = str(options.get("padding", "SAME"))
    return (
        window_axis(
            shape[1],
            kernel[0],
            int(options.get("stride_h", 1)),
            int(options.get("dilation_h_factor", 1)),
            padding,
        ),
        window_axis(
            shape[2],
            kernel[1],
            int(options.get("stride_w", 1)),
            int(options.get("dilation_w_factor", 1)),
            padding,
        ),
    )
