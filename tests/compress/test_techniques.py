"""Every technique on the digits model: what it promises holds, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.compress import channels, models, pipeline, sparsity, techniques
from edgekit.compress.keras_graph import KerasGraph, read_graph
from edgekit.compress.recipe import find_recipe, make_recipe, read_recipe
from edgekit.convert import frameworks
from edgekit.errors import FitError, ModelError, UsageError
from edgekit.graph import read_model

pytestmark = pytest.mark.tensorflow

TARGET = "nucleo-l4r5zi"


class Compressed:
    """A run's report, and the model that it wrote."""

    def __init__(self, report: pipeline.Report, folder: Path) -> None:
        self.report, self.folder = report, folder

    @property
    def graph(self) -> KerasGraph:
        return models.load(self.folder / self.report.files["model"]).graph

    @property
    def integer(self) -> Any:
        return read_model(self.folder / self.report.files["integer model"])


@pytest.fixture
def compress(digits: tuple[Path, Path], digits_model: Path, tmp_path: Path) -> Any:
    def run(technique: str, *settings: str, **changes: Any) -> Compressed:
        request = pipeline.Request(
            changes.pop("source", digits_model),
            tmp_path / "out",
            changes.pop("recipe", None) or make_recipe(technique, settings),
            digits[0],
            held_out_data=digits[1],
        )
        request = replace(request, **changes)
        report = pipeline.compress(request, isolated=False)
        assert not (tmp_path / "out.unfinished").exists()
        return Compressed(report, request.output)

    return run


def zeros(graph: KerasGraph) -> dict[str, float]:
    return {k.layer: sparsity.measured([k]) for k in sparsity.kernels(graph)}


def test_pruning_reaches_its_share_and_says_that_flash_stays(compress: Any) -> None:
    done = compress("prune", "sparsity=0.6", "training.epochs=8", target=TARGET)
    for share in zeros(done.graph).values():
        assert share == pytest.approx(0.6, abs=0.01)
    before, after = done.report.before, done.report.after
    assert after.score_integer > 0.93
    # the zeros of the float model are zeros of the full-integer one
    integer = done.integer
    kernels = [integer.tensors[op.inputs[1]] for op in integer.ops if op.kind == "CONV_2D"]
    assert all((k.data() == 0).mean() > 0.59 for k in kernels)
    assert after.footprint.gzip_bytes < 0.85 * before.footprint.gzip_bytes
    assert abs(after.footprint.flash_bytes / before.footprint.flash_bytes - 1) < 0.03
    assert any("what is flashed does not shrink" in text for text in done.report.remarks)
    assert any("takes as long as before" in text for text in done.report.remarks)
    assert after.footprint.outputs_equal is True


def test_blocks_and_patterns_survive_to_the_end(compress: Any) -> None:
    done = compress("prune-blocks", "sparsity=0.5", "rows=4", "training.epochs=3")
    for kernel in sparsity.kernels(done.graph):
        matrix = kernel.matrix(kernel.variable.numpy()) != 0
        whole = matrix[: len(matrix) - len(matrix) % 4].reshape(-1, 4, matrix.shape[1])
        assert (whole.all(axis=1) | ~whole.any(axis=1)).all()
    done = compress("prune-n-of-m", "pattern=1:4", "training.epochs=3")
    for kernel in sparsity.kernels(done.graph):
        matrix = kernel.matrix(kernel.variable.numpy()) != 0
        whole = matrix[: len(matrix) - len(matrix) % 4].reshape(-1, 4, matrix.shape[1])
        assert (whole.sum(axis=1) <= 1).all()


def test_rigl_moves_weights_and_keeps_their_number(compress: Any) -> None:
    done = compress("rigl", "sparsity=0.7", "training.epochs=6", "updates=10")
    facts = done.report.steps[0].facts
    assert facts["weights moved"] > 100
    assert sparsity.measured(sparsity.kernels(done.graph)) == pytest.approx(0.7, abs=0.01)
    assert done.report.after.score_float > 0.93


