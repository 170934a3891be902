"""The model as edgekit sees it: frozen records, and the only reader of ``.tflite`` files."""

from edgekit.graph.model import Graph, Model, Op, Quantization, Tensor
from edgekit.graph.reader import read_model

__all__ = ["Graph", "Model", "Op", "Quantization", "Tensor", "read_model"]
