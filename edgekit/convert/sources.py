"""Trained models as they come: which loader one needs is found in the file, not asked.

======================= ==================================================================
what it is              how it is recognised
======================= ==================================================================
``.keras``              a zip archive with ``config.json``
``.h5``                 an HDF5 file with a ``model_config``
SavedModel              a folder with ``saved_model.pb``
``.tflite``             bytes 4 to 8 are ``TFL3``
======================= ==================================================================

A model is a program: loading one whose author is unknown is like running it. Python code in a
file is refused by default (see ``custom_code``); TensorFlow's own operators are not, and some of
them read and write files.

Both Keras formats say which Keras wrote them: version 2 needs ``tf_keras``, version 3 ``keras``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.convert import custom_code, frameworks
from edgekit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.graph import Model

Format = Literal["keras", "h5", "savedmodel", "tflite"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ONNX_HINT = (
    "onnx2tf -i MODEL.onnx -o FOLDER in an environment of its own (it cannot share this one), "
    "then edgekit convert FOLDER -o OUT.tflite"
)
_TORCH_HINT = (
    "torch.onnx.export to an .onnx file, onnx2tf to a SavedModel, then edgekit convert FOLDER"
)


@dataclass(frozen=True)
class Source:
    """A model file or folder that was recognised.

    ``sha256`` is the file's; for a folder it covers the relative path and content of every
    file in it, in sorted order. ``keras_version`` is that of the Keras which wrote the file.
    """

    path: Path
    format: Format
    sha256: str
    nbytes: int
    keras_version: str | None = None


@dataclass(frozen=True)
class Port:
    """An input or output of the float model; ``shape`` has the batch of 1 in front."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FloatModel:
    """A loaded model as one concrete function with a fixed batch of 1.

    ``function`` takes the inputs in the order of ``inputs`` and returns a list of outputs. It
    refers to its variables weakly; ``owner`` holds them.
    """

    function: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    owner: Any

    def run(self, sample: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one sample, whose arrays have the ports' shapes and types."""
        tf = frameworks.tensorflow()
        results = self.function(*(tf.constant(array) for array in sample))
        return [result.numpy() for result in results]


@dataclass(frozen=True)
class FloatFile:
    """A float ``.tflite`` file that runs like a :class:`FloatModel`; see :func:`open_file`."""

    model: Model
    runner: Any

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(Port(t.name, t.shape, t.dtype) for t in self.model.input_tensors)

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(Port(t.name, t.shape, t.dtype) for t in self.model.output_tensors)

    def run(self, sample: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one sample, whose arrays have the ports' shapes and types."""
        results: list[NDArray[Any]] = self.runner.invoke(*sample)
        return results


def open_file(model: Model) -> FloatFile:
    """A float ``.tflite`` model in TensorFlow Lite, in this process.

    Raises:
        ModelError: the runtime does not take the model.
    """
    from edgekit.runtimes import open_runner

    return FloatFile(model, open_runner("litert", model.raw, isolated=False))


def identify(path: Path) -> Source:
    """Finds out what a file or folder is.

    Raises:
        ModelError: it does not exist, or it is none that can be converted; the error names
            the way for ONNX, PyTorch and weights without a model.
    """
    if path.is_dir():
        return _identify_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise ModelError("there is no such file or folder", str(path)) from None
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", str(path)) from None
    found, keras_version = _identify_file(path, head)
    return Source(path, found, file_sha256(path), path.stat().st_size, keras_version)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _identify_folder(path: Path) -> Source:
    if not (path / "saved_model.pb").is_file():
        if (path / "saved_model.pbtxt").is_file():
            raise ModelError("a SavedModel in text form is not supported", str(path))
        raise ModelError(
            "the folder is no SavedModel: it holds no saved_model.pb",
            str(path),
            "model.export(FOLDER) in Keras, or tf.saved_model.save",
        )
    digest, total = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(file)))
        total += file.stat().st_size
    return Source(path, "savedmodel", digest.hexdigest(), total)


