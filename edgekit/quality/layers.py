"""Where quantisation loses accuracy: every operator of an integer model against the float one.

Both models run on the same inputs with all their tensors kept. Operators are paired by the
names of their outputs or, where the converter renamed them, by the order of kinds and shapes.
The error of a tensor is its noise-to-signal ratio (mean squared error over mean square of the
float values). It accumulates along the graph, so the ratio that an operator *adds* to the
largest of its inputs' points at the culprit; operators are ranked by it.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError
from edgekit.runtimes import open_runner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.graph import Model, Op, Tensor

    Reals = NDArray[np.float64]

#: Operators that only convert between number formats.
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
#: Shares (of the error) and ratios from which a statistic is named as a reason.
_SATURATED_SHARE = 0.4
_OUTLIER_RATIO = 8.0
_FEW_STEPS = 16
#: Weight scales below this fraction of the largest are tiny: their biases take many bits.
_TINY_SCALE_RATIO = 1e-4


@dataclass(frozen=True)
class OpError:
    """The quantisation error of one operator's output over all samples.

    ``noise_ratio`` is accumulated, ``added`` what this operator adds to its inputs' (both taken
    as 1 at most, where nothing of the signal is left).
    ``sqnr_db`` is ``-10 log10(noise_ratio)``; ``None`` where there is no error.
    ``largest_steps`` is the largest error in steps of the output's quantisation.
    ``saturated`` is the share of values that the output's range does not hold.
    """

    op: int
    kind: str
    name: str
    tensor: int
    reference_tensor: int
    sqnr_db: float | None
    noise_ratio: float
    added: float
    cosine: float | None
    largest_steps: float | None
    saturated: float
    steps_used: float | None
    reason: str


@dataclass(frozen=True)
class LayerErrors:
    """Errors of all operators that could be paired, the worst first."""

    samples: int
    integer_runtime: str
    float_runtime: str
    ops: tuple[OpError, ...]
    #: operators without a counterpart in the float model
    unmatched: tuple[int, ...]


def layer_errors(
    model: Model,
    reference: Model,
    inputs: Sequence[Sequence[NDArray[Any]]],
    on_sample: Callable[[int], None] = lambda count: None,
) -> LayerErrors:
    """Compares an integer model with its float original, operator by operator.

    Args:
        model: the integer model.
        reference: the float model, as a ``.tflite`` file of the same graph.
        inputs: inputs of the integer model; the float model gets the same values as reals.
        on_sample: called with 1 after every input.

    Raises:
        ModelError: the models do not belong together, or no runtime takes one of them.
    """
    _check_ports(model, reference)
    pairs = match_operators(model, reference)
    if not pairs:
        raise ModelError(
            "no operator of the integer model has a counterpart in the float model",
            reference.name,
            "give the float .tflite file that was converted from the same source",
        )
    statistics = [_Statistics(model.tensors[mine], mine, other) for _, mine, other in pairs]
    mine_indices = [s.mine for s in statistics]
    other_indices = [s.other for s in statistics]
    with _open(model, "litert-ref") as integer, _open(reference, "litert") as floating:
        for sample in inputs:
            integer.invoke(*sample)
            floating.invoke(*_as_reference(sample, model, reference))
            for found, got, want in zip(
                statistics,
                integer.tensors(mine_indices),
                floating.tensors(other_indices),
                strict=True,
            ):
                found.add(got, want)
            on_sample(1)
        titles = integer.title, floating.title
    paired = {op.index for op, _, _ in pairs}
    errors = _rank(model, pairs, statistics)
    unmatched = tuple(
        op.index for op in model.ops if op.index not in paired and op.kind not in _CONVERSIONS
    )
    return LayerErrors(len(inputs), titles[0], titles[1], errors, unmatched)


def match_operators(model: Model, reference: Model) -> list[tuple[Op, int, int]]:
    """Pairs operators: ``(operator, its output tensor, the float model's tensor)``.

    By name where every operator has its name in the other model, else by the longest common
    sequence of kinds and output shapes.
    """
    mine = [op for op in model.ops if op.kind not in _CONVERSIONS and op.outputs]
    others = [op for op in reference.ops if op.kind not in _CONVERSIONS and op.outputs]
    names: dict[str, int] = {}
    for other in others:
        names[reference.tensors[other.outputs[0]].name] = other.outputs[0]
    by_name = []
    for op in mine:
        tensor = model.tensors[op.outputs[0]]
        found = names.get(tensor.name)
        if found is not None and reference.tensors[found].shape == tensor.shape:
            by_name.append((op, tensor.index, found))
    if len(by_name) == len(mine):
        return by_name
    keys = [(op.kind, model.tensors[op.outputs[0]].shape) for op in mine]
    other_keys = [(op.kind, reference.tensors[op.outputs[0]].shape) for op in others]
    blocks = difflib.SequenceMatcher(None, keys, other_keys, autojunk=False).get_matching_blocks()
    return [
        (mine[a + i], mine[a + i].outputs[0], others[b + i].outputs[0])
        for a, b, size in blocks
        for i in range(size)
    ]


class _Statistics:
    """Sums over samples of one pair of tensors; ``channels`` are along the last axis."""

    def __init__(self, tensor: Tensor, mine: int, other: int) -> None:
        import numpy as np

        self.tensor, self.mine, self.other = tensor, mine, other
        self.signal = self.noise = self.cross = self.energy = self.noise_outside = 0.0
        self.largest = 0.0
        self.outside = self.count = 0
        channels = tensor.shape[-1] if tensor.shape else 1
        self.low: Reals = np.full(channels, np.inf)
        self.high: Reals = np.full(channels, -np.inf)

    def add(self, got: NDArray[Any], want: NDArray[Any]) -> None:
        import numpy as np

        from edgekit.convert.verify import dequantize_array

        reals = dequantize_array(got, self.tensor).reshape(-1)
        wanted = want.astype(np.float64).reshape(-1)
        difference = reals - wanted
        self.signal += float(wanted @ wanted)
        self.noise += float(difference @ difference)
        self.cross += float(reals @ wanted)
        self.energy += float(reals @ reals)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        by_channel = wanted.reshape(-1, self.low.size)
        self.low = np.minimum(self.low, by_channel.min(axis=0))
        self.high = np.maximum(self.high, by_channel.max(axis=0))
        limits = self.limits()
        if limits is not None:
            slack = self.tensor.scale
            outside = (wanted < limits[0] - slack) | (wanted > limits[1] + slack)
            self.outside += int(outside.sum())
            self.noise_outside += float((difference[outside] ** 2).sum())
        self.count += wanted.size

    def limits(self) -> tuple[float, float] | None:
        """The real values that the integer tensor can hold."""
        import numpy as np

        tensor = self.tensor
        if tensor.quantization is None or tensor.dtype.startswith("float"):
            return None
        info = np.iinfo(tensor.dtype)
        return (
            (int(info.min) - tensor.zero_point) * tensor.scale,
            (int(info.max) - tensor.zero_point) * tensor.scale,
        )

    @property
    def ratio(self) -> float:
        if self.signal > 0:
            return self.noise / self.signal
        return 0.0 if self.noise == 0 else math.inf

    @property
    def span_steps(self) -> float | None:
        """Steps of the quantisation between the smallest and the largest float value."""
        if self.limits() is None:
            return None
        return float(self.high.max() - self.low.min()) / self.tensor.scale


def _rank(
    model: Model, pairs: Sequence[tuple[Op, int, int]], statistics: Sequence[_Statistics]
) -> tuple[OpError, ...]:
    ratios = {found.mine: found.ratio for found in statistics}
    _pass_on(model, ratios)
    errors = []
    for (op, mine, other), found in zip(pairs, statistics, strict=True):
        before = max((ratios.get(i, 0.0) for i in op.inputs if i >= 0), default=0.0)
        ratio = found.ratio
        # Above 1 nothing of the signal is left, and later operators only blow the rest up.
        added = max(min(ratio, 1.0) - min(before, 1.0), 0.0)
        limits = found.limits()
        product = math.sqrt(found.signal * found.energy)
        errors.append(
            OpError(
                op=op.index,
                kind=op.kind,
                name=model.tensors[mine].name,
                tensor=mine,
                reference_tensor=other,
                sqnr_db=-10 * math.log10(ratio) if 0 < ratio < math.inf else None,
                noise_ratio=ratio,
                added=added,
                cosine=found.cross / product if product > 0 else None,
                largest_steps=found.largest / found.tensor.scale if limits else None,
                saturated=found.outside / max(found.count, 1),
                steps_used=found.span_steps,
                reason=_reason(model, op, found, added, ratio),
            )
        )
    return tuple(sorted(errors, key=lambda e: (-e.added, e.op)))


def _pass_on(model: Model, ratios: dict[int, float]) -> None:
    """Operators without a counterpart (conversions) hand on the error of their input."""
    for op in model.ops:
        for index in op.outputs:
            if index not in ratios:
                ratios[index] = max((ratios.get(i, 0.0) for i in op.inputs if i >= 0), default=0.0)


def _reason(model: Model, op: Op, found: _Statistics, added: float, ratio: float) -> str:
    """The likely reason, from what the ranges of the output and the weights look like."""
    saturated = found.outside / max(found.count, 1)
    limits = found.limits()
    if limits is not None and found.noise_outside > _SATURATED_SHARE * found.noise:
        return (
            f"saturated range: {saturated:.2%} of the float values lie outside "
            f"{limits[0]:.4g} … {limits[1]:.4g} and make {found.noise_outside / found.noise:.0%} "
            "of the error; calibrate with more or other samples"
        )
    if limits is not None and ratio > 0 and 0.25 * ratio > added >= 0:
        return "mostly handed on from its inputs"
    weights = _weights_reason(model, op)
    if weights is not None:
        return weights
    steps = found.span_steps
    if steps is not None and 0 < steps < _FEW_STEPS:
        return (
            f"range too wide: the float values span {steps:.1f} of 256 steps; "
            "the calibration saw far larger ones"
        )
    spans = found.high - found.low
    outlier = _outlier(spans)
    if outlier is not None and limits is not None:
        channel, times, typical = outlier
        return (
            f"outlier channel: channel {channel} of the output spans {times:.0f} times the "
            f"typical one, which is left with {typical / found.tensor.scale:.0f} steps"
        )
    return "rounding"


def _weights_reason(model: Model, op: Op) -> str | None:
    """Outlier channels and tiny scales of the weights."""
    import numpy as np

    if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") or len(op.inputs) < 2:
        return None
    weights = model.tensors[op.inputs[1]]
    if weights.raw is None or weights.quantization is None or not weights.dtype.startswith("int"):
        return None
    scales = np.array(weights.quantization.scales)
    bias = model.tensors[op.inputs[2]] if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    if bias is not None and bias.raw is not None and bias.dtype == "int32":
        clipped = np.flatnonzero(np.abs(bias.data().astype(np.int64).reshape(-1)) >= 2**31 - 1)
        if clipped.size:
            channel = int(clipped[0])
            scale = scales[min(channel, scales.size - 1)]
            return (
                f"tiny scale: the bias of channel {channel} does not fit 32 bits, because its "
                f"weights have the scale {scale:.3g}"
            )
    if scales.size > 1:
        if scales.min() < _TINY_SCALE_RATIO * np.median(scales):
            channel = int(scales.argmin())
            return (
                f"tiny scale: the weights of channel {channel} have the scale "
                f"{scales.min():.3g}, the typical one is {float(np.median(scales)):.3g}"
            )
        return None
    axis = 3 if op.kind == "DEPTHWISE_CONV_2D" else 0
    values = weights.data().astype(np.int64)
    largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
    outlier = _outlier(largest.astype(np.float64))
    if outlier is None:
        return None
    channel, times, typical = outlier
    return (
        f"outlier channel: the weights of channel {channel} are {times:.0f} times the typical "
        f"ones, which share its scale and are left with {typical:.0f} steps; quantise per channel"
    )


def _outlier(spans: Reals) -> tuple[int, float, float] | None:
    """The widest channel, how many times the median it spans, and the median."""
    import numpy as np

    alive = spans[spans > 0]
    if alive.size < 2:
        return None
    typical = float(np.median(alive))
    channel = int(spans.argmax())
    times = float(spans[channel]) / typical
    return (channel, times, typical) if times > _OUTLIER_RATIO else None


def _open(model: Model, otherwise: str) -> Any:
    """TFLM if it takes the model (nothing else to install), else the other runtime."""
    try:
        return open_runner("tflm", model.raw, keep_tensors=True)
    except ModelError:
        return open_runner(otherwise, model.raw, keep_tensors=True)


def _check_ports(model: Model, reference: Model) -> None:
    if any(t.dtype.startswith(("int", "uint")) and t.quantization for t in reference.input_tensors):
        raise ModelError("the reference is quantised itself; a float model is needed",
                         reference.name)  # fmt: skip
    mine = [t.shape for t in model.input_tensors]
    other = [t.shape for t in reference.input_tensors]
    if mine != other:
        raise ModelError(
            f"the models take different inputs: {[list(s) for s in mine]} and "
            f"{[list(s) for s in other]}",
            reference.name,
        )


def _as_reference(
    sample: Sequence[NDArray[Any]], model: Model, reference: Model
) -> list[NDArray[Any]]:
    from edgekit.convert.verify import dequantize_array

    return [
        dequantize_array(values, mine).astype(other.dtype)
        for values, mine, other in zip(
            sample, model.input_tensors, reference.input_tensors, strict=True
        )
    ]


def read_reference(path: Path) -> Model:
    """The float model as a ``.tflite`` graph: read, or converted without quantisation.

    Args:
        path: a float ``.tflite`` file, or a ``.keras``, ``.h5`` or SavedModel source.

    Raises:
        ModelError: the file is damaged or cannot be converted.
        MissingDependency: a source needs the convert extra.
    """
    from edgekit.graph import read_model

    if path.is_file():
        with path.open("rb") as file:
            if file.read(8)[4:8] == b"TFL3":
                return read_model(path)
    from edgekit.convert import frameworks, sources

    source = sources.identify(path)
    loaded = sources.load(source)
    tf = frameworks.tensorflow()
    with frameworks.captured_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converter = tf.lite.TFLiteConverter.from_concrete_functions([loaded.function])
            content = bytes(converter.convert())
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the reference cannot be converted to a float model: {reason}", str(path)
            ) from None
    return read_model(content, path.stem)
