"""Frozen records of a ``.tflite`` model: ``Model``, ``Graph``, ``Op``, ``Tensor``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bytes of one element by TFLite type name. Sub-byte types are stored packed: see ``nbytes``.
DTYPE_BITS: Mapping[str, int] = {
    "float32": 32, "float16": 16, "bfloat16": 16, "float64": 64,
    "int2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "bool": 8,
    "complex64": 64, "complex128": 128, "float8_e4m3fn": 8, "float8_e5m2": 8,
    "resource": 32, "variant": 32, "string": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """Affine quantisation ``real = scale * (q - zero_point)``.

    ``scales`` and ``zero_points`` have one element (per tensor) or as many as the tensor has
    slices along ``axis`` (per channel). Scales are exact float32 values held as Python floats.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return len(self.scales) > 1

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantisation (the first one otherwise)."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor quantisation (the first one otherwise)."""
        return self.zero_points[0]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph. ``raw`` holds the bytes of a constant, ``None`` for an activation."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    raw: bytes | None = field(default=None, repr=False, compare=False)
    is_variable: bool = False
    #: -1 where a dimension is not fixed in the file; empty when every dimension is.
    shape_signature: tuple[int, ...] = ()

    @property
    def is_constant(self) -> bool:
        return self.raw is not None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data in memory (sub-byte types packed)."""
        return (self.elements * DTYPE_BITS.get(self.dtype, 8) + 7) // 8

    @property
    def scale(self) -> float:
        if self.quantization is None:
            raise ValueError(f"tensor {self.index} '{self.name}' is not quantised")
        return self.quantization.scale

    @property
    def zero_point(self) -> int:
        return 0 if self.quantization is None else self.quantization.zero_point

    def data(self) -> NDArray[Any]:
        """The constant as an array of ``shape`` (int4 is unpacked to int8).

        Raises:
            ValueError: the tensor is no constant, or its type has no array form.
        """
        import numpy as np

        if self.raw is None:
            raise ValueError(f"tensor {self.index} '{self.name}' is not a constant")
        if self.dtype == "int4":
            packed = np.frombuffer(self.raw, np.int8)
            both = np.stack([(packed << 4).astype(np.int8) >> 4, packed >> 4], axis=-1)
            unpacked: NDArray[Any] = both.reshape(-1)[: self.elements].reshape(self.shape)
            return unpacked
        try:
            dtype: np.dtype[Any] = np.dtype(self.dtype)
        except TypeError:
            raise ValueError(f"tensor {self.index} has no array form: {self.dtype}") from None
        return np.frombuffer(self.raw, dtype).reshape(self.shape)


@dataclass(frozen=True)
class Op:
    """One operator. ``kind`` is the schema's name (``CONV_2D``); custom ones ``CUSTOM:<code>``.

    ``inputs`` may hold -1 for an optional input that is absent. ``options`` has the builtin
    options table's fields by their schema names, with enumerations as names: ``padding`` is
    ``"SAME"`` or ``"VALID"``, ``fused_activation_function`` is ``"NONE"``, ``"RELU"``, …
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    custom_options: bytes = field(default=b"", repr=False)
    intermediates: tuple[int, ...] = ()
    version: int = 1


@dataclass(frozen=True)
class Graph:
    """One subgraph: tensors by index, operators in execution order."""

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def producer(self, tensor: int) -> Op | None:
        """The operator that writes ``tensor``, or ``None`` (constant or graph input)."""
        for op in self.ops:
            if tensor in op.outputs:
                return op
        return None

    def consumers(self, tensor: int) -> tuple[Op, ...]:
        return tuple(op for op in self.ops if tensor in op.inputs)


@dataclass(frozen=True)
class Model:
    """A ``.tflite`` file that was read whole and checked.

    The main graph's parts are reachable directly (``model.ops``); models with control flow
    have further ``graphs``.
    """

    name: str
    sha256: str
    graphs: tuple[Graph, ...]
    raw: bytes = field(repr=False, compare=False)
    description: str = ""
    #: contents of the metadata entries by name (``TFLITE_METADATA``, ``min_runtime_version``)
    metadata: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def main(self) -> Graph:
        return self.graphs[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.graphs[0].tensors

    @property
    def ops(self) -> tuple[Op, ...]:
        return self.graphs[0].ops

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.graphs[0].inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.graphs[0].outputs

    @property
    def input_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors[i] for i in self.inputs)

    @property
    def output_tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors[i] for i in self.outputs)
