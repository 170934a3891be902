"""Which kernels are chosen, how they trade time for memory, and in which order steps run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

from edgekit.engines.aot import lowering, memory, ops, select, trade
from edgekit.engines.aot.ir import Program, program_of
from edgekit.engines.aot.lowering import (
    Kernel,
    Literal,
    Node,
    Output,
    Overlap,
    Unsupported,
    activation_range,
    quantize_multiplier,
    sliding_shift,
)
from edgekit.engines.aot.passes import schedule
from edgekit.graph import read_model
from edgekit.targets import load_target

_SCALE = {"scale": 0.05, "zero_point": 0}


def _chain(sizes: list[int]) -> Program:
    """RELUs (any operator would do) over vectors; the lowering is replaced by the tests."""
    builder = TfliteBuilder()
    tensors = [builder.tensor((1, size), **_SCALE) for size in sizes]
    for a, b in zip(tensors[:-1], tensors[1:], strict=True):
        builder.op("RELU", [a], [b])
    return program_of(read_model(builder.build([tensors[0]], [tensors[-1]])))


def _kernel(name: str, cost: float, scratch: int = 0, **changes: object) -> Kernel:
    base = Kernel(name, "ek_none.h", args=(Output(),), cost=cost, scratch_bytes=scratch)
    return dataclasses.replace(base, **changes)


def test_a_slower_kernel_is_taken_where_it_saves_more_than_it_costs() -> None:
    program = _chain([10, 10, 10])
    fast = [_kernel("fast", 100, 400), _kernel("fast", 100, 10)]
    slow = [_kernel("slow", 103, 0), _kernel("slow", 103, 0)]
    options = [list(pair) for pair in zip(fast, slow, strict=True)]
    chosen = trade.balance(program, fast, options, goal="speed", keep_input=False)
    # 400 of 420 bytes for 1.5 percent of the time; then 10 of 30 bytes for as much again.
    assert [kernel.function for kernel in chosen] == ["slow", "slow"]
    dear = [dataclasses.replace(kernel, cost=400.0) for kernel in slow]
    options = [list(pair) for pair in zip(fast, dear, strict=True)]
    chosen = trade.balance(program, fast, options, goal="speed", keep_input=False)
    assert [kernel.function for kernel in chosen] == ["fast", "fast"]
    chosen = trade.balance(program, fast, options, goal="ram", keep_input=False)
    assert [kernel.function for kernel in chosen] == ["slow", "slow"]


def test_a_trade_elsewhere_than_at_the_peak_is_not_made() -> None:
    program = _chain([10, 10, 500])
    fast = [_kernel("fast", 100, 40), _kernel("fast", 100)]
    options = [[fast[0], _kernel("slow", 101)], [fast[1]]]
    chosen = trade.balance(program, fast, options, goal="ram", keep_input=False)
    assert [kernel.function for kernel in chosen] == ["fast", "fast"]


def test_the_walking_direction_follows_from_the_plan() -> None:
    program = _chain([100, 100, 100, 100])
    either = (
        Overlap(max_shift=-10, literals=(("direction", 1),)),
        Overlap(min_shift=10, literals=(("direction", -1),)),
    )
    kernel = _kernel("walker", 1, overlaps=either, args=(Literal("direction", 1), Output()))
    layout = memory.arrange(program, [kernel] * 3, keep_input=False, overlap=True)
    assert (layout.plan.arena_bytes, layout.plan.arena_optimal) == (112, True)
    offsets = [view.offset for view in layout.plan.inputs]
    offsets += [step.offset for step in layout.plan.steps]
    for used, before, after in zip(layout.kernels, offsets[:-1], offsets[1:], strict=True):
        (direction,) = [arg.value for arg in used.args if isinstance(arg, Literal)]
        assert direction == (1 if after < before else -1)
    apart = memory.arrange(program, [kernel] * 3, keep_input=False, overlap=False)
    assert apart.plan.arena_bytes == 200


def test_what_outlives_the_inference_is_not_overwritten() -> None:
    program = _chain([64, 64])
    in_place = _kernel("in_place", 1, overlaps=(Overlap(max_shift=0),))
    assert (
        memory.arrange(program, [in_place], keep_input=False, overlap=True).plan.arena_bytes == 64
    )
    assert (
        memory.arrange(program, [in_place], keep_input=True, overlap=True).plan.arena_bytes == 128
    )


def test_kernels_need_what_the_core_has() -> None:
    m4, m0 = load_target("nucleo-l4r5zi"), load_target("nucleo-g0b1re")
    dsp = _kernel("x", 1, requires=("dsp",))
    assert select.runs_on(dsp, m4)
    assert not select.runs_on(dsp, m0)
    assert not select.runs_on(dsp, None)
    only = _kernel("x", 1, cores=("cortex-m0plus",))
    assert select.runs_on(only, m0)
    assert not select.runs_on(only, m4)


def test_operators_are_found_by_file_name_and_nothing_else_is() -> None:
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX", "RESHAPE"} <= set(ops.names())
    for kind in ("", "_SUMS", "../lowering", "os", "CUSTOM:conv_2d", "conv_2d"):
        assert ops.find(kind) is None


def test_the_cheapest_order_of_branches_is_found() -> None:
    builder = TfliteBuilder()
    x = builder.tensor((1, 4), **_SCALE)
    wide = [builder.tensor((1, 100), **_SCALE) for _ in range(3)]
    thin = [builder.tensor((1, 2), **_SCALE) for _ in range(3)]
    y = builder.tensor((1, 6), **_SCALE)
    for tensor in wide:
        builder.op("RELU", [x], [tensor])
    for a, b in zip(wide, thin, strict=True):
        builder.op("RELU", [a], [b])
    builder.op("CONCATENATION", thin, [y], axis=1)
    program = schedule.run(program_of(read_model(builder.build([x], [y]))))
    assert [step.ops[0] for step in program.steps] == [0, 3, 1, 4, 2, 5, 6]


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("order", ["pixel", "channel"])
@pytest.mark.parametrize("pad", [0, 1])
def test_sliding_shift_is_exact(
    kernel: tuple[int, int], stride: tuple[int, int], order: str, pad: int
) -> None:
    """The distance is safe, and one byte more is not: by following every read and write."""
    in_shape = (6, 5, 3)
    out = [(n + 2 * pad - k) // s + 1 for n, k, s in zip(in_shape, kernel, stride, strict=False)]
    channels = 3 if order == "channel" else 4
    out_shape = (out[0], out[1], channels)
    shift = sliding_shift(
        in_shape, out_shape, window=kernel, stride=stride, pad=(pad, pad), order=order
    )  # type: ignore[arg-type]

    def safe(at: int) -> bool:
        written: set[int] = set()
        for y in range(out[0]):
            for x in range(out[1]):
                for c in range(channels):
                    for ky in range(kernel[0]):
                        for kx in range(kernel[1]):
                            row, column = y * stride[0] - pad + ky, x * stride[1] - pad + kx
                            if not (0 <= row < in_shape[0] and 0 <= column < in_shape[1]):
                                continue
                            first = (row * in_shape[1] + column) * in_shape[2]
                            reads = [first + c] if order == "channel" else range(first, first + 3)
                            if written.intersection(reads):
                                return False
                    written.add(at + (y * out[1] + x) * channels + c)
        return True

    assert safe(shift)
    assert safe(shift - 7)
    if min(kernel) > pad:  # else some windows lie in the padding and read nothing
        assert not safe(shift + (1 if order == "channel" else channels))


def test_quantised_multipliers_are_tensorflows() -> None:
    assert quantize_multiplier(0.0) == (0, 0)
    assert quantize_multiplier(1.0) == (1 << 30, 1)
    assert quantize_multiplier(0.5) == (1 << 30, 0)
    assert quantize_multiplier(1 - 2**-40) == (1 << 30, 1)
    assert quantize_multiplier(2.0**-40) == (0, 0)
    assert quantize_multiplier(2.0**40) == ((1 << 31) - 1, 30)
    for real in np.random.default_rng(3).uniform(1e-6, 4, 200):
        multiplier, shift = quantize_multiplier(float(real))
        assert 1 << 30 <= multiplier < 1 << 31
        assert abs(multiplier * 2.0 ** (shift - 31) - real) <= real * 2.0**-31
    for real in (-1.0, float("nan"), float("inf")):
        with pytest.raises(Unsupported):
            quantize_multiplier(real)


def test_activation_ranges_are_tensorflows() -> None:
    builder = TfliteBuilder()
    index = builder.tensor((1, 2), scale=0.1, zero_point=-100)
    out = builder.tensor((1, 2), scale=0.1, zero_point=-100)
    builder.op("RELU", [index], [out])
    tensor = read_model(builder.build([index], [out])).tensors[index]
    assert activation_range("NONE", tensor) == (-128, 127)
    assert activation_range("RELU", tensor) == (-100, 127)
    assert activation_range("RELU6", tensor) == (-100, -40)
    assert activation_range("RELU_N1_TO_1", tensor) == (-110, -90)
    with pytest.raises(Unsupported):
        activation_range("TANH", tensor)


def test_a_node_says_what_it_lacks() -> None:
    node = Node("X", (0,), (None,), ())
    with pytest.raises(Unsupported, match="at run time"):
        node.activation_input(0)
    with pytest.raises(Unsupported, match="its weights must be constant"):
        node.constant_input(0, "weights")
    assert node.optional_constant(0, "bias") is None
    assert lowering.Overlap(multiple=4).allows(-8)
    assert not lowering.Overlap(multiple=4).allows(2)
