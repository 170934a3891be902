"""The engine as a whole on small models: passes, options, names, determinism, errors."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_builder import TfliteBuilder

from edgekit.engines import aot
from edgekit.engines.aot import emit, passes
from edgekit.engines.aot.host import HostRunner, StepReference
from edgekit.engines.aot.ir import program_of
from edgekit.errors import EdgekitError, FitError, ModelError, UsageError
from edgekit.graph import Model, read_model
from edgekit.records import Artifact, from_json
from edgekit.targets import Target, load_target

_SCALE = {"scale": 0.05, "zero_point": -3}


@pytest.fixture(scope="module")
def host() -> Target:
    return load_target("host")


def _weights(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def _conv(
    builder: TfliteBuilder,
    data: int,
    weights: np.ndarray,
    shape: tuple[int, ...],
    *,
    bias: np.ndarray | None = None,
    output: dict[str, Any] | None = None,
    **options: Any,
) -> int:
    w = builder.constant(weights, scale=0.01)
    inputs = [data, w]
    if bias is not None:
        inputs.append(builder.constant(bias.astype(np.int32), scale=0.0005))
    out = builder.tensor(shape, **(output or _SCALE))
    settings_ = {"padding": "VALID", "stride_h": 1, "stride_w": 1, **options}
    settings_.setdefault("dilation_h_factor", 1)
    settings_.setdefault("dilation_w_factor", 1)
    builder.op("CONV_2D", inputs, [out], **settings_)
    return out


def _compile(model: Model, out: Path, target: Target, **options: Any) -> Artifact:
    return aot.compile(model, target, out, command="edgekit compile", options=options)


def _check(model: Model, artifact: Artifact, runs: int = 3) -> None:
    """Every step's bytes, and the outputs, equal TFLM's."""
    assert artifact.plan is not None
    rng = np.random.default_rng(7)
    reference = StepReference(model, artifact.plan)
    with HostRunner(artifact) as runner:
        for _ in range(runs):
            inputs = [rng.integers(-128, 128, t.shape).astype(np.int8) for t in model.input_tensors]
            expected = reference.invoke(*inputs)
            outputs = reference.outputs()
            runner.fill(0xA5)
            assert runner.steps(*inputs) == expected
            assert runner.outputs() == outputs
            assert runner.invoke(*inputs) == outputs
            assert runner.guards_intact(0xA5)


def _pad_conv_relu(consumers: int = 1) -> Model:
    builder = TfliteBuilder()
    x = builder.tensor((1, 6, 5, 3), **_SCALE)
    padded = builder.tensor((1, 9, 8, 3), **_SCALE)
    amounts = builder.constant(np.array([[0, 0], [1, 2], [2, 1], [0, 0]], np.int32))
    builder.op("PAD", [x, amounts], [padded])
    outputs = []
    for k in range(consumers):
        y = _conv(builder, padded, _weights((4, 3, 3, 3), k), (1, 7, 6, 4))
        z = builder.tensor((1, 7, 6, 4), **_SCALE)
        builder.op("RELU", [y], [z])
        outputs.append(z)
    return read_model(builder.build([x], outputs), "pads")


@pytest.mark.parametrize("consumers", [1, 2])
def test_padding_and_activation_become_part_of_the_convolution(
    tmp_path: Path, host: Target, consumers: int
) -> None:
    model = _pad_conv_relu(consumers)
    artifact = _compile(model, tmp_path / "out", host)
    assert artifact.plan is not None
    assert [step.kind for step in artifact.plan.steps] == ["CONV_2D"] * consumers
    assert artifact.plan.steps[0].ops == (0, 1, 2)
    _check(model, artifact)


def test_debug_steps_keep_every_operator(tmp_path: Path, host: Target) -> None:
    model = _pad_conv_relu()
    artifact = _compile(model, tmp_path / "out", host, debug_steps=True)
    assert artifact.plan is not None
    assert [step.kind for step in artifact.plan.steps] == ["PAD", "CONV_2D", "RELU"]
    for step, buffer in zip(artifact.plan.steps[:-1], artifact.plan.steps[1:], strict=True):
        apart = step.offset + step.nbytes <= buffer.offset or (
            buffer.offset + buffer.nbytes <= step.offset
        )
        assert apart
    _check(model, artifact)


def test_an_activation_of_another_scale_stays(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 4, 2), **_SCALE)
    y = _conv(builder, x, _weights((3, 1, 1, 2)), (1, 4, 4, 3))
    z = builder.tensor((1, 4, 4, 3), scale=0.04, zero_point=5)
    builder.op("RELU", [y], [z])
    model = read_model(builder.build([x], [z]), "other")
    artifact = _compile(model, tmp_path / "out", host)
    assert artifact.plan is not None
    assert [step.kind for step in artifact.plan.steps] == ["CONV_2D", "RELU"]
    _check(model, artifact)


def _with_dead_channels(padding: str, value: int) -> Model:
    """Channel 1 is never read, channel 2 is the constant ``value``, both of five."""
    builder = TfliteBuilder()
    x = builder.tensor((1, 6, 6, 2), **_SCALE)
    first = _weights((5, 1, 1, 2), 3)
    first[2] = 0
    # A bias far below or above the range makes the clamp decide.
    bias = np.array([10, 20, -(1 << 20) if value == -128 else 1 << 20, 30, 40])
    middle = _conv(
        builder, x, first, (1, 6, 6, 5), bias=bias, output={"scale": 0.05, "zero_point": -128}
    )
    second = _weights((3, 3, 3, 5), 4)
    second[..., 1] = 0
    size = 6 if padding == "SAME" else 4
    y = _conv(builder, middle, second, (1, size, size, 3), padding=padding)
    return read_model(builder.build([x], [y]), "dead")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("value", [-128, 127])
def test_dead_and_constant_channels_go(
    tmp_path: Path, host: Target, padding: str, value: int
) -> None:
    model = _with_dead_channels(padding, value)
    program = passes.run(program_of(model))
    # Under zero padding a constant other than the zero point is no constant sum: it stays.
    stays = padding == "SAME" and value == 127
    assert list(program.channels.values()) == [(0, 2, 3, 4) if stays else (0, 3, 4)]
    artifact = _compile(model, tmp_path / "out", host)
    assert artifact.plan is not None
    assert artifact.plan.steps[0].channels == ((0, 2, 3, 4) if stays else (0, 3, 4))
    assert artifact.model_macs > sum(step.macs for step in artifact.plan.steps)
    _check(model, artifact)


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "ADD", "MEAN", "PAD"])
def test_channels_agree_where_readers_differ(tmp_path: Path, host: Target, kind: str) -> None:
    """One reader of a tensor wants a channel that the other's result does not need."""
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 4, 3), **_SCALE)
    shared = _conv(builder, x, _weights((4, 1, 1, 3), 1), (1, 4, 4, 4))
    if kind == "AVERAGE_POOL_2D":
        middle = builder.tensor((1, 2, 2, 4), **_SCALE)
        builder.op(
            kind, [shared], [middle], padding="VALID", stride_h=2, stride_w=2,
            filter_height=2, filter_width=2,
        )  # fmt: skip
        size = 2
    elif kind == "ADD":
        branch = _conv(builder, x, _weights((4, 1, 1, 3), 2), (1, 4, 4, 4))
        middle = builder.tensor((1, 4, 4, 4), **_SCALE)
        builder.op(kind, [shared, branch], [middle])
        size = 4
    elif kind == "MEAN":
        middle = builder.tensor((1, 1, 1, 4), **_SCALE)
        axes = builder.constant(np.array([1, 2], np.int32))
        builder.op(kind, [shared, axes], [middle], keep_dims=True)
        size = 1
    else:
        middle = builder.tensor((1, 6, 6, 4), **_SCALE)
        amounts = builder.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        builder.op(kind, [shared, amounts], [middle])
        relu = builder.tensor((1, 6, 6, 4), scale=0.03, zero_point=-128)
        builder.op("RELU", [middle], [relu])
        middle, size = relu, 6
    narrow = _weights((2, 1, 1, 4), 3)
    narrow[..., 1:3] = 0
    left = _conv(builder, middle, narrow, (1, size, size, 2))
    other = _weights((2, 1, 1, 4), 4)
    other[..., 1] = 0
    right = _conv(builder, shared, other, (1, 4, 4, 2))
    model = read_model(builder.build([x], [left, right]), "readers")
    program = passes.run(program_of(model))
    assert program.channels[shared] == (0, 2, 3)
    assert program.channels[middle] == (0, 2, 3)
    _check(model, _compile(model, tmp_path / "out", host))