def _identify_file(path: Path, head: bytes) -> tuple[Format, str | None]:
    place, suffix = str(path), path.suffix.lower()
    if head[4:8] == b"TFL3":
        return "tflite", None
    if head.startswith(_HDF5):
        return _identify_hdf5(path)
    if head.startswith(b"PK"):
        return _identify_zip(path)
    if suffix == ".onnx" or (head[:1] == b"\x08" and b"onnx" in head.lower()):
        raise ModelError("ONNX models are not converted yet", place, _ONNX_HINT)
    if suffix in (".pt", ".pth", ".safetensors") or head.startswith(b"\x80\x02"):
        raise ModelError("PyTorch models are not converted yet", place, _TORCH_HINT)
    if suffix == ".pb":
        raise ModelError(
            "this is a single .pb file",
            place,
            "its folder if it is a saved_model.pb; a frozen TensorFlow 1 graph must first "
            "be saved as a SavedModel",
        )
    if not head:
        raise ModelError("the file is empty", place)
    raise ModelError(
        "this is no model that edgekit knows (.keras, .h5, SavedModel folder, .tflite)", place
    )


def _identify_zip(path: Path) -> tuple[Format, str | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = archive.read("metadata.json") if "metadata.json" in names else b"{}"
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise ModelError(f"the archive is damaged: {error}", str(path)) from None
    if "config.json" in names:
        try:
            version = json.loads(metadata).get("keras_version")
        except (ValueError, AttributeError):
            version = None
        return "keras", str(version) if version else None
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise ModelError("PyTorch models are not converted yet", str(path), _TORCH_HINT)
    raise ModelError("the archive is no .keras file: it holds no config.json", str(path))


def _identify_hdf5(path: Path) -> tuple[Format, str | None]:
    if _hdf5_attribute(path, "model_config") is None:
        raise ModelError(
            "the HDF5 file holds weights but no model",
            str(path),
            "model.save('model.keras') instead of model.save_weights",
        )
    return "h5", _hdf5_attribute(path, "keras_version")


def _hdf5_attribute(path: Path, name: str) -> str | None:
    try:
        import h5py
    except ModuleNotFoundError:
        from edgekit.errors import missing_extra

        raise missing_extra("h5py", "convert", "reading an .h5 model") from None
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get(name)
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the HDF5 file is damaged: {reason}", str(path)) from None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def load(
    source: Source,
    *,
    allow_custom_code: bool = False,
    custom_objects: Path | None = None,
    signature: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> FloatModel:
    """Loads a trained model with the loader it needs.

    Args:
        source: what :func:`identify` found; any format but ``tflite``.
        allow_custom_code: run the Python code of Lambda layers.
        custom_objects: a Python file with custom classes and functions; it is executed.
        signature: a SavedModel's signature, by default ``serving_default`` or the only one.
        input_shapes: shapes without the batch, by input name ("" for the only input), for
            models that leave dimensions open.

    Raises:
        ModelError: the file is damaged or needs code that is not allowed.
        MissingDependency: TensorFlow or Keras is not installed.
    """
    shapes = dict(input_shapes or {})
    if source.format == "savedmodel":
        model = _load_savedmodel(source.path, signature, shapes)
    else:
        if signature:
            raise UsageError("--signature is for SavedModels only", str(source.path))
        model = _load_keras(source, allow_custom_code, custom_objects, shapes)
    if shapes:
        known = ", ".join(port.name for port in model.inputs)
        raise UsageError(f"the model has no input '{next(iter(shapes))}'; it has {known}")
    return model


def is_quantization_aware(source: Source) -> bool:
    """Whether a Keras model was trained with quantisation, so that it needs no calibration.

    Raises:
        ModelError: the model's configuration is damaged.
    """
    return source.format in ("keras", "h5") and custom_code.is_quantization_aware(
        _keras_config(source)
    )


def _keras_config(source: Source) -> Any:
    place = str(source.path)
    try:
        if source.format == "keras":
            with zipfile.ZipFile(source.path) as archive:
                return json.loads(archive.read("config.json"))
        return json.loads(_hdf5_attribute(source.path, "model_config") or "null")
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(
            f"the model's configuration is damaged: {custom_code.describe(error)}", place
        ) from None


def load_keras(
    source: Source,
    *,
    allow_custom_code: bool = False,
    custom_objects: Path | None = None,
) -> tuple[Any, Any]:
    """Loads a ``.keras`` or ``.h5`` file: the Keras module that it belongs to, and the model.

    Raises:
        ModelError: the file is damaged or needs code that is not allowed.
        MissingDependency: TensorFlow or Keras is not installed.
    """
    place = str(source.path)
    config = _keras_config(source)
    custom_code.check(
        config,
        allow_custom_code=allow_custom_code,
        has_custom_objects=custom_objects is not None,
        place=place,
    )
    # Files older than the attribute are Keras 2.
    first = source.keras_version or ("2" if source.format == "h5" else "3")
    keras = frameworks.keras2() if first.startswith(("1", "2")) else frameworks.keras3()
    objects = custom_code.load_custom_objects(custom_objects) if custom_objects else None
    toolkit = None
    if custom_code.uses_optimization_toolkit(config):
        toolkit = frameworks.optimization_toolkit()
    try:
        with (
            frameworks.captured_output(),
            _known_to_keras(toolkit),
            _named_for_loader(source) as name,
        ):
            model = keras.models.load_model(
                name,
                custom_objects=objects,
                compile=False,
                safe_mode=not allow_custom_code,
            )
            if toolkit is not None:
                # Wrappers that were left on would only copy their masks.
                model = toolkit.sparsity.keras.strip_pruning(model)
                model = toolkit.clustering.keras.strip_clustering(model)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise _load_failure(error, place) from None
    return keras, model


def traced_keras(
    model: Any, place: str, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> FloatModel:
    """A Keras model of either generation as one function.

    Raises:
        ModelError: the model has no fixed inputs, or cannot be traced.
    """
    return _traced_keras(model, dict(input_shapes or {}), place)


def _load_keras(
    source: Source,
    allow_custom_code: bool,
    custom_objects: Path | None,
    shapes: dict[str, tuple[int, ...]],
) -> FloatModel:
    _, model = load_keras(
        source, allow_custom_code=allow_custom_code, custom_objects=custom_objects
    )
    return _traced_keras(model, shapes, str(source.path))


def _traced_keras(model: Any, shapes: dict[str, tuple[int, ...]], place: str) -> FloatModel:
    tf = frameworks.tensorflow()
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ModelError(
            "the model has no fixed inputs: it is a subclassed model that was never built",
            place,
            "model.export(FOLDER) in Keras, then edgekit convert FOLDER",
        )
    inputs = _ports(tensors, shapes, place)
    try:
        structure = model.input
    except AttributeError:  # a Sequential model that was never called
        structure = tensors[0] if len(tensors) == 1 else list(tensors)

    def call(*arrays: Any) -> list[Any]:
        return tf.nest.flatten(  # type: ignore[no-any-return]
            model(tf.nest.pack_sequence_as(structure, list(arrays)), training=False)
        )

    names = [str(name) for name in getattr(model, "output_names", [])]
    return _trace(call, inputs, names, place, owner=model)


@contextmanager
def _known_to_keras(toolkit: Any) -> Iterator[None]:
    """Makes the optimisation toolkit's layers known to the Keras loader."""
    if toolkit is None:
        yield
        return
    with (
        toolkit.quantization.keras.quantize_scope(),
        toolkit.sparsity.keras.prune_scope(),
        toolkit.clustering.keras.cluster_scope(),
    ):
        yield


@contextmanager
def _named_for_loader(source: Source) -> Iterator[str]:
    """The file's path, or a link to it: Keras tells formats by the name alone."""
    suffix = f".{source.format}"
    if source.path.suffix == suffix:
        yield str(source.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"model{suffix}"
        try:
            link.symlink_to(source.path.resolve())
        except OSError:  # Windows without the right to make links
            shutil.copyfile(source.path, link)
        yield str(link)


def _load_failure(error: Exception, place: str) -> ModelError:
    text = " ".join(str(error).split())
    unknown = re.search(
        r"(?:Unknown (?:layer|object|\w+):? '?|Could not locate (?:class|function) ')([\w>.]+)",
        text,
    )
    if unknown:
        return ModelError(
            f"the model uses '{unknown.group(1)}', which is not part of Keras",
            place,
            "--custom-objects FILE.py with its definition (the file is executed)",
        )
    first = re.split(r"(?<=[.!?]) ", text)[0][:300]
    return ModelError(
        f"Keras cannot load the model: {type(error).__name__}: {first}".rstrip("."), place
    )


def _load_savedmodel(
    path: Path, signature: str | None, shapes: dict[str, tuple[int, ...]]
) -> FloatModel:
    tf = frameworks.tensorflow()
    place = str(path)
    try:
        with frameworks.captured_output():
            loaded = tf.saved_model.load(str(path))
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"TensorFlow cannot load the SavedModel: {custom_code.describe(error)[:300]}", place
        ) from None
    signatures = dict(loaded.signatures)
    name = signature or ("serving_default" if "serving_default" in signatures else None)
    if name is None and len(signatures) == 1:
        name = next(iter(signatures))
    if name is None or name not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise ModelError(
            f"the SavedModel has no signature '{name or 'serving_default'}'; it has: {known}",
            place,
            "--signature NAME" if signatures else "save it with signatures=…",
        )
    function = signatures[name]
    arguments = dict(function.structured_input_signature[1])
    inputs = _ports(list(arguments.values()), shapes, place, names=list(arguments))
    outputs = sorted(function.structured_outputs)

    def call(*arrays: Any) -> list[Any]:
        results = function(**dict(zip(arguments, arrays, strict=True)))
        return [results[key] for key in outputs]

    return _trace(call, inputs, outputs, place, owner=loaded)


def _ports(
    tensors: Sequence[Any],
    shapes: dict[str, tuple[int, ...]],
    place: str,
    names: Sequence[str] | None = None,
) -> tuple[Port, ...]:
    """Inputs with a batch of 1; takes the shapes that it uses out of ``shapes``."""
    ports = []
    for i, tensor in enumerate(tensors):
        name = names[i] if names else str(tensor.name).partition(":")[0]
        rank = tensor.shape.rank if hasattr(tensor.shape, "rank") else len(tensor.shape)
        given = shapes.pop(name, None)
        if given is None and len(tensors) == 1:
            given = shapes.pop("", None)
        if rank is None and given is None:
            raise ModelError(
                f"the model leaves the shape of its input '{name}' open",
                place,
                f"--input-shape {name}=96,96,3",
            )
        dims = [1, *(given or ())] if rank is None else list(tensor.shape)
        if given is not None:
            fits = len(given) == len(dims) - 1 and all(
                d is None or d == g for d, g in zip(dims[1:], given, strict=True)
            )
            if not fits:
                raise UsageError(
                    f"--input-shape {','.join(map(str, given))} does not fit the input '{name}' "
                    f"of shape {_shape_text(dims)}",
                    place,
                )
            dims = [dims[0], *given]
        if any(d is None for d in dims[1:]):
            raise ModelError(
                f"the input '{name}' has open dimensions: {_shape_text(dims)}",
                place,
                f"--input-shape {name}=" + ",".join("N" if d is None else str(d) for d in dims[1:]),
            )
        if dims and dims[0] not in (None, 1):
            raise ModelError(
                f"the input '{name}' has a fixed batch of {dims[0]}; a device runs one sample",
                place,
                "save the model with a batch of 1 or an open one",
            )
        dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
        ports.append(Port(name, (1, *dims[1:]) if dims else (), dtype))
    return tuple(ports)


def _shape_text(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"


def _trace(
    call: Any, inputs: tuple[Port, ...], names: Sequence[str], place: str, owner: Any
) -> FloatModel:
    tf = frameworks.tensorflow()
    specs = [
        tf.TensorSpec(port.shape, port.dtype, name=re.sub(r"\W", "_", port.name) or f"input_{i}")
        for i, port in enumerate(inputs)
    ]
    try:
        with frameworks.captured_output():
            function = tf.function(call, autograph=False).get_concrete_function(*specs)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"the model cannot be traced with a batch of 1: {custom_code.describe(error)[:300]}",
            place,
        ) from None
    results = function.outputs
    if len(names) != len(results) or len(set(names)) != len(names):
        names = [f"output_{i}" for i in range(len(results))]
    outputs = []
    for name, tensor in zip(names, results, strict=True):
        shape = tuple(-1 if d is None else int(d) for d in (tensor.shape.as_list() or ()))
        outputs.append(Port(name, shape, tensor.dtype.name))
    return FloatModel(function, inputs, tuple(outputs), owner)
