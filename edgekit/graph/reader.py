"""Reads ``.tflite`` files, which are untrusted: every offset is checked before it is followed.

The format is a FlatBuffer (flatbuffers.dev/internals: little-endian, tables with vtables,
vectors with a 32-bit length). A read outside the file, a reference to a tensor that does not
exist or a tensor whose bytes do not fit its shape is a :class:`~edgekit.errors.ModelError`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edgekit.errors import ModelError
from edgekit.graph import schema
from edgekit.graph.flatbuffer import Malformed, Table, follow
from edgekit.graph.model import Graph, Model, Op, Quantization, Tensor

#: TensorFlow itself allows 6 to 8 dimensions; anything far beyond is garbage.
_MAX_RANK = 16
_MAX_ELEMENTS = 1 << 40
#: Inputs or outputs of a graph.
_MAX_PORTS = 1_000
_MAX_SHOWN = 200

#: Option fields that are enumerations, with their value names.
_ENUM_FIELDS = {
    "padding": schema.PADDINGS,
    "fused_activation_function": schema.ACTIVATIONS,
}


def shown(name: str) -> str:
    """A text from a file as it can be printed: one line, no control characters, not endless."""
    cleaned = "".join(c if c.isprintable() else "\ufffd" for c in name[: _MAX_SHOWN + 1])
    return cleaned if len(cleaned) <= _MAX_SHOWN else cleaned[: _MAX_SHOWN - 1] + "…"


def read_model(source: str | Path | bytes, name: str | None = None) -> Model:
    """Reads a model from a path or from bytes.

    Args:
        source: a file's path, or its bytes.
        name: the model's name in reports and generated code; by default the file's stem.

    Raises:
        ModelError: the file is missing, is no ``.tflite`` file, or is damaged.
    """
    if isinstance(source, bytes):
        raw, place = source, name or "model"
    else:
        path = Path(source)
        place = str(path)
        try:
            raw = path.read_bytes()
        except IsADirectoryError:
            raise ModelError(
                "this is a folder, not a .tflite file", place, f"edgekit convert {place}"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ModelError(f"the model cannot be read: {reason}", place) from None
        name = name or path.stem
    if len(raw) < 8 or raw[4:8] != b"TFL3":
        raise ModelError(
            "this is not a .tflite file (its bytes 4 to 8 are not 'TFL3')",
            place,
            "edgekit convert SRC -o OUT.tflite for a Keras model or a SavedModel",
        )
    try:
        return _read(raw, name or "model")
    except Malformed as error:
        raise ModelError(
            f"the .tflite file is damaged: {error}", place, "export or copy the model again"
        ) from None


def _read(raw: bytes, name: str) -> Model:
    root = Table(raw, follow(raw, 0))
    version = root.scalar(0, "uint32", 0)
    if version != 3:
        raise Malformed(f"schema version {version}, where only 3 exists")
    codes = [_operator_code(code) for code in root.tables(1)]
    buffers = [_buffer(raw, table) for table in root.tables(4)]
    graphs = tuple(_graph(raw, table, codes, buffers) for table in root.tables(2))
    if not graphs:
        raise Malformed("it holds no graph")
    metadata: dict[str, bytes] = {}
    for entry in root.tables(6):
        index = entry.scalar(1, "uint32", 0)
        if index >= len(buffers):
            raise Malformed(f"metadata in buffer {index} of {len(buffers)}")
        metadata[entry.string(0)] = buffers[index] or b""
    return Model(
        name=name,
        sha256=hashlib.sha256(raw).hexdigest(),
        graphs=graphs,
        raw=raw,
        description=root.string(3),
        metadata=metadata,
    )


def _operator_code(table: Table) -> tuple[str, int]:
    # The int8 field came first; codes above 127 need the int32 one (schema.fbs, OperatorCode).
    code = max(table.scalar(0, "int8", 0), table.scalar(3, "int32", 0))
    if not 0 <= code < len(schema.OPERATORS):
        return f"BUILTIN_{code}", table.scalar(2, "int32", 1)
    kind = schema.OPERATORS[code]
    if kind == "CUSTOM":
        kind = f"CUSTOM:{table.string(1)}"
    return kind, table.scalar(2, "int32", 1)


def _buffer(raw: bytes, table: Table) -> bytes | None:
    # Models over 2 GB keep buffers behind the FlatBuffer (fields offset and size).
    offset, size = table.scalar(1, "uint64", 0), table.scalar(2, "uint64", 0)
    if offset > 1:
        if offset + size > len(raw):
            raise Malformed(f"a buffer of {size} bytes at byte {offset} runs past the end")
        return raw[offset : offset + size]
    return table.blob(0) or None


def _graph(
    raw: bytes, table: Table, codes: list[tuple[str, int]], buffers: list[bytes | None]
) -> Graph:
    tensors = tuple(_tensor(i, t, buffers) for i, t in enumerate(table.tables(0)))
    graph = Graph(
        name=table.string(4),
        tensors=tensors,
        ops=tuple(_op(i, t, codes) for i, t in enumerate(table.tables(3))),
        inputs=table.scalars(1, "int32"),
        outputs=table.scalars(2, "int32"),
    )
    for where, indices in (
        ("the graph's inputs", graph.inputs),
        ("the graph's outputs", graph.outputs),
    ):
        _check_tensors(where, indices, len(tensors), optional=False)
    for what, count in (("inputs", len(graph.inputs)), ("outputs", len(graph.outputs))):
        if count > _MAX_PORTS:
            raise Malformed(f"the graph has {count} {what}")
    for op in graph.ops:
        place = f"operator {op.index} {op.kind}"
        _check_tensors(place, op.inputs, len(tensors), optional=True)
        _check_tensors(place, op.intermediates, len(tensors), optional=True)
        _check_tensors(place, op.outputs, len(tensors), optional=False)
    return graph


def _check_tensors(where: str, indices: tuple[int, ...], count: int, *, optional: bool) -> None:
    for index in indices:
        if not (0 <= index < count or (optional and index == -1)):
            raise Malformed(f"{where} name tensor {index} of {count}")


def _tensor(index: int, table: Table, buffers: list[bytes | None]) -> Tensor:
    shape = table.scalars(0, "int32")
    elements = 1
    for dim in shape:
        elements *= max(dim, 1)
        if dim < 0 or elements > _MAX_ELEMENTS:
            raise Malformed(f"tensor {index} has the shape {list(shape)[:_MAX_RANK]}")
    if len(shape) > _MAX_RANK:
        raise Malformed(f"tensor {index} has {len(shape)} dimensions")
    code = table.scalar(1, "int8", 0)
    if not 0 <= code < len(schema.TENSOR_TYPES):
        raise Malformed(f"tensor {index} has the unknown type {code}")
    dtype = schema.TENSOR_TYPES[code]
    buffer = table.scalar(2, "uint32", 0)
    if buffer and buffer >= len(buffers):
        raise Malformed(f"tensor {index} is in buffer {buffer} of {len(buffers)}")
    tensor = Tensor(
        index=index,
        name=table.string(3),
        shape=shape,
        dtype=dtype,
        quantization=_quantization(index, shape, table.table(4)),
        raw=buffers[buffer] if buffer else None,
        is_variable=table.scalar(5, "bool", False),
        shape_signature=table.scalars(7, "int32"),
    )
    sized = tensor.raw is not None and dtype != "string"
    # A constant with a sparsity table (field 6) stores fewer bytes than its shape says.
    if sized and len(tensor.raw or b"") != tensor.nbytes and table.table(6) is None:
        raise Malformed(
            f"tensor {index} '{shown(tensor.name)}' holds {len(tensor.raw or b'')} bytes "
            f"where its shape {list(shape)} of {dtype} needs {tensor.nbytes}"
        )
    return tensor


def _quantization(index: int, shape: tuple[int, ...], table: Table | None) -> Quantization | None:
    if table is None:
        return None
    scales = table.scalars(2, "float32")
    if not scales:
        return None
    zero_points = table.scalars(3, "int64") or (0,) * len(scales)
    axis = table.scalar(6, "int32", 0)
    if len(zero_points) != len(scales):
        raise Malformed(
            f"tensor {index} has {len(scales)} scales and {len(zero_points)} zero points"
        )
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        raise Malformed(
            f"tensor {index} of shape {list(shape)} has {len(scales)} scales along axis {axis}"
        )
    return Quantization(scales, zero_points, axis)


def _op(index: int, table: Table, codes: list[tuple[str, int]]) -> Op:
    code = table.scalar(0, "uint32", 0)
    if code >= len(codes):
        raise Malformed(f"operator {index} has the code {code} of {len(codes)}")
    kind, version = codes[code]
    options: dict[str, Any] = {}
    for names, type_slot, slot in (
        (schema.OPTIONS_TABLES, 3, 4),
        (schema.OPTIONS2_TABLES, 11, 12),
    ):
        number = table.scalar(type_slot, "uint8", 0)
        body = table.table(slot) if number else None
        if body is not None and number < len(names):
            options.update(_options(body, names[number]))
    return Op(
        index=index,
        kind=kind,
        inputs=table.scalars(1, "int32"),
        outputs=table.scalars(2, "int32"),
        options=options,
        custom_options=table.blob(5) or b"",
        intermediates=table.scalars(8, "int32"),
        version=version,
    )


def _options(body: Table, table_name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for slot, name, kind, default in schema.OPTION_FIELDS.get(table_name, ()):
        if kind == "string":
            found[name] = body.string(slot)
        elif kind.startswith("["):
            if kind != "[table]":
                found[name] = body.scalars(slot, kind[1:-1])
        elif kind != "table":
            value = body.scalar(slot, kind, default)
            if name in _ENUM_FIELDS and kind == "int8":
                names = _ENUM_FIELDS[name]
                value = names[value] if 0 <= value < len(names) else f"UNKNOWN_{value}"
            found[name] = value
    return found