def test_reshapes_vanish_and_constants_fold(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 3, 2), **_SCALE)
    shape = builder.tensor((4,), dtype="int32")
    builder.op("SHAPE", [x], [shape])
    flat = builder.tensor((1, 24), **_SCALE)
    target_shape = builder.constant(np.array([1, 24], np.int32))
    builder.op("RESHAPE", [x, target_shape], [flat])
    w = builder.constant(_weights((5, 24)), scale=0.01)
    y = builder.tensor((1, 5), **_SCALE)
    builder.op("FULLY_CONNECTED", [flat, w, -1], [y])
    wide = builder.tensor((1, 5, 1), **_SCALE)
    builder.op("EXPAND_DIMS", [y, builder.constant(np.array([2], np.int32))], [wide])
    model = read_model(builder.build([x], [wide]), "views")
    artifact = _compile(model, tmp_path / "out", host)
    assert artifact.plan is not None
    (step,) = artifact.plan.steps
    assert step.kind == "FULLY_CONNECTED"
    assert step.ops == (1, 2, 3)
    assert artifact.plan.outputs[0].shape == (1, 5, 1)
    assert artifact.plan.outputs[0].offset == step.offset
    _check(model, artifact)


def test_a_model_that_only_reshapes_copies(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 3), **_SCALE)
    y = builder.tensor((1, 12), **_SCALE)
    builder.op("RESHAPE", [x, builder.constant(np.array([1, 12], np.int32))], [y])
    model = read_model(builder.build([x], [y]), "copy")
    artifact = _compile(model, tmp_path / "out", host, keep_input=True)
    assert artifact.plan is not None
    assert len(artifact.plan.steps) == 1
    _check(model, artifact)


