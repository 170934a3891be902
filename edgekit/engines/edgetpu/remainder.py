"""The part of a compiled model that runs on the CPU, as a model of its own.

Timing it tells what share of an inference the CPU takes: neither libedgetpu nor TensorFlow Lite's
Python interface reports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.graph import Model

_CUSTOM_CODE = b"edgetpu-custom-op"


def cpu_part(model: Model) -> bytes | None:
    """The operators of a compiled model that stay on the CPU; ``None`` when there are none.

    The Edge TPU's outputs become inputs, and its inputs from the CPU outputs.
    """
    import flatbuffers
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    loaded: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.raw, 0))
    graph = loaded.subgraphs[0]
    custom = {
        index
        for index, code in enumerate(loaded.operatorCodes)
        if (code.customCode or b"") == _CUSTOM_CODE
    }
    kept = [op for op in graph.operators if op.opcodeIndex not in custom]
    gone = [op for op in graph.operators if op.opcodeIndex in custom]
    if not kept or not gone:
        return None
    made = {int(i) for op in kept for i in op.outputs}
    read = [int(i) for op in kept for i in op.inputs if i >= 0]
    constants = {i for i, t in enumerate(model.tensors) if t.is_constant or t.is_variable}
    graph.inputs = list(dict.fromkeys(i for i in read if i not in made and i not in constants))
    wanted = [int(i) for i in graph.outputs] + [int(i) for op in gone for i in op.inputs]
    graph.outputs = list(dict.fromkeys(i for i in wanted if i in made))
    graph.operators = kept
    loaded.signatureDefs = None
    loaded.metadata = None
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(loaded.Pack(builder), b"TFL3")
    return bytes(builder.Output())
