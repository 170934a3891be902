"""The generated C++ of a small model, word for word.

``EDGEKIT_UPDATE_GOLDEN=1 pytest tests/golden/test_tflm_sources.py`` writes the files anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgekit.engines import tflm
from edgekit.graph import read_model
from edgekit.targets import Region, Target
from tests.tflite_builder import TfliteBuilder

EXPECTED = Path(__file__).parent / "tflm" / "expected"


def test_sources_are_the_expected_ones(tmp_path: Path) -> None:
    builder = TfliteBuilder()
    data = builder.tensor((1, 4), scale=0.5, zero_point=-3)
    weights = builder.constant(np.arange(12, dtype=np.int8).reshape(3, 4), scale=0.125)
    bias = builder.constant(np.arange(3, dtype=np.int32), scale=0.0625)
    output = builder.tensor((1, 3), scale=0.75, zero_point=4)
    builder.op("FULLY_CONNECTED", [data, weights, bias], [output])
    model = read_model(builder.build([data], [output]), "tiny")
    target = Target(
        name="board",
        title="A board",
        kind="mcu",
        core="cortex-m4",
        isa=("thumb", "thumb2", "dsp"),
        memory=(Region("FLASH", "flash", 0, 1 << 20), Region("RAM", "ram", 0x20000000, 1 << 17)),
    )
    tflm.compile(model, target, tmp_path / "out", command="", options={"project": "cmake"})
    for path in ("src/tiny.h", "src/tiny.cpp", "src/tiny_ops.h", "src/main.cpp", "CMakeLists.txt"):
        made = (tmp_path / "out" / path).read_text()
        expected = EXPECTED / f"{Path(path).name}.txt"
        if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
            EXPECTED.mkdir(exist_ok=True)
            expected.write_text(made)
        assert made == expected.read_text(), f"{path} differs from {expected.name}"
