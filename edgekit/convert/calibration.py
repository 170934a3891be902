"""Sample inputs: read from arrays, images or a Python file, chosen, normalised and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.convert import custom_code, images
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.convert.normalization import Normalization
    from edgekit.convert.sources import Port

Kind = Literal["npz", "npy", "images", "python", "random"]

#: Fewer samples than this give ranges that other data exceed: a warning.
FEW_SAMPLES = 100
#: Random "calibration": enough to give every tensor a range.
_RANDOM_SAMPLES = 32
_LABEL_KEYS = ("y", "labels", "label", "y_test", "y_train")
_DATA_KEYS = ("x", "data", "images", "x_test", "x_train", "arr_0")


@dataclass(frozen=True)
class Samples:
    """Samples ready for the model: one array [N, …] per input, and what belongs to them.

    ``targets`` are whatever is stored with the samples (classes, one-hot vectors, values
    [N, …]); ``warnings`` are what the checks found; ``kind`` is where the samples came from.
    """

    kind: Kind
    inputs: tuple[NDArray[Any], ...]
    targets: NDArray[Any] | None
    warnings: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[Any] | None:
        """The targets if they are classes [N], else ``None``."""
        targets = self.targets
        if targets is None or targets.ndim != 1 or targets.dtype.kind not in "iub":
            return None  # one-hot vectors and targets of regressions are no classes
        return targets

    def __len__(self) -> int:
        return len(self.inputs[0])

    def sample(self, index: int) -> list[NDArray[Any]]:
        """The inputs of one sample, with a batch of 1 in front."""
        return [array[index : index + 1] for array in self.inputs]

    def take(self, indices: Sequence[int]) -> Samples:
        """The samples with these indices."""
        chosen = list(indices)
        targets = None if self.targets is None else self.targets[chosen]
        return Samples(
            self.kind, tuple(array[chosen] for array in self.inputs), targets, self.warnings
        )


@dataclass(frozen=True)
class Reading:
    """How stored samples are turned into inputs."""

    normalization: Normalization | None = None
    image_size: tuple[int, int] | None = None
    image_fit: images.Fit = "stretch"
    #: at most so many samples are read, evenly spaced over what there is
    limit: int = 1000


def spaced(total: int, count: int) -> list[int]:
    """``count`` indices evenly spaced over ``total`` (data are often sorted by class)."""
    if count >= total:
        return list(range(total))
    return [i * total // count for i in range(count)]


def split(samples: Samples, calibrate: int) -> tuple[Samples, Samples | None]:
    """Divides one set: samples to calibrate with, and the rest to verify on.

    Where the set has no more than ``calibrate`` samples a fifth is held out, unless that
    leaves fewer than :data:`FEW_SAMPLES` to calibrate with: then there is no rest.
    """
    total = len(samples)
    count = calibrate if total > calibrate else total - total // 5
    if total <= calibrate and count < FEW_SAMPLES:
        return samples, None
    chosen = spaced(total, count)
    rest = sorted(set(range(total)) - set(chosen))
    return samples.take(chosen), samples.take(rest) if rest else None


def random_samples(ports: Sequence[Port]) -> Samples:
    """Uniform values in -1..1 (0 and 1 for integer inputs), the same on every run.

    They exercise shapes only: ranges found with them say nothing about real data.
    """
    import numpy as np

    stream = np.random.RandomState(0)
    arrays = []
    for port in ports:
        shape = (_RANDOM_SAMPLES, *port.shape[1:])
        if port.dtype.startswith("float"):
            arrays.append(stream.uniform(-1, 1, shape).astype(port.dtype))
        else:
            arrays.append(stream.randint(0, 2, shape).astype(port.dtype))
    return Samples("random", tuple(arrays), None)


def read_samples(path: Path, ports: Sequence[Port], reading: Reading | None = None) -> Samples:
    """Reads samples for a model's inputs and checks them.

    Args:
        path: ``.npz`` or ``.npy`` arrays [N, …], a folder of images, or a Python file with
            ``get_calibration_data()``, which is executed.
        ports: the model's inputs.
        reading: normalisation, image size, and how many samples to read.

    Raises:
        ModelError: the data cannot be read, do not fit the inputs, or hold NaN or infinity.
        UsageError: the path is none of these, or the Python file failed.
    """
    reading = reading or Reading()
    if not path.exists():
        raise ModelError("there is no such file or folder of samples", str(path))
    suffix = path.suffix.lower()
    kind: Kind
    if path.is_dir():
        kind, (stored, targets) = "images", _read_images(path, ports, reading)
    elif suffix == ".py":
        kind, (stored, targets) = "python", _read_python(path, ports, reading.limit)
    elif suffix == ".npz":
        kind, (stored, targets) = "npz", _read_npz(path, ports, reading.limit)
    elif suffix == ".npy":
        kind, (stored, targets) = "npy", _read_npy(path, ports, reading.limit)
    else:
        raise UsageError(
            f"samples cannot be read from '{path.name}'",
            str(path),
            "an .npz or .npy file, a folder of images, or a .py file with get_calibration_data()",
        )
    warnings: list[str] = []
    inputs = tuple(
        _prepare(array, port, reading.normalization, path, warnings)
        for array, port in zip(stored, ports, strict=True)
    )
    lengths = {len(array) for array in inputs}
    if len(lengths) != 1:
        raise ModelError(f"the inputs have different numbers of samples: {lengths}", str(path))
    if targets is not None and (targets.ndim == 0 or len(targets) != len(inputs[0])):
        count = len(targets) if targets.ndim else 1
        raise ModelError(f"{count} labels for {len(inputs[0])} samples", str(path))
    return Samples(kind, inputs, targets, tuple(warnings))


def few_samples_warning(count: int) -> str | None:
    """What to tell about too few calibration samples."""
    if count >= FEW_SAMPLES:
        return None
    return (
        f"only {count} calibration samples: with fewer than {FEW_SAMPLES} the ranges may be "
        "too narrow for other data"
    )


_Stored = tuple[list["NDArray[Any]"], "NDArray[Any] | None"]


def _read_npz(path: Path, ports: Sequence[Port], limit: int) -> _Stored:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"the .npz file cannot be read: {error}", str(path)) from None
    labels = None
    names = {port.name for port in ports}
    for key in _LABEL_KEYS:
        if key in arrays and key not in names and len(arrays) > 1:
            labels = arrays.pop(key)
            break
    if len(ports) == 1:
        wanted = [ports[0].name, *_DATA_KEYS]
        found = next((key for key in wanted if key in arrays), None)
        if found is None and len(arrays) == 1:
            found = next(iter(arrays))
        if found is None:
            raise ModelError(
                f"none of the arrays {', '.join(arrays)} is the model's input",
                str(path),
                f"name it '{ports[0].name}' or 'x'",
            )
        chosen = [arrays[found]]
    else:
        missing = sorted(names - set(arrays))
        if missing:
            raise ModelError(
                f"the model's inputs {', '.join(missing)} have no array of their name",
                str(path),
                f"the file holds: {', '.join(arrays)}",
            )
        chosen = [arrays[port.name] for port in ports]
    return _limited(chosen, labels, limit)


def _read_npy(path: Path, ports: Sequence[Port], limit: int) -> _Stored:
    import numpy as np

    if len(ports) != 1:
        raise ModelError(
            f"the model has {len(ports)} inputs, and an .npy file holds one array",
            str(path),
            f"an .npz file with arrays named {', '.join(port.name for port in ports)}",
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"the .npy file cannot be read: {error}", str(path)) from None
    return _limited([array], None, limit)


def _limited(arrays: list[NDArray[Any]], labels: NDArray[Any] | None, limit: int) -> _Stored:
    if all(array.ndim and len(array) > limit for array in arrays):
        chosen = spaced(len(arrays[0]), limit)
        if labels is not None and len(labels) == len(arrays[0]):
            labels = labels[chosen]
        arrays = [array[chosen] if len(array) == len(arrays[0]) else array for array in arrays]
    return arrays, labels


def _read_images(path: Path, ports: Sequence[Port], reading: Reading) -> _Stored:
    import numpy as np

    port = ports[0]
    if len(ports) != 1 or len(port.shape) != 4:
        raise ModelError(
            "images need a model with one input [1, height, width, channels]; this one has "
            + ", ".join(f"'{p.name}' {list(p.shape)}" for p in ports),
            str(path),
        )
    _, height, width, channels = port.shape
    if reading.image_size is not None and reading.image_size != (height, width):
        raise UsageError(
            f"--image-size {reading.image_size[0]}x{reading.image_size[1]}: the model takes "
            f"{height}x{width}"
        )
    files, classes = images.find(path)
    chosen = spaced(len(files), reading.limit)
    stack = [images.read(files[i], height, width, channels, reading.image_fit) for i in chosen]
    labels = None if classes is None else np.array([classes[i] for i in chosen])
    return [np.stack(stack)], labels


def _read_python(path: Path, ports: Sequence[Port], limit: int) -> _Stored:
    import numpy as np

    names = custom_code.run_file(path, "calibration data")
    function = names.get("get_calibration_data")
    if not callable(function):
        raise UsageError("the file defines no function get_calibration_data()", str(path))
    rows: list[list[Any]] = []
    try:
        for item in function():
            rows.append(_row(item, ports, path))
            if len(rows) == limit:
                break
    except (KeyboardInterrupt, MemoryError, UsageError, ModelError):
        raise
    except Exception as error:
        raise UsageError(
            f"get_calibration_data() failed: {custom_code.describe(error)}",
            custom_code.failing_line(error, path),
        ) from None
    if not rows:
        raise ModelError("get_calibration_data() gave no samples", str(path))
    try:
        return [np.stack(column) for column in zip(*rows, strict=True)], None
    except ValueError as error:
        raise ModelError(f"the samples differ in shape: {error}", str(path)) from None


def _row(item: Any, ports: Sequence[Port], path: Path) -> list[Any]:
    """One sample: an array, a list of arrays, or arrays by input name."""
    import numpy as np

    if isinstance(item, dict):
        missing = [port.name for port in ports if port.name not in item]
        if missing:
            raise ModelError(f"a sample lacks the input '{missing[0]}'", str(path))
        values = [item[port.name] for port in ports]
    elif isinstance(item, (list, tuple)) and len(item) == len(ports):
        values = list(item)
    else:
        values = [item]
    if len(values) != len(ports):
        raise ModelError(f"a sample has {len(values)} arrays for {len(ports)} inputs", str(path))
    arrays = []
    for value, port in zip(values, ports, strict=True):
        array = np.asarray(value)
        arrays.append(array[0] if array.shape == port.shape else array)
    return arrays


def _prepare(
    stored: NDArray[Any],
    port: Port,
    normalization: Normalization | None,
    path: Path,
    warnings: list[str],
) -> NDArray[Any]:
    """An array [N, …] in the shape and type of an input, checked."""
    import numpy as np

    if stored.dtype.kind not in "fiub":
        raise ModelError(f"the samples are of type {stored.dtype}, not numbers", str(path))
    array = _shaped(stored, port, path)
    if len(array) == 0:
        raise ModelError("there are no samples", str(path))
    if not port.dtype.startswith("float"):
        if array.dtype.kind == "f" and not (array == np.round(array)).all():
            raise ModelError(
                f"the input '{port.name}' takes {port.dtype}, the samples hold fractions", str(path)
            )
        return array.astype(port.dtype)
    if normalization is not None:
        channels = max(len(normalization.mean), len(normalization.std))
        if channels not in (1, array.shape[-1]):
            raise UsageError(
                f"--normalize has {channels} channels, the input '{port.name}' has "
                f"{array.shape[-1]}"
            )
        array = normalization.apply(array)
    elif stored.dtype.kind in "iu" and stored.dtype.itemsize == 1:
        warnings.append(
            f"the samples of '{port.name}' are {stored.dtype} ({stored.min()} to {stored.max()}) "
            "and are used as they are: give --normalize unless the model was trained on such values"
        )
    array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ModelError(
            f"{int((~finite).sum())} of {len(array)} samples of '{port.name}' hold NaN or "
            f"infinity; the first is sample {first}",
            str(path),
        )
    _check_range(array, port, path, warnings)
    return array.astype(port.dtype, copy=False)


def _shaped(stored: NDArray[Any], port: Port, path: Path) -> NDArray[Any]:
    wanted = port.shape[1:]
    got = stored.shape[1:]
    if got == wanted:
        return stored
    if got == (1, *wanted):
        return stored[:, 0]
    if stored.ndim and (*got, 1) == wanted:
        return stored[..., None]
    raise ModelError(
        f"the samples of '{port.name}' have the shape {list(stored.shape)}; the model takes "
        f"{['N', *wanted]}".replace("'N'", "N"),
        str(path),
    )


def _check_range(array: NDArray[Any], port: Port, path: Path, warnings: list[str]) -> None:
    import numpy as np

    low, high = float(array.min()), float(array.max())
    if low == high:
        raise ModelError(f"every value of '{port.name}' is {low:g}: no range to find", str(path))
    # Percentiles of everything would cost more than the calibration: a million is enough.
    values = np.abs(array.reshape(-1)[:: max(1, array.size // 1_000_000)])
    usual = float(np.percentile(values, 99.9))
    largest = max(abs(low), abs(high))
    if usual > 0 and largest > 50 * usual:
        warnings.append(
            f"the samples of '{port.name}' reach {largest:.4g}, while 99.9 % are within "
            f"{usual:.4g}: such outliers widen the ranges and cost precision"
        )
