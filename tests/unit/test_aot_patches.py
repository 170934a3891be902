"""Stages in strips: the same bytes step by step as TFLM, less memory, no row computed twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tflite_builder import TfliteBuilder

from edgekit import bench
from edgekit.build import build
from edgekit.engines import aot
from edgekit.engines.aot import memory, patches, plan, search, select
from edgekit.engines.aot.host import HostRunner, StepReference
from edgekit.engines.aot.limits import read_limits, read_time_us
from edgekit.errors import FitError, UsageError
from edgekit.graph import Model, read_model
from edgekit.records import Artifact, Firmware, Measurement, StripStage, from_json
from edgekit.targets import Region, Target, load_target

_SCALE = {"scale": 0.05, "zero_point": -3}


@pytest.fixture(scope="module")
def host() -> Target:
    return load_target("host")


def _check(model: Model, artifact: Artifact, runs: int = 2) -> None:
    """Every step's bytes and the outputs equal TFLM's, and nothing is written elsewhere."""
    assert artifact.plan is not None
    rng = np.random.default_rng(7)
    reference = StepReference(model, artifact.plan)
    with HostRunner(artifact, flags=("-fsanitize=undefined", "-fno-sanitize-recover")) as runner:
        for _ in range(runs):
            inputs = [rng.integers(-128, 128, t.shape).astype(np.int8) for t in model.input_tensors]
            expected = reference.invoke(*inputs)
            outputs = reference.outputs()
            runner.fill(0xA5)
            assert runner.steps(*inputs) == expected
            assert runner.outputs() == outputs
            assert runner.invoke(*inputs) == outputs
            assert runner.guards_intact(0xA5)
    reference.close()


def _on_board(
    firmware: Firmware, target: Target, model: Model, port: str = "virtual"
) -> Measurement:
    """Every step and the outputs equal TFLM's on a virtual board; what was measured there."""
    assert firmware.plan is not None
    examples = bench.random_examples(firmware.plan, 1, 7)
    found = bench.bench_firmware(firmware, target, port, model=model, examples=examples, runs=2)
    assert found.outputs is not None and found.outputs.match is True, found.outputs
    return found


def _compiled(
    model: Model, target: Target, out: Path, stages: list[patches.Stage], monkeypatch: Any
) -> Artifact | None:
    """The model with given stages in strips; ``None`` where they cannot be."""
    found = search.Search(aot._passed(model), target)
    choice = found.choice(stages, least=False)
    if choice is None:
        return None
    layout = found.layout(choice)
    monkeypatch.setattr(aot, "weigh", lambda *_: (layout, ()))
    return aot.compile(model, target, out, command="edgekit compile", options={})


# -- random chains -----------------------------------------------------------------------------


