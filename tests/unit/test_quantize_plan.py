"""The quantiser's decisions: arithmetic, policy, scheme, ranges, plan. No TensorFlow here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from float_models import CASES, FloatBuilder, case
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_builder import TfliteBuilder

from edgekit.engines.aot import ops as aot_ops
from edgekit.errors import ModelError, UsageError
from edgekit.graph import Graph, Model, Quantization, read_model
from edgekit.graph.writer import write_graph
from edgekit.quantize import parameters, ranges
from edgekit.quantize.calibrate import Histogram, Values
from edgekit.quantize.plan import make_plan
from edgekit.quantize.policy import RULES
from edgekit.quantize.prepare import prepare
from edgekit.quantize.quantizer import layer_tensors
from edgekit.quantize.recipe import Recipe, parse_mixed
from edgekit.quantize.scheme import decide
from edgekit.quantize.write import quantized_graph, write_quantized

#: What the AOT engine makes itself, and operators that change number formats.
_NOT_REAL = {"MOVE", "FEED", "FLOAT_TABLE", "QUANTIZE", "DEQUANTIZE"}


def _model(build: object, **more: object) -> Model:
    made = case(np.random.default_rng(0), build, **more)  # type: ignore[arg-type]
    return prepare(read_model(made.raw), isolated=False)


def _ranges(graph: Graph, low: float = -1.0, high: float = 3.0) -> dict[int, tuple[float, float]]:
    return {t.index: (low, high) for t in graph.tensors if t.raw is None}


# Arithmetic ------------------------------------------------------------------------------


@given(
    st.floats(-1e4, 1e4, width=32), st.floats(0, 1e4, width=32), st.sampled_from(["int8", "uint8"])
)
def test_affine_holds_its_range_and_zero(low: float, span: float, dtype: str) -> None:
    high = low + span
    found = parameters.affine(low, high, dtype)
    scale, zero = found.scale, found.zero_point
    smallest, largest = parameters.INTEGER_RANGES[dtype]
    assert smallest <= zero <= largest
    assert scale == float(np.float32(scale)) > 0
    if span > 1e-3:
        # Nudging the zero point moves the ends by half a step.
        assert (smallest - zero) * scale <= min(low, 0) + 0.51 * scale
        assert (largest - zero) * scale >= max(high, 0) - 0.51 * scale


def test_affine_of_nothing_and_of_nonsense() -> None:
    assert parameters.affine(0.0, 0.0) == Quantization((1.0,), (-128,))
    assert parameters.affine(0.0, 0.0, "int16") == Quantization((1.0,), (0,))
    assert parameters.affine(-2.0, 1.0, "int16").zero_point == 0
    for low, high in ((1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="a range from"):
            parameters.affine(low, high)


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    st.floats(0.0009765625, 1.0, width=32), st.integers(-128, 127),
)  # fmt: skip
def test_quantising_and_back_is_within_half_a_step(
    values: list[float], scale: float, zero: int
) -> None:
    quantization = Quantization((float(np.float32(scale)),), (zero,))
    array = np.array(values, np.float32)
    integers = parameters.quantize(array, quantization, "int8")
    assert integers.dtype == np.int8
    real = parameters.dequantize(integers, quantization)
    low, high = (-128 - zero) * quantization.scale, (127 - zero) * quantization.scale
    assert np.abs(real - np.clip(array, low, high)).max() <= quantization.scale * 0.5001


def test_weights_that_are_too_small_for_their_bias_get_its_scale() -> None:
    scales, of_bias = parameters.with_room_for_bias(
        np.array([1e-9, 0.01]), 0.5, np.array([100.0, 1.0])
    )
    assert scales[1] == pytest.approx(0.01)
    assert of_bias[1] == pytest.approx(0.005)
    assert 100 / of_bias[0] <= 2**30
    assert of_bias[0] == pytest.approx(scales[0] * 0.5, rel=1e-6)


# Policy and scheme -----------------------------------------------------------------------


def test_the_policy_knows_the_engine_s_operators_and_every_row_has_a_case() -> None:
    missing = set(aot_ops.names()) - _NOT_REAL - set(RULES)
    assert not missing
    assert set(CASES) == set(RULES)
    for kind, rule in RULES.items():
        assert rule.has("int8"), kind
        if rule.output == "fixed":
            assert set(rule.fixed) == set(rule.versions), kind


def test_linear_operators_have_weights_per_channel() -> None:
    def build(b: FloatBuilder, x: int) -> int:
        return b.dense(b.depthwise(b.conv(x, 4, 3, act="RELU"), act="RELU"), 3)

    model = _model(build)
    plan = make_plan(model.main, decide(model.main), _ranges(model.main))
    graph = read_model(write_quantized(model.main, plan)).main
    for op, axis, count in zip(graph.ops, (0, 3, 0), (4, 4, 3), strict=True):
        x, weights, bias = (graph.tensors[i] for i in op.inputs)
        assert weights.dtype == "int8"
        assert weights.quantization is not None
        assert bias.quantization is not None
        assert (weights.quantization.axis, len(weights.quantization.scales)) == (axis, count)
        assert set(weights.quantization.zero_points) == {0}
        assert np.abs(weights.data().astype(int)).max() == 127
        assert bias.dtype == "int32"
        products = np.float32(x.scale) * np.array(weights.quantization.scales, np.float32)
        assert bias.quantization.scales == tuple(float(p) for p in products)
    scheme = decide(model.main, per_tensor_dense=True, per_tensor=[0])
    plan = make_plan(model.main, scheme, _ranges(model.main))
    counts = [len(plan.constants[op, 1].scales) for op in range(3)]
    assert counts == [1, 4, 1]


def test_int16_has_wide_biases_and_symmetric_activations() -> None:
    model = _model(lambda b, x: b.apply("ADD", [x, b.conv(x, 8, 1)], b.shapes[x]))
    plan = make_plan(model.main, decide(model.main, form="int16"), _ranges(model.main))
    written = read_model(write_quantized(model.main, plan))
    conv, add = written.ops
    assert written.tensors[conv.inputs[2]].dtype == "int64"
    assert conv.options["quantized_bias_type"] == 4
    assert add.options["pot_scale_int16"] is False
    for index in (*conv.outputs, *add.outputs, *written.inputs):
        tensor = written.tensors[index]
        assert (tensor.dtype, tensor.zero_point) == ("int16", 0)
        assert tensor.scale == pytest.approx(3 / 32767)


def test_operands_that_must_be_alike_are_or_are_converted() -> None:
    def build(b: FloatBuilder, x: int) -> int:
        own = b.conv(x, 4, 1)
        fixed = b.apply("LOGISTIC", [x], b.shapes[x])
        return b.apply("CONCATENATION", [own, fixed], (1, 4, 4, 12), axis=3)

    model = _model(build)
    plan = make_plan(model.main, decide(model.main), _ranges(model.main))
    graph = quantized_graph(model.main, plan)
    assert [op.kind for op in graph.ops] == ["CONV_2D", "LOGISTIC", "QUANTIZE", "CONCATENATION"]
    join = graph.ops[-1]
    kinds = {graph.tensors[i].quantization for i in (*join.inputs, *join.outputs)}
    assert len(kinds) == 1
    logistic = graph.tensors[graph.ops[1].outputs[0]]
    assert logistic.quantization == Quantization((1 / 256,), (-128,))


def test_what_never_comes_out_does_not_widen_a_range() -> None:
    model = _model(lambda b, x: b.apply("RELU6", [b.conv(x, 4, 1)], (1, 4, 4, 4)))
    graph = model.main
    conv, relu6 = (op.outputs[0] for op in graph.ops)
    found = _ranges(graph)
    found[conv], found[relu6] = (-50.0, 50.0), (0.0, 6.0)
    plan = make_plan(graph, decide(graph), found)
    assert plan.stored(conv) == plan.stored(relu6)
    assert plan.stored(relu6)[1].scale == pytest.approx(6 / 255)


def test_padding_with_the_lowest_number_saturates() -> None:
    model = _model(CASES["PADV2"])
    plan = make_plan(model.main, decide(model.main), _ranges(model.main))
    graph = quantized_graph(model.main, plan)
    (pad,) = graph.ops
    assert graph.tensors[pad.inputs[2]].data().tolist() == [-128]
    assert graph.tensors[pad.outputs[0]].scale == pytest.approx(4 / 255)


def test_a_mixture_converts_at_its_borders() -> None:
    def build(b: FloatBuilder, x: int) -> int:
        return b.conv(b.conv(b.conv(x, 4, 3, act="RELU"), 4, 1, act="RELU"), 2, 1)

    model = _model(build)
    graph = model.main
    middle = graph.ops[0].outputs[0]
    plan = make_plan(graph, decide(graph, int16=[middle]), _ranges(graph))
    mixed = quantized_graph(graph, plan)
    assert [op.kind for op in mixed.ops] == [
        "QUANTIZE", "CONV_2D", "CONV_2D", "QUANTIZE", "CONV_2D",
    ]  # fmt: skip
    types = [mixed.tensors[op.outputs[0]].dtype for op in mixed.ops]
    assert types == ["int16", "int16", "int16", "int8", "int8"]
    # Widening is exact: a step of int8 is 128 steps of int16.
    widened, source = mixed.tensors[mixed.ops[0].outputs[0]], mixed.tensors[mixed.inputs[0]]
    assert widened.scale * 128 == source.scale
    with pytest.raises(UsageError, match="no real-valued activation"):
        decide(graph, int16=[10_000])


def test_inputs_and_outputs_of_other_types() -> None:
    model = _model(lambda b, x: b.conv(x, 4, 1))
    plan = make_plan(model.main, decide(model.main), _ranges(model.main))
    for io, kinds in (
        ("uint8", ["QUANTIZE", "CONV_2D", "QUANTIZE"]),
        ("float32", ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]),
        ("int8", ["CONV_2D"]),
    ):
        written = read_model(write_quantized(model.main, plan, io))  # type: ignore[arg-type]
        assert [op.kind for op in written.ops] == kinds
        assert written.input_tensors[0].dtype == written.output_tensors[0].dtype == io
        assert written.input_tensors[0].name == "x"
        if io == "uint8":
            assert written.input_tensors[0].zero_point == plan.stored(0)[1].zero_point + 128


def test_a_constant_that_two_operators_share_is_quantised_for_each() -> None:
    def build(b: FloatBuilder, x: int) -> int:
        k = b.values(8)
        first = b.apply("ADD", [x, k], b.shapes[x])
        return b.apply("MUL", [first, k], b.shapes[x])

    model = _model(build)
    plan = make_plan(model.main, decide(model.main), _ranges(model.main))
    graph = quantized_graph(model.main, plan)
    assert graph.ops[0].inputs[1] == graph.ops[1].inputs[1]


# Refusals --------------------------------------------------------------------------------


def test_operators_without_an_integer_form_are_named_before_anything_runs() -> None:
    def build(b: FloatBuilder, x: int) -> int:
        first = b.apply("SIN", [x], b.shapes[x])
        return b.apply("COS", [b.apply("SIN", [first], b.shapes[x])], b.shapes[x])

    with pytest.raises(ModelError, match=r"COS \(1\), SIN \(2\) have no int8 form") as caught:
        decide(_model(build).main)
    assert "operator 0 SIN" in str(caught.value.where)
    with pytest.raises(ModelError, match="HARD_SWISH .* has no int16 form"):
        decide(_model(CASES["HARD_SWISH"]).main, form="int16")


def test_hostile_and_unsuitable_models(tmp_path: Path) -> None:
    def with_nan(b: FloatBuilder, x: int) -> int:
        weights = np.ones((4, 1, 1, 8))
        weights[1, 0, 0, 2] = np.nan
        return b.conv(x, 4, 1, weights=weights)

    def computed_weights(b: FloatBuilder, x: int) -> int:
        weights = b.apply("RESHAPE", [x, b.integers([4, 4, 1, 8])], (4, 4, 1, 8))
        return b.apply("CONV_2D", [x, weights], (1, 4, 4, 4), padding="SAME")

    def short_bias(b: FloatBuilder, x: int) -> int:
        return b.conv(x, 4, 1, bias_values=np.zeros(3))

    for build, says in (
        (with_nan, "1 of 32 values of the constant .* are NaN"),
        (computed_weights, "weights are no constant"),
        (short_bias, "a bias of 3 values for 4 channels"),
    ):
        made = case(np.random.default_rng(0), build)
        with pytest.raises(ModelError, match=says):
            decide(prepare(read_model(made.raw), isolated=False).main)
    b = TfliteBuilder()
    x = b.tensor((1, 4), scale=0.5)
    y = b.tensor((1, 4), scale=0.5)
    b.op("RELU", [x], [y])
    with pytest.raises(ModelError, match="quantised already"):
        prepare(read_model(b.build([x], [y])))
    made = case(np.random.default_rng(0), lambda b, x: b.conv(x, 4, 1), shape=(3, 4, 4, 8))
    with pytest.raises(ModelError, match="a batch of 1"):
        prepare(read_model(made.raw))
    b = FloatBuilder(np.random.default_rng(0))
    x = b.real((1, 8))
    with pytest.raises(ModelError, match="no operators"):
        prepare(read_model(b.build([x], [x])))
    empty = case(np.random.default_rng(0), lambda b, x: b.conv(x, 4, 1), shape=(1, 0, 4, 8))
    with pytest.raises(ModelError, match="is empty"):
        prepare(read_model(empty.raw))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_in_words(data: st.DataObject) -> None:
    made = case(np.random.default_rng(0), lambda b, x: b.dense(b.conv(x, 4, 3, act="RELU"), 3))
    raw = bytearray(made.raw)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = prepare(read_model(bytes(raw)))
        plan = make_plan(model.main, decide(model.main), _ranges(model.main))
        read_model(write_quantized(model.main, plan))
    except ModelError:
        pass


def test_float16_and_dynamic_range_constants_become_float32() -> None:
    b = FloatBuilder(np.random.default_rng(0))
    x = b.real((1, 8), "x")
    half = b.constant(np.linspace(-1, 1, 32).astype(np.float16).reshape(4, 8))
    weights = b.real((4, 8))
    b.op("DEQUANTIZE", [half], [weights])
    hidden = b.apply("FULLY_CONNECTED", [x, weights], (1, 4))
    q = b.constant(np.arange(-4, 4).astype(np.int8).reshape(2, 4), scale=[0.5, 0.25])
    y = b.apply("FULLY_CONNECTED", [hidden, q], (1, 2))
    graph = prepare(read_model(b.build([x], [y]))).main
    assert [op.kind for op in graph.ops] == ["FULLY_CONNECTED"] * 2
    first, second = (graph.tensors[op.inputs[1]] for op in graph.ops)
    assert first.dtype == second.dtype == "float32"
    assert second.data().tolist() == [[-2.0, -1.5, -1.0, -0.5], [0.0, 0.25, 0.5, 0.75]]


# Ranges ----------------------------------------------------------------------------------


def _values(samples: np.ndarray) -> Values:
    bins = 8192
    magnitude = float(np.abs(samples).max())
    width = magnitude / bins
    counts = np.bincount(np.rint(samples / width).astype(int) + bins, minlength=2 * bins + 1)
    return Values(
        float(samples.min()), float(samples.max()), samples.size,
        np.array([samples.min()]), np.array([samples.max()]),
        Histogram(counts.astype(np.float64), width),
    )  # fmt: skip


def _error(samples: np.ndarray, low: float, high: float) -> float:
    quantization = parameters.affine(low, high)
    integers = parameters.quantize(samples.astype(np.float32), quantization, "int8")
    return float(((parameters.dequantize(integers, quantization) - samples) ** 2).mean())


def test_percentiles_leave_the_outermost_out() -> None:
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.uniform(-1, 1, 100_000), [40.0]])
    values = _values(samples)
    module = ranges.parse("percentile=99.9")._module()
    low, high = module.activation_range(values, "int8", 99.9)
    assert -1.01 < low < -0.99
    assert 0.99 < high < 1.01
    assert module.activation_range(values, "int8", 100.0) == (values.low, values.high)
    # A value that most samples share must survive.
    zeros = _values(np.concatenate([np.zeros(10_000), [5.0, 5.0]]))
    low, high = module.activation_range(zeros, "int8", 99.0)
    assert low <= 0 <= high


def test_least_squared_error_finds_the_best_range() -> None:
    rng = np.random.default_rng(0)
    module = ranges.parse("mse")._module()
    for samples in (np.maximum(rng.laplace(0, 1, 50_000), 0), rng.uniform(0, 1, 50_000) ** 8):
        values = _values(samples)
        low, high = module.activation_range(values, "int8", 0.0)
        assert low == 0.0
        best = min(_error(samples, 0.0, values.high * s) for s in np.linspace(0.05, 1, 200))
        assert _error(samples, low, high) <= 1.01 * best
    outliers = np.concatenate([rng.normal(0, 1, 100_000), [60.0, -45.0]])
    values = _values(outliers)
    low, high = module.activation_range(values, "int8", 0.0)
    assert values.low <= low <= high <= values.high
    assert _error(outliers, low, high) < 0.85 * _error(outliers, values.low, values.high)
    # Pixels use every step: nothing is to be clipped.
    pixels = rng.integers(0, 256, 50_000).astype(np.float64)
    assert module.activation_range(_values(pixels), "int8", 0.0) == (0.0, 255.0)


@pytest.mark.parametrize("number", range(8))
def test_weights_of_least_squared_error_are_never_worse(number: int) -> None:
    rng = np.random.default_rng(number)
    rows = rng.laplace(0, 1, (6, 4000))
    rows[2], rows[3], rows[4] = rng.uniform(-1, 1, 4000), 0.0, rng.normal(0, 1e-3, 4000)
    rows[5, 9:] = 0.0
    found = ranges.parse("mse").magnitudes(rows)

    def error(magnitudes: np.ndarray) -> np.ndarray:
        scales = parameters.weight_scales(magnitudes)[:, None]
        return ((np.clip(np.rint(rows / scales), -127, 127) * scales - rows) ** 2).sum(axis=1)

    largest = np.abs(rows).max(axis=1)
    assert (error(found) <= error(largest)).all()
    best = np.min([error(largest * share) for share in np.linspace(0.3, 1, 300)], axis=0)
    # The error of the nine weights is all jumps: there a grid finds what it happens to hit.
    assert (error(found)[:5] <= 1.01 * best[:5]).all()


@pytest.mark.parametrize("number", range(8))
def test_activations_of_least_squared_error_are_never_worse(number: int) -> None:
    rng = np.random.default_rng(number)
    module = ranges.parse("mse")._module()
    for samples in (
        rng.normal(0.3, 1, 20_000),
        rng.laplace(-1, 1, 20_000),
        rng.uniform(-3, 1, 20_000),
        np.abs(rng.standard_cauchy(2_000)),
        rng.standard_normal(11),
    ):
        values = _values(samples)
        found = values.histogram
        assert found is not None
        # What is minimised is the histogram's error.
        centres = np.repeat(found.centres, found.counts.astype(int))
        low, high = module.activation_range(values, "int8", 0.0)
        assert _error(centres, low, high) <= _error(centres, values.low, values.high) * (1 + 1e-6)


def test_settings_of_ranges_and_mixtures() -> None:
    assert ranges.names() == ("minmax", "mse", "percentile")
    assert str(ranges.parse("percentile")) == "percentile=99.99"
    for text in ("percentil", "percentile=x", "percentile=20", "mse=3", ""):
        with pytest.raises(UsageError):
            ranges.parse(text)
    assert parse_mixed("sqnr=30, macs=0.5").most_macs == 0.5
    for text in ("sqnr", "layers=0", "speed=2", "accuracy=90"):
        with pytest.raises(UsageError):
            parse_mixed(text)
    for recipe in (
        Recipe(ranges="nonsense"),
        Recipe(weight_ranges="percentile=99"),
        Recipe(replace_relu6=True),
        Recipe(form="int16", int16_layers=("0",)),
        Recipe(mixed=parse_mixed("layers=1"), int16_layers=("0",)),
    ):
        with pytest.raises(UsageError):
            recipe.check()
    assert Recipe(ranges="mse", bias_correction=True).techniques() == (
        "ranges by mse", "bias correction",
    )  # fmt: skip


def test_layers_by_number_and_by_name() -> None:
    graph = _model(lambda b, x: b.conv(x, 4, 1)).main
    name = graph.tensors[graph.ops[0].outputs[0]].name
    assert layer_tensors(graph, ["0"]) == layer_tensors(graph, [name]) == graph.ops[0].outputs
    with pytest.raises(UsageError, match="no layer 'nothing'"):
        layer_tensors(graph, ["nothing"])


# Writing ---------------------------------------------------------------------------------


def test_written_graphs_read_as_they_were(shared: Path) -> None:
    for path in sorted(shared.glob("models/*/*.tflite")):
        model = read_model(path)
        if any(op.kind.startswith("CUSTOM:TFLite_Detection") for op in model.ops):
            continue
        raw = write_graph(model.main, description=model.description, metadata=model.metadata)
        again = read_model(raw)
        assert again.main == model.main, path.name
        assert [t.raw for t in again.tensors] == [t.raw for t in model.tensors], path.name
        assert again.metadata == model.metadata
        assert all(raw.find(t.raw) % 16 == 0 for t in again.tensors if t.raw and len(t.raw) > 16)
        assert write_graph(again.main, metadata=model.metadata) == write_graph(
            model.main, metadata=model.metadata
        )


def test_nothing_here_imports_tensorflow() -> None:
    import subprocess

    script = (
        "import sys, edgekit.quantize.quantizer, edgekit.quantize.qat, edgekit.quantize.mixed, "
        "edgekit.quantize.adaptive_rounding, edgekit.quantize.sensitivity; "
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
