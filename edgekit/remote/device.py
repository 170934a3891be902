"""Runs on the device: makes the environment, pins cores, measures a model, puts all back.

edgekit copies this file and starts it over ssh as ``python3 device.py FOLDER``. It needs
Python 3.7 and Linux, and nothing of edgekit. Its standard input carries one line with the request
in JSON, and then a byte every few seconds: when they stop, or the input ends, the connection is
gone, and it ends what it started and restores what it changed. Its standard output carries one
JSON document per line.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn  # noqa: UP035 (Python 3.7)

#: Packages that have an interpreter: module, distribution.
PACKAGES = (
    ("ai_edge_litert", "ai-edge-litert"),
    ("tflite_runtime", "tflite-runtime"),
    ("tensorflow", "tensorflow"),
)
#: Asks a Python for the first of them, with numpy.
PROBE = (
    "import importlib.util as u, sys\n"
    "names = [n for n in ('ai_edge_litert', 'tflite_runtime', 'tensorflow') if u.find_spec(n)]\n"
    "print(names[0] if names and u.find_spec('numpy') else '')\n"
)
_SAMPLE_S = 0.25
_PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """What the user is told: the kind of error, a sentence, a remedy."""

    def __init__(self, kind: str, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.kind, self.what, self.fix = kind, what, fix


class Stopped(Exception):
    """The connection is gone, or a signal came."""


def emit(**document: Any) -> None:
    """One line on standard output."""
    line = json.dumps(document) + "\n"
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except OSError:
        raise Stopped from None


class Supervisor:
    """Owns everything that must not outlive the connection."""

    def __init__(self, folder: str, request: dict[str, Any]) -> None:
        self.folder, self.request = folder, request
        self.sysfs: str = request.get("sysfs") or "/sys"
        self.child: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.stopped = False
        self.restore_file = os.path.join(folder, "restore.json")
        self.notes: list[str] = []
        self.temperatures: dict[str, list[float]] = {}
        self.frequencies: dict[str, list[int]] = {}

    # -- the connection ---------------------------------------------------------------------

    def watch(self) -> None:
        """Ends the work when standard input ends or stays silent (in a thread of its own)."""
        silence = float(self.request.get("silence_s", 20.0))
        while True:
            ready, _, _ = select.select([0], [], [], silence)
            if not ready or not os.read(0, 4096):
                self.stop()
                return

    def stop(self, *_: Any) -> None:
        self.stopped = True
        child = self.child
        if child is not None and child.poll() is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def start(self, command: list[str], stdin: bytes | None = None) -> subprocess.Popen[bytes]:
        """A process in a group of its own, which dies with this one."""
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        with open(os.path.join(self.folder, "child.log"), "wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.child = child
        if self.stopped:
            self.stop()
            raise Stopped
        if stdin is not None and child.stdin is not None:
            try:
                child.stdin.write(stdin)
                child.stdin.close()
            except OSError:
                if self.stopped:
                    raise Stopped from None
        return child

    def run(self, command: list[str]) -> tuple[int, str]:
        """Runs a process to its end; its exit code and the last line it printed."""
        child = self.start(command)
        output, _ = child.communicate()
        if self.stopped:
            raise Stopped
        lines = (output.decode("utf-8", "replace") + self.child_log()).strip().splitlines()
        return child.returncode, lines[-1] if lines else ""

    def child_log(self) -> str:
        with open(os.path.join(self.folder, "child.log"), errors="replace") as log:
            return log.read()

    # -- Python and its environment ---------------------------------------------------------

    def python(self) -> tuple[str, str]:
        """A Python with an interpreter of TensorFlow Lite, and the module's name."""
        wanted = self.request.get("python")
        for candidate in [wanted] if wanted else [sys.executable, "python3"]:
            found = self.probe(candidate)
            if found:
                return candidate, found
        if wanted:
            raise Failure(
                "MissingDependency",
                f"{wanted} has none of ai-edge-litert, tflite-runtime and tensorflow",
                "without --device-python edgekit makes an environment on the device",
            )
        return self.environment()

    def probe(self, python: str) -> str:
        try:
            code, line = self.run([python, "-c", PROBE])
        except OSError as error:
            raise Failure(
                "MissingDependency", f"{python} cannot be run: {error.strerror}"
            ) from None
        return line if code == 0 and line in [module for module, _ in PACKAGES] else ""

    def environment(self) -> tuple[str, str]:
        """The environment of its own, made if it is not there."""
        packages: list[list[str]] = self.request["packages"]
        identity = json.dumps([packages, sys.version, platform.machine()])
        name = "env-" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        folder = os.path.join(self.folder, name)
        python = os.path.join(folder, "bin", "python")
        if os.path.exists(os.path.join(folder, "ready")):
            found = self.probe(python)
            if found:
                emit(event="environment", made=False, name=name)
                return python, found
        shutil.rmtree(folder, ignore_errors=True)
        emit(event="progress", what="making an environment on the device (once)")
        code, line = self.run([sys.executable, "-m", "venv", folder])
        if code:
            shutil.rmtree(folder, ignore_errors=True)
            raise Failure(
                "MissingDependency",
                f"the device's Python cannot make an environment: {line}",
                "on the device: sudo apt install python3-venv; or --device-python with a Python "
                "that has ai-edge-litert",
            )
        for wanted in packages:
            emit(event="progress", what=f"installing {wanted[0]} on the device")
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            code, line = self.run([*pip, *wanted])
            found = self.probe(python) if code == 0 else ""
            if found:
                with open(os.path.join(folder, "ready"), "w") as file:
                    file.write("\n")
                emit(event="environment", made=True, name=name)
                return python, found
        shutil.rmtree(folder, ignore_errors=True)
        raise Failure(
            "MissingDependency",
            "no interpreter of TensorFlow Lite can be installed on the device "
            f"(Python {platform.python_version()}, {platform.machine()}): {line}",
            "--device-python with a Python on the device that has ai-edge-litert, tflite-runtime "
            "or tensorflow",
        )

    # -- cores and governors ----------------------------------------------------------------

    def cpu_file(self, cpu: int, name: str) -> str:
        return os.path.join(self.sysfs, f"devices/system/cpu/cpu{cpu}/cpufreq", name)

    def cores(self) -> list[int]:
        """The cores to use, the fastest first."""
        allowed = os.sched_getaffinity(0)
        wanted = self.request.get("cores")
        if wanted:
            missing = [cpu for cpu in wanted if cpu not in allowed]
            if missing:
                raise Failure(
                    "UsageError",
                    f"the device has no usable core {missing[0]}",
                    "usable: {}".format(", ".join(map(str, sorted(allowed)))),
                )
            return list(wanted)
        return sorted(
            allowed, key=lambda cpu: (-number(self.cpu_file(cpu, "cpuinfo_max_freq")), cpu)
        )

    def set_governors(self, cores: list[int]) -> dict[str, list[str]]:
        """Sets the governor of the cores, where that is allowed; before and during, by core."""
        wanted = self.request.get("governor")
        found: dict[str, list[str]] = {}
        before = {}
        for cpu in cores:
            path = self.cpu_file(cpu, "scaling_governor")
            now = text(path)
            if now:
                found[str(cpu)] = [now, now]
                if wanted and now != wanted:
                    before[path] = now
        if not found:
            self.notes.append("the system does not tell the cores' governor")
        if not before:
            return found
        # Written first: whatever happens from here on, the next run can restore.
        temporary = self.restore_file + ".part"
        with open(temporary, "w") as file:
            json.dump(before, file)
        os.replace(temporary, self.restore_file)
        for cpu in cores:
            path = self.cpu_file(cpu, "scaling_governor")
            if path not in before:
                continue
            reason = write(path, str(wanted))
            found[str(cpu)][1] = text(path)
            if reason:
                self.notes.append(f"core {cpu} stays with the governor '{before[path]}': {reason}")
        return found

    def restore(self) -> None:
        """Puts the governors back, also those that a run that was killed has left."""
        try:
            with open(self.restore_file) as file:
                before = json.load(file)
        except (OSError, ValueError):
            return
        for path, governor in before.items():
            if text(path) != governor:
                write(path, governor)
        os.unlink(self.restore_file)

    # -- temperature and throttling ---------------------------------------------------------

    def sample(self, cores: list[int]) -> None:
        """Notes temperatures (degrees Celsius) and frequencies (kHz)."""
        thermal = os.path.join(self.sysfs, "class/thermal")
        for zone in listing(thermal):
            if zone.startswith("thermal_zone"):
                value = number(os.path.join(thermal, zone, "temp"))
                if value:
                    name = text(os.path.join(thermal, zone, "type")) or zone
                    self.temperatures.setdefault(name, []).append(value / 1000)
        for cpu in cores:
            value = number(self.cpu_file(cpu, "scaling_cur_freq"))
            if value:
                self.frequencies.setdefault(str(cpu), []).append(value)

    def throttling(self) -> dict[str, int]:
        """Counters and flags that tell of throttling, by name."""
        found: dict[str, int] = {}
        flags = text(os.path.join(self.sysfs, "devices/platform/soc/soc:firmware/get_throttled"))
        if flags:
            found["get_throttled"] = int(flags, 16)
        cpus = os.path.join(self.sysfs, "devices/system/cpu")
        for cpu in listing(cpus):
            path = os.path.join(cpus, cpu, "thermal_throttle/core_throttle_count")
            if os.path.exists(path):
                found[f"{cpu} core_throttle_count"] = number(path)
        thermal = os.path.join(self.sysfs, "class/thermal")
        for device in listing(thermal):
            kind = text(os.path.join(thermal, device, "type"))
            if device.startswith("cooling_device") and "cpufreq" in kind:
                path = os.path.join(thermal, device, "cur_state")
                found[f"{device} ({kind})"] = number(path)
        return found

    # -- measuring --------------------------------------------------------------------------

    def measure(self) -> None:
        emit(event="progress", what="looking for an interpreter on the device")
        python, module = self.python()
        cores = self.cores()
        counts = self.request.get("threads") or steps_to(len(cores))
        throttled_before = self.throttling()
        self.sample(cores)
        governors = self.set_governors(cores[: max(counts)])
        runs: list[Any] = []
        for count in counts:
            emit(event="progress", what=f"measuring with {count} thread{'s' * (count > 1)}")
            runs.append(self.measure_once(python, module, count, cores[:count], not runs))
        profile = self.profile(cores)
        self.restore()
        throttled = {
            name: [throttled_before.get(name, 0), value]
            for name, value in self.throttling().items()
        }
        emit(
            event="result",
            device=described(),
            cores=cores,
            governors=governors,
            temperatures_c={name: [v[0], max(v), v[-1]] for name, v in self.temperatures.items()},
            frequencies_khz={name: [min(v), max(v)] for name, v in self.frequencies.items()},
            throttling=throttled,
            runs=runs,
            profile=profile,
            notes=self.notes,
        )

    def measure_once(
        self, python: str, module: str, threads: int, cores: list[int], outputs: bool
    ) -> dict[str, Any]:
        """One process of its own, so that its memory is this configuration's."""
        request = {
            "module": module,
            "model": os.path.join(self.folder, self.request["model"]),
            "inputs": os.path.join(self.folder, self.request["inputs"]),
            "threads": threads,
            "cores": cores,
            "runs": self.request["runs"],
            "warmups": self.request["warmups"],
            "outputs": outputs,
        }
        command = [python, os.path.abspath(__file__), "--measure"]
        child = self.start(command, json.dumps(request).encode())
        assert child.stdout is not None
        content = bytearray()
        descriptor = child.stdout.fileno()
        while True:
            ready, _, _ = select.select([descriptor], [], [], _SAMPLE_S)
            if not ready:
                self.sample(cores)
                continue
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                break
            content += chunk
        child.wait()
        self.sample(cores)
        if self.stopped:
            raise Stopped
        lines = content.decode("utf-8", "replace").strip().splitlines()
        try:
            answer: dict[str, Any] = json.loads(lines[-1])
        except (IndexError, ValueError):
            log = self.child_log().strip().splitlines()
            last = log[-1] if log else "it printed nothing"
            raise Failure(
                "ModelError",
                f"the interpreter ended on this model with code {child.returncode}: {last}",
            ) from None
        if "error" in answer:
            raise Failure("ModelError", answer["error"])
        return answer

    def profile(self, cores: list[int]) -> str | None:
        """What LiteRT's benchmark_model prints with its profiler, if the user brought it."""
        program = self.request.get("benchmark_model")
        if not program:
            return None
        path = os.path.join(self.folder, program)
        os.chmod(path, 0o755)
        emit(event="progress", what="profiling operators with benchmark_model")
        command = [path, "--graph=" + os.path.join(self.folder, self.request["model"])]
        command += ["--enable_op_profiling=true", "--num_threads=1"]
        if shutil.which("taskset"):
            command = ["taskset", "-c", str(cores[0]), *command]
        try:
            child = self.start(command)
        except OSError as error:
            raise Failure(
                "MissingDependency",
                f"benchmark_model does not run on the device ({platform.machine()}): "
                f"{error.strerror}",
                "one built for the device's processor",
            ) from None
        output, _ = child.communicate()
        if self.stopped:
            raise Stopped
        printed = output.decode("utf-8", "replace") + self.child_log()
        if child.returncode:
            lines = printed.strip().splitlines()
            raise Failure(
                "MissingDependency",
                f"benchmark_model ended with code {child.returncode} on the device: "
                + (lines[-1] if lines else "it printed nothing"),
                f"one built for the device's processor ({platform.machine()})",
            )
        return printed