def test_keep_input_keeps_it(tmp_path: Path, host: Target) -> None:
    """A chain of convolutions that would like to work in place."""
    builder = TfliteBuilder()
    x = y = builder.tensor((1, 8, 8, 4), **_SCALE)
    for k in range(3):
        y = _conv(builder, y, _weights((4, 1, 1, 4), k), (1, 8, 8, 4))
    model = read_model(builder.build([x], [y]), "chain")
    for keep in (False, True):
        artifact = _compile(model, tmp_path / f"out{keep}", host, keep_input=keep)
        assert artifact.plan is not None
        assert (artifact.plan.arena_bytes >= 512) is keep
        view = artifact.plan.inputs[0]
        data = np.random.default_rng(2).integers(-128, 128, view.shape).astype(np.int8)
        with HostRunner(artifact) as runner:
            runner.invoke(data)
            after = runner.arena[view.offset : view.offset + view.nbytes].tobytes()
        assert (after == data.tobytes()) is keep


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, host: Target) -> None:
    model = _pad_conv_relu(2)
    one = _compile(model, tmp_path / "a", host)
    two = _compile(read_model(model.raw, "pads"), tmp_path / "b", host)
    assert one.files == two.files
    for name in one.files:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_the_folder_is_whole(tmp_path: Path, host: Target) -> None:
    artifact = _compile(_pad_conv_relu(), tmp_path / "out", host)
    found = {str(p.relative_to(artifact.folder)) for p in artifact.folder.rglob("*") if p.is_file()}
    assert found == set(artifact.files)
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    assert manifest["stage"] == "compile"
    assert manifest["model"]["macs"] == artifact.model_macs
    again = from_json(Artifact, manifest["artifact"])
    assert dataclasses.replace(again, folder=artifact.folder) == artifact
    header = (artifact.folder / "pads.h").read_text()
    assert artifact.model_sha256 in header
    assert "edgekit compile" in header
    assert f"#define PADS_ARENA_BYTES{' ' * 7}{artifact.arena_bytes}\n" in re.sub(
        r"(PADS_ARENA_BYTES) +", r"\1       ", header
    )
    # The header is a C++ header as well, and needs nothing else.
    probe = tmp_path / "probe.cc"
    probe.write_text(
        '#include "pads.h"\n'
        "signed char *f(signed char *a) {\n"
        "    pads_init(a);\n"
        "    return pads_input(a) + PADS_OUTPUT_BYTES;\n"
        "}\n"
    )
    subprocess.run(
        ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
         f"-I{artifact.folder}", str(probe)],
        check=True,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_any_name_becomes_an_identifier(name: str) -> None:
    prefix = emit.prefix_of(name)
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,47}", prefix)
    text = emit.comment_text(name)
    assert "*/" not in text and "/*" not in text and "\n" not in text and "??" not in text
    assert text.isascii()