@st.composite
def chains(draw: st.DrawFn) -> tuple[bytes, int]:
    """A chain of windowed and element-wise operators with residuals, and how many they are."""
    builder = TfliteBuilder()
    height, width = draw(st.integers(5, 13)), draw(st.integers(4, 8))
    channels = 4 * draw(st.integers(1, 2))
    quantization: dict[str, Any] = _SCALE
    first = tensor = builder.tensor((1, height, width, channels), **_SCALE)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    earlier: list[tuple[int, tuple[int, ...]]] = []
    made = 0
    for _ in range(draw(st.integers(2, 6))):
        shape = (1, height, width, channels)
        kind = draw(st.sampled_from(["conv", "conv", "depthwise", "pool", "add", "relu"]))
        alike = [t for t, s in earlier if s == shape]
        before = tensor
        if kind == "add" and alike:
            quantization = {"scale": 0.4, "zero_point": 2}
            tensor = builder.tensor(shape, **quantization)
            pair = [before, alike[-1]] if draw(st.booleans()) else [alike[-1], before]
            builder.op("ADD", pair, [tensor], fused_activation_function="NONE")
        elif kind in ("relu", "add"):
            quantization = {"scale": 0.4, "zero_point": -20}
            tensor = builder.tensor(shape, **quantization)
            builder.op("RELU", [before], [tensor])
        else:
            kernel = draw(st.sampled_from([1, 2, 3, 5] if kind != "pool" else [1, 2, 3]))
            stride = draw(st.integers(1, 2))
            same = kind != "pool" and draw(st.booleans())
            sizes = [
                -(-n // stride) if same else (n - kernel) // stride + 1 for n in (height, width)
            ]
            if min(sizes) < 1 or sizes[0] < 2:
                break
            window: dict[str, Any] = {
                "padding": "SAME" if same else "VALID", "stride_h": stride, "stride_w": stride,
                "fused_activation_function": draw(st.sampled_from(["NONE", "RELU"])),
            }  # fmt: skip
            inputs = [before]
            if kind == "pool":
                name = "MAX_POOL_2D"
                window |= {"filter_height": kernel, "filter_width": kernel}
            else:
                name = "CONV_2D" if kind == "conv" else "DEPTHWISE_CONV_2D"
                after = 4 * draw(st.integers(1, 2)) if kind == "conv" else channels
                form = (after if kind == "conv" else 1, kernel, kernel, channels)
                values = rng.integers(-127, 128, form).astype(np.int8)
                bias = rng.integers(-2000, 2000, after).astype(np.int32)
                inputs += [
                    builder.constant(values, scale=0.01),
                    builder.constant(bias, scale=0.01 * quantization["scale"]),
                ]
                window |= {"dilation_h_factor": 1, "dilation_w_factor": 1}
                if kind == "depthwise":
                    window["depth_multiplier"] = 1
                channels, quantization = after, {"scale": 0.4, "zero_point": 5}
            height, width = sizes
            tensor = builder.tensor((1, height, width, channels), **quantization)
            builder.op(name, inputs, [tensor], **window)
        made += 1
        earlier.append((before, shape))
    assume(made >= 2)
    return builder.build([first], [tensor]), made


@settings(max_examples=25, deadline=None)
@given(chains(), st.data())
def test_random_chains_in_strips_equal_tflm(
    host: Target, tmp_path_factory: pytest.TempPathFactory, chain: tuple[bytes, int], data: Any
) -> None:
    model = read_model(chain[0], "chain")
    program = aot._passed(model)
    runs = patches.runs(program)
    assume(any(stop - start >= 2 for start, stop in runs))
    first, last = data.draw(st.sampled_from([r for r in runs if r[1] - r[0] >= 2]))
    start = data.draw(st.integers(first, last - 2))
    stop = data.draw(st.integers(start + 2, last))
    stage = patches.Stage(start, stop, data.draw(st.integers(1, 4)))
    with pytest.MonkeyPatch.context() as patch:
        artifact = _compiled(model, host, tmp_path_factory.mktemp("x") / "out", [stage], patch)
    assume(artifact is not None)
    assert artifact is not None
    assert artifact.plan is not None
    _check(model, artifact)
    (found,) = artifact.plan.stages
    assert found.macs <= found.model_macs  # rows that nobody reads are not made
    _buffers_lie_apart(artifact)


def _buffers_lie_apart(artifact: Artifact) -> None:
    """Scratch overlaps nothing that lives at its step; strips lie in buffers of their tensor."""
    plan_ = artifact.plan
    assert plan_ is not None
    for buffer in plan_.buffers:
        assert 0 <= buffer.offset <= plan_.arena_bytes - buffer.nbytes
    for step in plan_.steps:
        assert any(
            b.offset <= step.offset and step.offset + step.nbytes <= b.offset + b.nbytes
            for b in plan_.buffers
            if b.first <= step.index <= b.last
        )


# -- a network whose size is known -------------------------------------------------------------


def _tower(rows: int = 16) -> Model:
    """Three convolutions over an image that grows and shrinks: 1 KB, 8 KB, 8 KB, 1 KB."""
    builder = TfliteBuilder()
    x = builder.tensor((1, rows, 16, 4), **_SCALE)
    tensor, channels, scale = x, 4, 0.05
    for after, stride in ((32, 1), (32, 1), (16, 2)):
        weights = np.random.default_rng(after + stride).integers(-127, 128, (after, 3, 3, channels))
        inputs = [
            tensor,
            builder.constant(weights.astype(np.int8), scale=0.01),
            builder.constant(np.zeros(after, np.int32), scale=0.01 * scale),
        ]
        scale = 0.4
        tensor = builder.tensor((1, rows // stride, 16 // stride, after), scale=0.4, zero_point=5)
        builder.op(
            "CONV_2D", inputs, [tensor], padding="SAME", stride_h=stride, stride_w=stride,
            dilation_h_factor=1, dilation_w_factor=1, fused_activation_function="RELU",
        )  # fmt: skip
        channels = after
    return read_model(builder.build([x], [tensor]), "tower")


def test_ram_takes_strips_and_repeats_nothing(tmp_path: Path, host: Target) -> None:
    model = _tower()
    whole = aot.compile(model, host, tmp_path / "a", command="x", options={})
    small = aot.compile(model, host, tmp_path / "b", command="x", options={"optimize": "ram"})
    assert whole.plan is not None
    assert small.plan is not None
    assert not whole.plan.stages
    assert small.plan.arena_bytes < 0.6 * whole.plan.arena_bytes
    (stage,) = small.plan.stages
    assert stage.macs == stage.model_macs == model_macs(whole)
    assert stage.moved_bytes > 0
    assert from_json(StripStage, _json(stage)) == stage
    _check(model, small)
    off = {"optimize": "ram", "patches": "no"}
    assert not _plan(aot.compile(model, host, tmp_path / "c", command="x", options=off)).stages


def model_macs(artifact: Artifact) -> int:
    return sum(step.macs for step in _plan(artifact).steps)


def _plan(artifact: Artifact) -> Any:
    assert artifact.plan is not None
    return artifact.plan


def _json(record: Any) -> Any:
    from edgekit.records import to_json

    return to_json(record)


def test_inputs_that_are_kept_are_not_written(tmp_path: Path, host: Target) -> None:
    options = {"optimize": "ram", "keep_input": True}
    artifact = aot.compile(_tower(), host, tmp_path / "a", command="x", options=options)
    assert _plan(artifact).stages
    value = np.random.default_rng(3).integers(-128, 128, (1, 16, 16, 4)).astype(np.int8)
    with HostRunner(artifact) as runner:
        assert runner.invoke(value) == runner.invoke(value)
        view = runner.plan.inputs[0]
        kept = runner.arena[view.offset : view.offset + view.nbytes].tobytes()
    assert kept == value.tobytes()


def test_stages_that_cannot_be(host: Target) -> None:
    program = aot._passed(_tower())
    assert patches.runs(program) == [(0, 3)]
    assert patches.apply(program, patches.Stage(0, 1, 1)) is None  # one step
    assert patches.apply(program, patches.Stage(0, 3, 8)) is None  # one turn
    strips = patches.apply(program, patches.Stage(0, 3, 2))
    assert strips is not None
    assert patches.apply(strips, patches.Stage(0, 2, 1)) is None  # in strips already
    kernels, _ = select.choose(strips, host)
    _, problem = memory.problem_of(strips, kernels, keep_input=False, overlap=True)
    solution = plan.solve(problem)
    assert plan.conflicts(problem, solution.offsets) == []


def test_weights_in_ram(tmp_path: Path, host: Target) -> None:
    model = _tower()
    options = {"weights": "ram"}
    artifact = aot.compile(model, host, tmp_path / "a", command="x", options=options)
    text = (tmp_path / "a" / "tower_weights.h").read_text()
    assert "static const" not in text
    assert 'section(".data.tower_s0_weights")' in text
    _check(model, artifact)
    with pytest.raises(UsageError):
        aot.read_options({"weights": "disk"})


def test_the_tables_that_are_read_most_go_into_ram(
    mlperf: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """4 KB of 42 bring two thirds of what all of them would."""
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    target = load_target("nucleo-l4r5zi")
    cycles: dict[str, int] = {}
    reads: dict[str, int] = {}
    for weights in ("flash", "4K", "ram"):
        options = {"weights": weights}
        artifact = aot.compile(model, target, tmp_path / weights, command="x", options=options)
        tables = artifact.options["tables_in_ram"]
        often = [table["estimated_reads"] for table in tables]
        assert often == sorted(often, reverse=True)
        nbytes = sum(t["nbytes"] for t in tables)
        firmware = build(artifact, target, tmp_path / f"{weights}-firmware", command="x")
        sizes = {section.name: section.nbytes for section in firmware.sections}
        assert 0 <= sizes.get(".tables", 0) - nbytes < 4 * max(len(tables), 1)
        if weights == "4K":
            assert 0 < nbytes <= 4096
            text = (tmp_path / weights / "vww_mobilenet_int8_weights.h").read_text()
            assert text.count('section(".data.') == len(tables) < text.count("static const")
        with bench.connected("virtual:profile", target, firmware) as device:
            found = bench.measure(
                device, firmware, target, bench.random_examples(_plan(artifact), 1, 7),
                port="virtual", warmups=0, runs=1,
            )  # fmt: skip
            counters = device.link.counters()  # type: ignore[attr-defined]
        assert found.cycles is not None and found.outputs is not None
        cycles[weights] = found.cycles
        reads[weights] = counters.total.features["read_bytes_flash"]
    assert cycles["ram"] < cycles["4K"] < cycles["flash"]
    assert cycles["flash"] - cycles["4K"] > 0.6 * (cycles["flash"] - cycles["ram"])
    assert reads["flash"] - reads["4K"] > 0.6 * (reads["flash"] - reads["ram"])
    record_property("figure", f"vww, 4 KB of tables in RAM: {cycles['4K']:,} of "
                    f"{cycles['flash']:,} cycles (all: {cycles['ram']:,})")  # fmt: skip


def test_tables_that_no_ram_takes(tmp_path: Path) -> None:
    target = load_target("nucleo-g0b1re")
    options = {"weights": "ram"}
    artifact = aot.compile(_tower(), target, tmp_path / "a", command="x", options=options)
    nbytes = sum(table["nbytes"] for table in artifact.options["tables_in_ram"])
    arena = _plan(artifact).arena_bytes
    small = tuple(
        replace(r, nbytes=arena + 5000) if r.kind == "ram" else r for r in target.memory
    )  # fmt: skip
    with pytest.raises(FitError, match="are tables in RAM") as caught:
        build(artifact, replace(target, memory=small), tmp_path / "f")
    assert nbytes > 5000 and caught.value.fix == "compile with less for --set weights=SIZE"
    assert not (tmp_path / "f").exists()


def test_tables_go_into_tightly_coupled_memory(tmp_path: Path) -> None:
    """Beside the arena, if there is room; what start-up copies there is what the kernels read."""
    model = _tower()
    target = load_target("nucleo-h7a3zi-q")
    artifact = aot.compile(
        model, target, tmp_path / "a", command="x", options={"weights": "ram"}
    )  # fmt: skip
    firmware = build(artifact, target, tmp_path / "f", command="x")
    homes = {section.name: section.region for section in firmware.sections}
    assert (homes[".arena"], homes[".tables"]) == ("DTCM", "DTCM")
    _on_board(firmware, target, model)
    arena = _plan(artifact).arena_bytes
    room = arena + 64  # for the arena, and not for the tables
    tight = replace(
        target, memory=tuple(replace(r, nbytes=room) if r.name == "DTCM" else r
                             for r in target.memory),
    )  # fmt: skip
    homes = {s.name: s.region for s in build(artifact, tight, tmp_path / "g").sections}
    assert (homes[".arena"], homes[".tables"]) == ("DTCM", "AXISRAM")


def test_an_input_apart_is_only_read(tmp_path: Path, host: Target) -> None:
    options = {"optimize": "ram", "input": "apart"}
    inside = aot.compile(_tower(), host, tmp_path / "a", command="x", options={"optimize": "ram"})
    artifact = aot.compile(_tower(), host, tmp_path / "b", command="x", options=options)
    # The output lay over the input there; here is a pointer.
    assert _plan(artifact).arena_bytes <= _plan(inside).arena_bytes + 8
    assert _plan(artifact).inputs[0].apart
    header = (tmp_path / "b" / "tower.h").read_text()
    assert "tower_set_input(int8_t *arena, const int8_t *data)" in header
    _check(_tower(), artifact)


def test_vww_below_24_kb_beside_its_image(
    mlperf: Path, tmp_path: Path, host: Target, record_property: Callable[[str, object], None]
) -> None:
    """The image belongs to the camera; the arena holds everything else."""
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    options = {"max_ram": "24K", "input": "apart"}
    artifact = aot.compile(model, host, tmp_path / "a", command="x", options=options)
    assert _plan(artifact).arena_bytes < 24_576
    _check(model, artifact, runs=1)
    # and on a board: the runtime gives the image a place of its own
    target = load_target("nucleo-l4r5zi")
    artifact = aot.compile(model, target, tmp_path / "b", command="x", options=options)
    firmware = build(artifact, target, tmp_path / "firmware", command="x")
    plan = _plan(artifact)
    assert plan.arena_bytes < 24_576
    sizes = {section.name: section.nbytes for section in firmware.sections}
    assert sizes[".staging"] == 27_648
    found = _on_board(firmware, target, model)
    assert found.memory["inputs_apart"] is True
    estimated = artifact.options["estimates"]["instructions"]
    assert found.instructions == pytest.approx(estimated, rel=0.08)
    record_property("figure", f"vww, its image apart: {found.instructions:,} instructions, "
                    f"arena {plan.arena_bytes:,} B")  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(chains())
def test_random_chains_fed_by_rows_equal_tflm(
    host: Target, tmp_path_factory: pytest.TempPathFactory, chain: tuple[bytes, int]
) -> None:
    model = read_model(chain[0], "chain")
    for optimize in ("speed", "ram"):
        options = {"input": "rows", "optimize": optimize}
        out = tmp_path_factory.mktemp("x") / "out"
        try:
            artifact = aot.compile(model, host, out, command="x", options=options)
        except UsageError as error:
            assert error.what.startswith("the input cannot come in rows: ")
            return
        _check(model, artifact)
        _buffers_lie_apart(artifact)
        _every_row_once(artifact)


def _every_row_once(artifact: Artifact) -> None:
    """Rows that are read come once, in order, to where their step finds them."""
    plan_ = _plan(artifact)
    at = 0
    for feed in plan_.feeds:
        step = plan_.steps[feed.step]
        assert (step.kind, step.offset, step.nbytes) == ("FEED", feed.offset, feed.nbytes)
        assert feed.first_row == at and step.rows == (at, at + feed.rows)
        at += feed.rows
    assert 0 < at <= plan_.inputs[0].shape[1]


def test_vww_and_its_image_below_24_kb(
    mlperf: Path, tmp_path: Path, host: Target, record_property: Callable[[str, object], None]
) -> None:
    """All RAM of a firmware, stack and wire protocol included, is less than the image alone."""
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    options = {"input": "rows", "max_ram": "20K"}
    artifact = aot.compile(model, host, tmp_path / "a", command="x", options=options)
    _check(model, artifact, runs=1)
    target = load_target("nucleo-l4r5zi")
    artifact = aot.compile(model, target, tmp_path / "b", command="x", options=options)
    _every_row_once(artifact)
    plan_ = _plan(artifact)
    assert plan_.arena_bytes < 20_480
    assert sum(feed.nbytes for feed in plan_.feeds) == 27_648
    firmware = build(artifact, target, tmp_path / "firmware", command="x")
    assert firmware.ram_bytes < 24_576 < plan_.inputs[0].nbytes
    found = _on_board(firmware, target, model, port="mistreated:0.0002:virtual")
    assert found.memory["inputs_in_rows"] is True and found.memory["staging_bytes"] == 0
    whole = artifact.options["plans"][0]["instructions"]
    assert found.instructions is not None and found.instructions < 1.1 * whole
    assert sum(step.instructions or 0 for step in found.steps) == found.instructions
    assert found.latencies_us
    record_property("figure", f"vww in rows: {found.instructions:,} instructions, arena "
                    f"{plan_.arena_bytes:,} B, all RAM {firmware.ram_bytes:,} B")  # fmt: skip


def test_inputs_that_cannot_come_in_rows(tmp_path: Path, host: Target) -> None:
    def refused(model: Model, **options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            options = {"input": "rows", **options}
            aot.compile(model, host, tmp_path / "a", command="x", options=options)
        assert not (tmp_path / "a").exists()
        return str(caught.value)

    assert "an input that comes in rows is not kept" in refused(_tower(), keep_input=True)
    builder = TfliteBuilder()
    x, y = (builder.tensor((1, 8), **_SCALE) for _ in range(2))
    builder.op("RELU", [x], [y])
    flat = read_model(builder.build([x], [y]), "flat")
    assert "it is [1, 8], not an image" in refused(flat)
    real = TfliteBuilder()
    a, b = (real.tensor((1, 4, 4, 4), dtype="float32") for _ in range(2))
    real.op("RELU", [a], [b])
    assert "it is float32" in refused(read_model(real.build([a], [b]), "real"))
    two = TfliteBuilder()
    a, b, c = (two.tensor((1, 4, 4, 4), **_SCALE) for _ in range(3))
    two.op("ADD", [a, b], [c], fused_activation_function="NONE")
    assert "this one has 2" in refused(read_model(two.build([a, b], [c]), "two"))
    odd = TfliteBuilder()
    a, b = odd.tensor((1, 4, 3, 1), **_SCALE), odd.tensor((1, 4, 3, 1), **_SCALE)
    odd.op("RELU", [a], [b])
    assert "a row has 3 bytes" in refused(read_model(odd.build([a], [b]), "odd"))
    mean = TfliteBuilder()
    a, b = mean.tensor((1, 4, 4, 4), **_SCALE), mean.tensor((1, 64), **_SCALE)
    mean.op("RESHAPE", [a, mean.constant(np.array([1, 64], np.int32))], [b])
    c = mean.tensor((1, 64), scale=1 / 256, zero_point=-128)
    mean.op("SOFTMAX", [b], [c], beta=1.0)
    assert "does not run in strips" in refused(read_model(mean.build([a], [c]), "mean"))
    artifact = aot.compile(
        _tower(), load_target("nucleo-l4r5zi"), tmp_path / "b", command="x",
        options={"input": "rows"},
    )  # fmt: skip
    with pytest.raises(UsageError, match="has no place to be kept"):
        build(artifact, load_target("nucleo-l4r5zi"), tmp_path / "f", staging="on")


def test_an_image_goes_where_there_is_room(tmp_path: Path) -> None:
    """In a memory of its own, when the main one does not take it beside the arena."""
    target = load_target("nucleo-l4r5zi")
    flash = next(region for region in target.memory if region.kind == "flash")
    artifact = aot.compile(
        _tower(), target, tmp_path / "a", command="x", options={"input": "apart"}
    )
    everything = build(artifact, target, tmp_path / "one", command="x")
    image = next(s.nbytes for s in everything.sections if s.name == ".staging")
    assert image == sum(view.nbytes for view in _plan(artifact).inputs)
    small = Region("SRAM1", "ram", 0x20000000, everything.ram_bytes - 16)
    # large enough for the arena as well, which then goes there; and for the image alone
    arena = _plan(artifact).arena_bytes
    assert arena > image
    for nbytes, wanted in ((1 << 16, ("SRAM1", "SRAM2")), (image, ("SRAM2", "SRAM1"))):
        second = Region("SRAM2", "ram", 0x20030000, nbytes)
        memories = replace(target, memory=(flash, small, second))
        split = build(artifact, memories, tmp_path / f"two{nbytes}", command="x")
        homes = {section.name: section.region for section in split.sections}
        assert (homes[".staging"], homes[".arena"]) == wanted
    with pytest.raises(FitError):
        build(artifact, replace(target, memory=(flash, small)), tmp_path / "three", command="x")


# -- limits ------------------------------------------------------------------------------------


def test_limits_take_the_fastest_plan_that_keeps_to_them(tmp_path: Path) -> None:
    target = load_target("nucleo-l4r5zi")
    free = aot.compile(_tower(), target, tmp_path / "a", command="x", options={})
    limit = _plan(free).arena_bytes - 1
    held = aot.compile(_tower(), target, tmp_path / "b", command="x", options={"max_ram": limit})
    assert _plan(held).arena_bytes <= limit
    plans = held.options["plans"]
    assert plans[0]["instructions"] < held.options["estimates"]["instructions"]
    sizes = [p["arena_bytes"] for p in plans]
    assert sizes == sorted(sizes, reverse=True)


def test_refusals_say_what_is_in_the_way(tmp_path: Path) -> None:
    target = load_target("nucleo-l4r5zi")

    def refused(**options: Any) -> str:
        with pytest.raises(FitError) as caught:
            aot.compile(_tower(), target, tmp_path / "a", command="x", options=options)
        assert caught.value.exit_code == 4
        assert not (tmp_path / "a").exists()
        return str(caught.value)

    text = refused(max_ram="1000")
    assert text.startswith("the arena cannot be 1,000 B: the smallest plan found takes ")
    assert "; live: " in text
    assert "--max-ram " in text
    smallest = int(text.split("--max-ram ")[1].split(",")[0])
    options = {"max_ram": str(smallest)}
    fits = aot.compile(_tower(), target, tmp_path / "b", command="x", options=options)
    assert _plan(fits).arena_bytes <= smallest

    text = refused(max_latency="1us")
    assert text.startswith("an inference cannot take 1.0us: the fastest plan that fits takes ")
    assert "(estimated, within 8%)" in text
    assert "cortex-m4 at 120 MHz" in text

    text = refused(max_flash="2K")
    assert text.startswith("the model cannot take 2,048 B of flash: ")
    assert "(estimated)" in text


def test_limits_are_checked() -> None:
    limits = read_limits({"max_ram": "24K", "max_flash": 4096, "max_latency": "1.5ms"})
    assert (limits.ram_bytes, limits.flash_bytes, limits.latency_us) == (24576, 4096, 1500.0)
    assert (read_time_us("2s"), read_time_us("30us")) == (2e6, 30.0)
    for options in ({"max_ram": "much"}, {"max_latency": "50"}, {"max_flash": "-1"}):
        with pytest.raises(UsageError):
            read_limits(options)


def test_a_core_without_cycles_has_no_latency_to_limit(tmp_path: Path) -> None:
    target = load_target("corstone-300")
    with pytest.raises(UsageError, match="no model of this core's cycles"):
        aot.compile(_tower(), target, tmp_path / "a", command="x", options={"max_latency": "1ms"})


# -- the models that the goals are about ---------------------------------------------------------


def test_ic_below_the_best_published(mlperf: Path, tmp_path: Path) -> None:
    """21,104 B: Bosch HALE's smallest, at 1.84 times its latency."""
    model = read_model(mlperf / "ic_resnet_int8.tflite")
    target = load_target("nucleo-l4r5zi")
    options = {"max_ram": "21103"}
    artifact = aot.compile(model, target, tmp_path / "a", command="x", options=options)
    assert _plan(artifact).arena_bytes < 21_104
    plans = artifact.options["plans"]
    slower = artifact.options["estimates"]["instructions"] / plans[0]["instructions"]
    assert slower < 1.4
    assert model_macs(artifact) == artifact.model_macs


def test_ic_in_strips_equals_tflm_on_the_host(mlperf: Path, tmp_path: Path, host: Target) -> None:
    model = read_model(mlperf / "ic_resnet_int8.tflite")
    artifact = aot.compile(model, host, tmp_path / "a", command="x", options={"optimize": "ram"})
    assert _plan(artifact).arena_bytes < 21_104
    assert model_macs(artifact) == artifact.model_macs
    _check(model, artifact, runs=1)


def test_vww_leaves_little_besides_its_input(mlperf: Path, tmp_path: Path, host: Target) -> None:
    """The image alone is 27,648 B; everything else is within 2 % of it."""
    model = read_model(mlperf / "vww_mobilenet_int8.tflite")
    artifact = aot.compile(model, host, tmp_path / "a", command="x", options={"optimize": "ram"})
    assert 27_648 <= _plan(artifact).arena_bytes < 28_200
    _check(model, artifact, runs=1)
