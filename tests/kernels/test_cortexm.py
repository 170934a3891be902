"""Kernels of single cores equal TFLM byte for byte, on the simulated core."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cortexm import check_on_core
from kernel_harness import Case
from random_models import choices, inputs, make, output_scale, scale, unary
from test_batch_matmul import batch_matmul
from test_binary import binary
from test_conv_2d import conv
from test_depthwise_conv_2d import depthwise
from test_fully_connected import fully_connected
from test_mean import mean
from test_move import concatenation, pad, strided_slice
from test_pool_2d import pool
from test_quantize import from_float, to_float
from test_softmax import softmax
from test_transpose import transpose
from tflite_builder import TfliteBuilder

from edgekit import bench
from edgekit.build import build
from edgekit.engines import aot
from edgekit.graph import read_model
from edgekit.targets import load_target

CORES = ("cortex-m4", "cortex-m0plus")

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)


def relu_conv(rng: np.random.Generator, *, kind: str) -> Case:
    """A convolution as converters make them: scales per channel, mostly ReLU and zero point -128,
    sometimes another activation or zero point."""
    window = (3, 3) if kind == "DEPTHWISE_CONV_2D" else choices(rng, (1, 1), (3, 3), (5, 2))
    stride = choices(rng, 1, 2)
    h, w = int(rng.integers(3, 20)), int(rng.integers(3, 14))
    in_c = int(rng.integers(1, 37))
    depthwise = kind == "DEPTHWISE_CONV_2D"
    out_c = in_c if depthwise else int(rng.integers(1, 20))
    shape = (1, *window, out_c) if depthwise else (out_c, *window, in_c)
    spread = float(choices(rng, 12, 30, 50))
    weights = np.clip(rng.normal(0, spread, shape).round(), -127, 127).astype(np.int8)
    b = TfliteBuilder()
    x = b.tensor((1, h, w, in_c), scale=0.02, zero_point=int(rng.integers(-128, 128)))
    scales = [scale(rng, 2e-3, 2e-2) for _ in range(out_c)]
    axis = 3 if depthwise else 0
    bias = rng.integers(-2000, 2000, out_c).astype(np.int32)
    operands = [
        x,
        b.constant(weights, scale=scales, zero_point=0, axis=axis),
        b.constant(bias, scale=[0.02 * s for s in scales]),
    ]
    taps = weights.size / out_c
    reach = spread * np.sqrt(taps) * 70 * 0.02 * 0.007
    activation = choices(rng, *["RELU"] * 7, "NONE", "NONE", "RELU6", "RELU_N1_TO_1")
    lowest = bool(rng.random() < 0.7)
    out = (1, -(-h // stride), -(-w // stride), out_c)
    y = b.tensor(
        out,
        scale=output_scale(rng, reach),
        zero_point=-128 if activation == "RELU" and lowest else int(rng.integers(-128, 100)),
    )
    multiplier = {"depth_multiplier": 1} if depthwise else {}
    b.op(
        kind, operands, [y], padding="SAME", stride_h=stride, stride_w=stride,
        fused_activation_function=activation, **multiplier,
    )  # fmt: skip
    note = f"{kind} {(h, w, in_c)} {window}/{stride} -> {out} {activation}"
    return Case(b.build([x], [y]), inputs(rng, (1, h, w, in_c)), note)


@pytest.mark.parametrize("core", CORES)
def test_as_converted(core: str, seed: int, sample: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    count = 30 * sample
    cases = make(count, lambda: relu_conv(rng, kind="CONV_2D"))
    cases += make(count, lambda: relu_conv(rng, kind="DEPTHWISE_CONV_2D"))
    cases += make(count, lambda: fully_connected(rng))
    counts = check_on_core(cases, core, tmp_path)
    print(counts)
    assert len(counts) >= 3 or sample < 1, "a kernel was never chosen"


@pytest.mark.parametrize("core", CORES)
def test_any(core: str, seed: int, sample: float, tmp_path: Path) -> None:
    """Parameters that no converter makes: extreme scales, zero points, activations, dilation."""
    rng = np.random.default_rng(seed + 1)
    count = 30 * sample
    cases = make(count, lambda: conv(rng))
    cases += make(count, lambda: depthwise(rng, window=(3, 3), square_stride=True))
    cases += make(count, lambda: fully_connected(rng))
    print(check_on_core(cases, core, tmp_path))


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
@pytest.mark.parametrize("core", CORES)
def test_products(core: str, compiler: str, seed: int, sample: float, tmp_path: Path) -> None:
    """Products of two matrices that are both computed at run time."""
    rng = np.random.default_rng(seed + 4)
    cases = make(20 * sample, lambda: batch_matmul(rng))
    counts = check_on_core(cases, core, tmp_path, compiler=compiler)
    assert counts, "the kernel was never chosen"


@pytest.mark.parametrize("core", CORES)
def test_zig(core: str, seed: int, tmp_path: Path) -> None:
    """The same from clang, which must not disturb the assembly."""
    rng = np.random.default_rng(seed + 2)
    cases = make(6, lambda: relu_conv(rng, kind="CONV_2D"))
    cases += make(6, lambda: relu_conv(rng, kind="DEPTHWISE_CONV_2D"))
    cases += make(6, lambda: fully_connected(rng))
    print(check_on_core(cases, core, tmp_path, compiler="zig"))


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
@pytest.mark.parametrize("core", CORES)
def test_portable(core: str, compiler: str, seed: int, sample: float, tmp_path: Path) -> None:
    """The portable kernels where words, saturation and divisions are the core's own."""
    rng = np.random.default_rng(seed + 3)
    count = 4 * sample
    builders = [
        lambda: conv(rng),
        lambda: depthwise(rng),
        lambda: fully_connected(rng),
        lambda: softmax(rng),
        lambda: mean(rng),
        lambda: concatenation(rng),
        lambda: pad(rng, "PAD"),
        lambda: strided_slice(rng),
        lambda: transpose(rng),
        lambda: batch_matmul(rng),
        lambda: from_float(rng),
        lambda: to_float(rng),
        lambda: unary(rng, "LEAKY_RELU", alpha=0.2),
        lambda: unary(rng, "RELU6"),
        *(lambda kind=kind: pool(rng, kind) for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D")),
        *(
            lambda kind=kind: binary(rng, kind)
            for kind in ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE")
        ),
    ]
    cases = [case for build in builders for case in make(count, build)]
    counts = check_on_core(cases, core, tmp_path, compiler=compiler, portable=True)
    assert len(counts) >= len(builders) - 3, counts


@pytest.mark.parametrize(
    ("board", "shifted", "both"), [("nucleo-l4r5zi", 1.05, 1.09), ("nucleo-g0b1re", 1.05, 1.05)]
)
def test_a_clamp_costs_little(
    board: str, shifted: float, both: float, tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """A ReLU whose zero point is not int8's lowest value, and one with an upper end."""
    pytest.importorskip("unicorn")
    target = load_target(board)
    instructions: dict[str, int] = {}
    for name, activation, zero_point in (
        ("plain", "RELU", -128), ("shifted", "RELU", -121), ("both", "RELU6", -60),
    ):  # fmt: skip
        rng = np.random.default_rng(1)
        b = TfliteBuilder()
        tensor = b.tensor((1, 12, 12, 16), scale=0.02, zero_point=-3)
        first, scale_in = tensor, 0.02
        for kind, window in (("CONV_2D", 3), ("DEPTHWISE_CONV_2D", 3), ("CONV_2D", 1)):
            depthwise = kind == "DEPTHWISE_CONV_2D"
            shape = (1, window, window, 16) if depthwise else (16, window, window, 16)
            weights = np.clip(rng.normal(0, 30, shape).round(), -127, 127).astype(np.int8)
            scales = [0.004 * (1 + i / 50) for i in range(16)]
            operands = [
                tensor,
                b.constant(weights, scale=scales, zero_point=0, axis=3 if depthwise else 0),
                b.constant(np.zeros(16, np.int32), scale=[scale_in * s for s in scales]),
            ]
            scale_in = 0.04
            tensor = b.tensor((1, 12, 12, 16), scale=scale_in, zero_point=zero_point)
            more = {"depth_multiplier": 1} if depthwise else {}
            b.op(
                kind, operands, [tensor], padding="SAME", stride_h=1, stride_w=1,
                fused_activation_function=activation, **more,
            )  # fmt: skip
        model = read_model(b.build([first], [tensor]), name)
        artifact = aot.compile(model, target, tmp_path / name, command="x", options={})
        assert artifact.plan is not None
        if target.has("dsp"):
            assert all(step.kernel.endswith("_dsp") for step in artifact.plan.steps)
        firmware = build(artifact, target, tmp_path / f"{name}-firmware")
        found = bench.bench_firmware(
            firmware, target, "virtual", model=model,
            examples=bench.random_examples(artifact.plan, 2, 7), warmups=0, runs=1,
        )  # fmt: skip
        assert found.outputs is not None and found.outputs.match is True, found.outputs
        assert found.instructions is not None
        instructions[name] = found.instructions
    ratios = {name: value / instructions["plain"] for name, value in instructions.items()}
    text = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    record_property("figure", f"a clamp on {board}: {text} of the instructions")
    assert ratios["shifted"] < shifted
    assert ratios["both"] < both
