"""How stored samples (pixels, quantised features) become what the model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMS = (
    "0..1 (pixels / 255), -1..1 (pixels / 127.5 - 1), none, mean=M,std=S (or M/M/M per channel), "
    "scale=S,offset=O, scale=S,zero_point=Z"
)


@dataclass(frozen=True)
class Normalization:
    """``model input = (stored value - mean) / std``, per channel of the last axis or for all.

    This is also how TensorFlow Lite's model metadata states it (NormalizationOptions).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Stored values of any shape, as float32 for the model."""
        import numpy as np

        mean, std = np.array(self.mean), np.array(self.std)
        result: NDArray[np.float32] = ((stored - mean) / std).astype(np.float32)
        return result


def parse(text: str) -> Normalization | None:
    """Reads the value of ``--normalize``; ``None`` means that values are used as stored.

    Forms: ``0..1``, ``-1..1``, ``none``, ``mean=127.5,std=127.5``,
    ``mean=123.7/116.8/103.9,std=58.4/57.1/57.4``, ``scale=0.00392,offset=0`` (value * scale +
    offset), ``scale=0.585,zero_point=83`` ((value - zero point) * scale, what dequantises).

    Raises:
        UsageError: it is none of these.
    """
    named = {"0..1": ((0.0,), (255.0,)), "-1..1": ((127.5,), (127.5,))}
    if text == "none":
        return None
    if text in named:
        return Normalization(*named[text])
    values = _values(text)
    keys = set(values)
    if keys in ({"mean", "std"}, {"std"}, {"mean"}):
        return _checked(values.get("mean", (0.0,)), values.get("std", (1.0,)), text)
    if keys in ({"scale"}, {"scale", "offset"}, {"scale", "zero_point"}):
        scale = values["scale"]
        if 0.0 in scale:
            raise UsageError(f"--normalize {text}: a scale of zero")
        std = tuple(1.0 / s for s in scale)
        if "zero_point" in values:
            return _checked(values["zero_point"], std, text)
        offset = values.get("offset", (0.0,))
        count = max(len(scale), len(offset))
        mean = tuple(-offset[i % len(offset)] / scale[i % len(scale)] for i in range(count))
        return _checked(mean, std, text)
    raise UsageError(f"--normalize {text} is not understood", fix=_FORMS)


def _values(text: str) -> dict[str, tuple[float, ...]]:
    values: dict[str, tuple[float, ...]] = {}
    for part in text.split(","):
        key, equals, numbers = part.partition("=")
        try:
            values[key.strip()] = tuple(float(number) for number in numbers.split("/"))
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--normalize {text} is not understood", fix=_FORMS)
    return values


def _checked(mean: tuple[float, ...], std: tuple[float, ...], text: str) -> Normalization:
    import math

    if 0.0 in std or not all(map(math.isfinite, (*mean, *std))):
        raise UsageError(f"--normalize {text}: values must be finite and std not zero")
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise UsageError(f"--normalize {text}: {len(mean)} means and {len(std)} deviations")
    return Normalization(mean, std)
