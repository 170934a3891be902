"""Folders of images as samples: found in sorted order, resized, in the model's channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import ModelError, missing_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fit = Literal["stretch", "crop"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def find(folder: Path) -> tuple[list[Path], list[int] | None]:
    """The images in a folder and below, sorted, and their classes.

    Images that are all in subfolders are classes by the sorted names of the subfolders, as
    Keras' ``image_dataset_from_directory`` has them; otherwise there are no classes.

    Raises:
        ModelError: there is no image.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not files:
        raise ModelError("the folder holds no images", str(folder), "files such as .png or .jpg")
    parents = [file.relative_to(folder).parts[:-1] for file in files]
    if not all(parents):
        return files, None
    names = sorted({parts[0] for parts in parents})
    return files, [names.index(parts[0]) for parts in parents]


def read(path: Path, height: int, width: int, channels: int, fit: Fit) -> NDArray[np.uint8]:
    """One image as uint8 [height, width, channels] (1 grey, 3 RGB or 4 RGBA), bilinear.

    ``crop`` keeps the proportions and cuts the middle; ``stretch`` does not keep them.

    Raises:
        ModelError: the file is no image that Pillow reads.
        MissingDependency: Pillow is not installed.
    """
    import numpy as np

    image_module = _pillow()
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise ModelError(f"images cannot fill an input of {channels} channels", str(path))
    try:
        with image_module.open(path) as opened:
            image = opened.convert(mode)
    except (OSError, ValueError, image_module.DecompressionBombError) as error:
        raise ModelError(f"the image cannot be read: {error}", str(path)) from None
    box = None
    if fit == "crop":
        scale = min(image.width / width, image.height / height)
        wide, high = width * scale, height * scale
        left, top = (image.width - wide) / 2, (image.height - high) / 2
        box = (left, top, left + wide, top + high)
    resized = image.resize((width, height), image_module.Resampling.BILINEAR, box=box)
    return np.asarray(resized, np.uint8).reshape(height, width, channels)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise missing_extra("pillow", "convert", "reading images") from None
    return Image
