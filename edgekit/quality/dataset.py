"""Data for validation: ``.npz`` files with ``x`` and ``y``, adapted to a model's input.

How ``x`` becomes the model's input is a rule with a name, which is reported with every result:

``quantized``
    ``x`` has the input's type and is passed as it is.
``image``
    ``x`` is uint8 pixels. An int8 input gets ``x - 128``, a uint8 input ``x``, a float input
    ``x / 255``; where the model's metadata hold a normalisation, ``(x - mean) / std``,
    quantised, takes its place.
``real``
    ``x`` is real numbers, quantised with the input's scale and zero point, rounded half away
    from zero.

``auto`` picks the first that fits without doubt: the same type is ``quantized``, floats are
``real``, and uint8 pixels are ``image`` if the input's quantisation covers pixels (real values
from 0 to 1, 0 to 255 or -1 to 1) or the metadata hold a normalisation. Otherwise it asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgekit.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model, Tensor

InputMode = Literal["auto", "quantized", "image", "real"]
INPUT_MODES: tuple[str, ...] = get_args(InputMode)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples for a model. ``inputs`` has one array per model input: ``[N, …]``.

    ``labels`` is ``y`` of the file or ``None``; ``rules`` says for every input how ``x``
    became it ("image: x - 128").
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None
    rules: tuple[str, ...]
    source: str
    #: windows per sample: above 1 where a sample holds several inputs of the model in a row
    windows: int = 1

    def __len__(self) -> int:
        return len(self.inputs[0]) // self.windows

    def samples(self) -> Iterator[list[NDArray[Any]]]:
        """The model's inputs, one list after the other (all windows of all samples)."""
        for i in range(len(self.inputs[0])):
            yield [array[i] for array in self.inputs]

    def spread(self, count: int) -> list[list[NDArray[Any]]]:
        """``count`` inputs evenly spread over the data (all, if there are fewer)."""
        total = len(self.inputs[0])
        chosen = range(total) if count >= total else [i * total // count for i in range(count)]
        return [[array[i] for array in self.inputs] for i in chosen]


def read_dataset(
    path: Path, model: Model, *, mode: InputMode = "auto", limit: int | None = None
) -> Dataset:
    """Reads an ``.npz`` file and adapts it to a model.

    The file holds ``x`` of shape ``[N, …]`` (a model with several inputs: ``x0``, ``x1``, …)
    and, for most metrics, ``y`` with N labels. A sample with k times the elements of the
    model's only input is taken as k inputs in a row. An ``.npy`` file is ``x`` alone.

    Args:
        path: the file.
        model: the model whose inputs are wanted.
        mode: the rule of adaptation; see the module's text.
        limit: use only the first so many samples.

    Raises:
        ModelError: the file cannot be read, lacks a key, or does not fit the model.
    """
    arrays = _load(path)
    keys = ["x"] if len(model.inputs) == 1 else [f"x{i}" for i in range(len(model.inputs))]
    for key in keys:
        if key not in arrays:
            names = ", ".join(sorted(arrays)) or "nothing"
            raise ModelError(f"the data hold no '{key}', only: {names}", str(path))
    count = len(arrays[keys[0]]) if arrays[keys[0]].ndim else 0
    labels = arrays.get("y")
    for key in (*keys, *(["y"] if labels is not None else [])):
        if arrays[key].ndim == 0 or len(arrays[key]) != count:
            raise ModelError(
                f"'{key}' has the shape {list(arrays[key].shape)} where '{keys[0]}' has "
                f"{count} samples",
                str(path),
            )
    if count == 0:
        raise ModelError("the data hold no samples", str(path))
    count = count if limit is None else min(limit, count)
    inputs, rules, windows = [], [], 1
    for position, (key, tensor) in enumerate(zip(keys, model.input_tensors, strict=True)):
        shaped, windows = _shaped(arrays[key][:count], tensor, key, path, len(keys) == 1)
        adapted, rule = adapt(shaped, tensor, mode, _normalization(model, position))
        inputs.append(adapted)
        rules.append(rule)
    return Dataset(
        inputs=tuple(inputs),
        labels=None if labels is None else labels[:count],
        rules=tuple(rules),
        source=path.name,
        windows=windows,
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise ModelError("the data file does not exist", str(path)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"the data cannot be read: {reason}", str(path), "numpy.savez(path, x=..., y=...)"
        ) from None


def _shaped(
    array: NDArray[Any], tensor: Tensor, key: str, path: Path, windows_allowed: bool
) -> tuple[NDArray[Any], int]:
    """``array`` as ``[N * windows, *tensor.shape]``."""
    per_sample = array[0].size
    windows, rest = divmod(per_sample, max(tensor.elements, 1))
    if rest or windows < 1 or (windows > 1 and not windows_allowed):
        raise ModelError(
            f"'{key}' has samples of shape {list(array.shape[1:])}; the input takes "
            f"{list(tensor.shape)}",
            str(path),
        )
    return array.reshape((len(array) * windows, *tensor.shape)), windows


def _normalization(
    model: Model, position: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    from edgekit.convert.metadata import read_metadata

    metadata = read_metadata(model)
    if metadata is None or position >= len(metadata.inputs):
        return None
    found = metadata.inputs[position]
    return (found.mean, found.std) if found.mean and all(found.std) and found.std else None


def adapt(
    x: NDArray[Any],
    tensor: Tensor,
    mode: InputMode,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
) -> tuple[NDArray[Any], str]:
    """``x`` (``[N, *tensor.shape]``) as the input takes it, and the rule that was applied.

    Raises:
        ModelError: the rule does not fit the data, or ``auto`` finds none.
    """
    import numpy as np

    place = f"input '{tensor.name}' ({tensor.dtype})"
    if mode == "auto":
        mode = _automatic(x, tensor, normalization is not None)
    if mode == "quantized":
        if x.dtype.name != tensor.dtype:
            raise ModelError(f"quantized data must be {tensor.dtype}, these are {x.dtype}", place)
        return x, "quantized: x as it is"
    if mode == "image":
        if x.dtype != np.uint8:
            raise ModelError(f"images must be uint8, these are {x.dtype}", place)
        return _images(x, tensor, normalization)
    if x.dtype.kind not in "fiu":
        raise ModelError(f"real data must be numbers, these are {x.dtype}", place)
    if not np.isfinite(x).all():
        raise ModelError("the data hold values that are not finite", place)
    return _real(x.astype(np.float64), tensor, "real: x")


def _automatic(x: NDArray[Any], tensor: Tensor, normalized: bool) -> InputMode:
    if x.dtype.name == tensor.dtype:
        return "quantized"
    if x.dtype.kind == "f":
        return "real"
    if x.dtype.name == "uint8" and (normalized or _covers_pixels(tensor)):
        return "image"
    quantization = tensor.quantization
    scale = f", scale {quantization.scale:.6g}" if quantization else ""
    raise ModelError(
        f"how {x.dtype} data become this input is not clear",
        f"input '{tensor.name}': {tensor.dtype}{scale}, zero point {tensor.zero_point}",
        "--input-mode quantized, image or real",
    )


def _covers_pixels(tensor: Tensor) -> bool:
    """Whether the input's quantisation makes ``x - 128`` of pixels in a usual range."""
    if tensor.dtype != "int8" or tensor.quantization is None:
        return False
    span, zero_point = tensor.scale * 255, tensor.zero_point
    if zero_point == -128:
        return any(abs(span - usual) < 0.01 * usual for usual in (1.0, 255.0))
    return zero_point in (-1, 0) and abs(span - 2.0) < 0.02


def _images(
    x: NDArray[Any],
    tensor: Tensor,
    normalization: tuple[Sequence[float], Sequence[float]] | None,
) -> tuple[NDArray[Any], str]:
    import numpy as np

    if normalization is not None:
        mean, std = (np.asarray(v, np.float64) for v in normalization)
        try:
            real = (x.astype(np.float64) - mean) / std
        except ValueError:
            raise ModelError(
                f"the metadata normalise {mean.size} channels, the images have {x.shape[-1]}",
                f"input '{tensor.name}'",
            ) from None
        return _real(real, tensor, f"image: (x - {mean.tolist()}) / {std.tolist()} (metadata)")
    if tensor.dtype == "int8":
        return (x.astype(np.int16) - 128).astype(np.int8), "image: x - 128"
    if tensor.dtype == "uint8":
        return x, "image: x as it is"
    if tensor.dtype == "float32":
        return x.astype(np.float32) / np.float32(255), "image: x / 255"
    raise ModelError(f"there is no rule for images into {tensor.dtype}", f"input '{tensor.name}'")


def _real(x: NDArray[Any], tensor: Tensor, rule: str) -> tuple[NDArray[Any], str]:
    from edgekit.convert.verify import quantize_array

    if tensor.dtype.startswith("float"):
        return x.astype(tensor.dtype), rule
    if tensor.quantization is None or tensor.quantization.per_channel:
        raise ModelError("the input is not quantised: it takes no real numbers", tensor.name)
    text = f"{rule}, quantised (scale {tensor.scale:.6g}, zero point {tensor.zero_point})"
    return quantize_array(x, tensor), text
