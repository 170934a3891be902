"""What the quantiser's techniques promise, on small float networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from float_models import FloatBuilder, FloatCase, case

from edgekit.errors import EdgekitError, ModelError, UsageError
from edgekit.graph import Model, read_model
from edgekit.graph.model import Graph, Op
from edgekit.quantize.adaptive_rounding import RoundingSettings, round_adaptively
from edgekit.quantize.bias_correction import correct_biases, with_biases
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.equalize import equalize
from edgekit.quantize.execute import Executor, stacked
from edgekit.quantize.mixed import MixedTarget
from edgekit.quantize.plan import Plan, make_plan
from edgekit.quantize.prepare import prepare
from edgekit.quantize.quantizer import Quantized, quantize
from edgekit.quantize.recipe import Recipe
from edgekit.quantize.scheme import decide
from edgekit.quantize.simulate import Simulator
from edgekit.runtimes.tflm import TflmRunner

Build = Callable[[FloatBuilder, int], Any]


def _prepared(made: FloatCase) -> Model:
    return prepare(read_model(made.raw), isolated=False)


def _planned(made: FloatCase, *, biases: bool = False) -> tuple[Model, Plan]:
    model = _prepared(made)
    model = with_biases(model) if biases else model
    scheme = decide(model.main)
    seen = calibrate(model, made.inputs, scheme.group_of, isolated=False)
    chosen = {index: (v.low, v.high) for index, v in seen.items()}
    return model, make_plan(model.main, scheme, chosen)


def _float_outputs(model: Model, inputs: Any) -> np.ndarray:
    return np.asarray(Executor(model.main)(stacked(inputs))[0], np.float64)


def _tflm_outputs(done: Quantized, inputs: Any) -> np.ndarray:
    """Real values that TFLM computes from the written file."""
    port_in, port_out = _ports(done)
    rows = []
    with TflmRunner(done.content) as runner:
        for (sample,) in inputs:
            steps = np.rint(sample / np.float32(port_in.scale)) + port_in.zero_point
            (got,) = runner.invoke(np.clip(steps, -128, 127).astype(np.int8))
            rows.append((got.astype(np.float64) - port_out.zero_point) * port_out.scale)
    return np.concatenate(rows)


def _ports(done: Quantized) -> tuple[Any, Any]:
    """The quantisation of the written model's only input and only output."""
    written = read_model(done.content).main
    ports = [written.tensors[i] for i in (*written.inputs, *written.outputs)]
    assert [t.dtype for t in ports] == ["int8", "int8"]
    return ports[0].quantization, ports[1].quantization


def _sqnr(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()))


# Equalisation ----------------------------------------------------------------------------

_SPREAD = 2.0 ** np.array([0, -5, 3, -2, 4, -4, 1, 2])


def _badly_scaled(b: FloatBuilder, x: int) -> int:
    """Two convolutions whose channels between them span 2^9, for which a ReLU does not care."""
    first = b.rng.normal(0, 0.2, (8, 3, 3, 8)) * _SPREAD[:, None, None, None]
    bias = b.rng.normal(0, 0.2, 8) * _SPREAD
    second = b.rng.normal(0, 0.2, (6, 3, 3, 8)) / _SPREAD
    hidden = b.conv(x, 8, act="RELU", weights=first, bias_values=bias)
    return b.conv(hidden, 6, weights=second)