def steps_to(cores: int) -> list[int]:
    """1, 2, 3, 4; from there on doubled; and ``cores``."""
    counts = [1, 2, 3, 4, 8, 16, 32, 64, 128]
    return sorted({count for count in counts if count < cores} | {cores})


def listing(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def text(path: str) -> str:
    """A file's text without white space around it; empty if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip("\0 \n")
    except OSError:
        return ""


def number(path: str) -> int:
    try:
        return int(text(path))
    except ValueError:
        return 0


def write(path: str, value: str) -> str:
    """Writes a file of the system; the reason if it is not allowed."""
    try:
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def described() -> dict[str, Any]:
    model = text("/proc/device-tree/model")
    if not model:
        for line in text("/proc/cpuinfo").splitlines():
            if line.startswith(("model name", "Hardware")):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "name": model or platform.node(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def supervise(folder: str) -> int:
    """The process that ssh starts."""
    line = sys.stdin.buffer.readline()
    if not line.strip():
        return 1
    request = json.loads(line)
    supervisor = Supervisor(folder, request)
    for name in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(name, supervisor.stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    threading.Thread(target=supervisor.watch, daemon=True).start()
    lock = open(os.path.join(folder, "lock"), "w")  # noqa: SIM115 (held until the end)
    deadline = time.monotonic() + float(request.get("lock_s", 30.0))
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline or supervisor.stopped:
                emit(
                    event="error",
                    kind="DeviceError",
                    what="another measurement is running on the device",
                    fix="wait for its end, or end it there",
                )
                return 1
            time.sleep(0.2)
    try:
        supervisor.restore()
        supervisor.measure()
        return 0
    except Failure as failure:
        try:
            emit(event="error", kind=failure.kind, what=failure.what, fix=failure.fix)
        except Stopped:
            return 1
        return 1
    except Stopped:
        return 1
    finally:
        supervisor.stop()
        supervisor.restore()


def measure() -> int:
    """The child: one model, one number of threads."""
    request = json.loads(sys.stdin.buffer.read())
    try:
        os.sched_setaffinity(0, request["cores"])
        pinned = sorted(os.sched_getaffinity(0))
    except OSError:
        pinned = []
    answer = json.dumps({**measured(request), "pinned": pinned})
    sys.stdout.write("\n" + answer + "\n")
    sys.stdout.flush()
    return 0


def measured(request: dict[str, Any]) -> dict[str, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import importlib

    import numpy as np

    name = request["module"]
    parts = "tensorflow.lite.python" if name == "tensorflow" else name
    module = importlib.import_module(parts + ".interpreter")
    with np.load(request["inputs"], allow_pickle=False) as archive:
        arrays = [archive[f"x{i}"] for i in range(len(archive.files))]
    before = memory_bytes("VmRSS")
    started = time.perf_counter_ns()
    try:
        interpreter = module.Interpreter(
            model_path=request["model"], num_threads=request["threads"]
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        return {
            "error": "the device's interpreter refuses the model: " + " ".join(str(error).split())
        }
    load_us = (time.perf_counter_ns() - started) / 1000
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    results = [detail["index"] for detail in interpreter.get_output_details()]

    def invoke(sample: int) -> float:
        for index, array in zip(inputs, arrays):  # noqa: B905 (not in Python 3.7)
            interpreter.set_tensor(index, array[sample])
        begun = time.perf_counter_ns()
        interpreter.invoke()
        return (time.perf_counter_ns() - begun) / 1000

    try:
        first_us = invoke(0)
    except RuntimeError as error:
        return {"error": "the model fails on the device: " + " ".join(str(error).split())}
    digest = hashlib.sha256()
    collected: list[list[Any]] = [[] for _ in results]
    for sample in range(len(arrays[0])):
        invoke(sample)
        for place, index in zip(collected, results):  # noqa: B905
            value = np.ascontiguousarray(interpreter.get_tensor(index))
            digest.update(value.tobytes())
            place.append(value)
    for _ in range(request["warmups"]):
        invoke(0)
    latencies = [invoke(0) for _ in range(request["runs"])]
    peak = memory_bytes("VmHWM")
    answer: dict[str, Any] = {
        "threads": request["threads"],
        "package": dict(PACKAGES).get(name, name),
        "version": version(name),
        "load_us": load_us,
        "first_us": first_us,
        "latencies_us": latencies,
        "peak_bytes": peak,
        "before_bytes": before,
        "sha256": digest.hexdigest(),
    }
    if request["outputs"]:
        answer["outputs"] = [
            {
                "dtype": values[0].dtype.name,
                "shape": [len(values), *values[0].shape],
                "data": base64.b64encode(b"".join(v.tobytes() for v in values)).decode(),
            }
            for values in collected
        ]
    return answer


def memory_bytes(key: str) -> int:
    """A figure of this process from the kernel; 0 where it does not tell."""
    for line in text("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def version(module: str) -> str:
    try:
        from importlib.metadata import PackageNotFoundError
        from importlib.metadata import version as installed
    except ImportError:
        # Python 3.7
        return str(getattr(__import__(module), "__version__", "(unknown version)"))
    for name in (dict(PACKAGES).get(module, module), module + "-cpu"):
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return "(unknown version)"


def main() -> NoReturn:
    code = measure() if sys.argv[1] == "--measure" else supervise(os.path.abspath(sys.argv[1]))
    sys.stdout.flush()
    # The watching thread may sit in a system call.
    os._exit(code)


if __name__ == "__main__":
    main()
