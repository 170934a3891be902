"""What a ``.tflite`` file says about itself: labels, normalisation, and where it came from.

TensorFlow Lite's metadata (``TFLITE_METADATA``, schema ``metadata_schema.fbs`` of TensorFlow
Lite Support) is written with tflite-support and read without it. Label files are a zip archive
behind the model. Where a model came from is an entry of its own, ``edgekit``: JSON with the
source's SHA-256, the calibration and edgekit's version.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ModelError, UsageError, missing_extra

if TYPE_CHECKING:
    from edgekit.convert.normalization import Normalization
    from edgekit.graph import Model

ENTRY = "edgekit"
#: The quantiser that is used unless another is asked for.
TENSORFLOW = "tensorflow"
_STANDARD_ENTRY = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_LABELS_FILE = "labels.txt"
#: A label file larger than this is none.
_MAX_FILE_BYTES = 16 << 20
#: What a --metadata file may hold.
_KEYS = ("name", "description", "version", "author", "license", "input", "output")

# Union and enumeration values of metadata_schema.fbs.
_NORMALIZATION_OPTIONS = 1
_TENSOR_AXIS_LABELS = 2
_TENSOR_VALUE_LABELS = 3


@dataclass(frozen=True)
class TensorMetadata:
    """What is said of an input or output; ``labels`` are its classes in order."""

    name: str = ""
    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelMetadata:
    """TensorFlow Lite's metadata of a model."""

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    #: names of the files in the archive behind the model
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """Where a model that edgekit converted came from.

    ``calibration`` is where the samples came from: ``npz``, ``images``, …, ``random`` for a
    model whose ranges mean nothing, ``trained`` where training found the ranges, ``none`` where
    none were needed.
    """

    edgekit: str
    source_sha256: str
    source_format: str
    quantize: str
    io: str
    calibration: str
    samples: int
    #: what chose the integers: ``tensorflow``, or ``edgekit`` with its techniques
    quantizer: str = TENSORFLOW

    @property
    def uncalibrated(self) -> bool:
        """Whether the ranges came from random values: for shape-only work."""
        return self.calibration == "random"


@dataclass(frozen=True)
class Description:
    """What the user says about a model, from ``--labels``, ``--metadata`` and ``--normalize``."""

    labels: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    normalization: Normalization | None = None


def read_metadata(model: Model) -> ModelMetadata | None:
    """TensorFlow Lite's metadata of a model, or ``None`` when there is none that can be read.

    Needs the base install only. Metadata are not needed to run a model, so damaged ones are
    no error.
    """
    from edgekit.graph.flatbuffer import Malformed, Table, follow

    content = model.metadata.get(_STANDARD_ENTRY)
    if not content or content[4:8] != _IDENTIFIER:
        return None
    files = _archive(model.raw)
    try:
        root = Table(content, follow(content, 0))
        graphs = root.tables(3)
        graph = graphs[0] if graphs else None
        inputs = tuple(_tensor(t, files) for t in graph.tables(2)) if graph else ()
        outputs = tuple(_tensor(t, files) for t in graph.tables(3)) if graph else ()
        return ModelMetadata(
            name=root.string(0),
            description=root.string(1),
            version=root.string(2),
            author=root.string(4),
            license=root.string(5),
            inputs=inputs,
            outputs=outputs,
            files=tuple(files),
        )
    except (Malformed, struct.error):
        return None


def _tensor(table: Any, files: Mapping[str, bytes]) -> TensorMetadata:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for unit in table.tables(4):
        options = unit.table(1)
        if unit.scalar(0, "uint8", 0) == _NORMALIZATION_OPTIONS and options is not None:
            mean, std = options.scalars(0, "float32"), options.scalars(1, "float32")
    stats = table.table(5)
    labels: tuple[str, ...] = ()
    for file in table.tables(6):
        content = files.get(file.string(0))
        is_labels = file.scalar(2, "int8", 0) in (_TENSOR_AXIS_LABELS, _TENSOR_VALUE_LABELS)
        if is_labels and content is not None and not labels:
            labels = tuple(content.decode("utf-8", "replace").splitlines())
    return TensorMetadata(
        name=table.string(0),
        description=table.string(1),
        mean=mean,
        std=std,
        maximum=stats.scalars(0, "float32") if stats else (),
        minimum=stats.scalars(1, "float32") if stats else (),
        labels=labels,
    )


def _archive(raw: bytes) -> dict[str, bytes]:
    """Files of the zip archive behind a model; those that are damaged or huge are left out."""
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for info in archive.infolist()[:100]:
                if info.file_size <= _MAX_FILE_BYTES and info.compress_size <= len(raw):
                    files[info.filename] = archive.read(info)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, ValueError):
        return files
    except (NotImplementedError, RuntimeError, struct.error):  # other compressions, passwords
        return files
    return files


