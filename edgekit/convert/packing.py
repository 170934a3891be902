"""Writes a ``.tflite`` file anew: constants aligned, metadata entries, names and description.

The converter's Python wrapper rewrites its result with an object API that aligns constants to
4 bytes only, although the format asks for 16 (``force_align`` in schema.fbs). Kernels that
load words or vectors from flash need the alignment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.graph import writer


def repack(
    model: bytes,
    *,
    entries: Mapping[str, bytes] | None = None,
    description: str | None = None,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
) -> bytes:
    """The same model with aligned constants, short tensor names and what is given changed.

    Args:
        model: a ``.tflite`` file that edgekit's reader accepts; a zip archive behind it goes.
        entries: metadata entries to add or replace, by name.
        description: the model's description.
        input_names: new names of the main graph's inputs, if as many as it has.
        output_names: likewise of its outputs.
    """
    schema = writer.load_schema()
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    if description is not None:
        tree.description = description
    _shorten_names(tree)
    graph = tree.subgraphs[0]
    for indices, names in ((graph.inputs, input_names), (graph.outputs, output_names)):
        if len(indices) == len(names):
            for index, name in zip(indices, names, strict=True):
                graph.tensors[int(index)].name = name
    for name, content in (entries or {}).items():
        _set_entry(schema, tree, name, content)

    return writer.pack(tree)


def _shorten_names(tree: Any) -> None:
    """Names of fused operators list all that were fused; the first is the result's own."""
    for graph in tree.subgraphs:
        taken = {_text(tensor.name) for tensor in graph.tensors}
        for tensor in graph.tensors:
            short = _text(tensor.name).partition(";")[0]
            # Constants that were fused along may carry the same list: the result comes first.
            is_result = tree.buffers[tensor.buffer].data is None
            if short not in taken and is_result:
                tensor.name = short
                taken.add(short)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def _set_entry(schema: Any, tree: Any, name: str, content: bytes) -> None:
    import numpy as np

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    tree.metadata = tree.metadata or []
    for entry in tree.metadata:
        if entry.name in (name, name.encode()):
            tree.buffers[entry.buffer] = buffer
            return
    tree.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(tree.buffers) - 1
    tree.metadata.append(entry)