@pytest.mark.parametrize(
    "name",
    [
        'x"; system("reboot"); /* */ #include </etc/passwd>',
        "int", "string", "ek_model", "9lives", "ключ", "", "a" * 300, "two\nlines\\", "??/", "*/",
    ],
)  # fmt: skip
def test_hostile_names_compile(tmp_path: Path, host: Target, name: str) -> None:
    model = dataclasses.replace(_pad_conv_relu(), name=name)
    artifact = aot.compile(model, host, tmp_path / "out", command=f"run */ {name}", options={})
    _check(model, artifact, runs=1)


def test_an_unknown_operator_is_named_with_its_place(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4), **_SCALE)
    y = builder.tensor((1, 4), name="what/is/this", **_SCALE)
    builder.op("L2_NORMALIZATION", [x], [y])
    model = read_model(builder.build([x], [y]), "m")
    with pytest.raises(ModelError) as caught:
        _compile(model, tmp_path / "out", host)
    assert "L2_NORMALIZATION" in caught.value.what
    assert caught.value.where == "operator 0 L2_NORMALIZATION 'what/is/this'"
    assert "tflm" in (caught.value.fix or "")
    assert not (tmp_path / "out").exists()
    support = aot.supports(model, host)
    assert not support.ok
    assert "L2_NORMALIZATION" in support.missing[0]


def test_a_float_model_is_refused_with_its_place(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4), dtype="float32")
    w = builder.constant(np.ones((3, 4), np.float32))
    y = builder.tensor((1, 3), dtype="float32", name="dense")
    builder.op("FULLY_CONNECTED", [x, w, -1], [y])
    model = read_model(builder.build([x], [y]), "m")
    with pytest.raises(ModelError, match="float32") as caught:
        _compile(model, tmp_path / "out", host)
    assert caught.value.where == "operator 0 FULLY_CONNECTED 'dense'"


def test_control_flow_state_and_open_shapes_are_refused(host: Target) -> None:
    model = _pad_conv_relu()
    two = dataclasses.replace(model, graphs=model.graphs * 2)
    assert not aot.supports(two, host).ok
    graph = model.main
    for change in ({"is_variable": True}, {"shape_signature": (1, -1, 5, 3)}):
        tensors = (dataclasses.replace(graph.tensors[0], **change), *graph.tensors[1:])
        changed = dataclasses.replace(model, graphs=(dataclasses.replace(graph, tensors=tensors),))
        assert not aot.supports(changed, host).ok


def test_what_does_not_fit_is_refused_with_numbers(tmp_path: Path) -> None:
    target = load_target("nucleo-l4r5zi")
    small = dataclasses.replace(
        target,
        memory=tuple(
            dataclasses.replace(r, nbytes=64) if r.kind == "ram" else r for r in target.memory
        ),
    )
    with pytest.raises(FitError, match="arena of") as caught:
        _compile(_pad_conv_relu(), tmp_path / "out", small)
    assert "live:" in (caught.value.where or "")


def test_options_are_checked() -> None:
    for options in ({"optimise": "x"}, {"optimize": "fast"}, {"keep_input": "perhaps"}):
        with pytest.raises(UsageError):
            aot.read_options(options)
    read = aot.read_options({"keep_input": "yes", "optimize": "ram", "kernels": "a, b"})
    assert (read.keep_input, read.optimize, read.kernels) == (True, "ram", ("a", "b"))


