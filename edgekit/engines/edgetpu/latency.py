"""Estimates the latency of fully mapped convolutional networks, where the fit is known to hold.

``t_ms = a·conv + b·dw + c·io_MB + d·offchip_MB`` with ``conv = Σ⌈kh·kw·Cin/64⌉·⌈Cout/64⌉·H·W /
500e3`` and ``dw = Σ⌈C/64⌉·kh·kw·H·W / 500e3`` over the output positions; io is the bytes of
inputs, outputs and instructions, offchip those of streamed parameters. The coefficients are a fit
over 20 published, fully mapped CNNs per host; the errors are those of leaving each out in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.engines.edgetpu.darwinn import CompiledModel
    from edgekit.engines.edgetpu.partition import Partition
    from edgekit.graph import Graph, Model


@dataclass(frozen=True)
class HostFit:
    """Coefficients for one kind of host, in ms per unit, with the fit's relative errors."""

    title: str
    conv: float
    depthwise: float
    io_mb: float
    offchip_mb: float
    mean_error: float
    largest_error: float


#: By a target's setting ``latency-model``.
FITS = {
    "usb": HostFit("USB 3, desktop host", 1.78, 0.88, 3.67, 1.95, 0.065, 0.22),
    "devboard": HostFit("Dev Board", 2.75, 1.04, 2.38, 2.24, 0.116, 0.46),
    "pcie": HostFit("PCIe, desktop host", 1.11, 0.36, 1.20, 2.63, 0.115, 0.67),
}
#: Operators of the networks that the fit has seen.
_SEEN = frozenset(
    """
    CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED AVERAGE_POOL_2D MAX_POOL_2D MEAN ADD SUB MUL PAD
    CONCATENATION RESHAPE SQUEEZE SOFTMAX LOGISTIC QUANTIZE RELU RELU6 MAXIMUM MINIMUM TANH
    """.split()
)
#: Instructions per mapped operator where the compiled file is not at hand: 2.2 to 6.4 KB were
#: seen, 5.9 KB for the MobileNet v1 0.25 here.
_INSTRUCTION_BYTES_PER_OP = 5_000
_INSTRUCTION_ERROR = 0.5
_LARGEST_USEFUL_ERROR = 0.6


class NotKnown(EdgekitError):
    """There is no estimate that is known to hold; ``what`` says why."""

    exit_code = 3


@dataclass(frozen=True)
class LatencyEstimate:
    """An estimated latency. Errors are relative: 0.22 stands for 22 %."""

    latency_ms: float
    mean_error: float
    largest_error: float
    basis: str
    conv_ms: float
    depthwise_ms: float
    io_ms: float
    offchip_ms: float


def estimate_latency(
    model: Model, latency_model: str | None, partition: Partition, compiled: CompiledModel | None
) -> LatencyEstimate:
    """The steady latency of one inference.

    Args:
        model: the model before the compiler.
        latency_model: a key of :data:`FITS`, or ``None`` for a host without a fit.
        partition: the predicted partition (used where ``compiled`` is ``None``).
        compiled: what the compiler made of it.

    Raises:
        NotKnown: the fit is not known to hold for this model or host.
    """
    fit = FITS.get(latency_model or "")
    if fit is None:
        raise NotKnown("there is no latency fit for this board")
    left = len(compiled.cpu_ops) if compiled is not None else len(partition.ops_cpu)
    if left:
        what = "1 operator stays" if left == 1 else f"{left} operators stay"
        raise NotKnown(f"{what} on the CPU, where the fit does not hold")
    if compiled is None and partition.refused:
        raise NotKnown(f"the compiler would refuse the model: {partition.refused[0]}")
    strange = sorted({op.kind for op in model.ops} - _SEEN)
    if strange:
        raise NotKnown(f"the fit has seen no network with {', '.join(strange)}")
    if not any(op.kind == "CONV_2D" for op in model.ops):
        raise NotKnown("the fit is for convolutional networks, and this model has no CONV_2D")
    conv, depthwise = work(model.main)
    io_bytes = sum(t.nbytes for t in (*model.input_tensors, *model.output_tensors))
    instruction_error_ms = 0.0
    if compiled is not None:
        instructions, streamed = compiled.instruction_bytes, compiled.streamed_bytes
        basis = "program sizes from the compiled file"
    else:
        instructions = _INSTRUCTION_BYTES_PER_OP * partition.ops_mapped
        streamed = partition.memory.streamed_bytes
        if streamed:
            raise NotKnown(
                f"about {streamed:,} B of parameters would be streamed; how many exactly, only "
                "the compiler knows"
            )
        instruction_error_ms = fit.io_mb * _INSTRUCTION_ERROR * instructions / 1e6
        basis = "program size predicted: the model was not compiled"
    terms = (
        fit.conv * conv,
        fit.depthwise * depthwise,
        fit.io_mb * (io_bytes + instructions) / 1e6,
        fit.offchip_mb * streamed / 1e6,
    )
    total = sum(terms)
    more = instruction_error_ms / total
    if fit.largest_error + more > _LARGEST_USEFUL_ERROR and compiled is None:
        raise NotKnown(
            f"without the compiled file the estimate could be {fit.largest_error + more:.0%} off"
        )
    return LatencyEstimate(
        latency_ms=total,
        mean_error=fit.mean_error + more,
        largest_error=fit.largest_error + more,
        basis=f"fit over 20 CNNs, {fit.title}; {basis}",
        conv_ms=terms[0],
        depthwise_ms=terms[1],
        io_ms=terms[2],
        offchip_ms=terms[3],
    )


def work(graph: Graph) -> tuple[float, float]:
    """The fit's ``conv`` and ``dw`` of a graph: thousands of cycles of 500 MHz."""
    conv = depthwise = 0
    for op in graph.ops:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        weights, output = graph.tensors[op.inputs[1]].shape, graph.tensors[op.outputs[0]].shape
        if len(weights) != 4 or len(output) != 4:
            continue
        positions = output[1] * output[2]
        if op.kind == "CONV_2D":
            taps = weights[1] * weights[2] * weights[3]
            conv += -(-taps // 64) * -(-weights[0] // 64) * positions
        else:
            depthwise += -(-weights[3] // 64) * weights[1] * weights[2] * positions
    return conv / 500e3, depthwise / 500e3
