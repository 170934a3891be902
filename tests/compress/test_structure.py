"""Graphs of Keras models: rebuilt alike, and cut so that nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_models import random_model

from edgekit.compress import channels, models
from edgekit.compress.keras_graph import KerasGraph, read_graph, rebuild
from edgekit.convert import frameworks
from edgekit.errors import ModelError

pytestmark = pytest.mark.tensorflow

MODELS = 8


def outputs(model: Any, shape: tuple[int, ...], count: int = 3) -> Any:
    x = np.random.RandomState(1).normal(size=(count, *shape)).astype("float32")
    return np.array(model(x, training=False))


def test_a_rebuilt_model_computes_the_same(keras: Any, seed: int) -> None:
    for number in range(MODELS):
        model = random_model(keras, seed + number)
        copy = rebuild(read_graph(keras, model))
        assert np.array_equal(outputs(model, (8, 6, 3)), outputs(copy, (8, 6, 3))), number
        assert {w.name for w in model.weights} == {w.name for w in copy.weights}


def test_nested_and_shared_models_are_laid_open(keras: Any) -> None:
    layers = keras.layers
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.ReLU()])
    image = keras.Input((8, 8, 3))
    x = layers.Add()([inner(image), inner(layers.Activation("tanh")(image))])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    graph = read_graph(keras, model)
    assert [call.kind for call in graph.calls].count("Conv2D") == 2
    assert len([layer for layer in graph.layers() if type(layer).__name__ == "Conv2D"]) == 1
    assert np.array_equal(outputs(model, (8, 8, 3)), outputs(rebuild(graph), (8, 8, 3)))


def test_functions_of_tensors_are_taken_along(keras: Any) -> None:
    import tensorflow as tf

    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 1)(image)
    relu = keras.ops.relu if keras.__name__ == "keras" else tf.nn.relu
    model = keras.Model(image, keras.layers.Flatten()(relu(x) + 1.0))
    graph = read_graph(keras, model)
    assert np.array_equal(outputs(model, (4, 4, 3)), outputs(rebuild(graph), (4, 4, 3)))


def test_a_model_without_a_graph_is_refused(keras: Any) -> None:
    class Subclassed(keras.Model):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(ModelError, match="subclassed"):
        read_graph(keras, Subclassed())


def _silenced(graph: KerasGraph, found: channels.Channels, gone: set[int]) -> Any:
    """The model with its channels still there, but nobody listening to those in ``gone``."""
    model = rebuild(graph)
    copies = {layer.name: layer for layer in model.layers}
    for layer in graph.layers():
        kind = type(layer).__name__
        if kind not in channels._KERNELS and kind not in channels._SEPARABLE:
            continue
        source = found.classes(graph.calls_of(layer)[0].inputs[0])
        deaf = np.isin(source, list(gone))
        weights = copies[layer.name].get_weights()
        axis = channels._KERNELS.get(kind, (-2, -1))[0]
        kernel = np.moveaxis(weights[0], axis, 0).copy()
        kernel[deaf] = 0
        weights[0] = np.moveaxis(kernel, 0, axis)
        copies[layer.name].set_weights(weights)
    return model


def test_removing_channels_changes_nothing_but_them(keras: Any, seed: int) -> None:
    """What is left computes what it computed when nobody listened to the removed channels."""
    removed_from = 0
    for number in range(MODELS):
        model = random_model(keras, seed + 100 + number)
        graph = read_graph(keras, model)
        found = channels.analyse(graph)
        stream = np.random.default_rng(seed + number)
        gone: set[int] = set()
        for group in found.groups():
            order = stream.permutation(group.classes)
            gone.update(int(n) for n in order[: stream.integers(0, len(order))])
        thin = channels.removed(found, gone)
        removed_from += bool(gone)
        wanted = outputs(_silenced(graph, found, gone), (8, 6, 3))
        np.testing.assert_allclose(
            outputs(thin, (8, 6, 3)), wanted, rtol=2e-4, atol=2e-5, err_msg=f"model {number}"
        )
        if gone:
            assert thin.count_params() < model.count_params()
    assert removed_from > MODELS // 2


def test_what_cannot_be_removed_says_why(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, name="grouped_source")(image)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(3, name="end")(x))
    found = channels.analyse(read_graph(keras, model))
    assert found.groups() == ()
    reasons = found.kept_whole()
    assert reasons["grouped_source"] == "Conv2D 'grouped' reads or makes it"
    assert reasons["end"] == "it is the model's output"
    with pytest.raises(ValueError, match="cannot be removed"):
        channels.removed(found, {0})


def test_additions_join_channels_and_concatenations_do_not(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    a, b = layers.Conv2D(4, 1, name="a")(image), layers.Conv2D(4, 1, name="b")(image)
    c = layers.Conv2D(6, 1, name="c")(image)
    x = layers.Concatenate()([layers.Add()([a, b]), c])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.Conv2D(2, 1, name="d")(x))))
    groups = {
        group.layers: len(group.classes)
        for group in channels.analyse(read_graph(keras, model)).groups()
    }
    assert groups == {("a", "b"): 4, ("c",): 6, ("d",): 2}


def test_batch_normalisation_counts_in_the_magnitude(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(3, 1, use_bias=False, name="c")(image)
    x = layers.BatchNormalization(name="n")(x)
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    model.get_layer("c").set_weights([np.ones((1, 1, 1, 3), "float32")])
    gamma, variance = np.array([1.0, 0.1, 3.0]), np.array([1.0, 1.0, 100.0])
    model.get_layer("n").set_weights([gamma, np.zeros(3), np.zeros(3), variance])
    found = channels.analyse(read_graph(keras, model))
    scores = channels.magnitudes(found)
    numbers = [found.find(int(n)) for n in found.made[id(model.get_layer("c"))]]
    assert np.argsort([scores[n] for n in numbers]).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ["vww_mobilenet", "ic_resnet", "ad_autoencoder"])
def test_lifted_graphs_compute_what_the_file_does(mlperf: Path, name: str) -> None:
    import tensorflow as tf

    path = mlperf / f"{name}_float.tflite"
    lifted = models.load(path)
    assert lifted.lifted and lifted.suffix == ".keras"
    with frameworks.captured_output():
        reference = tf.lite.Interpreter(str(path))
    reference.allocate_tensors()
    place, result = reference.get_input_details()[0], reference.get_output_details()[0]
    x = np.random.RandomState(0).normal(size=place["shape"]).astype("float32")
    reference.set_tensor(place["index"], x)
    reference.invoke()
    wanted = reference.get_tensor(result["index"])
    np.testing.assert_allclose(np.array(lifted.graph.model(x)), wanted, rtol=1e-4, atol=1e-4)


def test_a_savedmodel_is_lifted(mlperf: Path) -> None:
    import tensorflow as tf

    path = mlperf / "kws_dscnn_savedmodel"
    graph = models.load(path).graph
    x = np.random.RandomState(0).normal(0, 20, (4, 49, 10, 1)).astype("float32")
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    wanted = next(iter(function(tf.constant(x)).values())).numpy()
    np.testing.assert_allclose(np.array(graph.model(x)), wanted, rtol=1e-4, atol=1e-5)


def test_int8_weights_are_lifted_as_the_numbers_they_stand_for(mlperf: Path, shared: Path) -> None:
    """This "float" file holds int8 weights, with float activations."""
    dynamic = models.load(mlperf / "kws_dscnn_float.tflite").graph
    with np.load(shared / "data" / "kws01.npz") as data:
        x = ((data["x"][:200].astype("float32") - 83) * 0.5847029).astype("float32")
        classes = data["y"][:200]
    right = (np.array(dynamic.model(x)).argmax(-1) == classes).mean()
    assert right > 0.85


def test_what_cannot_be_lifted_is_refused(mlperf: Path) -> None:
    with pytest.raises(ModelError, match="a quantised model cannot be trained"):
        models.load(mlperf / "ic_resnet_int8.tflite")


def test_images_of_another_size_share_the_weights(mlperf: Path) -> None:
    from edgekit.compress.trainable import KerasTrainable

    graph = models.load(mlperf / "vww_mobilenet.h5").graph
    model = KerasTrainable(graph)
    small = model.at_size(64, 64)
    x = np.random.RandomState(0).uniform(size=(2, 64, 64, 3)).astype("float32")
    assert np.array(small([x], training=False)[0]).shape == (2, 2)
    assert [v.ref() for v in small.trainable] == [v.ref() for v in model.trainable]
    dense = frameworks.keras3()
    image = dense.Input((8, 8, 1))
    flat = dense.Model(image, dense.layers.Dense(2)(dense.layers.Flatten()(image)))
    with pytest.raises(ModelError, match="cannot be built"):
        KerasTrainable(read_graph(dense, flat)).at_size(4, 4)


def test_keras_3_models_compute_the_same_in_keras_2(seed: int) -> None:
    from edgekit.compress.bridge import to_keras2

    keras = frameworks.keras3()
    for number in range(MODELS):
        model = random_model(keras, seed + 200 + number)
        bridged = to_keras2(read_graph(keras, model))
        assert bridged.keras.__name__ == "tf_keras"
        wanted = outputs(model, (8, 6, 3))
        np.testing.assert_allclose(
            outputs(bridged.model, (8, 6, 3)), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max()
        )
        again = to_keras2(bridged)
        assert again is bridged


def test_what_keras_2_does_not_know_is_named() -> None:
    from edgekit.compress.bridge import to_keras2

    keras = frameworks.keras3()
    image = keras.Input((4, 4, 3))
    x = keras.ops.relu(keras.layers.Conv2D(4, 1)(image))
    model = keras.Model(image, keras.layers.Flatten()(x))
    with pytest.raises(ModelError, match=r"Relu '\w+' has no counterpart in Keras 2"):
        to_keras2(read_graph(keras, model))


def test_functions_of_the_same_name_are_not_taken_for_the_same() -> None:
    """Keras 2's hard sigmoid has another slope."""
    from edgekit.compress.bridge import to_keras2

    keras = frameworks.keras3()
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(3, activation="hard_sigmoid", name="d")(image))
    with pytest.raises(ModelError, match="'d' uses hard_sigmoid, which is another function"):
        to_keras2(read_graph(keras, model))