def test_two_inputs_of_two_types(tmp_path: Path, host: Target) -> None:
    builder = TfliteBuilder()
    a = builder.tensor((1, 7), name="a", **_SCALE)
    b = builder.tensor((1, 7), dtype="float32", name="b")
    b8 = builder.tensor((1, 7), **_SCALE)
    builder.op("QUANTIZE", [b], [b8])
    total = builder.tensor((1, 7), scale=0.1, zero_point=2)
    builder.op("ADD", [a, b8], [total])
    out = builder.tensor((1, 7), dtype="float32", name="out")
    builder.op("DEQUANTIZE", [total], [out])
    model = read_model(builder.build([a, b], [out]), "mixed")
    artifact = _compile(model, tmp_path / "out", host)
    header = (artifact.folder / "mixed.h").read_text()
    assert "static inline float *mixed_input1(int8_t *arena)" in header
    assert "static inline float *mixed_output(int8_t *arena)" in header
    assert "#define MIXED_INPUT_ZERO_POINT " in header
    assert "MIXED_INPUT1_SCALE" not in header
    rng = np.random.default_rng(1)
    first = rng.integers(-128, 128, (1, 7)).astype(np.int8)
    second = rng.normal(0, 3, (1, 7)).astype(np.float32)
    assert artifact.plan is not None
    reference = StepReference(model, artifact.plan)
    expected = reference.invoke(first, second)
    with HostRunner(artifact, flags=("-Wcast-align",)) as runner:
        assert runner.steps(first, second) == expected
        assert runner.outputs() == reference.outputs()


@pytest.mark.parametrize("goal", ["speed", "ram", "flash"])
def test_every_goal_is_exact(tmp_path: Path, host: Target, goal: str) -> None:
    model = _pad_conv_relu(2)
    _check(model, _compile(model, tmp_path / "out", host, optimize=goal))


def test_branches_are_ordered_for_the_least_memory(tmp_path: Path, host: Target) -> None:
    """Two branches that widen and narrow again: one after the other needs less than both."""
    builder = TfliteBuilder()
    x = builder.tensor((1, 4, 4, 2), **_SCALE)
    wide = [_conv(builder, x, _weights((32, 1, 1, 2), k), (1, 4, 4, 32)) for k in range(2)]
    thin = [
        _conv(builder, w, _weights((2, 1, 1, 32), k + 5), (1, 4, 4, 2)) for k, w in enumerate(wide)
    ]
    y = builder.tensor((1, 4, 4, 2), **_SCALE)
    builder.op("ADD", thin, [y])
    model = read_model(builder.build([x], [y]), "branches")
    artifact = _compile(model, tmp_path / "out", host)
    assert artifact.plan is not None
    assert artifact.plan.arena_bytes < 2 * 4 * 4 * 32
    _check(model, artifact)


def test_damaged_files_are_refused_or_run(seed: int) -> None:
    """Whatever is in a file, it ends in a plan or in an error that a user can read."""
    raws = [_pad_conv_relu(2).raw, _with_dead_channels("SAME", 127).raw]
    rng = np.random.default_rng(seed)
    planned = refused = 0
    for number in range(600):
        raw = bytearray(raws[number % 2])
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(8, len(raw)))] = int(rng.choice([0, 1, 2, 127, 128, 255]))
        try:
            aot.decide(read_model(bytes(raw)), None)
            planned += 1
        except EdgekitError:
            refused += 1
    assert planned > 50
    assert refused > 50


def test_contradictions_are_refused(host: Target) -> None:
    model = _pad_conv_relu()
    graph = model.main
    for index, shape in ((5, (1, 7, 7, 4)), (3, (4, 3, 4, 3)), (0, (1, 6, 5))):
        tensors = list(graph.tensors)
        tensors[index] = dataclasses.replace(tensors[index], shape=shape)
        changed = dataclasses.replace(graph, tensors=tuple(tensors))
        with pytest.raises(ModelError):
            aot.decide(dataclasses.replace(model, graphs=(changed,)), None)
    backwards = dataclasses.replace(graph, ops=tuple(reversed(graph.ops)))
    with pytest.raises(ModelError, match="before it is computed"):
        aot.decide(dataclasses.replace(model, graphs=(backwards,)), None)
    nothing = dataclasses.replace(graph, ops=())
    assert not aot.supports(dataclasses.replace(model, graphs=(nothing,)), host).ok
