"""The synthetic input that every run without data uses, and the digest of outputs.

Input bytes come from xorshift32 (G. Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5) with
the seed 0x12345678, one byte per step from the top of the state; several inputs continue one
sequence. The digest is FNV-1a with 32 bits over the bytes of all outputs. A device computes
both in a few lines, so that a digest compares its outputs without moving them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model, Tensor

SEED = 0x12345678


def recipe(seed: int = SEED) -> str:
    """The synthetic input in words."""
    return f"xorshift32 (13, 17, 5), seed {seed:#x}, top byte of each state"


def xorshift_bytes(count: int, state: int = SEED) -> tuple[bytes, int]:
    """``count`` bytes of the sequence, and the state to go on with."""
    produced = bytearray(count)
    for i in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        produced[i] = state >> 24
    return bytes(produced), state


def synthetic_inputs(model: Model, sets: int = 1, seed: int = SEED) -> list[list[NDArray[Any]]]:
    """``sets`` times all inputs of a model, from one sequence.

    Integers of 8 and 16 bits take the bytes as they are (little-endian); wider integers take
    one byte each as a number from 0 to 127, booleans one bit, floats one byte as a number
    from -1 to 127/128.

    Raises:
        ModelError: an input's type has no synthetic values (strings, resources).
        UsageError: the seed is none (0, or more than 32 bits).
    """
    if not 0 < seed < 1 << 32:
        raise UsageError(f"the seed of synthetic inputs must be 1 to {(1 << 32) - 1}, not {seed}")
    state = seed
    result = []
    for _ in range(sets):
        arrays = []
        for tensor in model.input_tensors:
            array, state = _values(tensor, state)
            arrays.append(array)
        result.append(arrays)
    return result


def _values(tensor: Tensor, state: int) -> tuple[NDArray[Any], int]:
    import numpy as np

    if tensor.dtype in ("int8", "uint8", "int16", "uint16"):
        produced, state = xorshift_bytes(tensor.nbytes, state)
        order = np.dtype(tensor.dtype).newbyteorder("<")
        return np.frombuffer(produced, order).astype(tensor.dtype).reshape(tensor.shape), state
    produced, state = xorshift_bytes(tensor.elements, state)
    values = np.frombuffer(produced, np.int8).reshape(tensor.shape)
    if tensor.dtype == "bool":
        return (values & 1).astype(bool), state
    if tensor.dtype in ("int32", "uint32", "int64", "uint64"):
        return (values & 127).astype(tensor.dtype), state
    if tensor.dtype in ("float16", "float32", "float64"):
        return (values / np.float32(128)).astype(tensor.dtype), state
    raise ModelError(
        f"there is no synthetic input of the type {tensor.dtype}",
        f"input '{tensor.name}'",
    )


def fnv1a32(content: bytes, state: int = 0x811C9DC5) -> int:
    """FNV-1a with 32 bits; ``state`` continues an earlier one."""
    for byte in content:
        state = ((state ^ byte) * 0x01000193) & 0xFFFFFFFF
    return state


def digest(outputs: Iterable[NDArray[Any]]) -> str:
    """FNV-1a-32 over the bytes of all outputs in order, as 8 hexadecimal digits."""
    state = 0x811C9DC5
    for output in outputs:
        state = fnv1a32(output.tobytes(), state)
    return f"{state:08x}"
