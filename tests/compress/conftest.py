"""What the tests of compression share: both Keras generations, digits and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import examples

pytest.importorskip("tensorflow")

DIGITS = Path(examples.__file__).parent / "digits"


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request: pytest.FixtureRequest) -> Any:
    """Keras 3, then Keras 2."""
    from edgekit.convert import frameworks

    return frameworks.keras3() if request.param == "keras" else frameworks.keras2()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and test data of digits as ``.npz`` files."""
    from edgekit.examples.digits.train import load_data

    folder = tmp_path_factory.mktemp("digits")
    names = []
    for name, (x, y) in zip(("train", "test"), load_data(), strict=True):
        np.savez(folder / f"{name}.npz", x=x, y=y)
        names.append(folder / f"{name}.npz")
    return names[0], names[1]


@pytest.fixture(scope="session")
def digits_model() -> Path:
    return DIGITS / "digits.keras"
