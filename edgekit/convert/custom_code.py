"""Finds code and foreign classes in a Keras configuration before anything is loaded.

A Keras file can carry Python byte code (Lambda layers) and name any class of any module.
Loading such a file runs what its author wrote, so it is refused unless the user allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import ModelError, UsageError

#: Modules whose classes a Keras file may name.
_TRUSTED = (
    "keras",
    "tf_keras",
    "tensorflow.keras",
    "tensorflow.python.keras",
    "tensorflow_model_optimization",
)
#: Layers of the TensorFlow Model Optimization Toolkit, which Keras 2 files name without module.
_TOOLKIT_LAYERS = {
    "QuantizeLayer",
    "QuantizeWrapper",
    "QuantizeWrapperV2",
    "PruneLowMagnitude",
    "ClusterWeights",
}
#: What Keras itself writes with the module "builtins".
_PLAIN = {"__tensor__", "__numpy__", "__typespec__", "__ellipsis__", "slice", "__tuple__"}


def findings(config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a configuration names: Lambda layers (or functions in byte code), custom objects."""
    lambdas: list[str] = []
    functions: list[str] = []
    custom: list[str] = []
    for node in _nodes(config):
        kind = str(node["class_name"])
        module = node.get("module")
        inner = node.get("config")
        name = inner.get("name", "") if isinstance(inner, dict) else ""
        if kind == "Lambda":
            lambdas.append(str(name or "without a name"))
        elif kind == "__lambda__":
            # The function of a Lambda layer, or one elsewhere (an activation).
            functions.append("a function in byte code")
        elif kind == "function":
            custom.append(str(inner))
        elif module is None or kind in _PLAIN:
            # Keras 2 writes no modules: classes are looked up by name when loading, among
            # Keras' own and those given, so that an unknown one fails there.
            registered = node.get("registered_name")
            if registered and registered != kind and ">" in str(registered):
                custom.append(str(registered))
        elif not any(module == root or str(module).startswith(root + ".") for root in _TRUSTED):
            custom.append(f"{module}.{kind}")
        if isinstance(kind, str) and ">" in kind:
            custom.append(kind)
    return tuple(dict.fromkeys(lambdas or functions)), tuple(dict.fromkeys(custom))


def uses_optimization_toolkit(config: Any) -> bool:
    """Whether a model holds layers of quantisation-aware training, pruning or clustering."""
    return any(
        node["class_name"] in _TOOLKIT_LAYERS
        or str(node.get("module")).startswith("tensorflow_model_optimization")
        for node in _nodes(config)
        if isinstance(node["class_name"], str)
    )


def is_quantization_aware(config: Any) -> bool:
    """Whether a model was trained with quantisation, and so knows its ranges."""
    return any(str(node["class_name"]).startswith("QuantizeWrapper") for node in _nodes(config))


def check(config: Any, *, allow_custom_code: bool, has_custom_objects: bool, place: str) -> None:
    """Refuses a configuration with Lambda layers or custom objects that are not allowed.

    Raises:
        ModelError: it holds some.
    """
    lambdas, custom = findings(config)
    if lambdas and not allow_custom_code:
        raise ModelError(
            f"the model holds Python code, which loading it would run: Lambda {_some(lambdas)}",
            place,
            "--allow-custom-code if you trust the file, or replace the layers and save it again",
        )
    if custom and not has_custom_objects:
        raise ModelError(
            f"the model uses custom objects that are not part of Keras: {_some(custom)}",
            place,
            "--custom-objects FILE.py with their definitions (the file is executed)",
        )


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_custom_objects(path: Path) -> dict[str, Any]:
    """Executes a Python file and returns its public classes and functions by name.

    Raises:
        UsageError: the file cannot be read or fails.
    """
    import inspect

    names = run_file(path, "custom objects")
    found = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
    }
    # What a decorator registered under "package>name" is found by its plain name as well.
    for name, value in names.get("CUSTOM_OBJECTS", {}).items():
        found[str(name)] = value
    return found


def run_file(path: Path, what: str) -> dict[str, Any]:
    """Executes a Python file of the user and returns its names.

    Raises:
        UsageError: the file cannot be read, or it raised an exception.
    """
    import runpy

    if not path.is_file():
        raise UsageError(f"there is no such file for {what}", str(path))
    try:
        return runpy.run_path(str(path))
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise UsageError(
            f"the file for {what} failed: {describe(error)}", failing_line(error, path)
        ) from None


def describe(error: BaseException) -> str:
    """An exception of foreign code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def failing_line(error: BaseException, path: Path) -> str:
    """``file:line`` of the last frame of an exception that is in ``path``."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == path.name:
            line = trace.tb_lineno
        trace = trace.tb_next
    if line is None and isinstance(error, SyntaxError):
        line = error.lineno
    return f"{path}:{line}" if line else str(path)


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            stack.extend(reversed(list(item.values())))
        elif isinstance(item, list):
            stack.extend(reversed(item))
