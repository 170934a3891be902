"""Models that nobody tuned for: the default build beside the portable kernels.

::

    python benchmarks/untuned.py [--models FOLDER] [--core cortex-m4 …] [--model lstm …]
                                 [--json OUT.json]

A MobileNetV1 0.25, a MobileNetV2-like network with residuals, a 1-D CNN of eight layers, an
LSTM and a transformer block are built in Keras 3 with random weights (batch normalisation takes
its statistics from the calibration data, as training leaves it), converted to int8 by
``edgekit convert`` and run on virtual boards twice: as built by default, and with
``--set kernels=portable``. Instructions are exact; arena and code are bytes of the built
firmware. Every build runs on random inputs, outputs and every step compared with TFLM.
``FOLDER`` keeps the models; those it has are not made again. The exit code is 7 where an output
differs, or where a default build takes more instructions than the portable one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.console import print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS = {"cortex-m4": "nucleo-l4r5zi", "cortex-m0plus": "nucleo-g0b1re"}
SEED = 20
#: Samples that calibrate a model.
SAMPLES = 64


# -- the models: an (uncompiled) Keras model of float inputs each ---------------------------


def mobilenet_v1() -> Any:
    import keras

    return keras.applications.MobileNet(
        input_shape=(96, 96, 3), alpha=0.25, weights=None, classes=10, dropout=0.0
    )


def mobilenet_v2() -> Any:
    """Inverted residuals with linear bottlenecks, ReLU6."""
    from keras import Model
    from keras.layers import (
        Add,
        BatchNormalization,
        Conv2D,
        Dense,
        DepthwiseConv2D,
        GlobalAveragePooling2D,
        Input,
        ReLU,
    )

    def pointwise(x: Any, channels: int, *, clamped: bool) -> Any:
        x = BatchNormalization()(Conv2D(channels, 1, use_bias=False)(x))
        return ReLU(6.0)(x) if clamped else x

    def block(x: Any, channels: int, stride: int) -> Any:
        wide = pointwise(x, 4 * x.shape[-1], clamped=True)
        wide = DepthwiseConv2D(3, stride, padding="same", use_bias=False)(wide)
        wide = ReLU(6.0)(BatchNormalization()(wide))
        narrow = pointwise(wide, channels, clamped=False)
        return Add()([x, narrow]) if narrow.shape == x.shape else narrow

    inputs = Input((64, 64, 3))
    x = Conv2D(16, 3, 2, padding="same", use_bias=False)(inputs)
    x = ReLU(6.0)(BatchNormalization()(x))
    for channels, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (48, 2), (48, 1)):
        x = block(x, channels, stride)
    x = GlobalAveragePooling2D()(pointwise(x, 96, clamped=True))
    return Model(inputs, Dense(10, activation="softmax")(x))


def cnn_1d() -> Any:
    """Seven convolutions along time and a classifier, as for an accelerometer."""
    from keras import Model
    from keras.layers import (
        BatchNormalization,
        Conv1D,
        Dense,
        GlobalAveragePooling1D,
        Input,
        MaxPooling1D,
        ReLU,
    )

    x = inputs = Input((256, 3))
    layers = ((16, 7, 2), (16, 5, 1), (24, 5, 1), (24, 3, 1), (32, 3, 2), (32, 3, 1), (48, 3, 1))
    for index, (channels, width, stride) in enumerate(layers):
        x = Conv1D(channels, width, stride, padding="same", use_bias=False)(x)
        x = ReLU()(BatchNormalization()(x))
        if index in (1, 3):
            x = MaxPooling1D(2)(x)
    return Model(inputs, Dense(6, activation="softmax")(GlobalAveragePooling1D()(x)))


def lstm() -> Any:
    """32 units over 12 time steps of 16 features, unrolled; the inputs' share of the gates is
    computed for all steps at once."""
    from keras import Model, ops
    from keras.layers import Dense, Input

    units, steps = 32, 12
    inputs = Input((steps, 16))
    given = Dense(4 * units)(inputs)
    recurrent = Dense(4 * units, use_bias=False)
    hidden = cell = None
    for step in range(steps):
        gates = given[:, step, :]
        if hidden is not None:
            gates = gates + recurrent(hidden)
        i, f, g, o = ops.split(gates, 4, axis=-1)
        fresh = ops.sigmoid(i) * ops.tanh(g)
        cell = fresh if cell is None else ops.sigmoid(f) * cell + fresh
        hidden = ops.sigmoid(o) * ops.tanh(cell)
    return Model(inputs, Dense(5, activation="softmax")(hidden))


def transformer() -> Any:
    """Self-attention of two heads over 24 tokens of 32 channels, and a feed-forward part."""
    from keras import Model, ops
    from keras.layers import Dense, GlobalAveragePooling1D, Input, LayerNormalization

    tokens, width, heads = 24, 32, 2

    def split(x: Any) -> Any:
        return ops.transpose(ops.reshape(x, (-1, tokens, heads, width // heads)), (0, 2, 1, 3))

    inputs = Input((tokens, width))
    x = LayerNormalization()(inputs)
    query, key, value = (split(Dense(width)(x)) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * (width // heads) ** -0.5
    mixed = ops.matmul(ops.softmax(scores), value)
    mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, tokens, width))
    x = inputs + Dense(width)(mixed)
    inner = Dense(2 * width, activation="relu")(LayerNormalization()(x))
    x = LayerNormalization()(x + Dense(width)(inner))
    return Model(inputs, Dense(5, activation="softmax")(GlobalAveragePooling1D()(x)))


MODELS: dict[str, Callable[[], Any]] = {
    "mobilenet_v1_025": mobilenet_v1,
    "mobilenet_v2_like": mobilenet_v2,
    "cnn_1d": cnn_1d,
    "lstm": lstm,
    "transformer": transformer,
}


def samples(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Inputs that are smooth along their axes, as images and signals are; float32, about 0."""
    values = rng.normal(0, 1, (SAMPLES, *shape))
    for axis in range(1, values.ndim - 1):
        values = (values + np.roll(values, 1, axis) + np.roll(values, 2, axis)) / 3**0.5
    return values.astype(np.float32)