def test_later_steps_keep_zeros_and_shared_values(compress: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "training: {epochs: 3}\n"
        "steps:\n  - prune: {sparsity: 0.5}\n  - cluster: {clusters: 8}\n  - finetune\n"
    )
    done = compress("", recipe=read_recipe(tmp_path / "r.yaml"))
    for kernel in sparsity.kernels(done.graph):
        values = kernel.variable.numpy()
        assert (values == 0).mean() >= 0.49, kernel.layer
        assert len(np.unique(values)) <= 8, kernel.layer
    assert [step.technique for step in done.report.steps] == ["prune", "cluster", "finetune"]
    assert done.report.after.footprint.gzip_bytes < 0.8 * done.report.before.footprint.gzip_bytes


def test_half_the_channels_of_digits(compress: Any) -> None:
    """At least 40 % of the instructions gone, for at most one point (three seeds: see docs)."""
    settings = ["epochs=80", "learning-rate=3e-3", "augment=[{shift: {pixels: 1}}]"]
    recipe = read_recipe(
        find_recipe("channels-50"), [f"training.{setting}" for setting in settings]
    )
    done = compress("", recipe=recipe, target=TARGET)
    before, after = done.report.before, done.report.after
    assert after.footprint.instructions < 0.6 * before.footprint.instructions
    assert after.score_integer >= before.score_integer - 0.01
    assert after.footprint.flash_bytes < 0.75 * before.footprint.flash_bytes
    assert after.footprint.arena_bytes < 0.75 * before.footprint.arena_bytes
    assert done.report.remarks == ()


@pytest.mark.parametrize("criterion", ["magnitude", "saliency"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "cost"])
def test_channels_go_by_every_rule(compress: Any, criterion: str, allocation: str) -> None:
    done = compress(
        "prune-channels", f"criterion={criterion}", f"allocation={allocation}", "share=0.25",
        "training.epochs=1", "rounds=1",
    )  # fmt: skip
    changed = done.report.steps[0].facts["channels"]
    assert changed and all(after < before for before, after in changed.values())
    assert done.report.after.footprint.macs < 0.8 * done.report.before.footprint.macs


def test_saliency_finds_channels_that_do_nothing(
    compress: Any, digits_model: Path, tmp_path: Path
) -> None:
    """Channels nobody listens to have large filters here: only the saliency knows better."""
    loaded = models.load(digits_model)
    graph = loaded.graph
    names = {layer.name: layer for layer in graph.layers()}
    loud, quiet = names["conv2d_1"], names["depthwise_conv2d_1"]
    kernel = loud.get_weights()[0]
    kernel[..., :8] *= 100
    loud.set_weights([kernel])
    filters = quiet.get_weights()[0]
    filters[:, :, :8] = 0
    quiet.set_weights([filters])
    models.save(graph, tmp_path / "loud.keras")
    done = compress(
        "prune-channels", "share=0.06", "criterion=saliency", "multiple=1", "rounds=1",
        "training.epochs=0", "allocation=global", source=tmp_path / "loud.keras",
    )  # fmt: skip
    assert done.report.steps[0].facts["channels"]["conv2d_1"][1] <= 24


def test_a_budget_is_kept_on_the_board(compress: Any) -> None:
    done = compress("prune-channels", "max-latency=2ms", "training.epochs=1", target=TARGET)
    before, after = done.report.before.footprint, done.report.after.footprint
    assert before.latency_us > 2000 >= after.latency_us
    # not much smaller than it has to be: the next larger size on the grid would not fit
    assert after.latency_us > 1500
    assert 0 < done.report.steps[0].facts["share"] < 0.6


def test_a_budget_that_cannot_be_kept_is_refused(compress: Any, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"without 97% of its channels.*ms \(limit 10us\)"):
        compress("prune-channels", "max-latency=10us", target=TARGET)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="a budget needs a target"):
        compress("prune-channels", "max-latency=2ms")


def test_clusters_share_their_values(compress: Any) -> None:
    done = compress("cluster", "clusters=8", "training.epochs=2")
    for kernel in sparsity.kernels(done.graph):
        assert len(np.unique(kernel.variable.numpy())) <= 8
    assert done.report.after.score_float > 0.95


