"""Features of texts: the C of the device equals the Python of the training, byte for byte."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_harness import FIRMWARE, SANITIZERS, WARNINGS

from edgekit.errors import UsageError
from edgekit.features import text

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

SOURCE = """
#include "ek_text.h"
uint32_t run(const void *text, uint32_t nbytes, uint32_t tokens, uint32_t features,
             const int8_t *codes, int8_t *out);
uint32_t run(const void *text, uint32_t nbytes, uint32_t tokens, uint32_t features,
             const int8_t *codes, int8_t *out) {
    return ek_text_features(text, nbytes, tokens, features, codes, out);
}
"""
#: Reads texts of a length each and prints their features: every buffer is exactly as large as
#: it must be, so that the sanitizer sees what reads or writes beside it.
PROGRAM = r"""
#include "ek_text.h"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    const int8_t codes[3] = {-1, 0, 1};
    uint32_t sizes[3];
    while (fread(sizes, 4, 3, stdin) == 3) {
        char *text = malloc(sizes[0] ? sizes[0] : 1);
        int8_t *out = malloc(sizes[1] * sizes[2]);
        if (fread(text, 1, sizes[0], stdin) != sizes[0]) return 3;
        ek_text_features(text, sizes[0], sizes[1], sizes[2], codes, out);
        fwrite(out, 1, sizes[1] * sizes[2], stdout);
        free(text);
        free(out);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.c").write_text(SOURCE)
    subprocess.run(
        ["gcc", *WARNINGS, "-Wconversion", "-O2", "-shared", "-fPIC", f"-I{FIRMWARE}/include",
         "text.c", "-o", "text.so"],
        cwd=folder, check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(folder / "text.so"))


def in_c(
    library: ctypes.CDLL, data: bytes, tokens: int, features: int, codes: tuple[int, int, int]
) -> tuple[int, np.ndarray]:
    out = np.full((tokens, features), 99, np.int8)
    chosen = np.array(codes, np.int8)
    count = library.run(
        data, len(data), tokens, features, chosen.ctypes.data_as(ctypes.c_void_p),
        out.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    return count, out


@given(
    data=st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)),
    tokens=st.integers(1, 12),
    sixteens=st.integers(1, 6),
)
@example(data=b"x" * 200 + b" tail", tokens=2, sixteens=1)
@example(data=b"A,b", tokens=1, sixteens=1)
@example(data=b"", tokens=3, sixteens=2)
@example(data="Zwölf Boxkämpfer!".encode(), tokens=12, sixteens=6)
def test_c_equals_python(library: ctypes.CDLL, data: bytes, tokens: int, sixteens: int) -> None:
    features = 16 * sixteens
    count, out = in_c(library, data, tokens, features, (-1, 0, 1))
    assert count == min(tokens, len(text.words(data)))
    assert np.array_equal(out, text.project(data, tokens, features))
    _, coded = in_c(library, data, tokens, features, (-128, -3, 127))
    assert np.array_equal(coded, np.array([-128, -3, 127], np.int8)[out + 1])


def test_c_stays_inside_its_buffers(tmp_path: Path, seed: int) -> None:
    (tmp_path / "text.c").write_text(PROGRAM)
    subprocess.run(
        ["gcc", *WARNINGS, *SANITIZERS, "-g", f"-I{FIRMWARE}/include", "text.c", "-o", "text"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    given, expected = b"", b""
    for _ in range(200):
        size, tokens, features = int(rng.integers(0, 150)), int(rng.integers(1, 9)), 32
        # bytes of few kinds, so that there are long words as well as many short ones
        data = rng.choice(np.frombuffer(b"aB\xc3\x00 .9" + b"q" * 20, np.uint8), size).tobytes()
        given += np.array([size, tokens, features], np.uint32).tobytes() + data
        expected += text.project(data, tokens, features).tobytes()
    done = subprocess.run([str(tmp_path / "text")], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == expected


@pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed"
)
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m0plus"])
def test_cores_equal_python(
    core: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    from cortexm import COMPILERS, LIBRARY, LINKER_SCRIPT, RAM, Machine

    (tmp_path / "text.c").write_text(SOURCE)
    (tmp_path / "flash.ld").write_text(LINKER_SCRIPT)
    subprocess.run(
        [*COMPILERS["gcc"](core), *WARNINGS, "-O2", "-ffreestanding", "-fno-builtin",
         f"-I{FIRMWARE}/include", f"-I{FIRMWARE}/runtime/libc", "-Wl,-T,flash.ld", "-Wl,-e,run",
         "text.c", *map(str, LIBRARY), "-nostdlib", "-lgcc", "-o", "text.elf"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    machine = Machine(core, tmp_path / "text.elf")
    data = "The quick brown fox jumps over the lazy dog's 13 puppies — naïvely.".encode()
    at, codes, out = RAM + 256, RAM + 1024, RAM + 4096
    machine.cpu.mem_write(at, data)
    machine.cpu.mem_write(codes, bytes([0x80, 0x00, 0x7F]))
    executed = 0

    def count(*_: object) -> None:
        nonlocal executed
        executed += 1

    import unicorn

    machine.cpu.hook_add(unicorn.UC_HOOK_CODE, count)
    machine.call("run", at, len(data), 32, 128, codes, out)
    have = np.frombuffer(bytes(machine.cpu.mem_read(out, 32 * 128)), np.int8)
    expected = np.array([-128, 0, 127], np.int8)[text.project(data) + 1]
    assert np.array_equal(have, expected.reshape(-1))
    found = len(text.words(data))
    record_property(
        "figures",
        f"text features, 128 of a word, {core}: {executed // found:,} instructions a word "
        f"({found} words)",
    )


def test_words() -> None:
    assert text.words("Don't STOP me-now\t42!") == [
        b"don", b"'", b"t", b"stop", b"me", b"-", b"now", b"42", b"!",
    ]  # fmt: skip
    assert text.words("Ärger") == ["Ärger".encode()]
    assert text.words(" \n\0") == []
    assert text.words(b"a" * 100) == [b"a" * text.WORD_BYTES]


def test_words_that_are_spelt_alike_are_near() -> None:
    def distance(first: str, second: str) -> float:
        a, b = (text.project(word, 1, 1024)[0].astype(int) for word in (first, second))
        return float(np.abs(a - b).mean())

    assert distance("connecting", "connected") < 0.8 * distance("connecting", "breakfast")
    assert distance("color", "Color") == 0


def test_features_are_ternary_and_padded() -> None:
    found = text.project("two words", 4, 256)
    assert set(np.unique(found)) == {-1, 0, 1}
    assert not found[2:].any()
    assert abs(found[:2].mean()) < 0.1
    assert text.batch(["a", "b c"], 4, 32).shape == (2, 4, 32)
    assert text.batch([], 4, 32).shape == (0, 4, 32)


def test_features_refuse() -> None:
    with pytest.raises(UsageError, match="sixteens"):
        text.project("a", 4, 100)


def test_codes_are_the_quantised_values() -> None:
    assert text.codes(2 / 255, -1) == (-128, -1, 127)
    assert text.codes(1 / 127, 0) == (-127, 0, 127)
