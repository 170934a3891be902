"""Makes the models and the data of this folder anew: ``python make.py`` (needs TensorFlow)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent


def main() -> None:
    tf.keras.utils.set_random_seed(7)
    layers = [
        tf.keras.layers.Input((16,), batch_size=1),
        tf.keras.layers.Dense(64, "relu"),
        tf.keras.layers.Dense(4, "softmax"),
    ]
    model = tf.keras.Sequential(layers)
    x = np.random.default_rng(7).normal(size=(40, 16)).astype(np.float32)
    y = np.array([model(row[None]).numpy().argmax() for row in x])
    np.savez_compressed(FOLDER / "data.npz", x=x, y=y)
    for name in ("float32", "dynamic", "float16"):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        (FOLDER / f"{name}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
