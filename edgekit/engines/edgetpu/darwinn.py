"""Reads what ``edgetpu_compiler`` left in a compiled ``.tflite`` file.

The operator ``edgetpu-custom-op`` carries a FlexBuffer map; its key ``"4"`` holds a DarwiNN
package, a FlatBuffer with the identifier DWN1 (schema: libedgetpu, executable/executable.fbs).
The files are untrusted: every offset is checked before it is followed.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.graph.flatbuffer import Malformed, Table, follow
from edgekit.graph.reader import shown

if TYPE_CHECKING:
    from edgekit.graph import Model, Op

CUSTOM_OP = "CUSTOM:edgetpu-custom-op"

#: Values of ``ExecutableType``.
EXECUTABLE_TYPES = ("STAND_ALONE", "PARAMETER_CACHING", "EXECUTION_ONLY")
_CACHING = 1
#: What each minimum runtime version stands for, as far as it is known.
RUNTIME_VERSIONS = {
    12: "int8 inputs and outputs",
    13: "float16 inputs and outputs",
    14: "the Grouper release, compiler 16",
}
_PACKAGE_KEY = "4"
#: Types of FlexBuffer values (flatbuffers/flexbuffers.h, ``enum Type``).
_FLEX_STRING, _FLEX_MAP, _FLEX_BLOB = 5, 9, 25
_MAX_KEYS = 1_000


@dataclass(frozen=True)
class Layer:
    """An input or output of the Edge TPU program; ``size_bytes`` with padding."""

    name: str
    size_bytes: int
    executions: int


@dataclass(frozen=True)
class Executable:
    """One program of a package: what it does, its code and its parameters, in bytes."""

    type: str
    name: str
    chip: str
    parameter_bytes: int
    instruction_bytes: int
    instruction_chunks: int
    scratch_bytes: int
    narrow_memory_bytes_per_tile: int
    caching_token: int
    inputs: tuple[Layer, ...]
    outputs: tuple[Layer, ...]


@dataclass(frozen=True)
class Package:
    """What one ``edgetpu-custom-op`` holds."""

    op: int
    min_runtime_version: int
    compiler_version: str
    executables: tuple[Executable, ...]

    @property
    def cached_bytes(self) -> int:
        """Parameters that are uploaded once and stay on the chip."""
        return sum(e.parameter_bytes for e in self.executables if e.type == "PARAMETER_CACHING")

    @property
    def streamed_bytes(self) -> int:
        """Parameters that cross the bus at each inference."""
        return sum(e.parameter_bytes for e in self.executables if e.type != "PARAMETER_CACHING")

    @property
    def instruction_bytes(self) -> int:
        return sum(e.instruction_bytes for e in self.executables)

    @property
    def inference_instruction_bytes(self) -> int:
        """Instructions that cross the bus at each inference."""
        return sum(e.instruction_bytes for e in self.executables if e.type != "PARAMETER_CACHING")


@dataclass(frozen=True)
class CompiledModel:
    """A compiled file: its packages, and what it left to the CPU."""

    packages: tuple[Package, ...]
    #: (index, kind) of the operators that stay on the CPU
    cpu_ops: tuple[tuple[int, str], ...]

    @property
    def subgraphs(self) -> int:
        return len(self.packages)

    @property
    def cached_bytes(self) -> int:
        return sum(package.cached_bytes for package in self.packages)

    @property
    def streamed_bytes(self) -> int:
        return sum(package.streamed_bytes for package in self.packages)

    @property
    def instruction_bytes(self) -> int:
        return sum(package.instruction_bytes for package in self.packages)

    @property
    def inference_instruction_bytes(self) -> int:
        return sum(package.inference_instruction_bytes for package in self.packages)

    @property
    def min_runtime_version(self) -> int:
        return max((package.min_runtime_version for package in self.packages), default=0)

    @property
    def cpu_kinds(self) -> dict[str, int]:
        return dict(sorted(Counter(kind for _, kind in self.cpu_ops).items()))


def is_compiled(model: Model) -> bool:
    """Whether a file went through ``edgetpu_compiler`` (and something was mapped)."""
    return any(op.kind == CUSTOM_OP for op in model.ops)


def read_compiled(model: Model) -> CompiledModel | None:
    """What the compiler made of a model; ``None`` for a file without the custom operator.

    Raises:
        ModelError: a custom operator holds no package that can be read.
    """
    if not is_compiled(model):
        return None
    return CompiledModel(
        packages=tuple(_package(op) for op in model.ops if op.kind == CUSTOM_OP),
        cpu_ops=tuple((op.index, shown(op.kind)) for op in model.ops if op.kind != CUSTOM_OP),
    )


def _package(op: Op) -> Package:
    place = f"operator {op.index} edgetpu-custom-op"
    fix = "compile the model again: edgekit compile MODEL --target coral"
    try:
        content = flexbuffer_map(op.custom_options).get(_PACKAGE_KEY)
        if not isinstance(content, bytes):
            raise Malformed("its options hold no program")
        if content[4:8] != b"DWN1":
            raise Malformed("its program does not carry the identifier DWN1")
        root = Table(content, follow(content, 0))
        parts = [root]
        # A package for several chips nests one package per chip.
        for chip in root.tables(6):
            nested = chip.blob(0) or b""
            parts.append(Table(nested, follow(nested, 0)))
        return Package(
            op=op.index,
            min_runtime_version=root.scalar(0, "int32", 0),
            compiler_version=shown(root.string(4)),
            executables=tuple(e for part in parts for e in _executables(part)),
        )
    except (Malformed, struct.error) as error:
        raise ModelError(f"the compiled Edge TPU program is damaged: {error}", place, fix) from None


def _executables(package: Table) -> list[Executable]:
    content = package.blob(1)
    if not content:
        return []
    multi = Table(content, follow(content, 0))
    return [_executable(item) for item in multi.blobs(0)]


def _executable(content: bytes) -> Executable:
    root = Table(content, follow(content, 0))
    kind = root.scalar(13, "int16", 0)
    if not 0 <= kind < len(EXECUTABLE_TYPES):
        raise Malformed(f"an executable of the unknown type {kind}")
    chunks = root.tables(5)
    return Executable(
        type=EXECUTABLE_TYPES[kind],
        name=shown(root.string(1)),
        chip=shown(root.string(10)),
        parameter_bytes=len(root.blob(6) or b""),
        instruction_bytes=sum(len(chunk.blob(0) or b"") for chunk in chunks),
        instruction_chunks=len(chunks),
        scratch_bytes=root.scalar(4, "int32", 0),
        narrow_memory_bytes_per_tile=root.scalar(12, "int32", 0),
        caching_token=root.scalar(14, "uint64", 0),
        inputs=tuple(_layer(layer) for layer in root.tables(8)),
        outputs=tuple(_layer(layer) for layer in root.tables(9)),
    )


def _layer(table: Table) -> Layer:
    return Layer(
        name=shown(table.string(0)),
        size_bytes=table.scalar(1, "int32", 0),
        # slots 2 to 8: dimensions, numerics, type, and a union of two slots
        executions=table.scalar(9, "int32", 1),
    )


def flexbuffer_map(buf: bytes) -> dict[str, Any]:
    """A FlexBuffer whose root is a map: strings and blobs as bytes, other values ``None``.

    Raises:
        Malformed: it is no such thing.
    """
    if len(buf) < 3:
        raise Malformed("its options are empty")
    width = buf[-1]
    root = len(buf) - 2 - width
    if buf[-2] >> 2 != _FLEX_MAP:
        raise Malformed("its options are no FlexBuffer map")
    at = root - _unsigned(buf, root, width)
    width = 1 << (buf[-2] & 3)
    count = _unsigned(buf, at - width, width)
    keys_at = at - 3 * width
    keys = keys_at - _unsigned(buf, keys_at, width)
    key_width = _unsigned(buf, at - 2 * width, width)
    if count > _MAX_KEYS:
        raise Malformed(f"a map of {count} keys")
    found: dict[str, Any] = {}
    for index in range(count):
        slot = keys + index * key_width
        start = slot - _unsigned(buf, slot, key_width)
        end = buf.find(b"\0", start) if 0 <= start < len(buf) else -1
        if end < 0:
            raise Malformed(f"a key at byte {start} of {len(buf)}")
        packed = _unsigned(buf, at + count * width + index, 1)
        value: bytes | None = None
        if packed >> 2 in (_FLEX_STRING, _FLEX_BLOB):
            here = at + index * width
            begin = here - _unsigned(buf, here, width)
            inner = 1 << (packed & 3)
            size = _unsigned(buf, begin - inner, inner)
            if begin + size > len(buf):
                raise Malformed(f"a value of {size} bytes at byte {begin} runs past the end")
            value = buf[begin : begin + size]
        found[buf[start:end].decode("utf-8", "replace")] = value
    return found


def _unsigned(buf: bytes, at: int, width: int) -> int:
    if width not in (1, 2, 4, 8) or at < 0 or at + width > len(buf):
        raise Malformed(f"a reference to byte {at} of {len(buf)}")
    return int.from_bytes(buf[at : at + width], "little")