def read_provenance(model: Model) -> Provenance | None:
    """Where a model came from, if edgekit converted it. Needs the base install only."""
    content = model.metadata.get(ENTRY)
    if not content:
        return None
    try:
        values = json.loads(content.rstrip(b"\0").decode())
        return Provenance(
            edgekit=str(values["edgekit"]),
            source_sha256=str(values["source_sha256"]),
            source_format=str(values["source_format"]),
            quantize=str(values["quantize"]),
            io=str(values["io"]),
            calibration=str(values["calibration"]),
            samples=int(values["samples"]),
            quantizer=str(values.get("quantizer", TENSORFLOW)),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def provenance_entry(provenance: Provenance) -> bytes:
    """The content of the ``edgekit`` entry."""
    from edgekit.records import to_json

    stated = to_json(provenance)
    if provenance.quantizer == TENSORFLOW:
        # As it was before there was another: the same model gives the same bytes.
        del stated["quantizer"]
    return json.dumps(stated, separators=(",", ":"), sort_keys=True).encode()


def read_labels(path: Path) -> tuple[str, ...]:
    """One label per line, in the order of the classes.

    Raises:
        UsageError: the file cannot be read, is empty or has an empty line inside.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the labels cannot be read: {error}", str(path)) from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UsageError("the file holds no labels", str(path))
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError("an empty line where a label should be", f"{path}:{number}")
    return tuple(line.strip() for line in lines)


def read_description(path: Path) -> dict[str, str]:
    """A YAML or JSON file with any of name, description, version, author, license, and the
    descriptions of ``input`` and ``output``.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the metadata cannot be read: {error}", str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError("the metadata file is neither YAML nor JSON", place) from None
    if not isinstance(values, dict):
        raise UsageError("the metadata file holds no keys", str(path), f"keys: {', '.join(_KEYS)}")
    for key, value in values.items():
        if key not in _KEYS:
            import difflib

            close = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"'{close[0]}'" if close else f"one of: {', '.join(_KEYS)}"
            raise UsageError(f"the metadata file has an unknown key '{key}'", str(path), hint)
        if isinstance(value, (dict, list)) or value is None:
            raise UsageError(f"'{key}' in the metadata file must be a text", str(path))
    return {str(key): str(value) for key, value in values.items()}


def write_metadata(model: bytes, description: Description, model_name: str) -> bytes:
    """The model with TensorFlow Lite's metadata, and the labels in an archive behind it.

    Raises:
        ModelError: the number of labels is not the number of classes.
        MissingDependency: tflite-support is not installed.
    """
    from edgekit.convert.packing import repack
    from edgekit.graph import read_model

    graph = read_model(model)
    if description.labels:
        _check_labels(description.labels, graph)
    content = _standard_metadata(graph, description, model_name)
    described = repack(model, entries={_STANDARD_ENTRY: content})
    if not description.labels:
        return described
    return _with_archive(described, {_LABELS_FILE: "\n".join(description.labels) + "\n"})


def _check_labels(labels: Sequence[str], model: Model) -> None:
    if not model.outputs:
        raise ModelError("the model has no output to label", model.name)
    classes = model.output_tensors[0].shape[-1] if model.output_tensors[0].shape else 1
    if classes != len(labels):
        raise ModelError(
            f"{len(labels)} labels for an output of {classes} classes",
            f"output '{model.output_tensors[0].name}'",
        )


def _with_archive(model: bytes, files: Mapping[str, str]) -> bytes:
    stream = io.BytesIO(model)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            # A fixed date: the same input gives the same bytes.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, content)
    return stream.getvalue()


def _standard_metadata(model: Model, description: Description, model_name: str) -> bytes:
    """The ``TFLITE_METADATA`` buffer."""
    import flatbuffers

    try:
        # Not its module `metadata.python.metadata`: that one imports TensorFlow to open files.
        from tensorflow_lite_support.metadata import metadata_schema_py_generated as schema
        from tensorflow_lite_support.metadata.cc.python import _pywrap_metadata_version
    except ModuleNotFoundError:
        raise missing_extra("tflite-support", "convert", "writing metadata") from None
    texts = description.texts
    tree = schema.ModelMetadataT()
    tree.name = texts.get("name", model_name)
    tree.description = texts.get("description", "")
    for key in ("version", "author", "license"):
        if key in texts:
            setattr(tree, key, texts[key])
    graph = schema.SubGraphMetadataT()
    graph.inputTensorMetadata = [
        _tensor_tree(schema, tensor.name, texts.get("input", "") if i == 0 else "")
        for i, tensor in enumerate(model.input_tensors)
    ]
    graph.outputTensorMetadata = [
        _tensor_tree(schema, tensor.name, texts.get("output", "") if i == 0 else "")
        for i, tensor in enumerate(model.output_tensors)
    ]
    if description.normalization is not None and graph.inputTensorMetadata:
        options = schema.NormalizationOptionsT()
        options.mean = list(description.normalization.mean)
        options.std = list(description.normalization.std)
        unit = schema.ProcessUnitT()
        unit.optionsType = schema.ProcessUnitOptions.NormalizationOptions
        unit.options = options
        graph.inputTensorMetadata[0].processUnits = [unit]
    if description.labels:
        file = schema.AssociatedFileT()
        file.name = _LABELS_FILE
        file.description = "names of the classes"
        file.type = schema.AssociatedFileType.TENSOR_AXIS_LABELS
        graph.outputTensorMetadata[0].associatedFiles = [file]
    tree.subgraphMetadata = [graph]

    def packed() -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(tree.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    # Readers refuse metadata that need a newer parser than theirs.
    tree.minParserVersion = _pywrap_metadata_version.GetMinimumMetadataParserVersion(packed())
    return packed()


def _tensor_tree(schema: Any, name: str, text: str) -> Any:
    tensor = schema.TensorMetadataT()
    tensor.name, tensor.description = name, text
    return tensor
