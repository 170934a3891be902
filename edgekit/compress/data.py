"""Training data: arrays, folders of images, or ``tf.data`` from a Python file; and the split.

What a model is judged by is never trained on: some samples are held out before anything
begins, by a fixed permutation, or come from a file of their own.

Batches come in an order that follows from seed and epoch alone, so that a run that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.convert import calibration, custom_code
from edgekit.convert.calibration import Reading
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.convert.sources import Port

#: The permutation that decides what is held out; not the seed of the training.
_SPLIT_SEED = 2018
#: What arrays and folders may take of the memory.
_MOST_BYTES = 8 << 30
_EVERYTHING = 1 << 40


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples in memory: one array [N, …] per input, targets [N, …] or ``None``."""

    inputs: tuple[NDArray[Any], ...]
    targets: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def take(self, indices: Any) -> Examples:
        """The examples with these indices (a list, an array or a slice)."""
        targets = None if self.targets is None else self.targets[indices]
        return Examples(tuple(array[indices] for array in self.inputs), targets)

    def first(self, count: int) -> Examples:
        return self.take(slice(0, count))

    def chunks(self, size: int) -> Iterator[Examples]:
        """All of them in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for array in (*self.inputs, *(() if self.targets is None else (self.targets,))):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(_contiguous(array).tobytes())
        return digest.hexdigest()


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(array)


class TrainingSet(Protocol):
    """What the trainer reads."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, size: int, seed: int) -> Iterator[Examples]:
        """The batches of one epoch: full ones only, unless there are fewer samples than one."""
        ...

    def first(self, count: int) -> Examples:
        """Some samples, always the same: for ranges and saliencies."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySet:
    """Training examples in memory, shuffled anew for each epoch."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, epoch: int, size: int, seed: int) -> Iterator[Examples]:
        import numpy as np

        total = len(self.examples)
        order = np.random.default_rng([seed, epoch]).permutation(total)
        last = total - total % size if total >= size else total
        for start in range(0, last, size):
            yield self.examples.take(order[start : start + size])

    def first(self, count: int) -> Examples:
        return self.examples.first(count)


@dataclass(frozen=True, eq=False)
class StreamSet:
    """Training examples of a ``tf.data.Dataset`` that is read anew in each epoch.

    Its order is its own affair: only if it is the same on each reading does an interrupted run
    end like an uninterrupted one.
    """

    dataset: Any
    count: int
    ports: tuple[Port, ...]
    path: Path

    def __len__(self) -> int:
        return self.count

    def batches(self, epoch: int, size: int, seed: int) -> Iterator[Examples]:
        whole = self.count >= size
        for element in self.dataset.batch(size, drop_remainder=whole).as_numpy_iterator():
            yield _element(element, self.ports, self.path)

    def first(self, count: int) -> Examples:
        return _collect(self.dataset.take(count), self.ports, self.path)


@dataclass(frozen=True, eq=False)
class Data:
    """What a compression works with. ``sha256`` is that of the held-out examples."""

    training: TrainingSet
    held_out: Examples
    kind: str
    warnings: tuple[str, ...] = ()


def read_data(
    path: Path,
    ports: Sequence[Port],
    reading: Reading | None = None,
    *,
    held_out: float = 0.2,
    held_out_data: Path | None = None,
) -> Data:
    """Reads training data and sets some aside.

    Args:
        path: ``.npz`` (``x`` or the inputs' names, and ``y``), ``.npy``, a folder of images
            with one folder per class, or a Python file with ``get_training_data()``, which is
            executed; it returns ``(x, y)`` arrays or a ``tf.data.Dataset`` of single
            ``(x, y)`` samples.
        ports: the model's inputs.
        reading: normalisation and image size.
        held_out: samples to hold out of ``path``: a share below 1, or a number.
        held_out_data: samples to judge by instead; nothing is then taken out of ``path``. A
            Python file's ``get_held_out_data()`` is the same.

    Raises:
        ModelError: the data cannot be read or do not fit the model.
        UsageError: nothing would be left to train on, or the Python file failed.
    """
    reading = reading or Reading()
    reading = Reading(
        reading.normalization, reading.image_size, reading.image_fit, limit=_EVERYTHING
    )
    if not path.exists():
        raise ModelError("there is no such file or folder of training data", str(path))
    judged: Examples | None = None
    warnings: tuple[str, ...] = ()
    if held_out_data is not None:
        judged, warnings = _read_examples(held_out_data, ports, reading)
    if path.suffix.lower() == ".py":
        names = custom_code.run_file(path, "training data")
        if judged is None and callable(names.get("get_held_out_data")):
            judged = _materialised(_called(names["get_held_out_data"], path), ports, path)
        found = _called(names.get("get_training_data"), path)
        if hasattr(found, "as_numpy_iterator"):
            return _streamed(found, ports, path, held_out, judged)
        examples, kind = _materialised(found, ports, path), "python"
    else:
        examples, more = _read_examples(path, ports, reading)
        warnings = (*more, *(w for w in warnings if w not in more))
        kind = "images" if path.is_dir() else path.suffix.lower().lstrip(".")
    if judged is None:
        examples, judged = split(examples, held_out)
    return Data(ArraySet(examples), judged, kind, warnings)


