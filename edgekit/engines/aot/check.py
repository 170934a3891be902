"""Refuses graphs that the engine cannot turn into safe C: what no step can express, and tensors
that contradict the operator they belong to (a file is untrusted; the C trusts its shapes)."""

from __future__ import annotations

from edgekit.engines.aot.ir import Instruction, Program
from edgekit.engines.aot.lowering import CTYPES
from edgekit.errors import ModelError
from edgekit.graph import Model, Tensor


def check_model(model: Model) -> None:
    """Raises: ModelError, for the whole graph."""
    if len(model.graphs) > 1:
        raise ModelError(
            f"the model has {len(model.graphs)} graphs (control flow), the engine aot takes one",
            model.name,
            "--engine tflm",
        )
    if not model.outputs or not model.ops:
        raise ModelError("the model has no output or no operator", model.name)
    for word, tensors in (("input", model.input_tensors), ("output", model.output_tensors)):
        for tensor in tensors:
            if tensor.dtype not in CTYPES:
                raise ModelError(
                    f"the {word} '{tensor.name}' is {tensor.dtype}, which the engine aot does"
                    " not take",
                    model.name,
                    "edgekit convert, which makes int8 models",
                )
    for tensor in model.tensors:
        if -1 in tensor.shape_signature[1:]:
            raise ModelError(
                f"tensor '{tensor.name}' has no fixed shape: {list(tensor.shape_signature)}",
                model.name,
                "convert the model with fixed input shapes",
            )
        if tensor.is_variable:
            raise ModelError(
                f"tensor '{tensor.name}' keeps state between inferences, which the engine aot"
                " does not take",
                model.name,
                "--engine tflm",
            )
    _check_order(model)


def _check_order(model: Model) -> None:
    """Everything is written once, and before it is read."""
    ready = {t.index for t in model.tensors if t.is_constant} | set(model.inputs)
    for op in model.ops:
        place = f"operator {op.index} {op.kind}"
        for index in op.inputs:
            if index >= 0 and index not in ready:
                name = model.tensors[index].name
                raise ModelError(f"tensor {index} '{name}' is read before it is computed", place)
        for index in op.outputs:
            if index in ready:
                name = model.tensors[index].name
                raise ModelError(f"tensor {index} '{name}' is written twice", place)
            ready.add(index)
    for tensor in model.output_tensors:
        if tensor.is_constant or tensor.index not in ready:
            raise ModelError(f"no operator computes the output '{tensor.name}'", model.name)


def check_step(program: Program, step: Instruction) -> None:
    """Raises: ModelError, where a step's tensors do not fit together."""
    tensors = [program.tensors[i] if i >= 0 else None for i in step.inputs]
    data = tensors[0] if tensors else None
    if data is None or not step.outputs:
        return
    output = program.tensors[step.outputs[0]]
    problem = None
    if step.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weights = tensors[1] if len(tensors) > 1 else None
        problem = _window(step, data, output, weights.shape[1:3] if weights else ())
        if weights is not None and problem is None:
            axis = 0 if step.kind == "CONV_2D" else 3
            if weights.shape[axis] != output.shape[3]:
                problem = f"weights {list(weights.shape)} give other channels"
    elif step.kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        size = (step.options.get("filter_height", 0), step.options.get("filter_width", 0))
        problem = _window(step, data, output, size)
        if problem is None and data.shape[3] != output.shape[3]:
            problem = "channels differ"
    elif step.kind == "FULLY_CONNECTED":
        weights = tensors[1] if len(tensors) > 1 else None
        if weights is None or len(weights.shape) != 2:
            problem = "there are no weights of two dimensions"
        elif data.elements * weights.shape[0] != output.elements * weights.shape[1]:
            problem = f"weights {list(weights.shape)} do not lead from one to the other"
    elif (step.kind in _SAME_BYTES and data.nbytes != output.nbytes) or (
        step.kind in _SAME_ELEMENTS and data.elements != output.elements
    ):
        problem = "their sizes differ"
    for bias in tensors[2:3] if step.kind in _BIASED else ():
        if problem is None and bias is not None and bias.elements != output.shape[-1]:
            problem = f"there are {bias.elements} biases"
    if problem is not None:
        raise ModelError(
            f"the shapes {list(data.shape)} and {list(output.shape)} do not fit: {problem}",
            program.place(step),
        )


_SAME_BYTES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_SAME_ELEMENTS = ("SOFTMAX", "QUANTIZE", "DEQUANTIZE")
_BIASED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def _window(step: Instruction, data: Tensor, output: Tensor, size: tuple[int, ...]) -> str | None:
    """What is wrong with the height or width of a convolution or pool."""
    if len(data.shape) != 4 or len(output.shape) != 4 or len(size) != 2:
        return "four dimensions are needed"
    if data.shape[0] != output.shape[0] or not all((*data.shape, *output.shape)):
        return "batches differ, or a dimension is empty"
    options = step.options
    pads = options.get("pads", (0, 0, 0, 0))
    for axis, letter in ((1, "h"), (2, "w")):
        stride = int(options.get(f"stride_{letter}", 1))
        dilation = int(options.get(f"dilation_{letter}_factor", 1)) or 1
        if stride < 1 or dilation < 1 or size[axis - 1] < 1:
            return f"stride {stride}, dilation {dilation}, window {list(size)}"
        reach = (size[axis - 1] - 1) * dilation + 1
        have = data.shape[axis] + pads[2 * axis - 2] + pads[2 * axis - 1]
        if options.get("padding") == "SAME":
            expected = -(-data.shape[axis] // stride)
        else:
            expected = (have - reach) // stride + 1
        if expected != output.shape[axis]:
            return f"axis {axis} should have {max(expected, 0)} elements"
    return None
