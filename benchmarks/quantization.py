"""Ways to quantise after training, on digits, keyword spotting and visual wake words.

    python benchmarks/quantization.py MODELS DATA [--sets digits,scaled,kws,vww]
        [--samples 16,200] [--seeds 3] [--jobs 2] [--json FILE] [--markdown]

``MODELS`` and ``DATA`` are the folders with the MLPerf Tiny models and their inputs. "scaled" is
digits with the channels between its layers scaled by powers of two, which changes nothing in
float: the textbook case for equalisation. Each way gets the same calibration samples, drawn with
``--seeds`` seeds from the training data; accuracy and SQNR are measured on this computer on samples
that were held out (200; digits 360), with TFLM's kernels. With ``--json`` finished runs are kept
and not repeated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept import Results

if TYPE_CHECKING:
    from edgekit.quantize.recipe import Recipe

#: set, way, samples, seed
Key = tuple[str, str, int, int]
#: "kws01.npz" and "vww01.npz" have 700 samples; those behind it are held out
TRAINED_ON = 500


@dataclass(frozen=True)
class Subject:
    model: Path
    train: Path
    held_out: Path
    normalize: str | None


def ways() -> dict[str, Recipe | None]:
    """The ways by what ``edgekit convert`` is told; ``None`` is TensorFlow's quantiser."""
    from edgekit.quantize.mixed import MixedTarget
    from edgekit.quantize.recipe import Recipe

    return {
        "TensorFlow": None,
        "minimum and maximum": Recipe(),
        "--ranges percentile=99.99": Recipe(ranges="percentile=99.99"),
        "--ranges mse": Recipe(ranges="mse"),
        "--bias-correction": Recipe(bias_correction=True),
        "--equalize weights": Recipe(equalize="weights"),
        "--equalize activations": Recipe(equalize="activations"),
        "--equalize weights --bias-correction": Recipe(equalize="weights", bias_correction=True),
        "--rounding adaptive": Recipe(rounding="adaptive"),
        "--ranges mse --rounding adaptive": Recipe(ranges="mse", rounding="adaptive"),
        "--mixed layers=2": Recipe(mixed=MixedTarget(most_layers=2)),
    }


def prepare(models: Path, data: Path, work: Path) -> dict[str, Subject]:
    """Splits the data into ``work``, and makes the badly scaled model."""
    import numpy as np

    from edgekit.examples.digits.train import load_data

    for name in ("kws", "vww"):
        with np.load(data / f"{name}01.npz") as found:
            x, y = found["x"], found["y"]
        np.savez(work / f"{name}-train.npz", x=x[:TRAINED_ON], y=y[:TRAINED_ON])
        np.savez(work / f"{name}-test.npz", x=x[TRAINED_ON:], y=y[TRAINED_ON:])
    for name, (x, y) in zip(("train", "test"), load_data(), strict=True):
        np.savez(work / f"digits-{name}.npz", x=x, y=y)
    digits = Path(__file__).resolve().parents[1] / "edgekit" / "examples" / "digits"
    scaled = work / "scaled.keras"
    _in_child(_scale, (digits / "digits.keras", scaled))

    def subject(name: str, model: Path, normalize: str | None = None) -> Subject:
        return Subject(model, work / f"{name}-train.npz", work / f"{name}-test.npz", normalize)

    return {
        "digits": subject("digits", digits / "digits.keras"),
        "scaled": subject("digits", scaled),
        "kws": subject("kws", models / "kws_dscnn_savedmodel", "scale=0.5847029,zero_point=83"),
        "vww": subject("vww", models / "vww_mobilenet.h5", "0..1"),
    }


def _scale(order: tuple[Path, Path]) -> None:
    """Multiplies channels behind every convolution but the last by powers of two from 1/16 to 16,
    and divides the following layer's weights by them."""
    import keras
    import numpy as np

    source, out = order
    model = keras.models.load_model(source)
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))
    ]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    generator = np.random.default_rng(0)
    for norm, following in zip(norms, convolutions[1:], strict=False):
        gamma, beta, mean, variance = norm.get_weights()
        factors = 2.0 ** generator.integers(-4, 5, len(gamma))
        norm.set_weights([gamma * factors, beta * factors, mean, variance])
        (kernel,) = following.get_weights()
        following.set_weights([kernel / factors.reshape((1, 1, -1, 1))])
    model.save(out)


