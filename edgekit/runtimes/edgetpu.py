"""Models on an Edge TPU of this computer: libedgetpu as a delegate of TensorFlow Lite.

``libedgetpu`` is loaded as it is, through whichever package can load delegates; Google's pycoral
is used only where its own module is there, since the package of that name on PyPI is a tool for
coral reefs. Everything native happens in processes of their own.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, MissingDependency, ModelError
from edgekit.runtimes.native import captured_stderr

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARIES = {
    "linux": "libedgetpu.so.1",
    "darwin": "libedgetpu.1.dylib",
    "win32": "edgetpu.dll",
}
#: Names a file to load instead, such as a build that matches the installed TensorFlow Lite.
LIBRARY_VARIABLE = "EDGEKIT_LIBEDGETPU"
#: Packages with an interpreter that takes delegates, the preferred first.
PACKAGES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
    ("tensorflow.lite.python.interpreter", "tensorflow"),
)
INSTALL_LIBRARY = (
    "install Google's libedgetpu1-std (coral.ai/docs/accelerator/get-started), or set "
    f"{LIBRARY_VARIABLE} to a build that matches your TensorFlow Lite"
)
PLUG_IN = (
    "plug the device in (lsusb shows 1a6e:089a before the first use, 18d1:9302 after it; PCIe: "
    "/dev/apex_0), check the udev rule (edgekit doctor), end other programs that use it"
)
_PROBE_TIMEOUT_S = 30.0
_DEVICE_TYPES = {0: "pci", 1: "usb"}
_MAX_DEVICES = 64
_RUNTIME_VERSION = re.compile(r"RuntimeVersion\((\d+)\)")
_NEWER = re.compile(r"runtime version \(?(\d+)\)?[^0-9]*newer than [^0-9]*(\d+)")


@dataclass(frozen=True)
class Device:
    """An Edge TPU that libedgetpu lists; ``kind`` is usb or pci."""

    kind: str
    path: str


@dataclass(frozen=True)
class Library:
    """The installed libedgetpu."""

    name: str
    version: str
    #: ``None`` where its version text does not tell
    runtime_version: int | None
    devices: tuple[Device, ...]


def library_name() -> str:
    """The file that is loaded."""
    return os.environ.get(LIBRARY_VARIABLE) or LIBRARIES.get(sys.platform, LIBRARIES["linux"])


def probe() -> Library:
    """Asks libedgetpu for its version and the devices, in a process of its own.

    Raises:
        MissingDependency: the library is not installed, or does not answer.
    """
    name = library_name()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.runtimes.edgetpu", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingDependency(
            f"{Path(name).name} did not list its devices within {_PROBE_TIMEOUT_S:.0f} s",
            None,
            PLUG_IN,
        ) from None
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise MissingDependency(
            f"{Path(name).name} ended with code {done.returncode} while it listed its devices",
            None,
            INSTALL_LIBRARY,
        ) from None
    if "error" in answer:
        raise _library_error(name, str(answer["error"]))
    return Library(
        name=Path(name).name,
        version=answer["version"],
        runtime_version=answer["runtime_version"],
        devices=tuple(Device(**device) for device in answer["devices"]),
    )


def _library_error(name: str, reason: str) -> MissingDependency:
    file = Path(name).name
    if "No such file" in reason or "cannot open shared object" in reason or "not found" in reason:
        return MissingDependency(
            f"running on an Edge TPU needs {file}, which is not installed", None, INSTALL_LIBRARY
        )
    return MissingDependency(
        f"{file} cannot be loaded: {' '.join(reason.split())}", None, INSTALL_LIBRARY
    )


def require_runtime(library: Library, needed: int, model_name: str) -> None:
    """Raises when a compiled model needs a newer runtime than the one installed.

    Raises:
        MissingDependency: it does.
    """
    have = library.runtime_version
    if have is not None and needed > have:
        raise MissingDependency(
            f"the model needs Edge TPU runtime version {needed}; {library.name} has {have}",
            model_name,
            f"install a newer libedgetpu, or compile with --set min-runtime={have}",
        )


def require_device(library: Library, kind: str = "") -> Device:
    """The first Edge TPU (of a kind: usb or pci; any by default).

    Raises:
        DeviceError: there is none.
    """
    found = [d for d in library.devices if not kind or d.kind == kind.partition(":")[0]]
    if not found:
        what = f"no {kind.partition(':')[0].upper()} Edge TPU" if kind else "no Edge TPU"
        raise DeviceError(f"{library.name} finds {what} on this computer", None, PLUG_IN)
    return found[0]


def find_package() -> tuple[str, str]:
    """Module and name of the package whose interpreter is used.

    Raises:
        MissingDependency: none is installed.
    """
    for module, title in PACKAGES:
        if _exists(module):
            return module, title
    if _exists("pycoral.utils.edgetpu"):
        return "pycoral.utils.edgetpu", "pycoral"
    raise MissingDependency(
        "running on an Edge TPU needs a Python package with TensorFlow Lite; none of "
        "ai-edge-litert, tflite-runtime and Google's pycoral is installed",
        None,
        "pip install ai-edge-litert",
    )


def _exists(module: str) -> bool:
    """Whether a module is installed; nothing is imported, not even the package it is in."""
    package, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    inside = Path(*rest[:-1], f"{rest[-1]}.py")
    return any((Path(folder) / inside).is_file() for folder in folders)


class EdgeTpuRunner:
    """A compiled model in TensorFlow Lite with libedgetpu as its delegate.

    Args:
        model_bytes: the compiled ``.tflite`` file.
        device: "" for any, or usb, usb:N, pci, pci:N, :N.

    Raises:
        MissingDependency: no package or no library.
        DeviceError: no device, or it refuses the model.
        ModelError: the interpreter refuses the model.
    """

    def __init__(self, model_bytes: bytes, *, device: str = "") -> None:
        module, package = find_package()
        name = library_name()
        with captured_stderr() as log:
            try:
                self._interpreter = _open(module, name, device, model_bytes)
                self._interpreter.allocate_tensors()
            except (OSError, ValueError, RuntimeError) as error:
                raise explain(error, log(), name, package) from None
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]
        self.title = f"{package} with {Path(name).name}"

    def invoke(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self._set(inputs)
        self._run()
        return [self._interpreter.get_tensor(index).copy() for index in self._outputs]

    def tensor(self, index: int) -> NDArray[Any]:
        raise ModelError("an Edge TPU keeps no tensors inside the model")

    def tensors(self, indices: Sequence[int]) -> list[NDArray[Any]]:
        return [self.tensor(index) for index in indices]

    def time(self, inputs: Sequence[NDArray[Any]], runs: int) -> list[float]:
        self._set(inputs)
        times = []
        for _ in range(runs):
            start = time.perf_counter_ns()
            self._run()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times

    def allocations(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        # the device is free again when the last reference to the delegate is gone
        del self._interpreter

    def __enter__(self) -> EdgeTpuRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _set(self, inputs: Sequence[NDArray[Any]]) -> None:
        for index, array in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, array)

    def _run(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise DeviceError(
                f"the Edge TPU stopped during an inference: {' '.join(str(error).split())}",
                None,
                "unplug the device and plug it in again; a powered hub helps with USB errors",
            ) from None


def open_model(model_bytes: bytes, **arguments: Any) -> EdgeTpuRunner:
    return EdgeTpuRunner(model_bytes, **arguments)


def _open(module: str, library: str, device: str, model_bytes: bytes) -> Any:
    loaded: Any = importlib.import_module(module)
    if module.startswith("pycoral"):
        return loaded.make_interpreter(model_bytes, device=device or None)
    delegate = loaded.load_delegate(library, {"device": device} if device else {})
    return loaded.Interpreter(model_content=model_bytes, experimental_delegates=[delegate])


def explain(
    error: Exception, log: str, library: str, package: str
) -> MissingDependency | DeviceError | ModelError:
    """The sentence for what the interpreter or the delegate raised."""
    text = " ".join(f"{error} {log}".split())
    file = Path(library).name
    newer = _NEWER.search(text)
    if newer:
        return MissingDependency(
            f"the model needs Edge TPU runtime version {newer.group(1)}, newer than {file}'s "
            f"{newer.group(2)}",
            None,
            f"install a newer libedgetpu, or compile with --set min-runtime={newer.group(2)}",
        )
    if isinstance(error, OSError):
        return _library_error(library, str(error))
    if "Failed to load delegate" in text:
        return DeviceError(f"{file} is there, but no Edge TPU answers", None, PLUG_IN)
    if "edgetpu-custom-op" in text:
        return DeviceError(
            f"{package} ran the model without its Edge TPU delegate (unresolved edgetpu-custom-op)",
            None,
            f"a {file} that was built for the same TensorFlow Lite as {package}; "
            f"{LIBRARY_VARIABLE} names one",
        )
    custom = re.search(r"unresolved custom op: ([\w:\-]+)", text)
    if custom:
        return ModelError(
            f"{package} has no kernel for the custom operator {custom.group(1)}, which stays on "
            "the CPU",
            None,
            "a model without it, or Google's pycoral, which brings PosenetDecoderOp and others",
        )
    return ModelError(f"{package} refuses the compiled model: {' '.join(str(error).split())}")


class _DeviceStruct(ctypes.Structure):
    """``struct edgetpu_device`` of libedgetpu's C header."""

    _fields_ = [("type", ctypes.c_int), ("path", ctypes.c_char_p)]  # noqa: RUF012