def as_trained(model: Any, data: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Gives an untrained model what training leaves: statistics of the data in the batch
    normalisations, scales, offsets and biases that are no constants."""
    import keras

    normalizations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0  # one pass in training mode takes the data's statistics
        layer.gamma.assign(rng.uniform(0.6, 1.4, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.3, layer.beta.shape))
    for variable in model.trainable_weights:
        if variable.name == "bias" and not variable.numpy().any():
            variable.assign(rng.normal(0, 0.1, variable.shape))
    if normalizations:
        model(data, training=True)


def build(name: str, path: Path) -> None:
    """Makes a model and converts it to int8 at ``path``."""
    import keras

    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = MODELS[name]()
    data = samples(model.input_shape[1:], rng)
    as_trained(model, data, rng)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / f"{name}.keras"
        model.save(saved)
        convert_file(saved, path, data)


def convert_file(saved: Path, path: Path, data: NDArray[np.float32]) -> None:
    """Converts a Keras file to int8 at ``path``, calibrated with ``data``."""
    from edgekit.convert.pipeline import Request, convert

    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "x.npz"
        np.savez(calibration, x=data)
        convert(
            Request(source=saved, output=path, calibration_data=calibration),
            lambda stage: print(f"{path.stem}: {stage}", file=sys.stderr),
        )


# -- measuring ------------------------------------------------------------------------------


def run(path: Path, target: str, inputs: int, *settings: str) -> dict[str, Any]:
    """The JSON report of ``edgekit run``."""
    command = [
        sys.executable, "-m", "edgekit", "run", str(path), "--target", target,
        "--inputs", str(inputs), "--seed", str(SEED), "--runs", "1", "--warmups", "0", "--json",
        *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout:
        raise SystemExit(f"{path.name} on {target}: {result.stderr.strip()}")
    report: dict[str, Any] = json.loads(result.stdout)
    if "error" in report:
        raise SystemExit(f"{path.name} on {target}: {report['error']}")
    return report


def compare(name: str, path: Path, core: str, inputs: int) -> dict[str, Any]:
    """Both builds of a model on a core."""
    row: dict[str, Any] = {"model": name, "core": core}
    for kind, settings in (("default", ()), ("portable", ("kernels=portable",))):
        print(f"{name} on {core}, {kind}", file=sys.stderr, flush=True)
        report = run(path, TARGETS[core], inputs, *settings)
        memory = report["memory"]
        row["macs"] = report["model"]["macs"]
        row[kind] = {
            "instructions": report["instructions"],
            "arena_bytes": memory["arena_bytes"],
            "code_bytes": memory["code_bytes"],
            "weights_bytes": memory["weights_bytes"],
            "equal_to_tflm": report["outputs"]["match"],
            "ops": report["ops"],
        }
    return row


def show(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        ours, theirs = row["default"], row["portable"]
        cells.append([
            row["model"], row["core"], row["macs"], ours["instructions"], theirs["instructions"],
            theirs["instructions"] / ours["instructions"], ours["instructions"] / row["macs"],
            ours["arena_bytes"], theirs["arena_bytes"], ours["code_bytes"], theirs["code_bytes"],
            "yes" if ours["equal_to_tflm"] and theirs["equal_to_tflm"] else "NO",
        ])  # fmt: skip
    print_table(
        ["model", "core", *((name, "right") for name in (
            "MACs", "instructions", "portable", "ratio", "per MAC", "arena", "portable", "code",
            "portable",
        )), "equal"],
        cells,
        title="default build and portable kernels: instructions exact, bytes of the firmware",
    )  # fmt: skip


def broken(row: dict[str, Any]) -> list[str]:
    """What a row breaks, in words."""
    place = f"{row['model']} on {row['core']}"
    found = [
        f"{place}: the {kind} build differs from TFLM"
        for kind in ("default", "portable")
        if not row[kind]["equal_to_tflm"]
    ]
    if row["default"]["instructions"] > row["portable"]["instructions"]:
        found.append(f"{place}: the default build takes more instructions")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, help="folder that keeps the models")
    parser.add_argument("--core", action="append", choices=list(TARGETS))
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--inputs", type=int, default=2, help="random inputs per build")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.models or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.model or MODELS:
            path = folder / f"{name}.tflite"
            if not path.exists():
                build(name, path)
            cores = asked.core or TARGETS
            rows += [compare(name, path, core, asked.inputs) for core in cores]
    show(rows)
    if asked.json:
        document = {"schema_version": 1, "rows": rows}
        asked.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    lines = [line for row in rows for line in broken(row)]
    for line in lines:
        print(line, file=sys.stderr)
    return 7 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
