"""The firmware that speaks MLPerf Tiny's serial protocol instead of edgekit's."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import ModelError, UsageError
from edgekit.mlperf.benchmarks import Benchmark, benchmark_of

if TYPE_CHECKING:
    from edgekit.records import Artifact, Plan

#: As ``edgekit build --protocol`` calls it, and a firmware's manifest.
PROTOCOL = "mlperf-tiny"
#: The line's speed in energy mode, which the instruments ask for (8N1).
ENERGY_BAUD = 9600
_NAME = frozenset(string.ascii_letters + string.digits + " .,_-+()")
_INPUTS = {"int8": "EK_MLPERF_INT8", "uint8": "EK_MLPERF_UINT8", "float32": "EK_MLPERF_FLOAT32"}


@dataclass(frozen=True)
class Personality:
    """What the firmware is to be for the runner. ``energy``: timestamps are pulses on a pin."""

    benchmark: Benchmark
    vendor: str = "edgekit"
    energy: bool = False

    #: below ``firmware/runtime``, instead of the wire protocol's
    sources = ("mlperf/main.c", "mlperf/mlperf.c")

    @property
    def baud(self) -> int | None:
        """The line's speed, where it is not the target's."""
        return ENERGY_BAUD if self.energy else None

    @property
    def defines(self) -> tuple[str, ...]:
        return ("-DEK_MLPERF_ENERGY=1",) if self.energy else ()

    def image(self, plan: Plan, kept: bool) -> list[str]:
        """C that describes the benchmark and holds its input.

        Args:
            kept: an inference leaves its input as it is: it needs no room beside the arena.
        """
        benchmark, given, made = self.benchmark, plan.inputs[0], plan.outputs[0]
        in_arena = kept and benchmark.input != "float32"
        staged = not kept and benchmark.input == "float32"
        lines = ['#include "ek_mlperf.h"']
        room = '__attribute__((section(".staging"), aligned(16))) static uint8_t '
        if not in_arena:
            lines.append(f"{room}mlperf_buffer[{benchmark.input_bytes}];")
        if staged:
            lines.append(f"{room}mlperf_staging[{given.nbytes}];")
        place = f"(uint8_t *)ek_arena + {given.offset}" if in_arena else "mlperf_buffer"
        return [
            *lines,
            "const ek_mlperf_image_t ek_mlperf_image = {",
            f'    .vendor = "{self.vendor}", .model = "{benchmark.name}",',
            f"    .buffer = {place}, .buffer_bytes = {benchmark.input_bytes},",
            f"    .staging = {'mlperf_staging' if staged else '0'},",
            f"    .input = {_INPUTS[benchmark.input]},",
            f"    .reconstructs = {int(benchmark.reconstructs)}, .energy = {int(self.energy)},",
            f"    .input_scale = {_literal(given.scale)}, .output_scale = {_literal(made.scale)},",
            f"    .input_zero_point = {given.zero_point},",
            f"    .output_zero_point = {made.zero_point},",
            "};",
        ]


def _literal(scale: float | None) -> str:
    """A float32 exactly, in hexadecimal."""
    return f"{float(scale or 0.0).hex()}f"


def choose(
    artifact: Artifact, benchmark: str | None, vendor: str, energy: bool = False
) -> Personality:
    """The personality for what ``edgekit compile`` made.

    Raises:
        ModelError: the model is none of the benchmark's, or has no plan.
        UsageError: the name cannot stand between the brackets of the runner's answers.
    """
    if artifact.plan is None:
        raise ModelError(
            f"engine {artifact.engine} makes no plan, which MLPerf Tiny's firmware needs",
            str(artifact.folder),
            "edgekit compile --engine aot",
        )
    if not 0 < len(vendor) <= 40 or set(vendor) - _NAME:
        raise UsageError(
            f"'{vendor}' is no name for a board", fix="1 to 40 letters, digits and .,_-+()"
        )
    return Personality(benchmark_of(artifact.plan, benchmark), vendor, energy)
