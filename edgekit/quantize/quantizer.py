"""A float model, samples and a recipe become a full-integer ``.tflite`` file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import UsageError
from edgekit.graph.model import Graph, Model
from edgekit.graph.reader import shown
from edgekit.quantize.calibrate import Values, calibrate
from edgekit.quantize.plan import Plan, check_ranges, make_plan
from edgekit.quantize.prepare import prepare
from edgekit.quantize.recipe import Recipe
from edgekit.quantize.scheme import Scheme, decide
from edgekit.quantize.write import Io, write_quantized

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.quantize.adaptive_rounding import AdaptiveRounding
    from edgekit.quantize.bias_correction import BiasCorrection
    from edgekit.quantize.equalize import Equalization
    from edgekit.quantize.mixed import Cost, Mixture
    from edgekit.quantize.sensitivity import Sensitivity

#: Samples on which layers and mixtures are measured, evenly spaced over those given.
_MEASURED_SAMPLES = 64


@dataclass(frozen=True)
class QuantizationReport:
    """What was done, technique by technique; ``None`` where one was not asked for.

    ``cost`` is the result's where parts of it are in int16.
    """

    techniques: tuple[str, ...]
    samples: int
    equalization: Equalization | None = None
    mixture: Mixture | None = None
    cost: Cost | None = None
    rounding: AdaptiveRounding | None = None
    bias_correction: BiasCorrection | None = None
    sensitivity: Sensitivity | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Quantized:
    """The integer model's file, the float model it stands for, its plan, and the report.

    The float model is the prepared one with what equalisation and bias correction made of its
    constants.
    """

    content: bytes
    model: Model
    plan: Plan
    report: QuantizationReport


def quantize(
    model: Model,
    inputs: Sequence[Sequence[NDArray[Any]]],
    recipe: Recipe | None = None,
    *,
    io: Io | None = None,
    labels: NDArray[Any] | None = None,
    description: str = "",
    progress: Callable[[str], None] = lambda stage: None,
    isolated: bool = True,
) -> Quantized:
    """Quantises a float model.

    Args:
        model: a float ``.tflite`` model.
        inputs: calibration samples with a batch of 1, in the order of the model's inputs.
        recipe: techniques; by default none, which gives what TensorFlow's quantiser gives.
        io: type of the inputs and outputs, by default as they are stored.
        labels: classes [N] of the samples, for accuracies in reports and a target accuracy.
        description: the written model's description.
        progress: called with a sentence when a stage begins, and within long ones.
        isolated: run the model in a process of its own.

    Raises:
        ModelError: the model has no integer form, or the samples do not fit it.
        UsageError: the recipe makes no sense for this model.
    """
    recipe = recipe or Recipe()
    recipe.check()
    notes: list[str] = []
    if _has_integer_weights(model):
        notes.append(
            "the model's weights were quantised already (dynamic range): they are rounded again"
        )
    model = prepare(model, isolated=isolated)
    scheme = _scheme(model.main, recipe, layer_tensors(model.main, recipe.int16_layers))
    check_inputs(model, inputs)
    if recipe.bias_correction:
        from edgekit.quantize.bias_correction import with_biases

        model = with_biases(model)

    def seen(histograms: bool) -> dict[int, Values]:
        return calibrate(model, inputs, scheme.group_of, histograms=histograms, isolated=isolated)

    equalization = None
    if recipe.equalize is not None:
        from edgekit.quantize.equalize import equalize

        progress("equalising channels")
        values = seen(False) if recipe.equalize == "activations" else None
        model, equalization = equalize(
            model, recipe.equalize, values, replace_relu6=recipe.replace_relu6
        )
    graph = model.main
    int16 = layer_tensors(graph, recipe.int16_layers)
    scheme = _scheme(graph, recipe, int16)
    progress(f"finding ranges with {len(inputs)} samples")
    setting, magnitudes = recipe.activation_setting, recipe.weight_setting.magnitudes
    values = seen(setting.needs_histograms)
    check_ranges(graph, scheme, values)
    chosen = setting.activations(scheme, values)
    mixture = None
    measured = _measured(inputs, labels)
    if recipe.mixed is not None:
        from edgekit.quantize.mixed import mix

        if recipe.mixed.accuracy is not None and labels is None:
            raise UsageError("a target accuracy needs samples with labels 'y'")
        progress("choosing activations for int16")
        mixture = mix(
            model, chosen, measured[0], recipe.mixed, labels=measured[1],
            magnitudes=magnitudes, per_tensor_dense=recipe.per_tensor_dense,
            on_try=lambda name: progress(f"  trying {name}"),
        )  # fmt: skip
        int16 = mixture.tensors
        scheme = _scheme(graph, recipe, int16)
        # What is kept in int16 spans all of its values.
        chosen = setting.activations(scheme, values)
    plan = make_plan(graph, scheme, chosen, magnitudes)
    rounding = None
    if recipe.rounding == "adaptive":
        from edgekit.quantize.adaptive_rounding import RoundingSettings, round_adaptively

        progress("rounding weights adaptively")
        settings = RoundingSettings(recipe.rounding_iterations, seed=recipe.seed)
        plan, rounding = round_adaptively(
            model, plan, inputs, settings,
            on_layer=lambda layer, *_: progress(
                f"  {layer.kind} {shown(layer.name)}: error {layer.nearest_error:.3g} to "
                f"{layer.adaptive_error:.3g}"
            ),
        )  # fmt: skip
    correction = None
    if recipe.bias_correction:
        from edgekit.quantize.bias_correction import correct_biases

        progress("correcting biases")
        model, plan, correction = correct_biases(model, plan, inputs, magnitudes)
        graph = model.main
    found = None
    if recipe.sensitivity:
        from edgekit.quantize.sensitivity import sensitivity

        progress("measuring every layer")
        found = sensitivity(model, plan, *measured)
    cost = None
    if int16:
        from edgekit.quantize.mixed import mixture_cost

        cost = mixture_cost(graph, plan)
    report = QuantizationReport(
        techniques=recipe.techniques(),
        samples=len(inputs),
        equalization=equalization,
        mixture=mixture,
        cost=cost,
        rounding=rounding,
        bias_correction=correction,
        sensitivity=found,
        notes=tuple(notes),
    )
    content = write_quantized(graph, plan, io, description=description)
    return Quantized(content, model, plan, report)


def check_inputs(model: Model, inputs: Sequence[Sequence[NDArray[Any]]]) -> None:
    """Raises UsageError where samples are not what the model takes, or no numbers."""
    import numpy as np

    for number, sample in enumerate(inputs):
        if len(sample) != len(model.inputs):
            raise UsageError(
                f"sample {number} has {len(sample)} arrays, the model {len(model.inputs)} inputs"
            )
        for value, tensor in zip(sample, model.input_tensors, strict=True):
            if value.shape != tensor.shape or value.dtype.name != tensor.dtype:
                raise UsageError(
                    f"sample {number} is {value.dtype} of shape {list(value.shape)} where "
                    f"'{shown(tensor.name)}' takes {tensor.dtype} of shape {list(tensor.shape)}"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise UsageError(
                    f"sample {number} has values for '{shown(tensor.name)}' that are not finite"
                )


def layer_tensors(graph: Graph, layers: Collection[str]) -> tuple[int, ...]:
    """The results of operators that are given by number, or by their result's name.

    Raises:
        UsageError: there is no such layer.
    """
    names: dict[str, int] = {}
    for op in graph.ops:
        for index in op.outputs:
            names.setdefault(graph.tensors[index].name, index)
    found = []
    for layer in layers:
        if layer in names:
            found.append(names[layer])
        elif layer.isdigit() and int(layer) < len(graph.ops):
            found.append(graph.ops[int(layer)].outputs[0])
        else:
            import difflib

            close = difflib.get_close_matches(layer, names, n=1, cutoff=0.4)
            raise UsageError(
                f"the model has no layer '{layer}'",
                fix=f"'{shown(close[0])}'" if close else f"a number up to {len(graph.ops) - 1}",
            )
    return tuple(found)


def _scheme(graph: Graph, recipe: Recipe, int16: Collection[int]) -> Scheme:
    return decide(graph, form=recipe.form, int16=int16, per_tensor_dense=recipe.per_tensor_dense)


def _measured(
    inputs: Sequence[Sequence[NDArray[Any]]], labels: NDArray[Any] | None
) -> tuple[list[Sequence[NDArray[Any]]], NDArray[Any] | None]:
    count = min(len(inputs), _MEASURED_SAMPLES)
    chosen = [i * len(inputs) // count for i in range(count)]
    return [inputs[i] for i in chosen], None if labels is None else labels[chosen]


def _has_integer_weights(model: Model) -> bool:
    return any(
        t.raw is not None and t.quantization is not None and t.dtype in ("int8", "uint8", "int4")
        for t in model.tensors
    )
