"""Predicted partitions and compiled files: the ground truth, and rules one by one."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tflite_builder import TfliteBuilder  # noqa: E402

from edgekit.engines.edgetpu import darwinn, supports  # noqa: E402
from edgekit.engines.edgetpu.latency import NotKnown, estimate_latency  # noqa: E402
from edgekit.engines.edgetpu.memory import PARAMETER_ERROR  # noqa: E402
from edgekit.engines.edgetpu.operators import (  # noqa: E402
    DATA_TYPE,
    LIMITATION,
    NOT_SUPPORTED,
    SUBGRAPH,
)
from edgekit.engines.edgetpu.partition import Partition, predict  # noqa: E402
from edgekit.engines.edgetpu.remainder import cpu_part  # noqa: E402
from edgekit.errors import ModelError  # noqa: E402
from edgekit.graph import read_model  # noqa: E402
from edgekit.targets import load_target  # noqa: E402

PAIRS = (
    "deeplabv3_mnv2_dm05_pascal_quant",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_0.25_128_quant_cocompiled_with_3quant_edgetpu",
    "posenet_mobilenet_v1_075_353_481_16_quant_decoder",
    "split_concat",
)


def truth(shared: Path, name: str) -> dict[str, str]:
    with (shared / "reference" / "edgetpu_pairs.csv").open() as file:
        return next(row for row in csv.DictReader(file) if row["model"] == name)


def pair(shared: Path, name: str) -> tuple[Path, Path]:
    folder = shared / "models" / "edgetpu"
    if name.endswith("_edgetpu"):
        return folder / f"{name.split('_cocompiled')[0]}.tflite", folder / f"{name}.tflite"
    return folder / f"{name}.tflite", folder / f"{name}_edgetpu.tflite"


@pytest.mark.parametrize("name", PAIRS)
def test_prediction_equals_the_ground_truth(name: str, shared: Path) -> None:
    row = truth(shared, name)
    source, compiled_path = pair(shared, name)
    found = predict(read_model(source))
    assert (found.ops_total, found.ops_mapped) == (int(row["ops_total"]), int(row["ops_mapped"]))
    compiled = darwinn.read_compiled(read_model(compiled_path))
    assert compiled is not None
    kinds = sorted(op.kind for op in found.ops_cpu)
    assert kinds == sorted(kind for _, kind in compiled.cpu_ops)
    assert len(found.ops_cpu) == int(row["ops_cpu"])
    assert all(op.reason and op.advice and op.status for op in found.ops_cpu)
    assert found.refused == ()


@pytest.mark.parametrize("name", PAIRS)
def test_compiled_files_are_read_exactly(name: str, shared: Path) -> None:
    row = truth(shared, name)
    compiled = darwinn.read_compiled(read_model(pair(shared, name)[1]))
    assert compiled is not None
    assert compiled.cached_bytes == int(row["onchip_cached_bytes"])
    assert compiled.streamed_bytes == int(row["offchip_streamed_bytes"])
    assert compiled.instruction_bytes == int(row["instr_bytes"])
    assert compiled.min_runtime_version == int(row["min_runtime"])
    assert compiled.subgraphs == int(row["subgraphs"])
    kinds = ";".join(f"{kind}:{count}" for kind, count in compiled.cpu_kinds.items())
    assert kinds.replace(":1;", ":1;") == row["cpu_ops_left"]


@pytest.mark.parametrize("name", [name for name in PAIRS if "cocompiled" not in name])
def test_parameter_bytes_are_estimated_within_the_stated_error(name: str, shared: Path) -> None:
    row = truth(shared, name)
    found = predict(read_model(pair(shared, name)[0])).memory
    wanted = int(row["onchip_cached_bytes"]) + int(row["offchip_streamed_bytes"])
    assert abs(found.total_bytes - wanted) <= PARAMETER_ERROR * wanted
    assert found.streamed_bytes == int(row["offchip_streamed_bytes"])


def test_the_cpu_part_of_a_compiled_model(shared: Path) -> None:
    compiled = read_model(pair(shared, PAIRS[0])[1])
    content = cpu_part(compiled)
    assert content is not None
    rest = read_model(content)
    assert [op.kind for op in rest.ops] == [op.kind for op in compiled.ops[1:]]
    assert {t.shape for t in rest.input_tensors} == {(1, 33, 33, 256), (1, 1, 1, 256)}
    assert [t.shape for t in rest.output_tensors] == [(1, 513, 513)]
    assert cpu_part(read_model(pair(shared, PAIRS[1])[1])) is None


def test_damaged_compiled_files_are_model_errors(shared: Path, seed: int) -> None:
    raw = pair(shared, "split_concat")[1].read_bytes()
    at = raw.index(b"DWN1")
    chosen = random.Random(seed)
    refused = 0
    for _ in range(300):
        damaged = bytearray(raw)
        for _ in range(chosen.randint(1, 4)):
            where = chosen.choice(
                [chosen.randrange(at - 8, at + 400), chosen.randrange(len(raw) - 200, len(raw))]
            )
            damaged[where % len(raw)] = chosen.randrange(256)
        try:
            darwinn.read_compiled(read_model(bytes(damaged)))
        except ModelError:
            refused += 1
    assert refused


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, bytes(range(64)) + b"\x24\x01"])
def test_options_that_are_no_flexbuffer(content: bytes) -> None:
    with pytest.raises(darwinn.Malformed):
        darwinn.flexbuffer_map(content)


# -- rules, one by one ----------------------------------------------------------------------


class Net:
    """A chain of operators over int8 tensors."""

    def __init__(self, *shape: int, dtype: str = "int8") -> None:
        self.builder = TfliteBuilder()
        self.head = self.builder.tensor(shape, dtype=dtype, scale=0.1, name="input")
        self.first = self.head
        self.outputs: list[int] = []

    def constant(self, values: Any, dtype: str = "int32", **quantization: Any) -> int:
        return self.builder.constant(np.asarray(values, dtype), **quantization)

    def op(
        self, kind: str, shape: tuple[int, ...], *inputs: int, dtype: str = "int8", **options: Any
    ) -> Net:
        out = self.builder.tensor(shape, dtype=dtype, scale=0.1)
        self.builder.op(kind, [self.head, *inputs], [out], **options)
        self.head = out
        return self

    def conv(self, out: int = 8, **options: Any) -> Net:
        shape = self.shape
        weights = self.constant(np.ones((out, 1, 1, shape[-1])), "int8", scale=0.1)
        bias = self.constant(np.zeros(out), scale=0.01)
        return self.op("CONV_2D", (*shape[:3], out), weights, bias, **{**_CONV, **options})

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.builder._tensors[self.head].shape)

    def predict(self) -> Partition:
        return predict(read_model(self.builder.build([self.first], [*self.outputs, self.head])))


_CONV = {"padding": "SAME", "stride_h": 1, "stride_w": 1}


def test_what_follows_an_unsupported_operator_stays_on_the_cpu() -> None:
    found = Net(1, 8, 8, 8).conv().op("LEAKY_RELU", (1, 8, 8, 8), alpha=0.1).conv().predict()
    assert found.mapped == (0,)
    leaky, conv = found.ops_cpu
    assert (leaky.status, conv.status) == (NOT_SUPPORTED, SUBGRAPH)
    assert "operator 1 LEAKY_RELU" in conv.reason
    assert "ReLU" in leaky.advice


def test_unsupported_operators_at_the_input_come_first() -> None:
    net = Net(1, 8, 8, 8, dtype="float32")
    found = net.op("QUANTIZE", (1, 8, 8, 8)).conv().op("LOGISTIC", (1, 8, 8, 8)).predict()
    assert found.mapped == (1, 2)
    assert found.before == (0,)
    assert found.ops_cpu[0].status == LIMITATION
    assert "inference_input_type" in found.ops_cpu[0].advice


def test_a_branch_is_mapped_by_dependency_not_by_order() -> None:
    net = Net(1, 8, 8, 8).conv()
    trunk = net.head
    net.op("LEAKY_RELU", (1, 8, 8, 8), alpha=0.1)
    net.outputs.append(net.head)
    net.head = trunk
    found = net.conv().conv().predict()
    assert found.mapped == (0, 2, 3)


def test_a_float_model_is_not_mapped_and_refused() -> None:
    net = Net(1, 8, 8, 8, dtype="float32")
    found = net.op("LOGISTIC", (1, 8, 8, 8), dtype="float32").predict()
    assert (found.ops_mapped, found.ops_cpu[0].status) == (0, DATA_TYPE)
    assert "not quantized" in found.refused[0]


def test_an_lstm_keeps_its_state_on_the_edge_tpu() -> None:
    net = Net(1, 28, 28)
    b = net.builder
    units, features = 16, 28
    inputs = [-1] * 24
    for i in range(1, 5):
        inputs[i] = net.constant(np.ones((units, features)), "int8", scale=0.1)
    for i in range(5, 9):
        inputs[i] = net.constant(np.ones((units, units)), "int8", scale=0.1)
    for i in range(12, 16):
        inputs[i] = net.constant(np.zeros(units), scale=0.01)
    inputs[18] = b.tensor((1, units), scale=0.1, is_variable=True)
    inputs[19] = b.tensor((1, units), dtype="int16", scale=0.1, is_variable=True)
    net.op("UNIDIRECTIONAL_SEQUENCE_LSTM", (1, 28, units), *inputs[1:])
    begin, end, one = (net.constant(v) for v in ([0, 27, 0], [1, 28, 16], [1, 1, 1]))
    net.op("STRIDED_SLICE", (1, units), begin, end, one, shrink_axis_mask=2)
    weights = net.constant(np.ones((10, units)), "int8", scale=0.1)
    net.op("FULLY_CONNECTED", (1, 10), weights, -1).op("SOFTMAX", (1, 10), beta=1.0)
    assert net.predict().fully_mapped


def test_an_audio_model_with_its_front_end_in_the_graph() -> None:
    # spectrogram operators in float, then a quantised CNN
    net = Net(1, 16000, dtype="float32")
    net.op("RESHAPE", (1, 40, 400), net.constant([1, 40, 400]), dtype="float32")
    net.op("ABS", (1, 40, 400), dtype="float32").op("QUANTIZE", (1, 40, 400))
    net.op("RESHAPE", (1, 40, 400, 1), net.constant([1, 40, 400, 1])).conv(4)
    net.op("MEAN", (1, 4), net.constant([1, 2]), keep_dims=False)
    net.op("SOFTMAX", (1, 4), beta=1.0).op("DEQUANTIZE", (1, 4), dtype="float32")
    found = net.predict()
    assert found.before == (0, 1, 2)
    assert found.mapped == (3, 4, 5, 6)
    assert [op.kind for op in found.ops_cpu][-1] == "DEQUANTIZE"


def test_a_landmark_model_with_prelu_and_a_pad_of_channels() -> None:
    net = Net(1, 16, 16, 8).conv()
    alpha = net.constant(np.ones((1, 1, 8)), "int8", scale=0.1)
    net.op("PRELU", (1, 16, 16, 8), alpha)
    skip = net.op("MAX_POOL_2D", (1, 8, 8, 8), **_CONV, filter_width=2, filter_height=2).head
    pads = net.constant([[0, 0], [0, 0], [0, 0], [0, 8]])
    net.op("PAD", (1, 8, 8, 16), pads).conv(8).op("ADD", (1, 8, 8, 8), skip)
    assert net.predict().fully_mapped


def test_a_pose_model_with_post_processing() -> None:
    net = Net(1, 16, 16, 8).conv(17)
    net.op("LOGISTIC", (1, 16, 16, 17)).op("DEQUANTIZE", (1, 16, 16, 17), dtype="float32")
    net.op("ARG_MAX", (1, 16, 17), net.constant(1), dtype="int64")
    found = net.predict()
    assert found.mapped == (0, 1)
    assert [op.kind for op in found.ops_cpu] == ["DEQUANTIZE", "ARG_MAX"]
    assert found.ops_cpu[0].status == DATA_TYPE


Build = Callable[[], Net]


def _concat(value: int) -> Net:
    net = Net(1, 4, 4, 8)
    other = net.constant(np.full((1, 4, 4, 8), value), "int8", scale=0.1, zero_point=3)
    return net.op("CONCATENATION", (1, 4, 4, 16), other, axis=3)


def _pool(activation: str) -> Net:
    window = {**_CONV, "filter_width": 2, "filter_height": 2}
    return Net(1, 4, 4, 8).op(
        "AVERAGE_POOL_2D", (1, 4, 4, 8), fused_activation_function=activation, **window
    )


def _reduce(kind: str, shape: tuple[int, ...], axes: list[int], out: tuple[int, ...]) -> Net:
    net = Net(*shape)
    return net.op(kind, out, net.constant(axes))


def _resize(kind: str, size: int, to: int, depth: int = 8) -> Net:
    net = Net(1, size, size, depth)
    return net.op(kind, (1, to, to, depth), net.constant([to, to]))


def _reshape(size: int) -> Net:
    net, shape = Net(1, size, size, 810), (1, size * size * 9, 90)
    return net.op("RESHAPE", shape, net.constant(shape))


def _strided(strides: list[int], **masks: int) -> Net:
    net = Net(1, 8, 8, 8)
    begin, end, step = (net.constant(v) for v in ([0] * 4, [1, 8, 8, 8], strides))
    shape = tuple(-(-n // s) for n, s in zip((1, 8, 8, 8), strides, strict=True))
    return net.op("STRIDED_SLICE", shape, begin, end, step, **masks)


def _squeeze(shape: tuple[int, ...], dims: list[int]) -> Net:
    out = tuple(dim for i, dim in enumerate(shape) if i not in dims)
    return Net(*shape).op("SQUEEZE", out, squeeze_dims=dims)


def _dense(rows: int) -> Net:
    net = Net(1, rows, 8)
    weights = net.constant(np.ones((4, 8)), "int8", scale=0.1)
    return net.op("FULLY_CONNECTED", (1, rows, 4), weights, -1, keep_num_dims=True)


def _prelu(alpha: tuple[int, ...]) -> Net:
    net = Net(1, 8, 8, 8)
    return net.op("PRELU", (1, 8, 8, 8), net.constant(np.ones(alpha), "int8", scale=0.1))


def _pad(batch: int) -> Net:
    net = Net(1, 8, 8, 8)
    return net.op("PAD", (1 + batch, 8, 8, 8), net.constant([[0, batch], [0, 0], [0, 0], [0, 0]]))


RULES: dict[str, tuple[Build, bool]] = {
    "pool": (lambda: _pool("NONE"), True),
    "pool with activation": (lambda: _pool("RELU6"), False),
    "concatenation with zeros": (lambda: _concat(3), True),
    "concatenation with a constant": (lambda: _concat(4), False),
    "dilation": (lambda: Net(1, 8, 8, 8).conv(dilation_h_factor=2, dilation_w_factor=2), True),
    "uneven dilation": (lambda: Net(1, 8, 8, 8).conv(dilation_h_factor=2), False),
    "dense of one row": (lambda: _dense(1), True),
    "dense of rows": (lambda: _dense(5), False),
    "mean over x and y": (lambda: _reduce("MEAN", (1, 4, 4, 6), [1, 2], (1, 6)), True),
    "mean over z of 8": (lambda: _reduce("MEAN", (1, 4, 4, 8), [3], (1, 4, 4)), True),
    "mean over z of 6": (lambda: _reduce("MEAN", (1, 4, 4, 6), [3], (1, 4, 4)), False),
    "mean over the batch": (lambda: _reduce("MEAN", (1, 4, 4, 8), [0], (4, 4, 8)), False),
    "negative axes": (lambda: _reduce("MEAN", (1, 4, 4, 8), [-3, -2], (1, 8)), True),
    "maximum over the batch": (lambda: _reduce("REDUCE_MAX", (1, 4, 4, 8), [0], (4, 4, 8)), False),
    "maximum over y": (lambda: _reduce("REDUCE_MAX", (1, 4, 4, 8), [1], (1, 4, 8)), True),
    "upscale by 2": (lambda: _resize("RESIZE_BILINEAR", 16, 32), True),
    "nearest by 2": (lambda: _resize("RESIZE_NEAREST_NEIGHBOR", 20, 40), True),
    "upscale by 33": (lambda: _resize("RESIZE_BILINEAR", 1, 33), False),
    "upscale by 15.5": (lambda: _resize("RESIZE_BILINEAR", 33, 513, 1), False),
    "upscale to 8 MB": (lambda: _resize("RESIZE_BILINEAR", 256, 512, 32), False),
    "reshape of 2.5 MB": (lambda: _reshape(56), True),
    "reshape of 3.3 MB": (lambda: _reshape(64), False),
    "slice": (lambda: _strided([1, 1, 1, 1]), True),
    "slice with steps": (lambda: _strided([1, 2, 2, 1]), False),
    "slice with an ellipsis": (lambda: _strided([1, 1, 1, 1], ellipsis_mask=1), False),
    "slice with a new axis": (lambda: _strided([1, 1, 1, 1], new_axis_mask=1), False),
    "squeeze of leading ones": (lambda: _squeeze((1, 1, 1, 10), [1, 2]), True),
    "squeeze behind data": (lambda: _squeeze((1, 5, 1, 10), [2]), False),
    "prelu per channel": (lambda: _prelu((1, 1, 8)), True),
    "prelu per element": (lambda: _prelu((8, 8, 8)), False),
    "pad": (lambda: _pad(0), True),
    "pad of the batch": (lambda: _pad(1), False),
    "softmax": (lambda: Net(1, 16_000).op("SOFTMAX", (1, 16_000), beta=1.0), True),
    "large softmax": (lambda: Net(1, 16_001).op("SOFTMAX", (1, 16_001), beta=1.0), False),
    "hard swish": (lambda: Net(1, 8).op("HARD_SWISH", (1, 8)), False),
    "five dimensions": (lambda: Net(1, 2, 4, 4, 8).op("LOGISTIC", (1, 2, 4, 4, 8)), False),
    "five with leading ones": (lambda: Net(1, 1, 4, 4, 8).op("TANH", (1, 1, 4, 4, 8)), True),
    "int16": (lambda: Net(1, 8, dtype="int16").op("TANH", (1, 8), dtype="int16"), False),
}


@pytest.mark.parametrize("name", sorted(RULES))
def test_rule(name: str) -> None:
    build, mapped = RULES[name]
    found = build().predict()
    assert found.fully_mapped is mapped, found.ops_cpu
    assert all(op.reason and op.advice for op in found.ops_cpu)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_operators_without_their_inputs_are_told_not_tripped_over(count: int) -> None:
    from edgekit.engines.edgetpu.operators import NEWEST_VERSIONS

    for kind in sorted(NEWEST_VERSIONS):
        net = Net(2, 3)
        out = net.builder.tensor((), scale=0.1)
        net.builder.op(kind, [net.head] * count, [out])
        net.head = out
        found = net.predict()
        assert found.ops_total == 1
        with pytest.raises(NotKnown):
            estimate_latency(read_model(net.builder.build([0], [out])), "usb", found, None)


def test_a_newer_operator_version_is_refused() -> None:
    found = Net(1, 8, 8, 8).op("TANH", (1, 8, 8, 8), version=4).predict()
    assert "version 4" in found.refused[0] and "up to 3" in found.refused[0]


def test_advice_speaks_the_models_framework() -> None:
    keras = Net(1, 8, 8, 8).op("HARD_SWISH", (1, 8, 8, 8))
    torch = Net(1, 8, 8, 8)
    torch.builder.tensor((1,), name="onnx::Conv_12")
    torch.op("HARD_SWISH", (1, 8, 8, 8))
    assert "MobileNetV3Small" in keras.predict().ops_cpu[0].advice
    assert "nn.Hardswish" in torch.predict().ops_cpu[0].advice


def test_a_compiled_model_is_not_predicted(shared: Path) -> None:
    with pytest.raises(ModelError, match="has been through edgetpu_compiler"):
        predict(read_model(pair(shared, "split_concat")[1]))


def test_support_is_told_per_target(shared: Path) -> None:
    model = read_model(pair(shared, "split_concat")[0])
    assert supports(model, load_target("coral")).ok
    assert supports(model, None).ok
    assert not supports(model, load_target("pico")).ok
    refused = supports(read_model(Net(1, 8).op("HARD_SWISH", (1, 8)).builder.build([0], [1])), None)
    assert "no operator would be mapped" in refused.missing[0]


# -- latency ----------------------------------------------------------------------------------


def test_latency_of_a_fully_mapped_network(shared: Path) -> None:
    source, compiled_path = pair(shared, "mobilenet_v1_0.25_128_quant")
    model, compiled = read_model(source), darwinn.read_compiled(read_model(compiled_path))
    found = estimate_latency(model, "usb", predict(model), compiled)
    published_ms = 0.9  # coral_benchmarks.csv: MobileNet V1 0.25, USB Accelerator
    assert abs(found.latency_ms / published_ms - 1) <= found.largest_error == 0.22
    unknown = estimate_latency(model, "usb", predict(model), None)
    assert abs(unknown.latency_ms / published_ms - 1) <= unknown.largest_error
    assert unknown.largest_error > found.largest_error
    assert "predicted" in unknown.basis


def test_latency_is_refused_where_the_fit_does_not_hold(shared: Path) -> None:
    for name, words in ((PAIRS[0], "8 operators stay"), ("split_concat", "SPLIT")):
        model = read_model(pair(shared, name)[0])
        with pytest.raises(NotKnown, match=words):
            estimate_latency(model, "usb", predict(model), None)
    model = read_model(pair(shared, PAIRS[1])[0])
    with pytest.raises(NotKnown, match="no latency fit"):
        estimate_latency(model, None, predict(model), None)