def run(order: tuple[Subject, Key]) -> tuple[Key, dict[str, Any]]:
    """One conversion; TensorFlow is in a process of its own."""
    import numpy as np

    from edgekit.convert import normalization
    from edgekit.convert.calibration import Reading
    from edgekit.convert.pipeline import Request, convert
    from edgekit.errors import EdgekitError

    subject, key = order
    _, way, samples, seed = key
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        with np.load(subject.train) as found:
            chosen = np.random.default_rng(seed).permutation(len(found["x"]))[:samples]
            np.savez(Path(folder) / "few.npz", x=found["x"][chosen], y=found["y"][chosen])
        normal = normalization.parse(subject.normalize) if subject.normalize else None
        request = Request(
            subject.model,
            Path(folder) / "out.tflite",
            calibration_data=Path(folder) / "few.npz",
            validation_data=subject.held_out,
            calibration_samples=samples,
            verification_samples=360,
            reading=Reading(normal),
            recipe=ways()[way],
        )
        start = time.monotonic()
        try:
            report = convert(request)
        except EdgekitError as error:
            return key, {"refused": error.what}
        quality = report.quality
        assert quality is not None
        return key, {
            "seconds": time.monotonic() - start,
            "accuracy_float": quality.accuracy_float,
            "accuracy": quality.accuracy_integer,
            "sqnr_db": quality.sqnr_db,
            "agreement": quality.top1_agreement,
            "held_out": quality.samples,
            "size_bytes": report.size_after_bytes,
        }


def _spread(values: list[float], digits: int = 1) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def rows(results: Results, name: str, counts: list[int], seeds: int) -> Iterator[tuple[str, ...]]:
    """A row for each way: accuracy and SQNR for each number of samples, and the longest time."""
    for way in ways():
        cells: list[str] = []
        seconds = 0.0
        for count in counts:
            done = [
                result for seed in range(seeds)
                if (result := results.found.get((name, way, count, seed))) is not None
            ]  # fmt: skip
            measured = [result for result in done if "accuracy" in result]
            if not measured:
                cells += [done[0]["refused"] if done else "–", "–"]
                continue
            cells.append(_spread([100 * result["accuracy"] for result in measured]))
            cells.append(_spread([result["sqnr_db"] for result in measured]))
            seconds = max(seconds, *(result["seconds"] for result in measured))
        yield (way, *cells, f"{seconds:.0f}")


def main() -> None:
    from edgekit import console

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="digits,scaled,kws,vww")
    parser.add_argument("--samples", default="16,200")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    given = parser.parse_args()
    counts = [int(text) for text in given.samples.split(",")]
    sets = given.sets.split(",")
    results = Results(given.json, ("set", "way", "samples", "seed"))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as text:
        known = prepare(given.models, given.data, Path(text))
        orders = [
            (known[name], (name, way, count, seed))
            for seed in range(given.seeds)
            for name in sets
            for count in counts
            for way in ways()
            if (name, way, count, seed) not in results.found
        ]
        with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
            for key, result in pool.imap_unordered(run, orders):
                results.add(key, result)
                said = result.get("refused") or f"{result['accuracy']:.3f}"
                print(*key, said, f"{result.get('seconds', 0):.0f} s", file=sys.stderr)
    columns = ["edgekit convert"]
    for count in counts:
        columns += [f"{count} samples: top-1, %", f"SQNR, dB ({count})"]
    columns.append("s, at most")
    for name in sets:
        first = next(
            (r for (s, *_), r in results.found.items() if s == name and "accuracy" in r), None
        )
        float_top1 = "" if first is None else f"float {100 * first['accuracy_float']:.1f} %"
        table = list(rows(results, name, counts, given.seeds))
        if given.markdown:
            print(f"\n### {name} ({float_top1})\n\n| " + " | ".join(columns) + " |")
            print("|---|" + "--:|" * (len(columns) - 1))
            for row in table:
                print(
                    "| "
                    + " | ".join((f"`{row[0]}`" if row[0].startswith("--") else row[0], *row[1:]))
                    + " |"
                )
        else:
            console.print_table(
                [columns[0], *((c, "right") for c in columns[1:])], table,
                title=f"{name} ({float_top1}): measured on held-out samples, mean and standard "
                f"deviation of {given.seeds} draws of the calibration samples",
            )  # fmt: skip


def _in_child(function: Any, argument: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (argument,))


if __name__ == "__main__":
    main()
