"""The training loop: optimisers, augmentations, statistics, teachers, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.compress import augmentations, distillation, models, normalization_statistics
from edgekit.compress.data import ArraySet, Data, Examples, read_data
from edgekit.compress.distillation import Distillation, Teacher
from edgekit.compress.keras_graph import read_graph, rebuild
from edgekit.compress.optimizers import Adam, Sgd
from edgekit.compress.session import Session, Subject
from edgekit.compress.settings import read_settings
from edgekit.compress.task import Task
from edgekit.compress.trainable import KerasTrainable, find_head
from edgekit.compress.training import History, Training, augmented, forward
from edgekit.convert import frameworks
from edgekit.errors import ModelError
from edgekit.yamlfile import YamlFile

pytestmark = pytest.mark.tensorflow

TASK = Task("classification", "softmax", 3)


def small_model(keras: Any, seed: int = 0) -> Any:
    """Something of everything that has a state: batch normalisation, dropout, a regulariser."""
    keras.utils.set_random_seed(seed)
    if keras.__name__ != "keras":
        keras.backend.experimental.enable_tf_random_generator()
    layers = keras.layers
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-3))(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.3)(x)
    x = layers.Conv2D(6, 3)(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def examples(count: int = 96, seed: int = 5) -> Examples:
    stream = np.random.RandomState(seed)
    y = np.arange(count) % 3
    x = stream.normal(size=(count, 6, 6, 2)).astype("float32") + y[:, None, None, None] * 0.7
    return Examples((x.astype("float32"),), y)


def session_of(graph: Any, work: Path | None = None, **more: Any) -> Session:
    found = examples()
    return Session(Data(ArraySet(found), examples(30, 6), "npz"), TASK, graph, work=work, **more)


def subject_of(keras: Any, seed: int = 0) -> Subject:
    return Subject(read_graph(keras, small_model(keras, seed)))


# -- optimisers ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_optimisers_are_the_known_ones(kind: str) -> None:
    import tensorflow as tf

    keras2 = frameworks.keras2()
    start = np.random.RandomState(0).normal(size=(4, 3)).astype("float32")
    ours, theirs = tf.Variable(start), tf.Variable(start)
    if kind == "adam":
        one, other = Adam([ours]), keras2.optimizers.Adam(0.01)
    else:
        one, other = Sgd([ours]), keras2.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
    for step in range(20):
        gradient = tf.constant(np.random.RandomState(step).normal(size=(4, 3)), tf.float32)
        one.apply([gradient], [ours], tf.constant(0.01))
        other.apply_gradients([(gradient, theirs)])
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_a_variable_that_is_held_keeps_value_and_state() -> None:
    import tensorflow as tf

    a, b = tf.Variable([1.0, 2.0]), tf.Variable([3.0])
    optimizer = Adam([a, b], weight_decay=0.1)
    optimizer.apply([tf.constant([1.0])], [b], tf.constant(0.1))
    assert a.numpy().tolist() == [1.0, 2.0]
    assert [m.numpy().tolist() for m in optimizer.moments(a)] == [[0, 0], [0, 0]]
    assert b.numpy()[0] < 3.0


# -- augmentations -------------------------------------------------------------------------


@pytest.mark.parametrize("name", augmentations.names())
def test_augmentations_follow_from_their_seed(name: str) -> None:
    import tensorflow as tf

    change = augmentations.load(name).Augmentation()
    images = tf.constant(np.random.RandomState(0).normal(size=(8, 12, 10, 1)), tf.float32)
    wanted = tf.constant(np.eye(4, dtype="float32")[np.arange(8) % 4])
    compiled = tf.function(change)
    one, soft = compiled(images, wanted, tf.constant([1, 2], tf.int64))
    again, _ = compiled(images, wanted, tf.constant([1, 2], tf.int64))
    other, _ = compiled(images, wanted, tf.constant([1, 3], tf.int64))
    assert one.shape == images.shape and np.array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, images)
    assert np.isfinite(one.numpy()).all()
    np.testing.assert_allclose(soft.numpy().sum(axis=1), 1, rtol=1e-6)


def test_shift_moves_whole_images() -> None:
    import tensorflow as tf

    image = np.zeros((64, 5, 5, 1), "float32")
    image[:, 2, 2] = 1
    moved, _ = augmentations.load("shift").Augmentation(pixels=1)(
        tf.constant(image), None, tf.constant([0, 0], tf.int64)
    )
    places = {tuple(np.argwhere(m[..., 0])[0]) for m in moved.numpy()}
    assert len(places) == 9 and all(1 <= r <= 3 and 1 <= c <= 3 for r, c in places)


def test_specaugment_masks_bands() -> None:
    import tensorflow as tf

    change = augmentations.load("specaugment").Augmentation(time=0.5, frequency=0.0)
    image = np.random.RandomState(0).normal(size=(16, 20, 6, 1)).astype("float32")
    masked, _ = change(tf.constant(image), None, tf.constant([0, 0], tf.int64))
    changed = (masked.numpy() != image)[..., 0]
    assert changed.any() and (changed.all(axis=2) == changed.any(axis=2)).all()
    assert changed.any(axis=2).sum(axis=1).max() <= 10


def test_augmentations_of_a_recipe_get_seeds_of_their_own(tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "r.yaml").write_text("augment: [noise, noise]")
    file = YamlFile(tmp_path / "r.yaml")
    found = read_settings(
        Training, file, file.root, "t", readers={tuple[Any, ...]: augmentations.read}
    )
    images = tf.zeros([2, 4, 4, 1]) + tf.reshape(tf.range(16.0), [1, 4, 4, 1])
    seed = tf.constant([3, 4], tf.int64)
    both, _ = augmented(found.augment, images, None, seed)
    one, _ = augmented(found.augment[:1], images, None, seed)
    noise = (one - images).numpy()
    assert np.abs((both - images).numpy() - 2 * noise).max() > 0.05


# -- statistics of batch normalisation -----------------------------------------------------


def test_statistics_are_those_of_the_data(keras: Any) -> None:
    image = keras.Input((4, 4, 3))
    norm = keras.layers.BatchNormalization(name="norm")
    model = keras.Model(image, keras.layers.Flatten()(norm(image)))
    graph = read_graph(keras, model)
    stream = np.random.RandomState(0)
    x = stream.normal([1, 2, 3], [0.5, 1, 2], (256, 4, 4, 3)).astype("float32")
    data = ArraySet(Examples((x,), None))
    normalization_statistics.renew(KerasTrainable(graph), data, 32, 0)
    np.testing.assert_allclose(np.array(norm.moving_mean), x.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(np.array(norm.moving_variance), x.var(axis=(0, 1, 2)), rtol=0.03)
    assert norm.momentum == 0.99


# -- teachers ------------------------------------------------------------------------------


def test_a_perfect_pupil_has_no_loss() -> None:
    import tensorflow as tf

    logits = tf.constant(np.random.RandomState(0).normal(size=(5, 3)), tf.float32)
    assert float(distillation.soft_loss(TASK, logits, [logits, logits], 4.0)) < 1e-5
    assert float(distillation.soft_loss(TASK, logits, [logits * 2], 4.0)) > 1e-3
    maps = [tf.constant(np.random.RandomState(0).rand(2, 4, 4, 8), tf.float32)]
    assert float(distillation.attention_loss(maps, [maps])) == 0
    # attention does not ask how many channels there are, only where they are active
    doubled = [tf.concat([maps[0], maps[0]], -1)]
    assert float(distillation.attention_loss(doubled, [maps])) < 1e-9


def test_a_student_learns_from_teachers(keras: Any) -> None:
    teacher = subject_of(keras, 1)
    plain = session_of(teacher.graph)
    plain.train(teacher, Training(epochs=60, learning_rate=0.01))
    assert plain.score(teacher.graph) > 0.8
    # the data's own labels are wrong: what the student knows, it knows from the teachers
    wrong = examples()
    wrong = Examples(wrong.inputs, np.zeros(len(wrong), int))
    taught = Session(
        Data(ArraySet(wrong), examples(30, 6), "npz"), TASK, teacher.graph,
        teachers={name: Teacher(teacher.graph, find_head(teacher.graph)) for name in ("a", "b")},
    )  # fmt: skip
    student = subject_of(keras, 2)
    settings = Distillation(("a", "b"), weight=1.0, features=0.5)
    before = [w.copy() for w in teacher.graph.model.get_weights()]
    taught.train(student, Training(epochs=60, learning_rate=0.01, distillation=settings))
    assert taught.score(student.graph) > 0.8
    for old, new in zip(before, teacher.graph.model.get_weights(), strict=True):
        assert np.array_equal(old, new)


# -- the loop ------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


def test_a_killed_training_ends_like_an_unkilled_one(keras: Any, tmp_path: Path) -> None:
    """Dropout, augmentation, mixup, momenta and statistics all go on where they were."""
    change = augmentations.load("mixup").Augmentation()
    shift = augmentations.load("shift").Augmentation()
    settings = Training(epochs=7, batch=16, augment=(shift, change), seed=3, batch_start=4)
    weights = []
    for kills in ((), (2, 3, 6)):
        work = tmp_path / f"kills{len(kills)}"
        work.mkdir()
        for kill in (*kills, None):

            def progress(text: str, done: int, total: int, kill: int | None = kill) -> None:
                if kill is not None and done == kill:
                    raise Killed

            # everything is loaded anew, as a new process does
            subject = subject_of(keras)
            session = session_of(subject.graph, work, progress=progress)
            try:
                history = session.train(subject, settings)
            except Killed:
                continue
        assert history.resumed_at == (6 if kills else None)
        assert len(history.epochs) == 7
        weights.append(subject.graph.model.get_weights())
    for one, other in zip(*weights, strict=True):
        assert np.array_equal(one, other)


def test_another_seed_gives_another_model(keras: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        subject = subject_of(keras)
        session_of(subject.graph).train(subject, Training(epochs=2, seed=seed))
        found.append(subject.graph.model.get_weights()[0])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_training_stops_at_its_target(keras: Any) -> None:
    subject = subject_of(keras)
    history: History = session_of(subject.graph).train(
        subject, Training(epochs=200, until=0.6, validation=0.3, learning_rate=0.01)
    )
    assert history.stopped_early and len(history.epochs) < 200
    assert (history.epochs[-1].score or 0) >= 0.6


def test_held_layers_do_not_move(keras: Any) -> None:
    subject = subject_of(keras)
    before = [w.copy() for w in subject.graph.model.get_weights()]
    session_of(subject.graph).train(subject, Training(epochs=2, freeze=0.3))
    after = subject.graph.model.get_weights()
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[-2], after[-2])


def test_small_images_cost_less(keras: Any) -> None:
    subject = subject_of(keras)
    history = session_of(subject.graph).train(subject, Training(epochs=4, resize=0.84))
    assert history.epochs[0].samples < history.epochs[-1].samples == 96


def test_a_diverging_training_is_said(keras: Any) -> None:
    subject = subject_of(keras)
    with pytest.raises(ModelError, match="diverged"):
        session_of(subject.graph).train(
            subject, Training(epochs=50, optimizer="sgd", learning_rate=1e30, schedule="constant")
        )


def test_a_damaged_checkpoint_is_said(keras: Any, tmp_path: Path) -> None:
    subject = subject_of(keras)
    session = session_of(subject.graph, tmp_path)
    session.train(subject, Training(epochs=1))
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="checkpoint is damaged") as caught:
        session.train(subject_of(keras), Training(epochs=1))
    assert caught.value.fix == "--restart"


def test_tf_data_is_read_as_a_stream(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "import numpy as np, tensorflow as tf\n"
        "def get_training_data():\n"
        "    x = np.random.RandomState(0).rand(50, 6, 6, 2).astype('float32')\n"
        "    return tf.data.Dataset.from_tensor_slices((x, np.arange(50) % 3))\n"
    )
    subject = subject_of(keras)
    found = read_data(path, models.ports(subject.graph), held_out=10)
    assert (found.kind, len(found.training), len(found.held_out)) == ("tf.data", 40, 10)
    session = replace(session_of(subject.graph), data=found)
    history = session.train(subject, Training(epochs=2, batch=16))
    assert history.epochs[0].samples == 32
    path.write_text(path.read_text().replace("% 3))", "% 3)).repeat()"))
    with pytest.raises(Exception, match="never ends"):
        read_data(path, models.ports(subject.graph), held_out=10)


def test_regression_and_autoencoders_learn(keras: Any) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = np.random.RandomState(0).normal(size=(200, 4)).astype("float32")
    inputs = keras.Input((4,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    for outputs, name, targets in ((1, "regression", x.sum(axis=1)), (4, "autoencoder", None)):
        model = keras.Model(inputs, layers.Dense(outputs)(hidden))
        graph = read_graph(keras, rebuild(read_graph(keras, model)))
        held = Examples((x,), targets)
        session = Session(Data(ArraySet(held), held, "npz"), Task(name, "linear"), graph)
        before = session.score(graph)
        session.train(Subject(graph), Training(epochs=30, learning_rate=0.01))
        assert session.score(graph) < before / 4
        assert forward(KerasTrainable(graph), held).shape == (200, outputs)
