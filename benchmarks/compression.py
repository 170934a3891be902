"""Every shipped recipe on digits and on real keyword-spotting and visual-wake-words data.

    python benchmarks/compression.py MODELS DATA [--sets digits,kws,vww] [--recipes a,b]
        [--seeds 3] [--target nucleo-l4r5zi] [--jobs 2] [--json FILE] [--markdown]

``MODELS`` and ``DATA`` are the folders with the MLPerf Tiny models and their inputs. Of 700
inputs each, 500 train and 200 are held out; digits has 1,437 and 360. Each recipe runs with
``--seeds`` seeds; accuracies are measured on this computer on the held-out samples, device
figures are those of the first seed on the virtual board (simulated; instructions exact). With
``--json`` finished runs are kept and not repeated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import Results

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Subject:
    """A model with its data, and how its training goes; the same for every recipe."""

    model: Path
    data: Path
    held_out_data: Path | None
    normalize: str | None
    training: tuple[str, ...]


def subjects(models: Path, data: Path, work: Path) -> dict[str, Subject]:
    """The three sets. The data of digits are written to ``work``."""
    digits = Path(__file__).resolve().parents[1] / "edgekit" / "examples" / "digits"
    return {
        "digits": Subject(
            digits / "digits.keras", work / "train.npz", work / "test.npz", None,
            ("epochs=60", "learning-rate=3e-3", "augment=[{shift: {pixels: 1}}]"),
        ),
        "kws": Subject(
            models / "kws_dscnn_savedmodel", data / "kws01.npz", None,
            "scale=0.5847029,zero_point=83",
            ("epochs=25", "learning-rate=1e-3", "augment=[{specaugment: {shift: 0.1}}]"),
        ),
        "vww": Subject(
            models / "vww_mobilenet.h5", data / "vww01.npz", None, "0..1",
            ("epochs=6", "learning-rate=3e-4", "augment=[flip]"),
        ),
    }  # fmt: skip


def write_digits(work: Path) -> None:
    import numpy as np

    from edgekit.examples.digits.train import load_data

    for name, (x, y) in zip(("train", "test"), load_data(), strict=True):
        np.savez(work / f"{name}.npz", x=x, y=y)


def run(order: tuple[Subject, str, str, int, str | None, Any]) -> tuple[Key, dict[str, Any]]:
    """One recipe with one seed, in a process of its own."""
    from edgekit.compress import pipeline
    from edgekit.compress.recipe import find_recipe, read_recipe
    from edgekit.convert import frameworks, normalization
    from edgekit.convert.calibration import Reading
    from edgekit.errors import EdgekitError
    from edgekit.records import from_json, to_json

    subject, name, recipe, seed, target, before = order
    tensorflow = frameworks.tensorflow()
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    normal = normalization.parse(subject.normalize) if subject.normalize else None
    settings = [f"training.{text}" for text in (*subject.training, f"seed={seed}")]
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        request = pipeline.Request(
            subject.model,
            Path(folder) / "out",
            read_recipe(find_recipe(recipe), settings),
            subject.data,
            held_out=200,
            held_out_data=subject.held_out_data,
            reading=Reading(normal),
            target=target,
        )
        known = None if before is None else from_json(pipeline.State, before)
        try:
            report = pipeline.compress(request, before=known)
        except EdgekitError as error:
            return (name, recipe, seed), {"refused": error.what}
        return (name, recipe, seed), {
            "before": to_json(report.before),
            "after": to_json(report.after),
            "seconds": sum(step.seconds for step in report.steps),
        }


def rows(results: Results, name: str, recipes: list[str], seeds: int) -> Iterator[tuple[str, ...]]:
    """Rows of a set's table; the first is the model as given."""
    first = None
    for recipe in recipes:
        runs = [results.found.get((name, recipe, seed)) for seed in range(seeds)]
        done = [r for r in runs if r is not None]
        if not done:
            continue
        if "refused" in done[0]:
            yield (recipe, f"refused: {done[0]['refused']}")
            continue
        if first is None:
            first = done[0]["before"]
            yield ("as given (int8, min/max)", *_cells([first["score_integer"]], first))
        after = done[0]["after"]
        yield (recipe, *_cells([r["after"]["score_integer"] for r in done], after, first))


def _cells(
    scores: list[float], state: dict[str, Any], first: dict[str, Any] | None = None
) -> tuple[str, ...]:
    cost, old = state["footprint"], (first or state)["footprint"]
    spread = f" ± {statistics.stdev(scores) * 100:.1f}" if len(scores) > 1 else ""
    cells = [f"{statistics.mean(scores) * 100:.1f}{spread}"]
    for key in ("gzip_bytes", "flash_bytes", "arena_bytes", "macs", "instructions"):
        value = cost[key]
        if value is None:
            cells.append("–")
            continue
        change = "" if first is None else f" ({value / old[key] - 1:+.0%})"
        cells.append(f"{value:,}{change}")
    cells.append("–" if cost["latency_us"] is None else f"{cost['latency_us'] / 1000:.2f}")
    return tuple(cells)


COLUMNS = (
    "recipe", "top-1, int8, %", "gzip, B", "flashed, B", "arena, B", "MACs", "instructions",
    "latency, ms",
)  # fmt: skip


def main() -> None:
    from edgekit import console
    from edgekit.compress.recipe import shipped

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="digits,kws,vww")
    parser.add_argument("--recipes", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", default="nucleo-l4r5zi")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    given = parser.parse_args()
    recipes = [name for name in given.recipes.split(",") if name] or list(shipped())
    results = Results(given.json, ("set", "recipe", "seed"))
    with tempfile.TemporaryDirectory(prefix="edgekit-") as text:
        work = Path(text)
        write_digits(work)
        known = subjects(given.models, given.data, work)
        for name in given.sets.split(","):
            before: dict[str, Any] | None = next(
                (r["before"] for (s, _, _), r in results.found.items()
                 if s == name and "before" in r), None,
            )  # fmt: skip
            orders = [
                (known[name], name, recipe, seed, given.target if seed == 0 else None)
                for seed in range(given.seeds)
                for recipe in recipes
                if (name, recipe, seed) not in results.found
            ]
            if orders and before is None:
                key, result = _in_child((*orders.pop(0), None))
                results.add(key, result)
                before = result.get("before")
            with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
                for key, result in pool.imap_unordered(run, [(*o, before) for o in orders]):
                    results.add(key, result)
                    said = result.get("refused") or result["after"]["score_integer"]
                    print(*key, said, f"{result.get('seconds', 0):.0f} s", file=sys.stderr)
    for name in given.sets.split(","):
        table = list(rows(results, name, recipes, given.seeds))
        if given.markdown:
            print(f"\n### {name}\n\n| " + " | ".join(COLUMNS) + " |")
            print("|---|" + "--:|" * (len(COLUMNS) - 1))
            for row in table:
                print("| " + " | ".join((*row, *[""] * (len(COLUMNS) - len(row)))) + " |")
        else:
            padded = [(*row, *[""] * (len(COLUMNS) - len(row))) for row in table]
            console.print_table(
                [COLUMNS[0], *((c, "right") for c in COLUMNS[1:])], padded,
                title=f"{name} on {given.target}: accuracy measured on held-out samples (mean and "
                f"standard deviation of {given.seeds} seeds), device figures simulated",
            )  # fmt: skip


def _in_child(order: Any) -> tuple[Key, dict[str, Any]]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (order,))


if __name__ == "__main__":
    main()