def test_factors_of_full_rank_change_nothing(digits_model: Path, digits: Any) -> None:
    from edgekit.compress.data import read_data
    from edgekit.compress.techniques import factorize

    graph = models.load(digits_model).graph
    examples = read_data(digits[0], models.ports(graph)).training.first(64)
    for layer in factorize._candidates(graph, factorize.Settings()):
        for criterion in ("outputs", "weights"):
            factors = factorize._factored(graph, layer, criterion, examples)
            parts = factorize._parts(factors, len(factors.values))
            first, second = (p.weights[0].reshape(-1, p.weights[0].shape[-1]) for p in parts)
            kernel = layer.get_weights()[0].reshape(-1, first.shape[0] and second.shape[1])
            np.testing.assert_allclose(first @ second, kernel, atol=2e-4)


def test_factors_save_multiplications(compress: Any) -> None:
    done = compress("factorize", "share=0.6", "training.epochs=3")
    assert done.report.after.footprint.macs < 0.8 * done.report.before.footprint.macs
    assert done.report.after.score_float > 0.93
    ranks = done.report.steps[0].facts["ranks"]
    assert all(r["rank"] is None or r["rank"] < r["full"] for r in ranks.values())


def test_factors_that_keep_outputs_lose_less(digits_model: Path, digits: Any) -> None:
    from edgekit.compress.data import read_data
    from edgekit.compress.techniques import factorize

    graph = models.load(digits_model).graph
    examples = read_data(digits[0], models.ports(graph)).training.first(128)
    layer = next(layer for layer in graph.layers() if layer.name == "conv2d_2")
    rows = factorize._input_rows(graph, layer, examples)
    kernel = layer.get_weights()[0].reshape(rows.shape[1], -1)
    errors = {}
    for criterion in ("outputs", "weights"):
        parts = factorize._parts(factorize._factored(graph, layer, criterion, examples), 12)
        first, second = (p.weights[0].reshape(-1, p.weights[0].shape[-1]) for p in parts)
        errors[criterion] = float(((rows @ kernel - rows @ first @ second) ** 2).mean())
    assert errors["outputs"] < errors["weights"]


def test_a_student_learns_from_a_file(compress: Any, digits_model: Path, tmp_path: Path) -> None:
    keras = frameworks.keras3()
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = keras.layers.Flatten()(x)
    small = keras.Model(image, keras.layers.Dense(10, activation="softmax")(x), name="small")
    models.save(read_graph(keras, small), tmp_path / "small.keras")
    done = compress(
        "distill", "training.epochs=20", f"training.distillation.teacher=[{digits_model}]",
        "training.learning-rate=5e-3", source=tmp_path / "small.keras",
    )  # fmt: skip
    assert done.report.before.score_integer < 0.4 < 0.9 < done.report.after.score_integer


def test_quantisation_with_all_its_options(compress: Any) -> None:
    done = compress(
        "quantize", "ranges=mse", "equalize=weights", "bias-correction=yes",
        "rounding=adaptive", "iterations=100", target=TARGET,
    )  # fmt: skip
    after = done.report.after
    assert after.score_float is None and after.footprint.outputs_equal is True
    assert after.score_integer >= done.report.before.score_integer - 0.01
    said = done.report.steps[0].facts["quantisation"]
    assert len(said["techniques"]) == 4 and said["rounding"] is not None


def test_some_layers_in_int16(compress: Any) -> None:
    done = compress("quantize", "int16-layers=[0]")
    assert "int16" in {t.dtype for t in done.integer.tensors}
    with pytest.raises(UsageError, match="has no layer 'nothing'"):
        compress("quantize", "int16-layers=[nothing]")
    with pytest.raises(UsageError, match="step 1"):
        compress("quantize", "ranges=most")