def _deep(b: FloatBuilder, x: int) -> int:
    """All kinds of layers that equalisation goes through, with what may lie between them."""
    y = b.pool(b.conv(x, 6, act="RELU"), "MAX_POOL_2D")
    y = b.conv(b.depthwise(y, multiplier=2, act="RELU"), 5)
    y = b.apply("LEAKY_RELU", [y], b.shapes[y], alpha=0.1)
    flat = b.apply("RESHAPE", [y, b.integers([1, 20])], (1, 20))
    return b.dense(b.dense(flat, 7, act="RELU"), 4)


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("build", [_badly_scaled, _deep])
def test_equalising_keeps_the_function(seed: int, by: Any, build: Build) -> None:
    made = case(np.random.default_rng(seed), build)
    model = _prepared(made)
    values = calibrate(model, made.inputs, decide(model.main).group_of, isolated=False)
    equal, report = equalize(model, by, values)
    assert len(report.pairs) == (1 if build is _badly_scaled else 4)
    before, after = _float_outputs(model, made.inputs), _float_outputs(equal, made.inputs)
    assert np.abs(before - after).max() <= 2e-5 * np.abs(before).max()
    weights = [equal.tensors[op.inputs[1]].data() for op in equal.ops if len(op.inputs) == 3]
    old = [model.tensors[op.inputs[1]].data() for op in model.ops if len(op.inputs) == 3]
    assert any((np.abs(a - b) > 1e-3).any() for a, b in zip(weights, old, strict=True))


def test_equalised_channels_span_the_same(seed: int) -> None:
    made = case(np.random.default_rng(seed), _badly_scaled)
    model = _prepared(made)
    values = calibrate(model, made.inputs, decide(model.main).group_of, isolated=False)
    equal, report = equalize(model, "weights")
    first, second = (equal.tensors[op.inputs[1]].data() for op in equal.ops)
    rows, columns = np.abs(first).max(axis=(1, 2, 3)), np.abs(second).max(axis=(0, 1, 2))
    np.testing.assert_allclose(rows, columns, rtol=1e-3)
    assert report.pairs[0].spread_before > 4 > 2 > report.pairs[0].spread_after
    # By activations: activations and the next weights span the same up to one factor for all.
    equal, _ = equalize(model, "activations", values)
    seen = calibrate(equal, made.inputs, [equal.ops[0].outputs[0]], isolated=False)
    high = seen[equal.ops[0].outputs[0]].channel_high
    columns = np.abs(equal.tensors[equal.ops[1].inputs[1]].data()).max(axis=(0, 1, 2))
    np.testing.assert_allclose(high / columns, (high / columns)[0], rtol=5e-3)


def test_equalising_recovers_badly_scaled_channels(seed: int) -> None:
    made = case(np.random.default_rng(seed), _badly_scaled)
    wanted = _float_outputs(_prepared(made), made.inputs)

    def decibels(**recipe: Any) -> float:
        done = quantize(read_model(made.raw), made.inputs, Recipe(**recipe), isolated=False)
        return _sqnr(wanted, _tflm_outputs(done, made.inputs))

    plain, equal = decibels(), decibels(equalize="activations")
    assert plain < 20
    assert equal > plain + 12, (plain, equal)


def test_what_does_not_commute_is_left_alone(seed: int) -> None:
    """RELU6, a result that is read twice, and an output of the model."""
    made = case(np.random.default_rng(seed), lambda b, x: b.conv(b.conv(x, 4, act="RELU6"), 3))
    model = _prepared(made)
    same, report = equalize(model, "weights")
    assert not report.pairs
    assert ["RELU6" in reason for _, reason in report.skipped] == [True, False]
    np.testing.assert_array_equal(
        _float_outputs(same, made.inputs), _float_outputs(model, made.inputs)
    )

    def twice(b: FloatBuilder, x: int) -> int:
        y = b.conv(x, 8, 1, act="RELU")
        return b.apply("ADD", [y, b.conv(y, 8, 1)], b.shapes[x], fused_activation_function="NONE")

    made = case(np.random.default_rng(seed), twice)
    _, report = equalize(_prepared(made), "weights")
    assert not report.pairs
    assert "read by 2 operators" in report.skipped[0][1]


# Bias correction -------------------------------------------------------------------------


def _before_activation(executor: Executor, graph: Graph, inputs: Any) -> dict[int, np.ndarray]:
    """Mean results before activation, by channel, of every operator with weights."""
    seen: dict[int, np.ndarray] = {}

    def observe(op: Op, value: Any) -> None:
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            rows = np.asarray(value, np.float64)
            seen[op.index] = rows.reshape(-1, rows.shape[-1]).mean(axis=0)

    executor.run(stacked(inputs), before_activation=observe)
    return seen


