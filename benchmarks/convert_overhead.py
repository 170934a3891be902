"""What `edgekit convert` costs over a script that calls TensorFlow Lite's converter directly.

::

    python benchmarks/convert_overhead.py MODEL DATA.npz [DIVISOR]

MODEL is an .h5 or .keras file or a SavedModel folder, DATA has `x`, which is divided by DIVISOR
(1 by default). Both run in processes of their own, alternating, with the same 200 samples; the
figures are wall time and peak memory of the whole process tree, the least of the runs. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 3

_DIRECT = """
import sys
import numpy as np, tensorflow as tf
model, data, divisor, output = sys.argv[1:]
x = np.load(data)["x"]
x = x[[i * len(x) // 200 for i in range(200)]].astype(np.float32) / float(divisor)
if model.endswith(".h5"):
    import tf_keras
    make, loaded = tf.lite.TFLiteConverter.from_keras_model, tf_keras.models.load_model(model)
elif model.endswith(".keras"):
    import keras
    make, loaded = tf.lite.TFLiteConverter.from_keras_model, keras.models.load_model(model)
else:
    make, loaded = tf.lite.TFLiteConverter.from_saved_model, model
converter = make(loaded)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([sample[None]] for sample in x)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(output, "wb").write(converter.convert())
"""


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(str(__doc__))
    model, data, divisor = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["1"])[0]
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "model.tflite")
        commands = {
            "direct": [sys.executable, "-c", _DIRECT, model, data, divisor, output],
            "edgekit": [
                *(sys.executable, "-m", "edgekit", "convert", model, "-o", output),
                *("--calibration-data", data, "--normalize", f"std={divisor}"),
            ],
        }
        best: dict[str, tuple[float, int]] = {}
        for _ in range(RUNS):
            for name, command in commands.items():
                seconds, peak = measure(command)
                before = best.get(name, (seconds, peak))
                best[name] = min(before[0], seconds), min(before[1], peak)
    for name, (seconds, peak) in best.items():
        print(f"{name:8} {seconds:6.1f} s  {peak / 1e6:6.0f} MB   (measured, least of {RUNS})")
    (direct_s, direct_peak), (ours_s, ours_peak) = best["direct"], best["edgekit"]
    print(
        f"overhead {(ours_s / direct_s - 1):+6.0%}    {(ours_peak - direct_peak) / 1e6:+6.0f} MB   "
        "(limits: +10 %, +300 MB)"
    )


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command and its children."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command[:6])} …")
    return time.perf_counter() - start, peak


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(own.split()[1]) * 1024 + sum(resident_bytes(int(child)) for child in children)


if __name__ == "__main__":
    main()
