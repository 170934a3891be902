"""Recipes, settings, data, tasks and patterns of compression, without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from edgekit.compress import augmentations, clusters, data, sparsity, techniques
from edgekit.compress.data import ArraySet, Examples
from edgekit.compress.recipe import make_recipe, read_recipe, with_budget
from edgekit.compress.settings import describe
from edgekit.compress.task import find_task
from edgekit.compress.training import Trainer, Training
from edgekit.convert.sources import Port
from edgekit.errors import EdgekitError, ModelError, UsageError

IMAGE = (Port("image", (1, 4, 4, 1), "float32"),)


def recipe(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path)


# -- recipes -------------------------------------------------------------------------------


def test_a_recipe_is_read_with_defaults_and_overrides(tmp_path: Path) -> None:
    found = recipe(
        tmp_path,
        """
training:
  epochs: 7
  learning-rate: 1e-2
  augment: [flip, shift: {pixels: 3}]
steps:
  - prune-channels: {share: 0.25, training: {epochs: 9}}
  - rigl
  - cluster:
""",
    )
    channels, rigl, cluster = (step.settings for step in found.steps)
    assert (channels.share, channels.training.epochs, rigl.training.epochs) == (0.25, 9, 7)
    assert rigl.training.learning_rate == 0.01
    assert rigl.training.augment[1].pixels == 3
    # a technique's own default stays where the recipe says nothing
    assert (
        cluster.training.epochs == 7
        and make_recipe("cluster", []).steps[0].settings.training.epochs == 5
    )
    assert found.as_json()["steps"][1]["settings"]["training"]["augment"][1] == {
        "shift": {"pixels": 3}
    }


BAD_RECIPES = [
    ("", "the recipe is empty", None),
    ("steps: []", "the recipe has no steps", ":1"),
    ("training: {}", "the recipe has no steps", ":1"),
    ("steps:\n  - prunes", "there is no technique 'prunes'", ":2"),
    ("steps:\n  - prune: {sparsity: 1.0}", "must be above 0 and below 1", ":2"),
    ("steps:\n  - prune: {sparsity: much}", "must be a number", ":2"),
    ("steps:\n  - prune: {training: {epochs: 1.5}}", "must be a whole number", ":2"),
    ("steps:\n  - prune: {training: {augment: [flap]}}", "there is no augmentation 'flap'", ":2"),
    ("steps:\n  - rigl: {distribution: even}", "cannot be 'even'", ":2"),
    ("steps:\n  - prune\n  - prune: {sparsty: 0.5}", "unknown key 'sparsty'", ":3"),
    ("step:\n  - prune", "unknown key 'step'", ":1"),
    ("steps:\n  - {prune: {}, rigl: {}}", "a step must be one technique", ":2"),
    ("steps:\n  - qat-tfmot\n  - prune", "makes the final file: no step can follow", ":2"),
    ("steps: prune", "steps must be a list", ":1"),
    ("steps:\n  - prune: [0.5]", "must be a mapping", ":2"),
]


@pytest.mark.parametrize(("text", "what", "where"), BAD_RECIPES)
def test_a_wrong_recipe_names_its_line(
    tmp_path: Path, text: str, what: str, where: str | None
) -> None:
    with pytest.raises(UsageError) as caught:
        recipe(tmp_path, text)
    assert what in caught.value.what
    assert where is None or str(caught.value.where).endswith(where)
    assert caught.value.exit_code == 2


@limits(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_recipe_by_accident(tmp_path_factory: Any, text: str) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_recipe(path)
    except EdgekitError:
        return
    assert found.steps


def test_settings_from_the_command_line() -> None:
    found = make_recipe(
        "prune", ["sparsity=0.5", "training.epochs=3", "training.distillation.temperature=2"]
    ).steps[0]
    assert found.settings.sparsity == 0.5 and found.training is not None
    assert found.training.epochs == 3 and found.training.distillation is not None
    assert found.training.distillation.temperature == 2
    for wrong in ("sparsity", "=1", "training.epochs.x=1"):
        with pytest.raises(UsageError):
            make_recipe("prune", [wrong])


def test_a_budget_needs_a_step_that_can_keep_to_it() -> None:
    thin = with_budget(make_recipe("prune-channels", []), {"max_latency": "50ms"})
    assert thin.steps[0].settings.max_latency == "50ms"
    with pytest.raises(UsageError, match="no step of the recipe can keep to a budget"):
        with_budget(make_recipe("prune", []), {"max_ram": "64K"})


def test_every_technique_explains_itself() -> None:
    for name in techniques.names():
        module = techniques.load(name)
        assert len(techniques.summary(name)) > 20
        for row in describe(module.Settings):
            assert row.help and row.default, (name, row)
        assert callable(module.check) and callable(module.apply)


# -- data ----------------------------------------------------------------------------------


def arrays(count: int) -> Examples:
    x = np.arange(count * 16, dtype=np.float32).reshape(count, 4, 4, 1)
    return Examples((x,), np.arange(count) % 3)


def test_epochs_are_shuffled_and_repeatable() -> None:
    found = ArraySet(arrays(10))
    first = [b.inputs[0][:, 0, 0, 0].tolist() for b in found.batches(0, 3, seed=1)]
    assert [len(b) for b in first] == [3, 3, 3]
    assert first == [b.inputs[0][:, 0, 0, 0].tolist() for b in found.batches(0, 3, seed=1)]
    assert first != [b.inputs[0][:, 0, 0, 0].tolist() for b in found.batches(1, 3, seed=1)]
    assert [len(b) for b in found.batches(0, 64, seed=1)] == [10]


def test_what_is_held_out_is_never_trained_on() -> None:
    training, held_out = data.split(arrays(50), 0.2)
    assert (len(training), len(held_out)) == (40, 10)
    seen = set(training.inputs[0][:, 0, 0, 0]) | set(held_out.inputs[0][:, 0, 0, 0])
    assert len(seen) == 50
    assert len(data.split(arrays(50), 7)[1]) == 7
    for share in (0.001, 50, 60):
        with pytest.raises(UsageError, match="leaves nothing"):
            data.split(arrays(50), share)


def test_data_are_read_from_npz_with_any_targets(tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(20, 4, 4, 1).astype("float32")
    np.savez(tmp_path / "classes.npz", x=x, y=np.arange(20) % 3)
    np.savez(tmp_path / "values.npz", x=x, y=np.ones((20, 2), "float32"))
    np.savez(tmp_path / "alone.npz", x=x)
    assert data.read_data(tmp_path / "classes.npz", IMAGE).held_out.targets.shape == (4,)  # type: ignore[union-attr]
    assert data.read_data(tmp_path / "values.npz", IMAGE).held_out.targets.shape == (4, 2)  # type: ignore[union-attr]
    assert data.read_data(tmp_path / "alone.npz", IMAGE).held_out.targets is None
    other = data.read_data(tmp_path / "classes.npz", IMAGE, held_out_data=tmp_path / "values.npz")
    assert (len(other.training), len(other.held_out)) == (20, 20)


def test_a_python_file_gives_arrays(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "import numpy as np\n"
        "def get_training_data():\n    return np.zeros((30, 4, 4, 1)), np.arange(30) % 2\n"
        "def get_held_out_data():\n    return np.ones((5, 4, 4, 1)), np.arange(5) % 2\n"
    )
    found = data.read_data(path, IMAGE)
    assert (found.kind, len(found.training), len(found.held_out)) == ("python", 30, 5)
    path.write_text("def get_training_data():\n    return 1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError") as caught:
        data.read_data(path, IMAGE)
    assert str(caught.value.where).endswith(":2")
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="defines no function"):
        data.read_data(path, IMAGE)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("np.zeros((9, 5, 5, 1)), np.zeros(9, int)", "have the shape [5, 5, 1]"),
        ("np.full((9, 4, 4, 1), np.nan), np.zeros(9, int)", "NaN"),
        ("np.zeros((9, 4, 4, 1)), np.zeros(8, int)", "targets for 9 samples"),
        ("{'other': np.zeros((9, 4, 4, 1))}", "lack the input 'image'"),
    ],
)
def test_wrong_samples_are_refused(tmp_path: Path, made: str, what: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"import numpy as np\ndef get_training_data():\n    return {made}\n")
    with pytest.raises(ModelError) as caught:
        data.read_data(path, IMAGE)
    assert what in caught.value.what


# -- tasks ---------------------------------------------------------------------------------


def test_the_task_follows_from_model_and_data() -> None:
    x = np.zeros((6, 4), np.float32)

    def found(head: Any, outputs: int, targets: Any, inputs: int = 4) -> str:
        return find_task(head, (outputs,), (inputs,), Examples((x,), targets)).name

    assert found("softmax", 3, np.arange(6) % 3) == "classification"
    assert found("softmax", 3, np.eye(3)[np.arange(6) % 3]) == "classification"
    assert found("linear", 3, np.eye(3)[np.arange(6) % 3]) == "classification"
    assert found("sigmoid", 1, np.arange(6) % 2) == "binary"
    assert found("linear", 1, np.linspace(0, 1, 6)) == "regression"
    assert found("linear", 2, np.random.RandomState(0).rand(6, 2)) == "regression"
    assert found("linear", 4, None) == "autoencoder"
    with pytest.raises(UsageError, match="no targets"):
        found("linear", 3, None)
    with pytest.raises(ModelError, match="classes from 0 to 5, the model has 3"):
        found("softmax", 3, np.arange(6))
    with pytest.raises(ModelError, match="2 values per sample, the model has 3"):
        find_task("linear", (3,), (4,), Examples((x,), np.zeros((6, 2))), "regression")


def test_scores() -> None:
    x = np.zeros((4, 2), np.float32)
    classes = Examples((x,), np.array([0, 1, 2, 1]))
    task = find_task("softmax", (3,), (2,), classes)
    assert task.score(np.eye(3)[[0, 1, 2, 0]], classes) == 0.75
    binary = Examples((x,), np.array([0, 1, 0, 1]))
    assert (
        find_task("sigmoid", (1,), (2,), binary).score(np.array([0.4, 0.6, 0.6, 0.9]), binary)
        == 0.75
    )
    same = Examples((np.ones((4, 2), np.float32),), None)
    assert find_task("linear", (2,), (2,), same).score(np.zeros((4, 2)), same) == 1.0


# -- patterns ------------------------------------------------------------------------------


@limits(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_the_smallest_weights_go(rows: int, columns: int, share: float, seed: int) -> None:
    values = np.random.RandomState(seed).rand(rows, columns)
    mask = sparsity.unstructured(values, share)
    assert (~mask).sum() == round(values.size * share)
    if mask.any() and not mask.all():
        assert values[mask].min() >= values[~mask].max()


@limits(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(1, 6), st.integers(1, 5),
    st.floats(0.01, 0.99), st.integers(0, 2**31),
)  # fmt: skip
def test_blocks_go_whole(
    rows: int, columns: int, height: int, width: int, share: float, seed: int
) -> None:
    values = np.random.RandomState(seed).rand(rows, columns)
    mask = sparsity.blocks(height, width)(values, share)
    gone = count = 0
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            block = mask[row : row + height, column : column + width]
            assert block.all() or not block.any()
            count, gone = count + 1, gone + (not block.any())
    assert gone == round(count * share)


@limits(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31), st.data())
def test_n_of_m_holds_in_every_group(rows: int, columns: int, seed: int, draw: Any) -> None:
    group = draw.draw(st.integers(2, 8))
    kept = draw.draw(st.integers(1, group - 1))
    values = np.random.RandomState(seed).rand(rows, columns)
    pattern = sparsity.n_of_m(kept, group)
    mask = pattern(values, 1 - kept / group)
    for row in range(0, rows - rows % group, group):
        assert (mask[row : row + group].sum(axis=0) == kept).all()
    assert mask[rows - rows % group :].all()
    half = pattern(values, (1 - kept / group) / 2)
    assert half.sum() >= mask.sum()


def test_the_schedule_is_zhu_and_guptas() -> None:
    shares = [sparsity.polynomial(t, 0.1, 0.7, 0.8) for t in (0, 0.1, 0.4, 0.7, 1)]
    assert shares == pytest.approx([0, 0, 0.8 * (1 - 0.5**3), 0.8, 0.8])


class _Kernel:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


def test_sparsity_is_distributed_as_asked() -> None:
    kernels = [sparsity.Kernel("a", _Kernel(3, 3, 8, 16)), sparsity.Kernel("b", _Kernel(64, 256)),
               sparsity.Kernel("c", _Kernel(4, 10))]  # fmt: skip
    for share in (0.5, 0.8, 0.95):
        found = sparsity.shares_of(kernels, share, "erk")
        zeros = sum(k.size * s for k, s in zip(kernels, found, strict=True))
        assert zeros / sum(k.size for k in kernels) == pytest.approx(share)
        assert min(found) >= 0 and found[1] == max(found)
    assert sparsity.shares_of(kernels, 0.5, "uniform") == (0.5, 0.5, 0.5)


@limits(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=200), st.integers(2, 20),
    st.sampled_from(["linear", "density", "kmeans++"]),
)  # fmt: skip
def test_clusters_are_nearest_and_few(values: list[float], count: int, init: str) -> None:
    array = np.array(values, np.float32)
    centres, numbers = clusters.k_means(array, count, init, seed=0)
    assert len(centres) <= max(count, 1)
    distances = np.abs(array.astype(np.float64)[:, None] - centres[None])
    chosen = distances[np.arange(len(array)), numbers]
    assert np.allclose(chosen, distances.min(axis=1))


# -- schedules -----------------------------------------------------------------------------


class _Model:
    trainable = tuple(range(10))


def phases(**settings: Any) -> list[Any]:
    trainer = Trainer.__new__(Trainer)
    trainer.settings, trainer.model = Training(**settings), _Model()  # type: ignore[assignment]
    return [trainer.phase(epoch) for epoch in range(trainer.settings.epochs)]


def test_batches_images_and_frozen_layers_change_with_the_epochs() -> None:
    batches = [phase.batch for phase in phases(epochs=10, batch=64, batch_start=8)]
    assert batches[0] == 8 and batches[-1] == 64 and batches == sorted(batches)
    scales = [phase.scale for phase in phases(epochs=8, resize=0.5)]
    assert scales[0] == 0.5 and scales[-1] == 1.0 and scales == sorted(scales)
    frozen = [phase.frozen for phase in phases(epochs=4, freeze=0.5, freeze_from=0.5)]
    assert frozen == [0, 0, 5, 5]


def test_learning_rates() -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.settings = Training(learning_rate=1.0, warmup=0.2)
    rates = [trainer.learning_rate(t) for t in (0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.5, 1.0, 0.5, 0.0], abs=1e-9)


def test_augmentations_have_their_rank() -> None:
    for name in augmentations.names():
        module = augmentations.load(name)
        assert module.RANK in (None, 4) and module.__doc__