def split(examples: Examples, held_out: float) -> tuple[Examples, Examples]:
    """Training examples and those held out, by a fixed permutation.

    Raises:
        UsageError: one of the two would be empty.
    """
    import numpy as np

    total = len(examples)
    count = _held_out_count(total, held_out)
    order = np.random.RandomState(_SPLIT_SEED).permutation(total)
    return examples.take(np.sort(order[count:])), examples.take(np.sort(order[:count]))


def _held_out_count(total: int, held_out: float) -> int:
    count = round(total * held_out) if held_out < 1 else round(held_out)
    if not 0 < count < total:
        raise UsageError(
            f"holding out {count} of {total} samples leaves "
            + ("nothing to train on" if count else "nothing to judge by"),
            fix="--held-out 0.2, or a file of its own with --held-out-data",
        )
    return count


def _read_examples(
    path: Path, ports: Sequence[Port], reading: Reading
) -> tuple[Examples, tuple[str, ...]]:
    if path.suffix.lower() == ".py":
        names = custom_code.run_file(path, "held-out data")
        function = names.get("get_held_out_data") or names.get("get_training_data")
        return _materialised(_called(function, path), ports, path), ()
    samples = calibration.read_samples(path, ports, reading)
    return Examples(samples.inputs, samples.targets), samples.warnings


def _called(function: Any, path: Path) -> Any:
    if not callable(function):
        raise UsageError(
            "the file defines no function get_training_data()",
            str(path),
            "def get_training_data(): return x, y  (arrays, or a tf.data.Dataset of samples)",
        )
    try:
        return function()
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"{function.__name__}() failed: {custom_code.describe(error)}",
            custom_code.failing_line(error, path),
        ) from None


def _materialised(found: Any, ports: Sequence[Port], path: Path) -> Examples:
    """Arrays of what a Python file gave: ``(x, y)``, ``x``, or a data set that is read whole."""
    import numpy as np

    if hasattr(found, "as_numpy_iterator"):
        return _collect(found, ports, path)
    if isinstance(found, tuple) and len(found) == 2:
        inputs, targets = found
        return _element((inputs, targets), ports, path)
    return _element(np.asarray(found) if not isinstance(found, dict) else found, ports, path)


def _collect(dataset: Any, ports: Sequence[Port], path: Path) -> Examples:
    """All samples of a ``tf.data.Dataset``, which yields them one by one."""
    import numpy as np

    parts: list[Examples] = []
    taken = 0
    for element in dataset.batch(256).as_numpy_iterator():
        parts.append(_element(element, ports, path))
        taken += sum(array.nbytes for array in parts[-1].inputs)
        if taken > _MOST_BYTES:
            raise ModelError(
                f"the samples take more than {_MOST_BYTES >> 30} GiB of memory",
                str(path),
                "get_training_data() that returns a tf.data.Dataset, and fewer samples to judge by",
            )
    if not parts:
        raise ModelError("the data set is empty", str(path))
    targets = None
    if parts[0].targets is not None:
        targets = np.concatenate([part.targets for part in parts if part.targets is not None])
    columns = zip(*(part.inputs for part in parts), strict=True)
    return Examples(tuple(np.concatenate(column) for column in columns), targets)


def _element(element: Any, ports: Sequence[Port], path: Path) -> Examples:
    """A batch as a data set or a function gives it: ``x`` or ``(x, y)``."""
    import numpy as np

    values, targets = element if isinstance(element, tuple) else (element, None)
    if isinstance(values, dict):
        missing = [port.name for port in ports if port.name not in values]
        if missing:
            raise ModelError(f"the samples lack the input '{missing[0]}'", str(path))
        columns = [values[port.name] for port in ports]
    else:
        columns = list(values) if isinstance(values, (list, tuple)) else [values]
    if len(columns) != len(ports):
        raise ModelError(f"the samples have {len(columns)} arrays for {len(ports)} inputs",
                         str(path))  # fmt: skip
    inputs = []
    for column, port in zip(columns, ports, strict=True):
        array = np.asarray(column)
        if array.shape[1:] != port.shape[1:]:
            raise ModelError(
                f"the samples of '{port.name}' have the shape {list(array.shape[1:])}; the model "
                f"takes {list(port.shape[1:])}",
                str(path),
                "single samples, not batches, in a tf.data.Dataset",
            )
        array = array.astype(port.dtype, copy=False)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(f"samples of '{port.name}' hold NaN or infinity", str(path))
        inputs.append(array)
    wanted = None if targets is None else np.asarray(targets)
    if wanted is not None and (wanted.ndim == 0 or len(wanted) != len(inputs[0])):
        raise ModelError(f"there are {wanted.shape} targets for {len(inputs[0])} samples",
                         str(path))  # fmt: skip
    return Examples(tuple(inputs), wanted)


def _streamed(
    dataset: Any,
    ports: Sequence[Port],
    path: Path,
    held_out: float,
    judged: Examples | None,
) -> Data:
    count = int(dataset.cardinality())
    if count == -1:  # infinite
        raise UsageError(
            "the tf.data.Dataset never ends", str(path), "leave out .repeat(), or add .take(N)"
        )
    if count < 0:  # unknown
        count = sum(1 for _ in dataset)
    if judged is None:
        number = _held_out_count(count, held_out)
        judged = _collect(dataset.take(number), ports, path)
        dataset, count = dataset.skip(number), count - number
    return Data(StreamSet(dataset, count, tuple(ports), path), judged, "tf.data")