def test_bias_correction_takes_the_mean_error_out(seed: int) -> None:
    def build(b: FloatBuilder, x: int) -> int:
        y = b.conv(x, 6, act="RELU", bias=False)
        return b.dense(b.depthwise(y, multiplier=2, act="RELU6"), 5)

    made = case(np.random.default_rng(seed), build, positive=True)
    model, plan = _planned(made, biases=True)
    wanted = _before_activation(Executor(model.main), model.main, made.inputs)
    before = _before_activation(Simulator(model.main, plan), model.main, made.inputs)
    fixed, new_plan, report = correct_biases(model, plan, made.inputs)
    after = _before_activation(Simulator(fixed.main, new_plan), fixed.main, made.inputs)
    assert len(report.layers) == len(wanted) == 3
    for index, means in wanted.items():
        # What is left is the rounding of the corrected bias.
        bias = new_plan.constants[index, 2]
        left = np.abs(after[index] - means)
        assert (left <= 0.51 * np.array(bias.scales) + 1e-6).all()
        assert left.max() < 0.1 * np.abs(before[index] - means).max()


# Adaptive rounding -----------------------------------------------------------------------


def test_adaptive_rounding_goes_up_or_down_and_never_worse(seed: int) -> None:
    """Every weight is one of its two neighbours, and no layer's results are further off."""

    def build(b: FloatBuilder, x: int) -> int:
        y = b.conv(x, 6, act="RELU")
        return b.dense(b.depthwise(y, multiplier=2, act="RELU6"), 5)

    made = case(np.random.default_rng(seed), build, positive=True)
    model, plan = _planned(made)
    settings = RoundingSettings(iterations=200, seed=seed)
    rounded, report = round_adaptively(model, plan, made.inputs, settings)
    assert len(report.layers) == 3 and not report.skipped
    assert any(layer.changed > 0 for layer in report.layers)
    for layer in report.layers:
        assert layer.adaptive_error <= layer.nearest_error
        op = model.main.ops[layer.op]
        weights = model.main.tensors[op.inputs[1]].data().astype(np.float64)
        axis = -1 if op.kind == "DEPTHWISE_CONV_2D" else 0
        scales = np.array(plan.constants[layer.op, 1].scales)
        shape = [1] * weights.ndim
        shape[axis] = -1 if scales.size > 1 else 1
        ratio = weights / scales.reshape(shape)
        integers = rounded.integers[layer.op, 1]
        assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() <= 127
        assert (np.abs(integers - ratio) < 1 + 1e-4).all()
        changed = (integers != np.clip(np.rint(ratio), -127, 127)).mean()
        assert changed == pytest.approx(layer.changed, abs=0.02)
    # The same seed gives the same weights; what was finished is not searched again.
    again, _ = round_adaptively(model, plan, made.inputs, settings)
    for slot, integers in rounded.integers.items():
        np.testing.assert_array_equal(integers, again.integers[slot])
    kept, report = round_adaptively(model, plan, made.inputs, settings, done=rounded.integers)
    assert not report.layers
    assert kept.integers.keys() == rounded.integers.keys()


def test_adaptive_rounding_is_what_the_file_holds(seed: int) -> None:
    made = case(np.random.default_rng(seed), lambda b, x: b.conv(b.conv(x, 8, act="RELU"), 6))
    wanted = _float_outputs(_prepared(made), made.inputs)
    found = {}
    for rounding in ("nearest", "adaptive"):
        recipe = Recipe(rounding=rounding, rounding_iterations=300, seed=seed)  # type: ignore[arg-type]
        done = quantize(read_model(made.raw), made.inputs, recipe, isolated=False)
        found[rounding] = _sqnr(wanted, _tflm_outputs(done, made.inputs))
        written = [t.data() for t in read_model(done.content).main.tensors if t.is_constant]
        for integers in done.plan.integers.values():
            assert any(w.shape == integers.shape and (w == integers).all() for w in written)
    # Output scales are rounded as well: the whole model may lose a little of what layers gain.
    assert found["adaptive"] > found["nearest"] - 0.3, found


# Mixtures --------------------------------------------------------------------------------


