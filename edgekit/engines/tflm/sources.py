"""The C and C++ of a model for TFLM: its array, its operators, a wrapper, and projects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.engines.tflm import operators
from edgekit.engines.tflm.arena import ArenaEstimate
from edgekit.engines.tflm.kernels import Kernels
from edgekit.errors import ModelError, UsageError
from edgekit.graph.reader import shown

if TYPE_CHECKING:
    import jinja2

    from edgekit.graph import Model, Tensor
    from edgekit.targets import Target

#: Ecosystems for which a ready project can be made.
PROJECTS = ("cmake", "platformio", "arduino", "esp-idf", "zephyr")

#: Where the model's sources are in each project ("" is no project: the sources alone).
SOURCE_FOLDERS: Mapping[str, str] = {
    "": "",
    "cmake": "src/",
    "platformio": "src/",
    "arduino": "src/",
    "esp-idf": "main/",
    "zephyr": "src/",
}

#: Templates of a project's own files -> their paths; ``{name}`` is the model's.
PROJECT_FILES: Mapping[str, Mapping[str, str]] = {
    "": {},
    "cmake": {
        "cmake_CMakeLists.txt.j2": "CMakeLists.txt",
        "main.cpp.j2": "src/main.cpp",
    },
    "platformio": {
        "platformio_platformio.ini.j2": "platformio.ini",
        "main.cpp.j2": "src/main.cpp",
    },
    "arduino": {
        "arduino_library.properties.j2": "library.properties",
        "main.cpp.j2": "examples/{name}_demo/{name}_demo.ino",
    },
    "esp-idf": {
        "esp-idf_CMakeLists.txt.j2": "CMakeLists.txt",
        "esp-idf_main_CMakeLists.txt.j2": "main/CMakeLists.txt",
        "esp-idf_main_idf_component.yml.j2": "main/idf_component.yml",
        "esp-idf_sdkconfig.defaults.j2": "sdkconfig.defaults",
        "main.cpp.j2": "main/main.cpp",
    },
    "zephyr": {
        "zephyr_CMakeLists.txt.j2": "CMakeLists.txt",
        "zephyr_prj.conf.j2": "prj.conf",
        "zephyr_west.yml.j2": "west.yml",
        "main.cpp.j2": "src/main.cpp",
    },
}

#: TFLM in the package managers: the names and versions that were looked up in November 2026.
PACKAGES: Mapping[str, str] = {
    # the Arduino library manager's and the PlatformIO registry's port of TFLM
    "arduino_library": "Chirale_TensorFLowLite",
    "arduino_header": "Chirale_TensorFlowLite.h",
    "platformio_library": "spaziochirale/Chirale_TensorFLowLite@^2.0.0",
    "esp_component": "espressif/esp-tflite-micro",
    "esp_component_version": "^1.3.4",
    "zephyr_revision": "v4.1.0",
}

#: Projects whose packages build TFLM without TF_LITE_STATIC_MEMORY.
WITHOUT_STATIC_MEMORY = ("arduino", "zephyr")

#: Type in C++ and enumerator of TfLiteType.
_TYPES: Mapping[str, tuple[str, str]] = {
    "int8": ("std::int8_t", "kTfLiteInt8"),
    "uint8": ("std::uint8_t", "kTfLiteUInt8"),
    "int16": ("std::int16_t", "kTfLiteInt16"),
    "int32": ("std::int32_t", "kTfLiteInt32"),
    "int64": ("std::int64_t", "kTfLiteInt64"),
    "float32": ("float", "kTfLiteFloat32"),
    "bool": ("bool", "kTfLiteBool"),
}
#: Namespaces, functions and macros of the surroundings.
_TAKEN = ("arduino", "linux", "main", "std", "tensorflow", "tflite", "unix", "zephyr")
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class _View:
    """An input or output as the templates want it."""

    role: str
    position: int
    #: "" for the only one of its role, else its number
    suffix: str
    dtype: str
    ctype: str
    tflite_type: str
    shape: tuple[int, ...]
    elements: int
    nbytes: int
    scale: str
    zero_point: int
    #: what stands for the real value 0
    zero: str


def name_of(model: Model) -> str:
    """The identifier of a model in C and C++; the same as in the ahead-of-time engine's code."""
    from edgekit.engines.aot.emit import prefix_of

    name = prefix_of(model.name)
    return f"model_{name}" if name in _TAKEN else name


