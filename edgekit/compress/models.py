"""Trained models that can be trained further: loaded as Keras models, saved as they came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.compress import keras_graph
from edgekit.compress.keras_graph import KerasGraph
from edgekit.convert import frameworks, sources
from edgekit.errors import EdgekitError, ModelError
from edgekit.kerasfile import save_keras

if TYPE_CHECKING:
    from edgekit.convert.sources import Port, Source


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained model. ``lifted`` says that it was read out of a float graph, without Keras."""

    source: Source
    graph: KerasGraph
    lifted: bool

    @property
    def suffix(self) -> str:
        """Of the file that the model is saved to."""
        return ".keras" if self.graph.keras.__name__ == "keras" else ".h5"


def load(
    path: Path,
    *,
    allow_custom_code: bool = False,
    custom_objects: Path | None = None,
    signature: str | None = None,
) -> Loaded:
    """Loads a model to train: ``.keras``, ``.h5``, or the float graph of another format.

    Raises:
        ModelError: the file is damaged, the model is quantised, has several outputs or open
            dimensions, or is made of what cannot be trained here.
        MissingDependency: TensorFlow or Keras is not installed.
    """
    source = sources.identify(path)
    if source.format in ("keras", "h5"):
        _prepare_random_layers(source)
        if sources.is_quantization_aware(source):
            raise ModelError(
                "the model was trained with quantisation already: its wrappers hold what pruning "
                "and factorising would have to change",
                str(path),
                "the float model that it was made from",
            )
        keras, model = sources.load_keras(
            source, allow_custom_code=allow_custom_code, custom_objects=custom_objects
        )
        loaded = Loaded(source, keras_graph.read_graph(keras, model), False)
    else:
        from edgekit.compress.lift import lift
        from edgekit.graph import read_model

        if source.format == "tflite":
            content: bytes | Path = source.path
        else:
            from edgekit.convert.quantize import float_tflite

            content = float_tflite(sources.load(source, signature=signature))
        keras, model = lift(read_model(content))
        loaded = Loaded(source, keras_graph.read_graph(keras, model), True)
    _require_one_output(loaded)
    return loaded


def _prepare_random_layers(source: Source) -> None:
    """Gives Keras 2 random layers whose state is a variable, which a checkpoint can hold."""
    if (source.keras_version or ("2" if source.format == "h5" else "3")).startswith(("1", "2")):
        frameworks.keras2().backend.experimental.enable_tf_random_generator()


def _require_one_output(loaded: Loaded) -> None:
    graph = loaded.graph
    if len(graph.outputs) != 1:
        raise ModelError(
            f"the model has {len(graph.outputs)} outputs; only models with one can be trained here",
            str(loaded.source.path),
        )
    for tensor in (*graph.inputs, *graph.outputs):
        if None in graph.shapes[tensor][1:]:
            raise ModelError(
                f"the model leaves dimensions open: {list(graph.shapes[tensor][1:])}",
                str(loaded.source.path),
                "build it with fixed shapes, as a device needs them",
            )


def ports(graph: KerasGraph) -> tuple[Port, ...]:
    """The model's inputs as data are read for them."""
    from edgekit.convert.sources import _ports

    return _ports(keras_graph.flat(keras_graph.functional(graph.model).inputs), {}, "the model")


def save(graph: KerasGraph, path: Path) -> None:
    """Writes the model in its own generation's format, by rename; equal models, equal bytes.

    Raises:
        ModelError: Keras cannot save it.
    """
    temporary = path.with_name(f".saving-{path.name}")
    try:
        with frameworks.captured_output():
            if path.suffix == ".keras":
                save_keras(graph.model, path)
            else:
                graph.model.save(str(temporary))
                temporary.replace(path)
    except (KeyboardInterrupt, MemoryError, EdgekitError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"Keras cannot save the model: {text}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def restore(keras: Any, path: Path) -> KerasGraph:
    """A model that :func:`save` wrote."""
    with frameworks.captured_output():
        model = keras.models.load_model(str(path), compile=False)
    return keras_graph.read_graph(keras, model)
