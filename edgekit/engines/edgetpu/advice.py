"""What a user can change so that an operator maps, in the words of the model's framework."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.operators import Refusal
    from edgekit.graph import Graph, Model, Op

Framework = Literal["keras", "pytorch"]

#: Names that exporters of PyTorch models leave in the graph.
_PYTORCH = re.compile(r"onnx|torch|wa/|onnx_tf|/Conv_output|aten::", re.IGNORECASE)
#: How many tensor names are looked at.
_NAMES = 2_000

#: Operator → what to do in Keras, what to do in PyTorch.
_ADVICE: dict[str, tuple[str, str]] = {
    "HARD_SWISH": (
        "use ReLU(max_value=6) instead of hard_swish (MobileNetV3Small(minimalistic=True) "
        "has none), then fine-tune",
        "replace nn.Hardswish by nn.ReLU6, then fine-tune",
    ),
    "LEAKY_RELU": (
        "replace LeakyReLU by ReLU, or by PReLU(shared_axes=[1, 2])",
        "replace nn.LeakyReLU by nn.ReLU or nn.PReLU",
    ),
    "ELU": ("replace ELU by ReLU", "replace nn.ELU by nn.ReLU"),
    "GELU": ("replace gelu by relu, and fine-tune", "replace nn.GELU by nn.ReLU, and fine-tune"),
    "ARG_MAX": (
        "end the model at the scores and take numpy.argmax of its output: it runs on the CPU "
        "either way",
        "end forward() at the scores and take the argmax of the output outside of the model",
    ),
    "CAST": (
        "remove tf.cast from the model and convert with inference_input_type and "
        "inference_output_type int8",
        "remove .to(dtype) and .float() from forward(); export with int8 inputs and outputs",
    ),
    "DEQUANTIZE": (
        "convert with converter.inference_output_type = tf.int8 (edgekit convert does), and "
        "dequantise the output outside",
        "export with int8 outputs (edgekit convert does), and dequantise the output outside",
    ),
    "QUANTIZE": (
        "convert with converter.inference_input_type = tf.int8 (edgekit convert does), and "
        "quantise the input outside",
        "export with int8 inputs (edgekit convert does), and quantise the input outside",
    ),
    "PRELU": (
        "PReLU(shared_axes=[1, 2]): one alpha per channel",
        "nn.PReLU(num_parameters=channels): one alpha per channel",
    ),
    "RESIZE_BILINEAR": (
        "enlarge in steps of 2 (UpSampling2D(2, interpolation='bilinear') repeatedly), or resize "
        "the output outside of the model",
        "enlarge in steps of 2 (nn.Upsample(scale_factor=2, mode='bilinear') repeatedly), or "
        "resize the output outside of the model",
    ),
    "RESIZE_NEAREST_NEIGHBOR": (
        "enlarge in steps of 2 (UpSampling2D(2) repeatedly)",
        "enlarge in steps of 2 (nn.Upsample(scale_factor=2) repeatedly)",
    ),
    "RESHAPE": (
        "lower the input resolution, or return the tensors before Reshape as outputs and reshape "
        "them with numpy",
        "lower the input resolution, or return the tensors before view()/reshape() and reshape "
        "them outside",
    ),
    "FULLY_CONNECTED": (
        "a Dense layer on a tensor of several rows: use Conv1D/Conv2D with kernel size 1, or "
        "Flatten before it",
        "nn.Linear on a tensor of several rows: use nn.Conv1d/nn.Conv2d with kernel size 1, or "
        "flatten before it",
    ),
    "CONCATENATION": (
        "Concatenate computed tensors only; for zeros use ZeroPadding2D",
        "torch.cat of computed tensors only; for zeros use F.pad",
    ),
    "CONV_2D": (
        "Conv2D with the same dilation_rate in both directions",
        "nn.Conv2d with the same dilation in both directions",
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2D with the same dilation_rate in both directions",
        "nn.Conv2d(groups=channels) with the same dilation in both directions",
    ),
    "MEAN": (
        "GlobalAveragePooling2D over height and width; over channels only multiples of 4",
        "nn.AdaptiveAvgPool2d(1) over height and width; over channels only multiples of 4",
    ),
    "SOFTMAX": (
        "end the model at the logits and take the softmax outside",
        "end forward() at the logits and take the softmax outside",
    ),
    "SQUEEZE": (
        "Reshape instead of tf.squeeze, or squeeze leading dimensions only",
        "reshape() instead of squeeze(), or squeeze leading dimensions only",
    ),
    "STRIDED_SLICE": (
        "slice with a step of 1; instead of x[:, ::2] use a pooling or a convolution with "
        "strides=2",
        "slice with a step of 1; instead of x[..., ::2] (a Focus layer) use a convolution with "
        "stride=2",
    ),
    "PACK": (
        "Concatenate along the channels instead of tf.stack",
        "torch.cat along the channels instead of torch.stack",
    ),
    "UNPACK": ("slice instead of tf.unstack", "slice instead of unbind()"),
    "GATHER": (
        "slice with constant bounds instead of tf.gather; an Embedding belongs before the model",
        "slice with constant bounds instead of indexing; nn.Embedding belongs before the model",
    ),
    "SPLIT_V": (
        "tf.split into equal parts, or slices",
        "torch.chunk into equal parts, or slices",
    ),
    "PAD": ("pad height, width or channels only", "F.pad on height, width or channels only"),
    "PADV2": ("pad with zeros (ZeroPadding2D)", "F.pad with the value 0"),
    "MIRROR_PAD": (
        "padding='same' or ZeroPadding2D instead of reflection",
        "padding_mode='zeros' instead of 'reflect'",
    ),
    "DIV": (
        "multiply by the reciprocal, computed at export",
        "multiply by the reciprocal, computed at export",
    ),
    "DEPTH_TO_SPACE": (
        "UpSampling2D(2) and Conv2D instead of tf.nn.depth_to_space",
        "nn.Upsample(scale_factor=2) and nn.Conv2d instead of nn.PixelShuffle",
    ),
    "BATCH_MATMUL": (
        "attention needs products of two computed tensors, which the Edge TPU has not: use "
        "convolutions",
        "torch.matmul of two computed tensors (attention) does not map: use convolutions",
    ),
    "CONV_3D": ("Conv2D, frame by frame", "nn.Conv2d, frame by frame"),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (
        "LSTM instead of Bidirectional(LSTM)",
        "nn.LSTM(bidirectional=False)",
    ),
    "WHILE": (
        "LSTM(..., unroll=False) with a fixed batch and length becomes "
        "UNIDIRECTIONAL_SEQUENCE_LSTM, which maps; other loops do not",
        "a loop in forward() does not map: unroll it, or use nn.LSTM",
    ),
    "CUSTOM": (
        "post-processing runs on the CPU; that is expected, and nothing follows it",
        "post-processing runs on the CPU; that is expected, and nothing follows it",
    ),
}
_ADVICE["LSTM"] = _ADVICE["WHILE"]
_FUSED = (
    "put the activation into a layer of its own behind another operator, not on the {kind}",
    "apply the activation to the convolution before, not to the {kind}",
)


def framework_of(model: Model) -> Framework:
    """Where a model comes from, by the names that exporters leave; Keras when nothing tells."""
    texts = [model.description, model.main.name]
    texts += [tensor.name for tensor in model.tensors[:_NAMES]]
    return "pytorch" if any(_PYTORCH.search(text) for text in texts) else "keras"


def advise(graph: Graph, op: Op, refusal: Refusal, framework: Framework, blocker: Op | None) -> str:
    """What to change so that an operator maps; one sentence."""
    column = 1 if framework == "pytorch" else 0
    if blocker is not None:
        return (
            f"it maps by itself: change operator {blocker.index} {blocker.kind}, or move it "
            "behind this one"
        )
    if "computed, not a constant" in refusal.reason:
        return (
            "Input(batch_shape=(1, ...)) with fixed sizes, so that shapes become constants",
            "export with a fixed example input, without dynamic_axes",
        )[column]
    if "innermost" in refusal.reason:
        return (
            "Reshape to three dimensions (and a batch of 1) before this layer",
            "reshape() to three dimensions (and a batch of 1) before this layer",
        )[column]
    if "is fused into it" in refusal.reason:
        return _FUSED[column].format(kind=op.kind)
    if "computes in int8" in refusal.reason and op.kind not in ("QUANTIZE", "DEQUANTIZE", "CAST"):
        return "convert in full integer: edgekit convert MODEL -o OUT.tflite --data FILES"
    kind = "CUSTOM" if op.kind.startswith("CUSTOM") else op.kind
    if kind in _ADVICE:
        return _ADVICE[kind][column]
    return (
        "move this layer behind the last one that maps, or out of the model",
        "move this operation behind the last one that maps, or out of forward()",
    )[column]
