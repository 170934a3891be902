"""What cheaper training saves at equal quality: small images first, held layers, small batches.

    python benchmarks/training_cost.py DATA [--seeds 3] [--epochs 60] [--json FILE]

``edgekit zoo``'s ds_cnn learns keyword spotting from 500 samples, from scratch. Plain trainings of
a quarter, half, all and twice the epochs say how good one gets in what time; each measure runs for
all the epochs. A measure's speed-up is the time that a plain training of the same accuracy on the
200 held-out samples takes (between those that were run: interpolated over the logarithm of the
time), over the measure's own. Seconds are measured on this computer, one training after the
other, without compiling; samples are exact, in units of full images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

MEASURES: dict[str, tuple[str, ...]] = {
    "images from half size": ("resize=0.5",),
    "first half of the layers held": ("freeze=0.5",),
    "first half held from the middle on": ("freeze=0.5", "freeze-from=0.5"),
    "batches from 8 to 32": ("batch-start=8",),
    "small images, then held layers": ("resize=0.5", "freeze=0.5", "freeze-from=0.5"),
}
PLAIN = (0.25, 0.5, 1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    from edgekit import console

    trainings = {f"plain, {round(f * given.epochs)} epochs": (round(f * given.epochs), ())
                 for f in PLAIN}  # fmt: skip
    trainings |= {name: (given.epochs, settings) for name, settings in MEASURES.items()}
    runs = []
    for seed in range(given.seeds):
        for name, (epochs, settings) in trainings.items():
            runs.append({"training": name, "seed": seed, **run(given, epochs, settings, seed)})
            print(runs[-1], file=sys.stderr, flush=True)
    means = {
        name: {
            key: statistics.mean(r[key] for r in runs if r["training"] == name)
            for key in ("samples", "seconds", "held_out")
        }
        for name in trainings
    }
    plain = [means[name] for name in trainings if name.startswith("plain")]
    rows = []
    for name, found in means.items():
        scores = [r["held_out"] for r in runs if r["training"] == name]
        spread = f" ± {statistics.stdev(scores) * 100:.1f}" if len(scores) > 1 else ""
        rows.append(
            (
                name,
                f"{found['samples']:,.0f}",
                f"{found['seconds']:.0f}",
                f"{found['held_out'] * 100:.1f}{spread}",
                "" if name.startswith("plain") else speed_up(found, plain),
            )
        )
    console.print_table(
        ["training", ("samples", "right"), ("seconds", "right"), ("held out, %", "right"),
         ("times as fast, at equal quality", "right")],
        rows,
        title=f"ds_cnn from scratch on 500 samples of KWS, {given.seeds} seeds (measured)",
    )  # fmt: skip
    if given.json is not None:
        document = {"schema_version": 1, "kind": "measured", "runs": runs}
        given.json.write_text(json.dumps(document, indent=1) + "\n")


def speed_up(found: dict[str, float], plain: list[dict[str, float]]) -> str:
    """How much longer a plain training as good as this one takes."""
    score = found["held_out"]
    pairs = zip(plain, plain[1:], strict=False)
    for before, after in pairs:
        if before["held_out"] <= score <= after["held_out"]:
            span = after["held_out"] - before["held_out"]
            share = (score - before["held_out"]) / span if span else 0.0
            seconds = before["seconds"] * (after["seconds"] / before["seconds"]) ** share
            return f"{seconds / found['seconds']:.2f}"
    if score < plain[0]["held_out"]:
        return f"below {plain[0]['seconds'] / found['seconds']:.2f}"
    return f"above {plain[-1]['seconds'] / found['seconds']:.2f}"


def run(given: Any, epochs: int, settings: tuple[str, ...], seed: int) -> dict[str, float]:
    """One training, from an untrained model on."""
    from edgekit import zoo
    from edgekit.compress import models, task
    from edgekit.compress.data import read_data
    from edgekit.compress.keras_graph import read_graph
    from edgekit.compress.recipe import make_recipe
    from edgekit.compress.session import Session, Subject
    from edgekit.convert import frameworks, normalization
    from edgekit.convert.calibration import Reading

    keras = frameworks.keras3()
    graph = read_graph(keras, zoo.build("ds_cnn", seed=seed, classes=12))
    reading = Reading(normalization.parse("scale=0.0117,zero_point=83"))
    data = read_data(given.data / "kws01.npz", models.ports(graph), reading, held_out=200)
    session = Session(data, task.find_task("softmax", (12,), (49, 10, 1), data.held_out), graph)
    subject = Subject(graph)
    common = (
        f"epochs={epochs}", "learning-rate=3e-3", f"seed={seed}",
        "augment=[{specaugment: {shift: 0.1}}]",
    )  # fmt: skip
    step = make_recipe("finetune", [f"training.{s}" for s in (*common, *settings)]).steps[0]
    history = session.train(subject, step.settings.training)
    # an epoch in which a step is compiled takes as long as the fastest one on the same images
    fastest: dict[float, float] = {}
    for epoch in history.epochs:
        fastest[epoch.samples] = min(epoch.seconds, fastest.get(epoch.samples, epoch.seconds))
    slow = {s: [e.seconds for e in history.epochs if e.samples == s] for s in fastest}
    seconds = sum(sum(times) - max(times) + fastest[s] for s, times in slow.items())
    return {
        "samples": sum(epoch.samples for epoch in history.epochs),
        "seconds": seconds,
        "held_out": session.score(subject.graph),
    }


if __name__ == "__main__":
    main()
