"""The generated C of the four MLPerf Tiny models, run on the host: every step equals TFLM's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.engines import aot
from edgekit.engines.aot import emit
from edgekit.engines.aot.host import HostRunner, StepReference, compile_host
from edgekit.graph import Model, read_model
from edgekit.records import Artifact
from edgekit.targets import load_target

KWS, IC, VWW, AD = "kws_dscnn_int8", "ic_resnet_int8", "vww_mobilenet_int8", "ad_autoencoder_int8"
MODELS = (KWS, IC, VWW, AD)

#: Less than half of TFLM's arena with CMSIS-NN, except for IC (0.65).
ARENA_CEILINGS = {KWS: 11_000, IC: 36_000, VWW: 40_000, AD: 1_024}

#: Outputs of TFLM for the bytes of xorshift32 from 0x12345678 (FNV-1a, 32 bit).
HASHES = {KWS: 0xCCC32D71, IC: 0xD08A0ACE, VWW: 0x3A5F7F09, AD: 0x7D469E9E}

Compiled = Callable[..., tuple[Model, Artifact]]


@pytest.fixture(scope="module")
def compiled(mlperf: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles a model once per set of options."""
    cache: dict[object, tuple[Model, Artifact]] = {}

    def build(name: str, target: str = "host", **options: object) -> tuple[Model, Artifact]:
        key = (name, target, tuple(sorted(options.items())))
        if key not in cache:
            model = read_model(mlperf / f"{name}.tflite")
            out = tmp_path_factory.mktemp("aot") / "out"
            command = f"edgekit compile {name}.tflite --target {target}"
            artifact = aot.compile(
                model, load_target(target), out, command=command, options=options
            )
            cache[key] = (model, artifact)
        return cache[key]

    return build


def _compare(model: Model, artifact: Artifact, inputs: list[np.ndarray]) -> None:
    assert artifact.plan is not None
    reference = StepReference(model, artifact.plan)
    with HostRunner(artifact) as runner:
        for number, data in enumerate(inputs):
            expected = reference.invoke(data)
            outputs = reference.outputs()
            runner.fill(0xA5)
            found = runner.steps(data)
            for step, left, right in zip(artifact.plan.steps, found, expected, strict=True):
                assert left == right, f"input {number}, step {step.index} {step.kind}"
            runner.fill(0x5A)
            assert runner.invoke(data) == outputs
            assert runner.guards_intact(0x5A)


@pytest.mark.parametrize("name", MODELS)
def test_every_step_equals_tflm_on_random_inputs(
    compiled: Compiled, name: str, seed: int, sample: float
) -> None:
    model, artifact = compiled(name)
    rng = np.random.default_rng(seed)
    shape = model.input_tensors[0].shape
    inputs = [
        rng.integers(-128, 128, shape).astype(np.int8) for _ in range(max(3, int(20 * sample)))
    ]
    inputs += [np.full(shape, value, np.int8) for value in (-128, 0, 127)]
    _compare(model, artifact, inputs)


@pytest.mark.parametrize("name", MODELS)
def test_debug_steps_are_the_models_operators(compiled: Compiled, name: str, seed: int) -> None:
    model, artifact = compiled(name, debug_steps=True)
    assert artifact.plan is not None
    assert [step.ops for step in artifact.plan.steps] == [(op.index,) for op in model.ops]
    rng = np.random.default_rng(seed)
    _compare(
        model, artifact, [rng.integers(-128, 128, model.input_tensors[0].shape).astype(np.int8)]
    )


@pytest.mark.parametrize(("name", "data"), [(KWS, "kws01"), (VWW, "vww01")])
def test_every_step_equals_tflm_on_real_inputs(
    compiled: Compiled, shared: Path, name: str, data: str, sample: float
) -> None:
    model, artifact = compiled(name)
    with np.load(shared / "data" / f"{data}.npz") as archive:
        x = archive["x"][:: 700 // max(3, int(20 * sample))]
    if x.dtype == np.uint8:
        x = (x.astype(np.int16) - 128).astype(np.int8)
    _compare(model, artifact, [row[None].reshape(model.input_tensors[0].shape) for row in x])


@pytest.mark.parametrize("name", MODELS)
def test_the_published_hash(compiled: Compiled, name: str) -> None:
    model, artifact = compiled(name)
    state, count = 0x12345678, model.input_tensors[0].elements
    data = np.empty(count, np.uint8)
    for i in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        data[i] = state >> 24
    with HostRunner(artifact) as runner:
        (output,) = runner.invoke(data.view(np.int8))
    value = 0x811C9DC5
    for byte in output:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    assert value == HASHES[name]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["host", "nucleo-l4r5zi"])
def test_the_arena_stays_below_its_ceiling(compiled: Compiled, name: str, target: str) -> None:
    _, artifact = compiled(name, target)
    plan = artifact.plan
    assert plan is not None
    assert plan.arena_lower_bound_bytes <= plan.arena_bytes <= ARENA_CEILINGS[name]
    assert plan.arena_optimal