def source_texts(
    model: Model,
    target: Target,
    arena: ArenaEstimate,
    kernels: Kernels,
    *,
    project: str = "",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Every text file by path, all but the array's ``.c``, which is written as it is made.

    Args:
        settings: ``board``, ``platform`` and ``framework`` of PlatformIO, ``board`` of Zephyr;
            by default what the target's file says under ``engine_options``.

    Raises:
        ModelError: an input or output has a type that C++ has not.
        UsageError: a setting that the project needs is not known for the target.
    """
    from edgekit.engines.aot.emit import comment_text

    name = name_of(model)
    inputs = _views("input", model.input_tensors)
    outputs = _views("output", model.output_tensors)
    limits = _LIMITS.get(inputs[0].dtype) if inputs[0].scale != "0.0f" else None
    values: dict[str, Any] = {
        "model": model,
        "title": comment_text(model.name),
        "name": name,
        "guard": name.upper(),
        "inputs": inputs,
        "outputs": outputs,
        "quantisable": None if limits is None else {"lowest": limits[0], "highest": limits[1]},
        "operators": [
            {"kind": kind, "call": operators.registration(model, kind)}
            for kind in operators.kinds(model)
        ],
        "resource_variables": resource_variables(model),
        "arena": arena,
        "kernels": kernels,
        "project": project,
        "cmake_cmsis_nn": "ON" if kernels.library == "cmsis-nn" else "OFF",
        "arduino_name": f"edgekit_{name}",
        **PACKAGES,
        **_project_values(project, target, settings or {}),
    }
    folder = SOURCE_FOLDERS[project]
    files = {
        f"{folder}{name}_model_data.h": "model_data.h.j2",
        f"{folder}{name}_ops.h": "ops.h.j2",
        f"{folder}{name}.h": "wrapper.h.j2",
        f"{folder}{name}.cpp": "wrapper.cpp.j2",
        **{path.format(name=name): template for template, path in PROJECT_FILES[project].items()},
    }
    environment = _environment()
    return {
        path: environment.get_template(template).render(values) for path, template in files.items()
    }


def array_head(model: Model, name: str) -> str:
    """What stands before the lines of the array in ``…_model_data.c``."""
    return (
        f'#include "{name}_model_data.h"\n\n'
        "/* C11's _Alignas, where compilers for C have it; TFLM reads tensors in place. */\n"
        "#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n"
        "_Alignas(16)\n"
        "#else\n"
        "__attribute__((aligned(16)))\n"
        "#endif\n"
        f"const unsigned char {name}_model_data[{name.upper()}_MODEL_DATA_BYTES] = {{\n"
    )


def resource_variables(model: Model) -> int:
    """How many resource variables (VAR_HANDLE) the model has."""
    names = {
        (op.options.get("container"), op.options.get("shared_name"))
        for graph in model.graphs
        for op in graph.ops
        if op.kind == "VAR_HANDLE"
    }
    return len(names)


def _project_values(project: str, target: Target, settings: Mapping[str, Any]) -> dict[str, Any]:
    known = target.engine_options.get("tflm", {})
    if project == "platformio":
        board = {"framework": "arduino", **known.get("platformio", {}), **_given(settings)}
        missing = [key for key in ("platform", "board") if not board.get(key)]
        if missing:
            raise UsageError(
                f"the PlatformIO {' and '.join(missing)} of {target.name} is not known",
                fix="name them: " + " ".join(f"--set {key}=<id>" for key in missing),
            )
        return {"board": board}
    if project == "esp-idf":
        chip = settings.get("board") or target.toolchain.get("esp-idf-target")
        if not chip:
            raise UsageError(
                f"{target.name} is no target of ESP-IDF",
                fix="a target such as esp32-s3, or --set board=<chip of idf.py set-target>",
            )
        return {"esp_target": chip}
    if project == "zephyr":
        return {"zephyr_board": settings.get("board") or known.get("zephyr") or "<board>"}
    return {}


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key in _BOARD_KEYS and value}


_BOARD_KEYS = ("board", "platform", "framework")


def _views(role: str, tensors: tuple[Tensor, ...]) -> list[_View]:
    if not tensors:
        raise ModelError(f"the model has no {role}")
    return [
        _view(role, position, "" if len(tensors) == 1 else str(position), tensor)
        for position, tensor in enumerate(tensors)
    ]


def _view(role: str, position: int, suffix: str, tensor: Tensor) -> _View:
    if tensor.dtype not in _TYPES:
        raise ModelError(
            f"C++ has no type for the {role} '{shown(tensor.name)}': {tensor.dtype}",
            f"{role} {position}",
            f"a model whose {role} is one of {', '.join(_TYPES)}",
        )
    ctype, tflite_type = _TYPES[tensor.dtype]
    scale, zero_point = 0.0, 0
    if tensor.quantization is not None and not tensor.quantization.per_channel:
        scale, zero_point = tensor.quantization.scale, tensor.quantization.zero_point
    if not math.isfinite(scale):
        raise ModelError(
            f"the {role} '{shown(tensor.name)}' has the scale {scale}", f"{role} {position}"
        )
    literal = f"{scale:.9g}"
    literal += "f" if any(c in literal for c in ".e") else ".0f"
    return _View(
        role=role,
        position=position,
        suffix=suffix,
        dtype=tensor.dtype,
        ctype=ctype,
        tflite_type=tflite_type,
        shape=tensor.shape,
        elements=tensor.elements,
        nbytes=tensor.nbytes,
        scale=literal,
        zero_point=zero_point,
        zero="0" if tensor.dtype in ("float32", "bool") else str(zero_point),
    )


def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        # C and build files, not HTML; what the model's file says is cleaned before it comes here
        autoescape=False,
    )