def _probe_here(name: str) -> dict[str, Any]:
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return {"error": str(error)}
    try:
        library.edgetpu_version.restype = ctypes.c_char_p
        library.edgetpu_list_devices.restype = ctypes.POINTER(_DeviceStruct)
        library.edgetpu_list_devices.argtypes = [ctypes.POINTER(ctypes.c_size_t)]
        library.edgetpu_free_devices.argtypes = [ctypes.POINTER(_DeviceStruct)]
    except AttributeError as error:
        return {"error": f"it is no libedgetpu ({error})"}
    version = (library.edgetpu_version() or b"").decode("utf-8", "replace")
    count = ctypes.c_size_t()
    listed = library.edgetpu_list_devices(ctypes.byref(count))
    devices = [
        Device(
            _DEVICE_TYPES.get(listed[i].type, "unknown"),
            (listed[i].path or b"").decode("utf-8", "replace"),
        )
        for i in range(min(count.value, _MAX_DEVICES) if listed else 0)
    ]
    if listed:
        library.edgetpu_free_devices(listed)
    found = _RUNTIME_VERSION.search(version)
    return {
        "version": version,
        "runtime_version": int(found.group(1)) if found else None,
        "devices": [asdict(device) for device in devices],
    }


if __name__ == "__main__":
    print(json.dumps(_probe_here(sys.argv[1])))
