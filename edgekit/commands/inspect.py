"""Show what a model is, costs and needs, and which targets take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit import console

#: Operators in the table; a terminal is no place for more.
_OPS_SHOWN = 1_000


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--targets/--no-targets", default=True, help="Ask every target about the model.")
@console.json_option
def command(model: Path, targets: bool, as_json: bool) -> None:
    """Shows what a .tflite model is and costs, without running it.

    Operators with MACs, weight and activation bytes; the peak of live activations in the
    file's order of operators and in the best one; channels that are constant or unread for
    every input; the engines and targets that take the model. The figures are exact properties
    of the graph; the memory that a target needs is estimated.

    \b
    edgekit inspect vww.tflite
    edgekit inspect vww.tflite --json | jq .peak_activation_bytes
    """
    from edgekit.graph import read_model
    from edgekit.inspection import inspect_model

    found = inspect_model(read_model(model), targets=targets)
    if as_json:
        console.emit_json("inspect", found)
        return
    _print_ops(found)
    _print_summary(found)
    if found["edgetpu"]:
        _print_edgetpu(found["edgetpu"])
    _print_engines(found)


def _print_ops(found: dict[str, Any]) -> None:
    dead = found["channels"]["removable_channels"] > 0
    columns: list[str | tuple[str, str]] = [
        ("#", "right"), "operator", "in", "out", "computes in", ("MACs", "right"),
        ("weights B", "right"), ("bias B", "right"), ("in+out B", "right"),
    ]  # fmt: skip
    if dead:
        columns += [("live channels", "right"), ("live MACs", "right")]
    rows = []
    for op in found["ops"][:_OPS_SHOWN]:
        row: list[object] = [
            op["index"],
            op["kind"],
            " + ".join(_shape(t["shape"]) for t in op["inputs"]),
            " + ".join(_shape(t["shape"]) for t in op["outputs"]),
            op["quantization"],
            op["macs"],
            op["weights_bytes"],
            op["bias_bytes"],
            op["activation_bytes"],
        ]
        if dead:
            weighted = op["weights_shape"] is not None
            row += [
                f"{op['live_channels']} of {op['channels']}" if weighted else "",
                op["live_macs"] if weighted else "",
            ]
        rows.append(row)
    console.print_table(columns, rows, title=f"{found['model']['name']}: operators")
    if len(found["ops"]) > _OPS_SHOWN:
        console.note(f"{len(found['ops']) - _OPS_SHOWN:,} more operators: --json lists them all")


def _print_summary(found: dict[str, Any]) -> None:
    model, best, channels = found["model"], found["best_order"], found["channels"]
    rows: list[tuple[str, object]] = [
        ("file", f"{model['file_bytes']:,} B, SHA-256 {model['sha256']}"),
        *((f"input {i}", _port(t)) for i, t in enumerate(found["inputs"])),
        *((f"output {i}", _port(t)) for i, t in enumerate(found["outputs"])),
        ("full integer", _integer(found)),
        ("MACs", f"{found['macs']:,} ({found['macs_inside']:,} without taps in padding)"),
        ("weights", f"{found['weights_bytes']:,} B, biases {found['bias_bytes']:,} B"),
        ("peak of activations", _peak(found)),
        (
            "… in the best order",
            f"{best['peak_activation_bytes']:,} B, "
            + (
                "proven the least"
                if best["proven_optimal"]
                else f"the least possible is at least {best['lower_bound_bytes']:,} B"
            )
            + (" (the file's order)" if best["order"] is None else ""),
        ),
        ("dead channels", _dead(channels, found)),
    ]
    if found["subgraphs"]:
        names = ", ".join(f"{g['name']} ({g['ops']} operators)" for g in found["subgraphs"])
        rows.append(("further graphs", names))
    if found["uncalibrated"]:
        rows.append(("calibration", "random values: outputs mean nothing"))
    metadata = found["metadata"]
    if metadata:
        rows.append(("metadata", _metadata(metadata)))
    console.print_table(["", ""], rows)


def _print_edgetpu(compiled: dict[str, Any]) -> None:
    from edgekit.engines.edgetpu.darwinn import RUNTIME_VERSIONS

    left = ", ".join(
        f"{kind} ({count})" if count > 1 else kind
        for kind, count in compiled["cpu_operators"].items()
    )
    version = compiled["min_runtime_version"]
    meaning = RUNTIME_VERSIONS.get(version)
    console.print_table(
        ["Edge TPU program", ""],
        [
            ("left on the CPU", left or "nothing"),
            ("parameters cached", f"{compiled['cached_bytes']:,} B, uploaded once"),
            ("parameters streamed", f"{compiled['streamed_bytes']:,} B, at each inference"),
            ("instructions", f"{compiled['instruction_bytes']:,} B"),
            ("runtime version", f"{version} or newer" + (f" ({meaning})" if meaning else "")),
        ],
    )


def _print_engines(found: dict[str, Any]) -> None:
    rows = [
        (name, engine["title"], engine["ok"], "; ".join(engine["missing"]))
        for name, engine in found["engines"].items()
    ]
    if rows:
        console.print_table(["engine", "", "takes it", "why not"], rows)
    if found["targets"]:
        columns: list[str | tuple[str, str]] = [
            "target", "engine", "verdict", ("RAM B (estimated)", "right"),
            ("flash B (estimated)", "right"), "why not",
        ]  # fmt: skip
        keys = ("target", "engine", "verdict", "ram_bytes", "flash_bytes")
        verdicts = [
            (*(row[key] for key in keys), "; ".join(row["reasons"])) for row in found["targets"]
        ]
        console.print_table(columns, verdicts)


def _shape(shape: list[int]) -> str:
    return "x".join(str(d) for d in shape) if shape else "scalar"


def _port(tensor: dict[str, Any]) -> str:
    text = f"'{tensor['name']}' {tensor['dtype']} {_shape(tensor['shape'])}"
    if tensor["scale"] is not None:
        text += f", scale {tensor['scale']:.7g}, zero point {tensor['zero_point']}"
    return text


def _integer(found: dict[str, Any]) -> str:
    if found["full_integer"]:
        return "yes"
    first = found["not_integer"][0]
    place = f" (operator {first['op']} {first['kind']})" if first["op"] is not None else ""
    count = len(found["not_integer"])
    return f"no: {count} tensors are not; the first: {first['reason']}{place}"


def _peak(found: dict[str, Any]) -> str:
    peak = found["peak"]
    text = f"{found['peak_activation_bytes']:,} B"
    if peak["kind"] is None:
        return text
    largest = ", ".join(f"{t['nbytes']:,} B" for t in peak["live"][:4])
    return f"{text} at operator {peak['op']} {peak['kind']} (live: {largest})"


def _dead(channels: dict[str, Any], found: dict[str, Any]) -> str:
    if not channels["analysed"]:
        return "not an int8 graph: not analysed"
    if not channels["removable_channels"]:
        return "none"
    return (
        f"{channels['removable_channels']:,} of {channels['channels']:,} channels are constant "
        f"or unread for every input; without them {channels['live_macs']:,} MACs "
        f"({channels['live_macs'] / max(found['macs'], 1):.1%}) and "
        f"{channels['live_weights_bytes']:,} B of weights remain"
    )


def _metadata(metadata: dict[str, Any]) -> str:
    parts = [p for p in (metadata["name"], metadata["description"]) if p]
    parts += [
        f"input normalised with mean {tensor['mean']}, std {tensor['std']}"
        for tensor in metadata["inputs"]
        if tensor["mean"]
    ]
    parts += [
        f"{len(tensor['labels'])} labels ({', '.join(tensor['labels'][:3])}, …)"
        for tensor in metadata["outputs"]
        if tensor["labels"]
    ]
    return "; ".join(parts)
