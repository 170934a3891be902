"""Target files: one YAML file per board in ``targets/``, data only.

``load_target("nucleo-l4r5zi")`` reads and checks one; a malformed file is reported with its
line and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

TargetKind = Literal["host", "mcu", "edgetpu", "linux", "android"]


@dataclass(frozen=True)
class Region:
    """A memory of the target. ``kind``: flash (executable, read-only), ram, tcm, rom."""

    name: str
    kind: Literal["flash", "ram", "tcm", "rom"]
    origin: int
    nbytes: int


@dataclass(frozen=True)
class Target:
    """A board: what it is made of, and how edgekit builds for it, reaches it and times it."""

    name: str
    title: str
    kind: TargetKind
    aliases: tuple[str, ...] = ()
    #: "cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "xtensa-lx7", …
    core: str | None = None
    #: "thumb", "thumb2", "dsp", "fpv4-sp-d16", "fpv5-d16", "fpv5-sp-d16", "mve", …
    isa: tuple[str, ...] = ()
    clock_hz: int | None = None
    memory: tuple[Region, ...] = ()
    #: folder under firmware/port that starts the chip, sets its clock, drives UART and timer
    port: str | None = None
    #: instance, pins and clocks of the console UART, as the port wants them
    uart: dict[str, Any] = field(default_factory=dict)
    #: default connection: {"kind": "serial", "baud": 115200, "usb_ids": ["0483:374b"]}
    link: dict[str, Any] = field(default_factory=dict)
    #: names of flashers, preferred first, each with its settings: {"name": "openocd", …}
    flashers: tuple[dict[str, Any], ...] = ()
    #: engines that make something for this target, the default first
    engines: tuple[str, ...] = ()
    #: extra compiler flags, by purpose
    toolchain: dict[str, Any] = field(default_factory=dict)
    #: timing model and memory-system constants: {"model": "cortex-m4", …}
    timing: dict[str, Any] = field(default_factory=dict)
    #: virtual board: {"family": "stm32l4", "qemu": "mps2-an386", …}
    sim: dict[str, Any] = field(default_factory=dict)
    #: settings of single engines: {"tflm": {"kernels": "cmsis-nn"}, "ethosu": {…}}
    engine_options: dict[str, Any] = field(default_factory=dict)
    #: where the facts come from: {"facts": [...], "source": "...", "verified": bool}
    sources: tuple[dict[str, Any], ...] = ()

    def has(self, extension: str) -> bool:
        return extension in self.isa

    @property
    def flash_bytes(self) -> int:
        return sum(r.nbytes for r in self.memory if r.kind == "flash")

    @property
    def ram_bytes(self) -> int:
        return sum(r.nbytes for r in self.memory if r.kind in ("ram", "tcm"))