def _with_outliers(b: FloatBuilder, x: int) -> int:
    """A result in which one channel spans a thousand times more than the others, which count."""
    wide = np.ones(8)
    wide[0] = 1000.0
    first = b.rng.normal(0, 0.2, (8, 3, 3, 8)) * wide[:, None, None, None]
    second = b.rng.normal(0, 0.2, (6, 3, 3, 8))
    second[..., 0] /= 1000.0
    hidden = b.conv(x, 8, act="RELU", weights=first)
    return b.conv(hidden, 6, weights=second)


def test_a_mixture_takes_int16_where_it_helps(seed: int) -> None:
    made = case(np.random.default_rng(seed), _with_outliers)
    model = _prepared(made)
    wanted = _float_outputs(model, made.inputs)

    def mixed(target: MixedTarget | None) -> Quantized:
        return quantize(
            read_model(made.raw), made.inputs, Recipe(mixed=target), isolated=False
        )  # fmt: skip

    plain, free = mixed(None), mixed(MixedTarget())
    assert free.report.mixture is not None and free.report.cost is not None
    (choice,) = free.report.mixture.choices
    hidden = model.main.ops[0].outputs[0]
    assert choice.tensor == hidden
    before, after = (_sqnr(wanted, _tflm_outputs(done, made.inputs)) for done in (plain, free))
    assert after > before + 3, (before, after)
    written = read_model(free.content).main
    assert sum(t.dtype == "int16" for t in written.tensors) >= 1
    assert free.report.cost.int16_macs > 0
    # A target that int8 meets changes nothing, and one that allows no int16 work chooses none.
    met = mixed(MixedTarget(sqnr_db=free.report.mixture.before.sqnr_db - 1))
    assert met.report.mixture is not None and not met.report.mixture.choices
    assert met.report.mixture.verdict.startswith("int8 alone meets the target")
    assert met.content == plain.content
    none = mixed(MixedTarget(most_macs=0.0))
    assert none.report.mixture is not None and not none.report.mixture.choices
    unmet = mixed(MixedTarget(sqnr_db=199.0))
    assert unmet.report.mixture is not None
    assert unmet.report.mixture.verdict.endswith("the target was not reached")
    with pytest.raises(UsageError, match="needs samples with labels"):
        mixed(MixedTarget(accuracy=0.9))


# What does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(seed: int, value: float) -> None:
    made = case(np.random.default_rng(seed), lambda b, x: b.conv(x, 4))
    samples = [[array.copy() for array in sample] for sample in made.inputs]
    samples[1][0].reshape(-1)[3] = value
    with pytest.raises(UsageError, match="sample 1 has values for 'x' that are not finite"):
        quantize(read_model(made.raw), samples, isolated=False)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), Recipe(ranges="mse"), Recipe(equalize="activations"), Recipe(bias_correction=True)],
)
def test_a_model_that_overflows(seed: int, recipe: Recipe) -> None:
    """Finite samples of which the model makes infinity."""

    def build(b: FloatBuilder, x: int) -> int:
        # The kernels clamp sums to the largest number; this one does not.
        ends = [
            b.conv(x, 4, 1, weights=np.full((4, 1, 1, b.shapes[x][-1]), factor))
            for factor in (1e30, -1e30)
        ]
        return b.apply("SQUARED_DIFFERENCE", ends, b.shapes[ends[0]])

    made = case(np.random.default_rng(seed), build)
    with pytest.raises(ModelError, match="has values from .*(inf|nan)"):
        quantize(read_model(made.raw), made.inputs, recipe, isolated=False)


def test_samples_that_do_not_fit(seed: int) -> None:
    made = case(np.random.default_rng(seed), lambda b, x: b.conv(x, 4))
    model = read_model(made.raw)
    (first,) = made.inputs[0]
    with pytest.raises(EdgekitError, match="no samples"):
        quantize(model, [], isolated=False)
    for sample in (
        [first, first], [], [first[:, 1:]], [first.astype(np.float64)],
        [np.concatenate([first, first])],
    ):  # fmt: skip
        with pytest.raises(UsageError, match="sample 0"):
            quantize(model, [sample], isolated=False)
