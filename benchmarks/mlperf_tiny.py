"""The MLPerf Tiny models on virtual boards, beside TFLM with CMSIS-NN and the closed engines.

::

    python benchmarks/mlperf_tiny.py MODELS [--core cortex-m4 …] [--model kws …]
                                            [--portable] [--json OUT.json]

``MODELS`` is the folder with the int8 models. Every figure of ours comes from a fresh
``edgekit run`` on the baseline's input (xorshift32): instructions are exact, cycles simulated
with the stated error, bytes those of the built firmware. The others' figures are in
``published.json``, with their sources. ``--portable`` builds without the kernels of single cores
and compares with TFLM's reference kernels, without ceilings. The exit code is 7 when an output
differs from TFLM's or a ceiling ("must") is crossed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.console import print_table
from edgekit.graph import read_model
from edgekit.runtimes.tflm import TflmRunner

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
DSP_CORES = ("cortex-m4", "cortex-m7", "cortex-m33")
BYTES = ("arena_bytes", "code_bytes", "code_and_weights_bytes")


def baseline_input(count: int) -> np.ndarray:
    """xorshift32 bytes (seed 0x12345678), the most significant byte of each state."""
    state, found = 0x12345678, bytearray()
    for _ in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        found.append(state >> 24)
    return np.frombuffer(bytes(found), np.int8)


def fnv1a(data: bytes) -> str:
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value:08x}"


def ceilings(name: str, core: str) -> dict[str, int]:
    must = PUBLISHED["models"][name]["must"]
    found: dict[str, int] = must.get("dsp" if core in DSP_CORES else core, {})
    return found


def aim(name: str, core: str) -> int | None:
    found: int | None = PUBLISHED["models"][name]["aim"].get("dsp" if core in DSP_CORES else core)
    return found


def run(path: Path, core: str, inputs: Path, *, portable: bool = False) -> dict[str, Any]:
    """The JSON report of ``edgekit run``."""
    (target,) = PUBLISHED["cores"][core]
    port = "qemu" if core == "cortex-m55" else "virtual"
    command = [
        sys.executable, "-m", "edgekit", "run", str(path), "--target", target, "--port", port,
        "--data", str(inputs), "--runs", "1", "--warmups", "0", "--json",
    ]  # fmt: skip
    if portable:
        command += ["--set", "kernels=portable"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout:
        raise SystemExit(f"{path.name} on {target}: {result.stderr.strip()}")
    report: dict[str, Any] = json.loads(result.stdout)
    if "error" in report:
        raise SystemExit(f"{path.name} on {target}: {report['error']['what']}")
    return report


def measure(
    models: Path, names: list[str], cores: list[str], *, portable: bool = False
) -> Iterator[dict[str, Any]]:
    """One row per model and core."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            known = PUBLISHED["models"][name]
            path = models / known["file"]
            model = read_model(path)
            (view,) = model.input_tensors
            data = baseline_input(view.nbytes).reshape(view.shape)
            (output,) = TflmRunner(model.raw).invoke(data)
            if fnv1a(output.tobytes()) != known["output_hash"]:
                raise SystemExit(f"{path.name} is not the model of the baseline")
            inputs = Path(folder) / f"{name}.npy"
            np.save(inputs, data)
            for core in cores:
                print(f"{name} on {core}", file=sys.stderr, flush=True)
                report = run(path, core, inputs, portable=portable)
                memory = report["memory"]
                yield {
                    "model": name,
                    "core": core,
                    "instructions": report["instructions"],
                    "cycles": report["cycles"],
                    "cycles_error": report["cycles_error"],
                    "arena_bytes": memory["arena_bytes"],
                    "code_bytes": memory["code_bytes"],
                    "code_and_weights_bytes": memory["code_bytes"] + memory["weights_bytes"],
                    "flash_bytes": memory["flash_bytes"],
                    "equal_to_tflm": report["outputs"]["match"],
                    "output_hash": known["output_hash"],
                    "kernels": "portable" if portable else "default",
                    "tflm": known["tflm_reference" if portable else "tflm"].get(core),
                    "closed": None if portable else known["closed"].get(core),
                    "must": {} if portable else ceilings(name, core),
                    "aim": None if portable else aim(name, core),
                    "ops": report["ops"],
                }


def crossed(row: dict[str, Any]) -> list[str]:
    """What a row breaks, in words."""
    place = f"{row['model']} on {row['core']}"
    broken = [] if row["equal_to_tflm"] else [f"{place}: an output differs from TFLM's"]
    for key, limit in row["must"].items():
        if row[key] > limit:
            broken.append(f"{place}: {key} {row[key]:,}, the ceiling is {limit:,}")
    return broken


def show(rows: list[dict[str, Any]]) -> None:
    speed, space = [], []
    portable = any(row["kernels"] == "portable" for row in rows)
    theirs = "TFLM reference" if portable else "TFLM+CMSIS-NN"
    for row in rows:
        tflm, must, error = row["tflm"] or {}, row["must"], row["cycles_error"]
        speed.append([
            row["model"], row["core"], row["instructions"],
            None if error is None else row["cycles"],
            None if error is None else f"{100 * error:.1f} %",
            tflm.get("instructions"),
            tflm["instructions"] / row["instructions"] if tflm else None,
            row["closed"], must.get("instructions"), row["aim"],
        ])  # fmt: skip
        cells: list[object] = [row["model"], row["core"]]
        for key in BYTES:
            cells += [row[key], tflm.get(key), must.get(key)]
        space.append(cells)
    print_table(
        ["model", "core", *((name, "right") for name in (
            "instructions", "cycles", "±", theirs, "ratio", "closed engine", "must", "aim",
        ))],
        speed,
        title="one inference: instructions exact, cycles simulated",
    )  # fmt: skip
    print_table(
        ["model", "core", *((name, "right") for name in (
            "arena", "TFLM", "must", "code", "TFLM", "must", "code+weights", "TFLM", "must",
        ))],
        space,
        title="bytes",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, help="folder with the int8 models")
    parser.add_argument("--core", action="append", choices=list(PUBLISHED["cores"]))
    parser.add_argument("--model", action="append", choices=list(PUBLISHED["models"]))
    parser.add_argument("--portable", action="store_true", help="no kernels of single cores")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    asked = parser.parse_args()
    cores = asked.core or list(PUBLISHED["cores"])
    names = asked.model or list(PUBLISHED["models"])
    rows = list(measure(asked.models, names, cores, portable=asked.portable))
    show(rows)
    if asked.json:
        document = {"schema_version": 1, "sources": PUBLISHED["sources"], "rows": rows}
        asked.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    broken = [line for row in rows for line in crossed(row)]
    for line in broken:
        print(line, file=sys.stderr)
    return 7 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
