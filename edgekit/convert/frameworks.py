"""TensorFlow and both Keras generations: imported once, quietly, or missed with a remedy."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.errors import missing_extra


@contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Keeps what the block prints on file descriptors 1 and 2, C++ included, from the user.

    Yields a function that returns the text so far; it works inside the block and after it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    text = ""
    with tempfile.TemporaryFile() as log:
        saved = [(descriptor, _duplicate(descriptor)) for descriptor in (1, 2)]

        def read() -> str:
            if log.closed:
                return text
            log.seek(0)
            content: bytes = log.read()
            return content.decode("utf-8", "replace")

        try:
            for descriptor, copy in saved:
                if copy is not None:
                    os.dup2(log.fileno(), descriptor)
            yield read
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            text = read()
            for descriptor, copy in saved:
                if copy is not None:
                    os.dup2(copy, descriptor)
                    os.close(copy)


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:  # the descriptor is closed: nothing to keep from anybody
        return None


def tensorflow() -> Any:
    """The ``tensorflow`` module.

    Raises:
        MissingDependency: it is not installed.
    """
    # Converting uses no GPU; without these the wheel complains about missing CUDA libraries.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The sums of oneDNN's kernels depend on the machine; calibration must not.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    return _module("tensorflow", "tensorflow")


def keras2() -> Any:
    """The ``tf_keras`` module (Keras 2). Raises MissingDependency as :func:`tensorflow` does."""
    tensorflow()
    return _module("tf_keras", "tf-keras")


def optimization_toolkit() -> Any:
    """The ``tensorflow_model_optimization`` module, which works on Keras 2 models.

    Raises:
        MissingDependency: it is not installed.
    """
    keras2()
    return _module("tensorflow_model_optimization", "tensorflow-model-optimization")


def keras3() -> Any:
    """The ``keras`` module (Keras 3) on TensorFlow. Raises MissingDependency likewise."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    tensorflow()
    return _module("keras", "keras")


def _module(name: str, package: str) -> Any:
    if sys.modules.get(name) is not None:
        return sys.modules[name]
    try:
        with captured_output(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        package = package if missing == name else missing
        raise missing_extra(package, "convert", "converting a model") from None
    if name == "tensorflow":
        module.get_logger().setLevel("ERROR")
    return module
