"""Quantises after training, with more care than minimum and maximum.

Ranges by percentile or mean squared error, cross-layer equalisation, bias correction, adaptive
rounding, and int16 activations where int8 loses too much: ``edgekit.quantize`` has the methods
and their sources. No training: it is the last step of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgekit.compress import conversion
from edgekit.compress.settings import option

if TYPE_CHECKING:
    from edgekit.compress.session import Session, Subject
    from edgekit.quantize.recipe import Recipe

#: The result is a full-integer file.
LAST = True


@dataclass(frozen=True)
class Settings:
    form: Literal["int8", "int16"] = option("int8", "of activations; weights are int8")
    ranges: str = option("minmax", "of activations: minmax, percentile=99.99 or mse")
    weight_ranges: str | None = option(None, "of weights: minmax or mse")
    equalize: Literal["no", "weights", "activations"] = option(
        "no", "scale channels of neighbouring layers alike, by what"
    )
    replace_relu6: bool = option(False, "treat RELU6 as RELU to equalise across it")
    bias_correction: bool = option(False, "take the mean error out of biases")
    rounding: Literal["nearest", "adaptive"] = option("nearest", "of weights")
    iterations: int = option(1000, "of adaptive rounding, per layer", at_least=1)
    mixed: str | None = option(
        None, "int16 where it helps until sqnr=DB, accuracy=SHARE, layers=N or macs=SHARE"
    )
    int16_layers: tuple[str, ...] = option((), "layers whose results are int16")
    per_tensor_dense: bool = option(False, "one scale for the weights of a dense layer")
    sensitivity: bool = option(False, "measure what each layer's quantisation costs")
    samples: int = option(200, "training samples that find the ranges", at_least=1)
    seed: int = option(0, "of adaptive rounding", at_least=0)

    def recipe(self) -> Recipe:
        """The quantiser's own record of these settings.

        Raises:
            UsageError: they make no sense together.
        """
        from edgekit.quantize.recipe import Recipe, parse_mixed

        found = Recipe(
            form=self.form,
            ranges=self.ranges,
            weight_ranges=self.weight_ranges,
            equalize=None if self.equalize == "no" else self.equalize,
            replace_relu6=self.replace_relu6,
            bias_correction=self.bias_correction,
            rounding=self.rounding,
            rounding_iterations=self.iterations,
            seed=self.seed,
            mixed=parse_mixed(self.mixed) if self.mixed else None,
            int16_layers=self.int16_layers,
            per_tensor_dense=self.per_tensor_dense,
            sensitivity=self.sensitivity,
        )
        found.check()
        return found


def check(subject: Subject, settings: Settings, session: Session) -> list[str]:
    from edgekit.quantize.prepare import prepare
    from edgekit.quantize.quantizer import layer_tensors
    from edgekit.quantize.scheme import decide

    recipe = settings.recipe()
    graph = prepare(conversion.to_float(subject.graph)).main
    int16 = layer_tensors(graph, recipe.int16_layers)
    decide(graph, form=recipe.form, int16=int16, per_tensor_dense=recipe.per_tensor_dense)
    return []


def apply(subject: Subject, settings: Settings, session: Session) -> Subject:
    from edgekit.quantize.quantizer import quantize

    examples = session.data.training.first(settings.samples)
    samples, labels = conversion.samples(examples)
    found = quantize(
        conversion.to_float(subject.graph),
        samples,
        settings.recipe(),
        labels=labels if session.task.name == "classification" else None,
        progress=session.note,
    )
    facts: dict[str, Any] = {"quantisation": found.report}
    return replace(subject, quantized=found.content, facts=facts)
