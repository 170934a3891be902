"""Float model to ``.tflite`` with TensorFlow Lite's converter: one call, no surprises."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from edgekit.convert import frameworks
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgekit.convert.calibration import Samples
    from edgekit.convert.sources import FloatModel

Quantize = Literal["int8", "int16x8", "float16", "dynamic"]
Io = Literal["int8", "uint8", "int16", "float32"]

#: The types of inputs and outputs that each kind of quantisation can have, the default first.
IO_TYPES: dict[Quantize, tuple[Io, ...]] = {
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16", "float32"),
    "float16": ("float32",),
    "dynamic": ("float32",),
}


class ConversionFailed(ModelError):
    """The converter gave up; ``log`` is what it printed, without routine messages."""

    def __init__(
        self, what: str, where: str | None = None, fix: str | None = None, log: str = ""
    ) -> None:
        super().__init__(what, where, fix)
        noise = re.compile(r"[IWE]\d{4} |WARNING:|\S+\.py:\d+: \w*Warning|fully_quantize:")
        self.log = "\n".join(
            line for line in log.splitlines() if line.strip() and not noise.match(line)
        )


def needs_calibration(mode: Quantize) -> bool:
    """Whether ranges of activations have to be found."""
    return mode in ("int8", "int16x8")


def io_type(mode: Quantize, wanted: Io | None) -> Io:
    """The type of inputs and outputs: the one wanted, or the default.

    Raises:
        UsageError: this quantisation cannot have it.
    """
    if wanted is None:
        return IO_TYPES[mode][0]
    if wanted not in IO_TYPES[mode]:
        raise UsageError(
            f"--io {wanted} does not go with --quantize {mode}",
            fix=f"--io {' or '.join(IO_TYPES[mode])}",
        )
    return wanted


def quantize(
    model: FloatModel,
    mode: Quantize = "int8",
    io: Io = "int8",
    samples: Samples | None = None,
    *,
    per_tensor_dense: bool = False,
) -> bytes:
    """The model as ``.tflite`` bytes; the same inputs give the same bytes.

    Args:
        model: the float model, with a batch of 1.
        mode: ``int8`` (per-channel weights), ``int16x8`` (16-bit activations), ``float16`` and
            ``dynamic`` (8-bit weights, float activations).
        io: type of the graph's inputs and outputs.
        samples: calibration samples; needed by int16x8, and by int8 unless the model was
            trained with quantisation.
        per_tensor_dense: one scale for the weights of a fully connected layer, as runtimes
            before 2024 and the Edge TPU's compiler want it; by default one per output.

    Raises:
        ConversionFailed: the converter has no form for an operator, or failed otherwise.
    """
    tf = frameworks.tensorflow()
    lite = tf.lite
    with frameworks.captured_output() as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converter = lite.TFLiteConverter.from_concrete_functions([model.function])
            converter.optimizations = [lite.Optimize.DEFAULT]
            converter._experimental_disable_per_channel_quantization_for_dense_layers = (
                per_tensor_dense
            )
            if mode == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if needs_calibration(mode):
                if samples is not None:
                    converter.representative_dataset = lambda: _feed(samples)
                    converter.target_spec.supported_ops = [
                        lite.OpsSet.TFLITE_BUILTINS_INT8
                        if mode == "int8"
                        else lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
                    ]
                dtype = getattr(tf, io)
                converter.inference_input_type = dtype
                converter.inference_output_type = dtype
            result: bytes = bytes(converter.convert())
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise _explain(failure, mode, printed()) from None
    return result


def float_tflite(model: FloatModel) -> bytes:
    """The model as a float ``.tflite`` file: batch norms folded, activations fused, no more.

    Raises:
        ConversionFailed: TensorFlow Lite has no form for an operator.
    """
    tf = frameworks.tensorflow()
    with frameworks.captured_output() as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            converter = tf.lite.TFLiteConverter.from_concrete_functions([model.function])
            result: bytes = bytes(converter.convert())
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            failure: Exception | None = error
        else:
            failure = None
    if failure is not None:
        raise _explain(failure, "float", printed()) from None
    return result


def _feed(samples: Samples) -> Iterator[list[Any]]:
    for index in range(len(samples)):
        yield samples.sample(index)


def _explain(error: Exception, mode: str, log: str) -> ConversionFailed:
    """One sentence for what the converter's compiler says in hundreds of lines."""
    text = f"{error}\n{log}"
    where = None
    location = re.search(r'(?:loc\(|at )"?([\w/.:;@]+)"?\)?: error', text)
    if location:
        where = f"operator '{location.group(1)}'"
    foreign = re.search(r"'(tf\.\w+)' op is neither a custom op nor a flex op", text)
    listed = re.search(r"(?:TF Select|Custom) ops: ([\w, ]+)", text)
    if foreign or listed:
        names = listed.group(1) if listed else (foreign.group(1)[3:] if foreign else "")
        return ConversionFailed(
            f"TensorFlow Lite has no operator for {names.strip()}",
            where,
            "replace it in the model by operators that TensorFlow Lite has",
            log,
        )
    unquantised = re.search(r"Quantization(?: to \S+)? not yet supported for op: '?(\w+)", text)
    if unquantised:
        return ConversionFailed(
            f"the operator {unquantised.group(1)} has no {mode} form",
            where,
            "replace it, or use --quantize dynamic and see which engines take the result",
            log,
        )
    error_line = re.search(r"error: (?:failed: )?([^\n]+)", text)
    reason = error_line.group(1) if error_line else " ".join(str(error).split())[:300]
    return ConversionFailed(f"the converter failed: {reason}", where, None, log)
