"""Trains the digit classifier of this folder: the same data, the same weights on every run.

The data are the 1,797 handwritten digits (8x8 pixels, grey values 0 to 16) inside scikit-learn
(UCI Machine Learning Repository, "Optical Recognition of Handwritten Digits", CC BY 4.0).
A fixed permutation splits them into 1,437 for training and 360 for the test; the test images
are used once, after training, for the accuracy that the README states.

The network is a depthwise-separable CNN (Howard et al., "MobileNets", arXiv:1704.04861, 2017)
small enough for any microcontroller.

    python -m edgekit.examples.digits.train -o FOLDER

writes ``digits.keras``, ``digits_calibration.npz`` and ``digits_test.npz``. It needs
``edgekit[convert]`` and scikit-learn.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Split = tuple[NDArray[np.float32], NDArray[np.uint8]]

SEED = 2026
TEST_IMAGES = 360
CALIBRATION_IMAGES = 200
EPOCHS = 100
BATCH = 32


def load_data() -> tuple[Split, Split]:
    """Training and test data: images float32 [N,8,8,1] in 0..1, classes uint8 [N]."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., np.newaxis]
    classes = digits.target.astype(np.uint8)
    # RandomState's stream is frozen by NumPy's compatibility policy (NEP 19).
    order = np.random.RandomState(SEED).permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return (images[train], classes[train]), (images[test], classes[test])


def build_model() -> Any:
    """An untrained Keras 3 model: [1,8,8,1] images to ten probabilities."""
    from keras import Input, Model, layers

    def normalise(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(x))

    def separable(x: Any, channels: int, stride: int) -> Any:
        x = normalise(layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x))
        return normalise(layers.Conv2D(channels, 1, use_bias=False)(x))

    image = Input((8, 8, 1), name="image")
    x = normalise(layers.Conv2D(16, 3, padding="same", use_bias=False)(image))
    x = separable(x, 32, 1)
    x = separable(x, 48, 2)
    x = separable(x, 64, 1)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    x = layers.Dropout(0.3)(x)
    return Model(image, layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def train(images: Any, classes: Any) -> Any:
    """Trains for a fixed number of epochs; nothing is chosen by looking at other data."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    model = build_model()
    steps = EPOCHS * (len(images) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    def shift(image: Any, label: Any) -> tuple[Any, Any]:
        # One pixel in any direction: the writers did not centre their digits alike.
        padded = tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]])
        row, column = tf.unstack(tf.random.uniform([2], 0, 3, tf.int32))
        return padded[:, row : row + 8, column : column + 8], label

    data = (
        tf.data.Dataset.from_tensor_slices((images, classes))
        .shuffle(len(images), seed=SEED)
        .batch(BATCH, drop_remainder=True)
        .map(shift)
    )
    model.fit(data, epochs=EPOCHS, verbose=0)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the digit classifier.")
    parser.add_argument("-o", "--output", type=Path, default=Path.cwd(), help="output folder")
    folder: Path = parser.parse_args().output
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Threads add floating-point sums in changing order on some kernels: one is enough here.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import keras
    import numpy as np

    (images, classes), (test_images, test_classes) = load_data()
    model = train(images, classes)
    right = int((model.predict(test_images, verbose=0).argmax(-1) == test_classes).sum())
    folder.mkdir(parents=True, exist_ok=True)
    # A fresh model with these weights has no optimiser, whose state is twice their size, and
    # the layer names of a first model.
    weights = model.get_weights()
    keras.utils.clear_session()
    trained = build_model()
    trained.set_weights(weights)
    trained.save(folder / "digits.keras")
    np.savez_compressed(
        folder / "digits_calibration.npz",
        x=images[:CALIBRATION_IMAGES],
        y=classes[:CALIBRATION_IMAGES],
    )
    np.savez_compressed(folder / "digits_test.npz", x=test_images, y=test_classes)
    share = right / len(test_classes)
    print(
        f"{model.count_params():,} parameters; {right} of {len(test_classes)} right ({share:.2%})"
    )


if __name__ == "__main__":
    main()