@pytest.mark.parametrize("ranges", ["average", "lsq"])
def test_training_with_quantisation(compress: Any, ranges: str) -> None:
    done = compress("qat", "training.epochs=2", f"activation-ranges={ranges}", "delay=0.2")
    assert done.report.after.score_integer >= done.report.before.score_integer - 0.01
    assert {t.dtype for t in done.integer.tensors} <= {"int8", "int32"}


def test_quantisation_keeps_zeros_and_shared_weights(compress: Any, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "training: {epochs: 4}\n"
        "steps:\n  - prune: {sparsity: 0.6}\n  - cluster: {clusters: 8}\n"
        "  - qat: {training: {epochs: 2}}\n"
    )
    done = compress("", recipe=read_recipe(tmp_path / "r.yaml"))
    integer = done.integer
    for op in integer.ops:
        if op.kind != "CONV_2D":
            continue
        weights = integer.tensors[op.inputs[1]].data()
        assert (weights == 0).mean() >= 0.59
        # channels have scales of their own: at most eight values in each
        assert max(len(np.unique(channel)) for channel in weights) <= 8
    assert done.report.after.footprint.gzip_bytes < 0.75 * done.report.before.footprint.gzip_bytes
    assert done.report.after.score_integer > 0.9


def test_the_toolkit_trains_with_quantisation(compress: Any) -> None:
    done = compress("qat-tfmot", "training.epochs=2")
    assert done.report.after.score_float is None
    assert done.report.after.score_integer >= done.report.before.score_integer - 0.01
    assert {t.dtype for t in done.integer.tensors} <= {"int8", "int32"}
    # ranges are those of the data, not those that the toolkit begins with: a ReLU's begins at 0
    relus = [
        op for op in done.integer.main.ops if op.options.get("fused_activation_function") == "RELU"
    ]
    assert len(relus) == 7
    assert {done.integer.main.tensors[op.outputs[0]].zero_point for op in relus} == {-128}


def test_real_graphs_without_three_tenths_of_their_channels(
    mlperf: Path, shared: Path, tmp_path: Path
) -> None:
    """vww_mobilenet and ic_resnet: pruned, converted, built, run; outputs equal to TFLM's."""
    from edgekit.convert.calibration import Reading
    from edgekit.convert.normalization import Normalization

    for name, data, reading, task in (
        ("vww_mobilenet", "vww01.npz", Reading(Normalization((0.0,), (255.0,))), None),
        ("ic_resnet", "ic01.npz", Reading(), None),
    ):
        path = shared / "data" / data
        if name == "ic_resnet":
            # there are no labels: the model's own answers are, and what is tested is the graph
            with np.load(shared / "data" / "ic01_calibration.npz") as found:
                x = found["x"][:100].astype("float32")
            graph = models.load(mlperf / f"{name}.h5").graph
            path = tmp_path / data
            np.savez(path, x=x, y=np.array(graph.model(x)).argmax(-1))
        recipe = make_recipe(
            "prune-channels",
            ["share=0.3", "allocation=uniform", "rounds=1", "samples=32", "training.epochs=0"],
        )
        request = pipeline.Request(
            mlperf / f"{name}.h5", tmp_path / name, recipe, path, held_out=20,
            reading=reading, task=task, target=TARGET,
        )  # fmt: skip
        report = pipeline.compress(request, isolated=False)
        before, after = report.before.footprint, report.after.footprint
        assert after.outputs_equal is True
        assert after.macs < 0.65 * before.macs
        assert after.instructions < 0.85 * before.instructions
        shutil.rmtree(tmp_path / name)


