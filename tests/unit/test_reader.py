"""The reader takes any bytes: it reads a model, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from tflite_builder import TfliteBuilder

import edgekit.examples.digits
from edgekit.errors import ModelError
from edgekit.graph import read_model
from edgekit.graph.reader import shown
from edgekit.inspection import inspect_model

DIGITS = Path(edgekit.examples.digits.__file__).parent / "digits_int8.tflite"


def small_model(name: str = "x", scale: float = 0.5) -> bytes:
    builder = TfliteBuilder("a test")
    x = builder.tensor((1, 4, 4, 2), scale=scale, zero_point=3, name=name)
    w = builder.constant(
        np.arange(4, dtype=np.int8).reshape(2, 1, 1, 2), scale=[0.1, 0.2], zero_point=0
    )
    b = builder.constant(np.array([5, -5], np.int32), scale=[0.05, 0.1], zero_point=0)
    y = builder.tensor((1, 2, 2, 2), scale=0.25, zero_point=-7)
    builder.op("CONV_2D", [x, w, b], [y], padding="VALID", stride_h=2, stride_w=2)
    return builder.build([x], [y])


def test_reads_what_the_builder_wrote() -> None:
    model = read_model(small_model(), "small")
    op = model.ops[0]
    assert (model.name, model.description) == ("small", "a test")
    assert op.kind == "CONV_2D"
    assert op.options["padding"] == "VALID"
    assert op.options["fused_activation_function"] == "NONE"
    assert model.input_tensors[0].shape == (1, 4, 4, 2)
    assert model.input_tensors[0].zero_point == 3
    weights = model.tensors[op.inputs[1]]
    assert weights.quantization is not None and weights.quantization.per_channel
    assert weights.data().tolist() == [[[[0, 1]]], [[[2, 3]]]]


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 100, b"\x1c\0\0\0TFL3" + b"\xff" * 64])
def test_no_model(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_model(content)


def test_folder_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="folder"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(tmp_path / "none.tflite")


def test_every_truncation_is_an_error_or_a_model() -> None:
    content = small_model()
    for end in range(len(content)):
        with pytest.raises(ModelError):
            read_model(content[:end])


def test_names_cannot_reach_the_terminal() -> None:
    model = read_model(small_model("\x1b]0;evil\x07\n" + "n" * 500))
    payload = inspect_model(model, targets=False)
    name = payload["inputs"][0]["name"]
    assert name.isprintable() and len(name) <= 200
    assert shown("a\nb") == "a\ufffdb"


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 0.0, 1e-45])
def test_nonsense_scales_are_told_not_computed_with(scale: float) -> None:
    payload = inspect_model(read_model(small_model(scale=scale)), targets=False)
    json.dumps(payload, allow_nan=False)
    assert payload["macs"] == 2 * 2 * 2 * 2


def test_shared_vectors_do_not_take_all_memory() -> None:
    """Thousands of operators may name one long vector: refused before memory is gone."""
    count, length = 20_000, 60_000
    out = bytearray(struct.pack("<I4s", 0, b"TFL3"))

    def vtable(*offsets: int) -> int:
        at = len(out)
        out.extend(struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), 16, *offsets))
        out.extend(b"\0" * (-len(out) % 4))
        return at

    def table(vtable_at: int) -> int:
        at = len(out)
        out.extend(struct.pack("<iIII", at - vtable_at, 0, 0, 0))
        return at

    def link(at: int, target: int) -> None:
        struct.pack_into("<I", out, at, target - at)

    def vector(holder: int, items: int) -> int:
        link(holder, len(out))
        out.extend(struct.pack("<I", items) + b"\0" * (4 * items))
        return len(out) - 4 * items

    root = table(vtable(4, 8, 12))
    graph = table(vtable(0, 0, 0, 4))
    operator_vtable = vtable(0, 4)
    struct.pack_into("<I", out, 0, root)
    struct.pack_into("<I", out, root + 4, 3)
    codes, graphs = vector(root + 8, 1), vector(root + 12, 1)
    # Offsets lead forwards only, so the graph is written again behind the lists.
    graph = table(graph - struct.unpack_from("<i", out, graph)[0])
    operators = vector(graph + 4, count)
    operator = table(operator_vtable)
    link(codes, operator)
    link(graphs, graph)
    for i in range(count):
        link(operators + 4 * i, operator)
    inputs = vector(operator + 4, length)
    struct.pack_into(f"<{length}i", out, inputs, *[-1] * length)
    with pytest.raises(ModelError, match="overlap"):
        read_model(bytes(out))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One of the ways in which files get damaged, or are made to be."""
    data = bytearray(content)
    way = chance.choice(["cut", "bytes", "structure", "word", "copy"])
    size = len(data)

    def place(reach: int) -> int:
        # The structure is at both ends of the file, the weights are in the middle.
        at = chance.randrange(min(size, reach))
        return at if chance.random() < 0.4 else size - 1 - at

    if way == "cut":
        return bytes(data[: chance.randrange(size)])
    if way == "bytes":
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(size)] = chance.randrange(256)
    elif way == "structure":
        for _ in range(chance.randint(1, 8)):
            data[place(6000)] = chance.choice([0, 1, 2, 127, 128, 255, chance.randrange(256)])
    elif way == "word":
        for _ in range(chance.randint(1, 4)):
            at = max(0, min(place(8000), size - 4))
            word = chance.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, chance.getrandbits(32)])
            data[at : at + 4] = struct.pack("<I", word)
    else:
        at, source = chance.randrange(size), chance.randrange(size)
        length = chance.randrange(1, 64)
        data[at : at + length] = data[source : source + length]
    return bytes(data)


def check_survives(content: bytes) -> bool:
    """Reads and inspects damaged bytes; whether they were still a model."""
    try:
        payload = inspect_model(read_model(content), targets=False)
    except ModelError as error:
        assert "\n" not in error.what and len(error.what) < 400
        return False
    json.dumps(payload, allow_nan=False)
    return True


def test_damaged_small_models(seed: int, sample: float) -> None:
    chance = random.Random(seed)
    sources = [small_model(), DIGITS.read_bytes()]
    alive = sum(
        check_survives(mutated(chance.choice(sources), chance)) for _ in range(int(1500 * sample))
    )
    assert alive > 0


@pytest.mark.slow
def test_damaged_real_models(shared: Path, seed: int, sample: float) -> None:
    chance = random.Random(seed)
    files = sorted((shared / "models").glob("*/*.tflite"))
    sources = [path.read_bytes() for path in files if path.stat().st_size < 400_000]
    for _ in range(int(1000 * sample)):
        check_survives(mutated(chance.choice(sources), chance))