def test_channels_that_cannot_matter_are_gone(compiled: Compiled) -> None:
    model, artifact = compiled(VWW)
    assert artifact.plan is not None
    assert artifact.model_macs == 7_489_664
    assert sum(step.macs for step in artifact.plan.steps) == 3_727_313
    convolutions = [s for s in artifact.plan.steps if s.kind == "CONV_2D" and s.ops[0] >= 10]
    assert [s.shape[-1] for s in convolutions] == [60, 106, 57, 30, 19, 15, 25, 31, 22]
    for name in (KWS, IC, AD):
        plain = compiled(name)[1]
        assert plain.plan is not None
        assert sum(step.macs for step in plain.plan.steps) == plain.model_macs


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("name", MODELS)
def test_no_compiler_warns(
    compiled: Compiled, tmp_path: Path, name: str, compiler: str, level: str
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    _, artifact = compiled(name)
    flags = ("-c", level, "-Wshadow", "-Wmissing-prototypes", "-Wundef")
    compile_host(artifact, tmp_path / "model.o", flags=flags, compiler=compiler)


@pytest.mark.parametrize("level", ["-O2", "-Os"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("target", "core"), [("nucleo-l4r5zi", "cortex-m4"), ("nucleo-g0b1re", "cortex-m0plus")]
)
def test_code_is_small(
    compiled: Compiled, tmp_path: Path, name: str, target: str, core: str, level: str
) -> None:
    """Code (what is left without the tables) below 20,000 bytes per model."""
    gcc = "arm-none-eabi-gcc"
    if shutil.which(gcc) is None:
        pytest.skip(f"{gcc} is not installed")
    _, artifact = compiled(name, target)
    flags = (f"-mcpu={core}", "-mthumb", level, "-c")
    compile_host(artifact, tmp_path / "model.o", flags=flags, compiler=gcc)
    listing = subprocess.run(
        ["arm-none-eabi-size", tmp_path / "model.o"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    text, data, bss = (int(word) for word in listing[1].split()[:3])
    assert (data, bss) == (0, 0)
    print(f"{name} {target} {level}: code {text - artifact.weights_bytes:,} B")
    assert text - artifact.weights_bytes < 20_000


_TWO_MODELS = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "{first}.h"
#include "{second}.h"

/* Runs the models one after the other in one arena of exactly the larger size. */
static unsigned run(const ek_model_t *model, int8_t *arena) {{
    memset(arena, 0x55, model->arena_bytes);
    for (uint32_t i = 0; i < model->input_count; ++i) {{
        const ek_span_t span = model->inputs[i];
        for (uint32_t k = 0; k < span.nbytes; ++k) {{
            arena[span.offset + k] = (int8_t)(k * 37u >> 2);
        }}
    }}
    model->invoke(arena);
    unsigned hash = 2166136261u;
    for (uint32_t k = 0; k < model->outputs[0].nbytes; ++k) {{
        hash = (hash ^ (uint8_t)arena[model->outputs[0].offset + k]) * 16777619u;
    }}
    return hash;
}}

int main(void) {{
    const ek_model_t *models[2] = {{&{first}_model, &{second}_model}};
    for (int k = 0; k < 2; ++k) {{
        int8_t *arena = malloc(models[k]->arena_bytes); /* the sanitizer sees its ends */
        const unsigned a = run(models[k], arena);
        const unsigned b = run(models[k], arena);
        printf("%s %08x %08x\\n", models[k]->name, a, b);
        free(arena);
    }}
    return 0;
}}
"""


@pytest.mark.parametrize(("first", "second"), [(KWS, AD), (IC, VWW)])
def test_two_models_in_one_program_under_sanitizers(
    compiled: Compiled, tmp_path: Path, first: str, second: str
) -> None:
    one, two = compiled(first), compiled(second)
    main = tmp_path / "main.c"
    main.write_text(_TWO_MODELS.format(first=emit.prefix_of(first), second=emit.prefix_of(second)))
    program = tmp_path / "program"
    flags = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-I{two[1].folder}",
        str(two[1].folder / two[1].sources[0]),
    ]
    compile_host(one[1], program, flags=flags, extra=[main])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line, (model, artifact) in zip(done.stdout.splitlines(), (one, two), strict=True):
        assert artifact.plan is not None
        count = model.input_tensors[0].elements
        data = (((np.arange(count, dtype=np.uint32) * 37) >> 2) & 0xFF).astype(np.uint8)
        reference = StepReference(model, artifact.plan)
        reference.invoke(data.view(np.int8).reshape(model.input_tensors[0].shape))
        value = 0x811C9DC5
        for byte in reference.outputs()[0]:
            value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
        assert line.split() == [model.name, f"{value:08x}", f"{value:08x}"]
