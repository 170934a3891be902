"""Small architectures to start from, one file each, found by its name.

::

    from edgekit import zoo

    model = zoo.build("ds_cnn", width=0.5, classes=4)   # an untrained keras.Model

A file of this folder without an underscore that has a ``build`` function is an architecture.
Its docstring says what it is for, what it is made of and what matters on a microcontroller;
``PAPERS`` are its sources; the signature of ``build`` declares the parameters
(:mod:`edgekit.zoo._parameters`).

The models are made of Keras 3 layers and operations alone, so that anybody can load the saved
file, and of operators that convert to int8 without a float one left.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError
from edgekit.zoo._layers import Model
from edgekit.zoo._parameters import Declared, declared, text

__all__ = ["Architecture", "Built", "build", "build_file", "find", "names", "save", "text"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Architecture:
    """What an architecture is; ``builder`` makes the model of its parameters.

    ``parameters_count`` and ``macs`` are those of the default settings: weights as Keras counts
    them, and multiply-accumulates of one inference as ``edgekit inspect`` does.
    """

    name: str
    title: str
    description: str
    papers: tuple[str, ...]
    parameters: tuple[Declared, ...]
    parameters_count: int
    macs: int
    builder: Callable[..., Model]


@dataclass(frozen=True)
class Built:
    """What :func:`build_file` wrote; ``settings`` are all parameters, as text.

    ``parameters`` and ``macs`` are exact; ``int8_file_bytes`` is the size of the file that
    ``edgekit convert`` will make, estimated with a relative error of ``int8_file_error``.
    """

    architecture: str
    settings: dict[str, str]
    seed: int
    output: str
    nbytes: int
    sha256: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    int8_file_bytes: int
    int8_file_error: float
    int8_file_kind: str = "estimated"


def names() -> tuple[str, ...]:
    """The architectures, sorted."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.py") if not p.stem.startswith("_")))


def find(name: str) -> Architecture:
    """The architecture of that name; ``ds-cnn`` is ``ds_cnn``.

    Raises:
        UsageError: there is none.
    """
    known = names()
    wanted = name.lower().replace("-", "_")
    if wanted not in known:
        import difflib

        close = difflib.get_close_matches(wanted, known, n=3)
        raise UsageError(
            f"the zoo has no architecture '{name}'",
            fix=", ".join(close or known) + ", or edgekit zoo (lists all)",
        )
    module = importlib.import_module(f"{__name__}.{wanted}")
    title, _, description = inspect.cleandoc(module.__doc__ or "").partition("\n")
    return Architecture(
        name=wanted,
        title=title.rstrip("."),
        # The text is shown on terminals, too, where marks of code are noise.
        description=description.strip().replace("``", ""),
        papers=module.PAPERS,
        parameters=declared(module.build),
        parameters_count=module.PARAMETERS,
        macs=module.MACS,
        builder=module.build,
    )


def read_settings(architecture: Architecture, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter's value: those given, checked, and the defaults of the others.

    Raises:
        UsageError: a parameter that the architecture does not have, or a value out of range.
    """
    known = {item.name: item for item in architecture.parameters}
    place = f"zoo model {architecture.name}"
    values = {item.name: item.default for item in architecture.parameters}
    for name, value in settings.items():
        key = name.replace("-", "_")
        if key not in known:
            import difflib

            close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            raise UsageError(
                f"{architecture.name} has no parameter '{name}'",
                place,
                f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known)}",
            )
        values[key] = known[key].read(value, place)
    return values


def build(name: str, *, seed: int = 0, **settings: Any) -> Model:
    """An untrained ``keras.Model``; the same settings and seed give the same weights.

    Args:
        name: the architecture's.
        seed: of the initial weights and of dropout.
        settings: the architecture's parameters, in their types or as text
            (``resolution="96x64"``); the others have their defaults.

    Raises:
        UsageError: no such architecture or parameter, a value out of range, or a combination
            that the architecture cannot have.
        MissingDependency: Keras is not installed.
    """
    import random

    architecture = find(name)
    values = read_settings(architecture, settings)
    # Keras draws the seeds of initialisers and dropout from Python's generator, which the
    # caller's program may rely on.
    state = random.getstate()
    try:
        random.seed(seed)
        return architecture.builder(**values)
    finally:
        random.setstate(state)


def build_file(
    name: str,
    output: Path,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Built:
    """Builds a model, counts it and saves it; see :func:`build` and :func:`save`.

    Args:
        progress: called with a sentence when a stage begins.
    """
    import hashlib

    architecture = find(name)
    values = read_settings(architecture, settings or {})
    _check_output(output)
    progress(f"building {architecture.name}")
    model = build(architecture.name, seed=seed, **values)
    progress("counting")
    from edgekit.zoo import _costs

    found = _costs.costs(model)
    content = save(model, output)
    return Built(
        architecture=architecture.name,
        settings={key: text(value) for key, value in values.items()},
        seed=seed,
        output=str(output),
        nbytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        input_shape=(1, *model.input_shape[1:]),
        output_shape=(1, *model.output_shape[1:]),
        parameters=found.parameters,
        macs=found.macs,
        int8_file_bytes=found.int8_bytes,
        int8_file_error=_costs.ERROR,
    )


def save(model: Model, path: Path) -> bytes:
    """Saves a model as a ``.keras`` file and returns the file's bytes.

    The file appears finished or not at all. It bears no date and no addresses of this process,
    so that the same model is the same file.

    Raises:
        UsageError: the name does not end in ``.keras``, or the folder cannot be written.
    """
    from edgekit.kerasfile import save_keras

    _check_output(path)
    return save_keras(model, path)


def _check_output(path: Path) -> None:
    if path.suffix != ".keras":
        raise UsageError("Keras saves models in files that end in .keras", str(path))
    if not path.parent.is_dir():
        raise UsageError("the output's folder does not exist", str(path.parent))