# -- runs ----------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_and_ends_alike(
    compress: Any, digits: Any, digits_model: Path, tmp_path: Path, sample: float
) -> None:
    (tmp_path / "r.yaml").write_text(
        "training: {epochs: 3, distillation: {}}\n"
        "steps:\n  - prune-channels: {share: 0.3, rounds: 2}\n  - rigl: {sparsity: 0.5}\n"
        "  - qat\n"
    )
    recipe = read_recipe(tmp_path / "r.yaml")
    whole = compress("", recipe=recipe)
    request = pipeline.Request(
        digits_model, tmp_path / "again", recipe, digits[0], held_out_data=digits[1]
    )
    notes: list[str] = []
    for kills in (1, 5, 6, None) if sample >= 1 else (8, None):
        count = 0

        def progress(text: str, done: int, total: int, kills: int | None = kills) -> None:
            nonlocal count
            count += done > 0 and "(" not in text
            if kills is not None and count >= kills:
                raise Killed

        try:
            report = pipeline.compress(request, progress, notes.append, isolated=False)
        except Killed:
            assert not request.output.exists()
            assert (tmp_path / "again.unfinished" / "run.json").exists()
    again = Compressed(report, request.output)
    assert any("was finished before" in text for text in notes)
    assert again.integer.raw == whole.integer.raw


def test_another_run_is_not_mixed_in(digits: Any, digits_model: Path, tmp_path: Path) -> None:
    def stop(text: str, done: int, total: int) -> None:
        if done:
            raise Killed

    request = pipeline.Request(
        digits_model, tmp_path / "out", make_recipe("finetune", ["training.epochs=3"]), digits[0]
    )
    with pytest.raises(Killed):
        pipeline.compress(request, stop, isolated=False)
    other = replace(request, recipe=make_recipe("finetune", ["training.epochs=4"]))
    with pytest.raises(UsageError, match="an unfinished run of another"):
        pipeline.compress(other, stop, isolated=False)
    with pytest.raises(Killed):
        pipeline.compress(replace(other, restart=True), stop, isolated=False)
    shutil.rmtree(tmp_path / "out.unfinished")
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "mine.txt").write_text("keep")
    for restart in (False, True):
        with pytest.raises(UsageError, match="was not made by edgekit"):
            pipeline.compress(replace(request, restart=restart), stop, isolated=False)
    assert (tmp_path / "out.unfinished" / "mine.txt").read_text() == "keep"


def test_the_folder_holds_what_the_report_says(compress: Any) -> None:
    done = compress("finetune", "training.epochs=1")
    assert sorted(p.name for p in done.folder.iterdir()) == [
        "digits.keras", "digits_int8.tflite", "manifest.json", "report.json",
    ]  # fmt: skip
    document = json.loads((done.folder / "report.json").read_text())
    assert document["stage"] == "compress" and document["after"]["score_integer"] > 0.9
    # the folder is replaced only because it is ours
    again = compress("finetune", "training.epochs=2")
    assert again.report.steps[0].settings["training"]["epochs"] == 2


def test_techniques_refuse_before_anything_is_trained(compress: Any, tmp_path: Path) -> None:
    def refused(what: str, technique: str, *settings: str, **changes: Any) -> None:
        with pytest.raises((UsageError, ModelError)) as caught:
            compress(technique, *settings, **changes)
        assert what in caught.value.what, caught.value
        assert "step 1" in str(caught.value.where)

    refused("no layer 'conv' to skip", "prune", "skip=[conv]")
    refused("the pattern '4:2' is not N:M", "prune-n-of-m", "pattern=4:2")
    keras = frameworks.keras3()
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    single = keras.Model(image, keras.layers.Dense(10, activation="softmax")(flat), name="single")
    models.save(read_graph(keras, single), tmp_path / "single.keras")
    single_file = tmp_path / "single.keras"
    refused("no channels that can be removed", "prune-channels", source=single_file)
    refused("cannot be built", "finetune", "training.resize=0.5", source=single_file)
    with pytest.raises(UsageError, match="no target 'nucleo'"):
        compress("finetune", target="nucleo")


def test_all_techniques_are_tested_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in techniques.names() if f'"{name}"' not in source] == []


def test_classes_know_their_layers(digits_model: Path) -> None:
    found = channels.analyse(models.load(digits_model).graph)
    cost = channels.multiplications(found)
    graph = found.graph
    macs = 137_088 - 640  # the last layer's outputs cannot go, its inputs can
    made = sum(cost[found.find(int(n))] for g in found.groups() for n in g.classes[:1])
    assert made > 0 and sum(cost.values()) > macs
    assert len(graph.layers()) == 25
