"""Artifact → Firmware: compiles the model's C code, the runtime and the target's port.

The same inputs give the same bytes: no dates, no absolute paths, a build id computed from
everything that goes in. The size check is made on the linked image, so that its figures are
those of the firmware that did not fit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import edgekit
from edgekit import toolchain as toolchains
from edgekit.console import SCHEMA_VERSION
from edgekit.errors import FitError, ModelError, UsageError
from edgekit.files import folder_atomic
from edgekit.mlperf.personality import PROTOCOL, Personality
from edgekit.records import Artifact, Buffer, Firmware, Plan, Section, Symbol, from_json, to_json
from edgekit.resources import firmware_dir
from edgekit.stackbound import read_elf_file, stack_bound
from edgekit.targets import Region, Target

Staging = Literal["auto", "on", "off"]

#: Stack of a firmware whose call graph has no bound.
DEFAULT_STACK_BYTES = 4096
#: Room above the bound for the registers that a fault pushes (FPU frame, 8-byte aligned), so
#: that even a full stack can be reported. Armv7-M ARM (DDI 0403) B1.5.6.
_FAULT_FRAME_BYTES = 112
#: Regions are this long while linking: what does not fit still links, and is measured.
_LINK_BYTES = 64 << 20
_ALIGN = 16
#: Model sources' objects start with this; the linker script keeps their code and data apart.
_MODEL_OBJECT = "ekm_"
_UART_BAUD = 115200
#: Sections that start-up copies out of flash: data, and the model's tables in RAM
_COPIED = (".data", ".tables")
#: Constants; RISC-V compilers keep short ones apart
_RODATA = ".rodata .rodata.* .srodata .srodata.*"


@dataclass(frozen=True)
class _Image:
    """A linked ELF file, taken apart."""

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    def size(self, name: str) -> int:
        return sum(s.nbytes for s in self.sections if s.name == name)

    def used(self, region: Region) -> int:
        """Bytes that its sections take of a region."""
        return sum(s.nbytes for s in self.sections if s.region == region.name)


def _why_not(folder: Path, error: Exception) -> str:
    """What is wrong with a folder whose ``manifest.json`` could not be read."""
    if not folder.exists():
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file"
    if isinstance(error, FileNotFoundError):
        return "it holds no manifest.json"
    if isinstance(error, OSError):
        return f"its manifest.json cannot be read: {error.strerror}"
    if isinstance(error, KeyError):
        return f"its manifest.json has no {error}"
    return f"its manifest.json is damaged: {error}"


def _check_kernels(artifact: Artifact, target: Target) -> None:
    """Refuses sources with kernels of another core, whose assembly no compiler takes."""
    lacks = [
        extension
        for extension in ("dsp", "mve")
        if not target.has(extension)
        and any(name.endswith(f"_{extension}.h") for name in artifact.files)
    ]
    if lacks:
        raise UsageError(
            f"the sources were compiled for {artifact.target}: they have kernels for"
            f" {' and '.join(lacks).upper()}, which {target.name} ({target.core}) lacks",
            str(artifact.folder),
            f"edgekit compile MODEL.tflite --target {target.name} -o FOLDER",
        )


def load_artifact(folder: Path) -> Artifact:
    """Reads a folder that ``edgekit compile`` wrote.

    Raises:
        UsageError: it is not such a folder.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        artifact = from_json(Artifact, manifest["artifact"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"this is not a folder that compile wrote: {_why_not(folder, error)}",
            str(folder),
            "edgekit compile MODEL.tflite --target NAME -o FOLDER",
        ) from None
    return replace(artifact, folder=folder)


def load_firmware(folder: Path) -> Firmware:
    """Reads a folder that ``edgekit build`` wrote, or the ELF file in it.

    Raises:
        UsageError: it is not such a folder.
    """
    folder = folder.parent if folder.is_file() else folder
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        firmware = from_json(Firmware, manifest["firmware"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"this is not a folder that build wrote: {_why_not(folder, error)}",
            str(folder),
            "edgekit build ARTIFACT-FOLDER -o FOLDER",
        ) from None
    return replace(
        firmware,
        elf=folder / firmware.elf,
        artifact_folder=folder / firmware.artifact_folder,
        images={kind: folder / image for kind, image in firmware.images.items()},
    )


def build(
    artifact: Artifact,
    target: Target,
    out: Path,
    *,
    compiler: str | None = None,
    staging: Staging = "auto",
    optimize: str = "-O2",
    personality: Personality | None = None,
    command: str = "edgekit build",
) -> Firmware:
    """Builds the firmware of ``artifact`` for ``target`` into the folder ``out``.

    Args:
        compiler: "gcc" or "zig"; the first that is installed when ``None``.
        staging: RAM in which the runtime keeps the inputs, when an inference overwrites them:
            "auto" when needed and when it fits.
        optimize: the optimisation level of the model's code.
        personality: speak MLPerf Tiny's serial protocol instead of edgekit's; "off" is then no
            choice for ``staging``.

    Raises:
        UsageError: the target has no port, or ``out`` cannot be replaced.
        FitError: flash or RAM do not suffice.
        MissingDependency: no compiler, or it failed.
    """
    if target.port is None or not (firmware_dir() / "port" / target.port).is_dir():
        raise UsageError(
            f"there is no firmware for {target.name}: it has no port"
            if target.port is None
            else f"there is no port '{target.port}' in firmware/port",
            target.name,
            f"edgekit compile MODEL.tflite --target {target.name} --project esp-idf -o FOLDER"
            if target.toolchain.get("esp-idf-target")
            else "edgekit targets",
        )
    if not artifact.sources or any(not name.endswith(".c") for name in artifact.sources):
        raise ModelError(
            f"engine {artifact.engine} makes no plain C that edgekit builds",
            str(artifact.folder),
            "build it in the project that it was exported to, or --engine aot",
        )
    _check_kernels(artifact, target)
    if personality is not None:
        _check_personality(personality, artifact, target, staging)
    apart = artifact.plan is not None and inputs_apart(artifact.plan)
    toolchain = toolchains.find_toolchain(compiler, target)
    kept = artifact.plan is not None and inputs_kept(artifact.plan)
    fed = artifact.plan is not None and bool(artifact.plan.feeds)
    if fed and staging == "on":
        raise UsageError(
            "an input that comes in rows has no place to be kept",
            str(artifact.folder),
            "without --staging on, or compile without --set input=rows",
        )
    stage = staging == "on" or (staging == "auto" and not kept and artifact.plan is not None)
    stage = stage and not fed
    stage = (stage and personality is None) or apart  # MLPerf Tiny's has a place of its own
    with folder_atomic(out) as folder:
        work = _Work(artifact, target, toolchain, folder, optimize, personality)
        objects = work.compile()
        try:
            firmware = work.link(objects, kept=kept, stage=stage)
        except FitError:
            if apart or not (stage and staging == "auto"):
                raise
            firmware = work.link(objects, kept=kept, stage=False)
        _clean(folder)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "edgekit": edgekit.__version__,
            "stage": "build",
            "command": command,
            "model": {
                "name": artifact.model_name,
                "sha256": artifact.model_sha256,
                "macs": artifact.model_macs,
            },
            "target": target.name,
            "engine": artifact.engine,
            "firmware": to_json(
                replace(
                    firmware,
                    elf=Path(firmware.elf.name),
                    artifact_folder=Path(os.path.relpath(artifact.folder, out)),
                    images={k: Path(v.name) for k, v in firmware.images.items()},
                )
            ),
        }
        (folder / "manifest.json").write_text(
            json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return replace(
        firmware,
        elf=out / firmware.elf.name,
        images={kind: out / image.name for kind, image in firmware.images.items()},
    )


def _check_personality(
    personality: Personality, artifact: Artifact, target: Target, staging: Staging
) -> None:
    if artifact.plan is None:
        raise ModelError(
            f"engine {artifact.engine} makes no plan, which MLPerf Tiny's firmware needs",
            str(artifact.folder),
            "edgekit compile --engine aot",
        )
    where = "rows" if artifact.plan.feeds else "apart" if inputs_apart(artifact.plan) else ""
    if where:
        raise UsageError(
            f"MLPerf Tiny's firmware keeps its input in the arena (not input={where})",
            str(artifact.folder),
            f"compile without --set input={where}",
        )
    if staging == "off":
        raise UsageError("MLPerf Tiny repeats inferences: its input needs a place of its own")
    pin = firmware_dir() / "port" / str(target.port) / "pin.c"
    if personality.energy and not pin.exists():
        raise UsageError(
            f"the port of {target.name} has no timing pin, which energy mode needs",
            target.name,
            "without --energy",
        )


def inputs_apart(plan: Plan) -> bool:
    """Whether inputs are not in the arena: the runtime then keeps them in RAM of their own.

    Raises:
        UsageError: some are and some are not, which the runtime cannot serve.
    """
    found = {view.apart for view in plan.inputs}
    if len(found) > 1:
        raise UsageError(
            "some inputs are apart from the arena, and some are not: they are outputs as well",
            fix="build the sources in your project, or compile without --set input=apart",
        )
    return found == {True}


def staging_bytes(plan: Plan) -> int:
    """Bytes in which the runtime keeps all inputs, each aligned to a word."""
    sizes = [view.nbytes for view in plan.inputs]
    return sum(_round_up(size, 4) for size in sizes[:-1]) + sum(sizes[-1:])


def inputs_kept(plan: Plan) -> bool:
    """Whether an inference leaves all its inputs as they are."""
    if plan.feeds:
        return False
    for view in plan.inputs:
        if view.apart:
            continue
        if any(
            buffer.role != "input" and _overlap(view.offset, view.nbytes, buffer)
            for buffer in plan.buffers
        ):
            return False
        if any(
            step.offset < view.offset + view.nbytes and view.offset < step.offset + step.nbytes
            for step in plan.steps
        ):
            return False
    return True


def _overlap(offset: int, nbytes: int, buffer: Buffer) -> bool:
    return buffer.offset < offset + nbytes and offset < buffer.offset + buffer.nbytes


def _clean(folder: Path) -> None:
    """Removes what was needed only to get there."""
    import shutil

    shutil.rmtree(folder / "obj")


# ---- compiling and linking ----


@dataclass(frozen=True)
class _Work:
    artifact: Artifact
    target: Target
    toolchain: toolchains.Toolchain
    folder: Path
    optimize: str
    personality: Personality | None = None

    def compile(self) -> dict[str, str]:
        """Compiles all sources; object names (relative to the folder) by role."""
        (self.folder / "obj").mkdir()
        jobs: list[tuple[Path, str, str]] = []
        for source in self.artifact.sources:
            stem = re.sub(r"[^A-Za-z0-9_]", "_", Path(source).stem)
            jobs.append((self.artifact.folder / source, f"obj/{_MODEL_OBJECT}{stem}.o", "model"))
        jobs += [
            (path, f"obj/{path.parent.name}_{path.stem}.o", "runtime")
            for path in self._runtime_sources()
        ]
        boot2 = self._boot2()
        if boot2 is not None:
            self._compile(boot2, "obj/boot2_raw.o", "runtime")
            self._write_boot2("obj/boot2_raw.o")
            jobs.append((self.folder / "obj" / "boot2_image.c", "obj/boot2_image.o", "runtime"))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda job: self._compile(*job), jobs))
        return {name: role for _, name, role in jobs}

    def _runtime_sources(self) -> list[Path]:
        root = firmware_dir()
        port = root / "port" / str(self.target.port)
        protocol = ("main.c", "wire.c") if self.personality is None else self.personality.sources
        core = {"arm": "core_cortexm.c", "riscv": "core_riscv.c"}
        of_core = core[toolchains.architecture(self.target)]
        return [
            *(root / "runtime" / name for name in (*protocol, "startup.c", of_core)),
            root / "runtime" / "libc" / "string.c",
            *sorted(path for path in port.glob("*.c")),
        ]

    def _boot2(self) -> Path | None:
        path = firmware_dir() / "port" / str(self.target.port) / "boot2.S"
        return path if path.exists() else None

    def _defines(self) -> tuple[str, ...]:
        uart, link = self.target.uart, self.target.link
        baud = int(uart.get("baud", link.get("baud", _UART_BAUD)))
        more: tuple[str, ...] = ()
        if self.personality is not None:
            baud, more = self.personality.baud or baud, self.personality.defines
        for role in ("tx", "rx"):  # chips whose UART may be on any pin: P1.03 is 35
            pin = re.fullmatch(r"P(\d)\.(\d\d)", str(uart.get(role, "")))
            if pin:
                number = 32 * int(pin.group(1)) + int(pin.group(2))
                more = (*more, f"-DEK_UART_{role.upper()}={number}u")
        plan = self.artifact.plan
        fed = int(plan is not None and bool(plan.feeds))
        more = (*more, f"-DEK_WIRE_FEEDS={fed}")
        return (f"-DEK_CLOCK_HZ={self.target.clock_hz}u", f"-DEK_UART_BAUD={baud}u", *more)

    def _flags(self, role: str) -> tuple[str, ...]:
        flags = list(toolchains.compile_flags(self.toolchain, self.target))
        if role == "model":
            return (*flags, self.optimize)
        return (*flags, "-Os", "-fno-builtin", *self._defines())

    def _compile(self, source: Path, name: str, role: str) -> None:
        root = firmware_dir()
        includes: list[str] = []
        if role == "model":
            for include in (".", *self.artifact.include_dirs):
                includes += ["-I", str((self.artifact.folder / include).resolve())]
        includes += ["-I", str(root / "include"), "-isystem", str(root / "runtime" / "libc")]
        maps = (
            f"-ffile-prefix-map={self.artifact.folder.resolve()}=model",
            f"-ffile-prefix-map={root}=edgekit",
            f"-ffile-prefix-map={self.folder.resolve()}=build",
        )
        command = [*self.toolchain.command, *self._flags(role), *includes, *maps]
        path = source.resolve()
        toolchains.run([*command, "-c", str(path), "-o", name], self.folder, source.name)

    def _write_boot2(self, raw: str) -> None:
        """The second boot stage with its checksum: the boot ROM refuses any other.

        RP2040 datasheet 2.8.1.3.1: CRC-32 of the first 252 bytes, polynomial 0x04c11db7, initial
        value all ones, neither reflected nor inverted, in the last 4 bytes of 256.
        """
        code = _section_bytes(self.folder / raw, ".boot2")
        if len(code) > 252:
            raise ModelError(f"the second boot stage has {len(code)} bytes; 252 fit")
        padded = code.ljust(252, b"\0")
        image = padded + boot2_checksum(padded).to_bytes(4, "little")
        body = ",".join(str(byte) for byte in image)
        (self.folder / "obj" / "boot2_image.c").write_text(
            "#include <stdint.h>\n"
            '__attribute__((section(".boot2"), used)) const uint8_t ek_boot2[256] = {' + body + "};"
        )

    def build_id(self, kept: bool, stage: bool) -> bytes:
        """16 bytes of SHA-256 over everything that goes into the ELF file."""
        digest = hashlib.sha256()

        def add(name: str, content: bytes) -> None:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)

        for name in sorted(self.artifact.files):
            if name.endswith((".c", ".h", ".S")):
                add(f"model/{name}", (self.artifact.folder / name).read_bytes())
        root = firmware_dir()
        runtime = [*self._runtime_sources(), *sorted((root / "include").glob("*.h"))]
        port = sorted((root / "port" / str(self.target.port)).iterdir())
        for path in [*runtime, *(p for p in port if p.suffix in (".h", ".S"))]:
            add(f"firmware/{path.relative_to(root)}", path.read_bytes())
        add("compiler", self.toolchain.version.encode())
        flags = [*self._flags("model"), *self._flags("runtime")]
        flags += toolchains.link_flags(self.toolchain, self.target)
        add("flags", "\0".join(flags).encode())
        add("target", json.dumps(to_json(self.target), sort_keys=True).encode())
        add("options", f"{kept} {stage} {self.personality or ''}".encode())
        add("version", Path(__file__).read_bytes())
        return digest.digest()[:16]

    def link(self, objects: Mapping[str, str], *, kept: bool, stage: bool) -> Firmware:
        build_id = self.build_id(kept, stage)
        plan = self.artifact.plan
        room = staging_bytes(plan) if stage and plan is not None else 0
        self._write_image(objects, build_id, kept, room)
        self._compile(self.folder / "obj" / "ek_image.c", "obj/ek_image.o", "runtime")
        names = [*objects, "obj/ek_image.o"]
        main = _main_ram(self.target)
        elf = self.folder / "firmware.elf"
        self._link(names, main, DEFAULT_STACK_BYTES, {})
        bound = stack_bound(elf, [self.folder / name for name in names])
        stack_bytes = int(self.target.toolchain.get("stack_bytes", DEFAULT_STACK_BYTES))
        if bound is not None:
            stack_bytes = _round_up(bound + _FAULT_FRAME_BYTES, _ALIGN)
        homes: dict[str, Region] = {}
        self._link(names, main, stack_bytes, homes)
        image = read_elf(elf, self.target)
        for section, home in (
            (".arena", self._arena_home), (".tables", self._tables_home),
            (".staging", self._staging_home),
        ):  # fmt: skip
            region = home(image, main)
            if region != main:
                homes[section] = region
                self._link(names, main, stack_bytes, homes)
                image = read_elf(elf, self.target)
        self._check_fit(image)
        images = self._write_images(elf)
        flash = [r.name for r in self.target.memory if r.kind == "flash"]
        flash_bytes = sum(s.nbytes for s in image.sections if s.region in flash)
        flash_bytes += sum(image.size(name) for name in _COPIED)  # their initial values
        ram_bytes = sum(s.nbytes for s in image.sections if s.region not in flash)
        return Firmware(
            target=self.target.name,
            model_name=self.artifact.model_name,
            model_sha256=self.artifact.model_sha256,
            engine=self.artifact.engine,
            elf=elf,
            build_id=build_id.hex(),
            compiler=self.toolchain.version,
            sections=image.sections,
            symbols=image.symbols,
            flash_bytes=flash_bytes,
            ram_bytes=ram_bytes,
            code_bytes=image.size(".model_code"),
            weights_bytes=image.size(".weights") + image.size(".tables"),
            stack_bound_bytes=bound,
            plan=self.artifact.plan,
            artifact_folder=self.artifact.folder,
            images=images,
            model_macs=self.artifact.model_macs,
            protocol="edgekit" if self.personality is None else PROTOCOL,
        )

    def _write_image(
        self, objects: Mapping[str, str], build_id: bytes, kept: bool, staging_bytes: int
    ) -> None:
        """Generates ``ek_image.c``: the model's descriptor, its arena, the build id."""
        models = [n for n, role in objects.items() if role == "model"]
        symbol = _model_symbol(self.folder / name for name in models)
        plan = self.artifact.plan
        arena = plan.arena_bytes if plan is not None else self.artifact.arena_bytes
        if arena is None:
            raise ModelError("the artifact does not say how large its arena is")
        steps = max(1, len(plan.steps) if plan is not None else 1)
        if self.personality is not None:
            steps = 1  # nobody asks for single steps
        text = image_source(
            symbol,
            arena_bytes=arena,
            steps=steps,
            kept=kept,
            staging_bytes=staging_bytes,
            apart=plan is not None and inputs_apart(plan),
            feeds=len(plan.feeds) if plan is not None else 0,
            target=self.target.name,
            build_id=build_id,
        )
        if self.personality is not None and plan is not None:
            text += "\n".join(self.personality.image(plan, kept)) + "\n"
        (self.folder / "obj" / "ek_image.c").write_text(text)

    def _link(
        self,
        objects: Sequence[str],
        main: Region,
        stack_bytes: int,
        homes: Mapping[str, Region],
    ) -> None:
        script = linker_script(self.target, main, stack_bytes, homes)
        (self.folder / "firmware.ld").write_text(script)
        flags = toolchains.link_flags(self.toolchain, self.target)
        command = [*self.toolchain.command, *objects, *flags, "-T", "firmware.ld"]
        if self.toolchain.name == "gcc":
            command.append("-Wl,-Map=firmware.map")
        toolchains.run([*command, "-o", "firmware.elf"], self.folder, "the firmware (link)")

    def _arena_home(self, image: _Image, main: Region) -> Region:
        """Where the arena goes: tightly coupled memory that holds it, which no cache or bus slows
        down; else the main region; else any other that takes it."""
        arena = image.size(".arena")
        used = sum(s.nbytes for s in image.sections if s.region == main.name)
        for region in _data_regions(self.target):
            if region.kind == "tcm" and region != main and arena <= region.nbytes:
                return region
        if used <= main.nbytes:
            return main
        for region in _data_regions(self.target):
            if region != main and arena <= region.nbytes and used - arena <= main.nbytes:
                return region
        return main

    def _tables_home(self, image: _Image, main: Region) -> Region:
        """Where tables in RAM go: as the arena, in what that leaves."""
        tables = image.size(".tables")
        for region in _data_regions(self.target):
            fits = image.used(region) + tables <= region.nbytes
            if tables and region.kind == "tcm" and region != main and fits:
                return region
        return self._room_for(".tables", image, main)

    def _staging_home(self, image: _Image, main: Region) -> Region:
        """Where the inputs are kept: beside everything else, if it takes them."""
        return self._room_for(".staging", image, main)

    def _room_for(self, section: str, image: _Image, main: Region) -> Region:
        """The main region, or, where that is too small, another one that has room."""
        nbytes = image.size(section)
        if not nbytes or image.used(main) <= main.nbytes:
            return main
        for region in _data_regions(self.target):
            if region != main and image.used(region) + nbytes <= region.nbytes:
                return region
        return main

    def _check_fit(self, image: _Image) -> None:
        used = {
            region.name: sum(s.nbytes for s in image.sections if s.region == region.name)
            for region in self.target.memory
        }
        for region in self.target.memory:
            need = used[region.name]
            if region.kind == "flash":
                need += sum(image.size(name) for name in _COPIED)
            if need <= region.nbytes:
                continue
            if region.kind == "flash":
                weights = image.size(".weights") + image.size(".tables")
                code = image.size(".model_code")
                raise FitError(
                    f"the firmware needs {need:,} B of flash; {self.target.name} has "
                    f"{region.nbytes:,} B",
                    f"weights {weights:,} B, model code {code:,} B, "
                    f"runtime {need - weights - code:,} B",
                    f"edgekit targets --min-flash {_kib(need)}",
                )
            arena = image.size(".arena")
            free = region.nbytes - (need - arena)
            tables = image.size(".tables")
            tables_text = f" ({tables:,} B of these are tables in RAM)" if tables else ""
            raise FitError(
                f"the model needs {arena:,} B of RAM; {self.target.name} has {max(0, free):,} B "
                f"free beside {need - arena:,} B of stack, data and staging{tables_text}",
                peak_description(self.artifact.plan),
                "compile with less for --set weights=SIZE"
                if need - tables <= region.nbytes
                else f"edgekit targets --min-ram {_kib(need)}",
            )

    def _write_images(self, elf: Path) -> dict[str, Path]:
        start, content = flat_image(elf)
        images = {"bin": self.folder / "firmware.bin"}
        images["bin"].write_bytes(content)
        family = _UF2_FAMILIES.get(str(self.target.port))
        if family is not None:
            images["uf2"] = self.folder / "firmware.uf2"
            images["uf2"].write_bytes(uf2(start, content, family))
        return images


def image_source(
    symbol: str,
    *,
    arena_bytes: int,
    steps: int,
    kept: bool,
    staging_bytes: int,
    target: str,
    build_id: bytes,
    apart: bool = False,
    feeds: int = 0,
    placed: bool = True,
) -> str:
    """C of what a firmware knows of itself: the model (descriptor ``symbol``), its arena, the
    build id. ``apart``: the inputs are read where they are staged. ``feeds``: pieces in which the
    input comes. ``placed``: arena and
    staging have sections of their own in the linker script."""
    flags = (1 if kept else 0) | (2 if staging_bytes else 0) | (4 if apart else 0)
    stage = "ek_staging" if staging_bytes else "0"
    pieces = f"{symbol.removesuffix('_model')}_feeds"

    def attribute(section: str) -> str:
        place = f'section("{section}"), ' if placed else ""
        return f"__attribute__(({place}aligned({_ALIGN})))"

    lines = [
        '#include "ek_image.h"',
        f"extern const ek_model_t {symbol};",
        *([f"extern const ek_feed_t {pieces}[{feeds}];"] if feeds else []),
        attribute(".arena"),
        f"int8_t ek_arena[{_round_up(arena_bytes, _ALIGN)}];",
        f"static uint32_t step_ticks[{steps}], step_crcs[{steps}];",
    ]
    if staging_bytes:
        lines += [attribute(".staging"), f"uint8_t ek_staging[{staging_bytes}];"]
    lines += [
        "const ek_image_t ek_image = {",
        f"    .model = &{symbol}, .arena = ek_arena, .staging = {stage},",
        f"    .staging_bytes = {staging_bytes}, .flags = {flags},",
        "    .step_ticks = step_ticks, .step_crcs = step_crcs,",
        f"    .step_capacity = {steps}, .clock_hz = EK_CLOCK_HZ,",
        f'    .target = "{target}",',
        *([f"    .feeds = {pieces}, .feed_count = {feeds},"] if feeds else []),
        f"    .build_id = {{{', '.join(f'0x{byte:02x}' for byte in build_id)}}},",
        "};",
    ]
    return "\n".join(lines) + "\n"


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def _kib(nbytes: int) -> str:
    return f"{-(-nbytes // 1024)}K"


def _data_regions(target: Target) -> list[Region]:
    """Memories that hold data: not the instruction TCM, which lies at address 0."""
    return [r for r in target.memory if r.kind in ("ram", "tcm") and r.origin != 0]


def _main_ram(target: Target) -> Region:
    regions = _data_regions(target)
    if not regions:
        raise UsageError("the target's file names no RAM", target.name)
    return regions[0]


def peak_description(plan: Plan | None) -> str | None:
    """The step at which most bytes are live, and the largest buffers there."""
    if plan is None or not plan.steps:
        return None

    def live(step: int) -> list[Buffer]:
        return [b for b in plan.buffers if b.first <= step <= b.last]

    peak = max(plan.steps, key=lambda step: sum(b.nbytes for b in live(step.index)))
    largest = sorted(live(peak.index), key=lambda b: -b.nbytes)[:4]
    names = ", ".join(f"{b.name} {b.nbytes:,} B" for b in largest)
    return f"step {peak.index} {peak.kind} '{peak.name}'; live: {names}"


def linker_script(
    target: Target, main: Region, stack_bytes: int, homes: Mapping[str, Region] | None = None
) -> str:
    """The linker script of a target.

    ``homes`` says which of ``.arena``, ``.tables`` and ``.staging`` are not in the region ``main``.
    The stack is at the bottom of RAM: what overflows it leaves the memory and faults, instead of
    changing data.
    """
    flash = next((r for r in target.memory if r.kind == "flash"), None)
    if flash is None:
        raise UsageError("the target's file names no flash", target.name)
    arena, tables, staging = (
        (homes or {}).get(section, main) for section in (".arena", ".tables", ".staging")
    )
    memory = "\n".join(
        f"    {r.name} ({'rx' if r.kind == 'flash' else 'rw'}) : "
        f"ORIGIN = {r.origin:#010x}, LENGTH = {max(r.nbytes, _LINK_BYTES):#x}"
        for r in dict.fromkeys((flash, main, arena, tables, staging))
    )
    model = f"*{_MODEL_OBJECT}*.o"
    code, weights_at, shift = flash.name, "", 0
    if flash.fetch_origin is not None:
        # The same flash at two addresses: code runs at one, everything is loaded and constants
        # are read at the other, where they begin at the offset at which the code ends.
        code, shift = f"{flash.name}_CODE", flash.fetch_origin - flash.origin
        memory += (
            f"\n    {code} (rx) : ORIGIN = {flash.fetch_origin:#010x}, "
            f"LENGTH = {max(flash.nbytes, _LINK_BYTES):#x}"
        )
        weights_at = f"(ALIGN(ADDR(.text) + SIZEOF(.text), 16) - {shift:#x}) "

    def at(section: str) -> str:
        return f"AT(ADDR(.{section}) - {shift:#x}) " if shift else ""

    return f"""/* {target.name}: generated by edgekit build.
 * Regions are longer than the memories, so that an image that does not fit can be measured. */
ENTRY(ek_reset_handler)
MEMORY
{{
{memory}
}}
SECTIONS
{{
    .boot_header : {at("boot_header")}{{ KEEP(*(.boot_header)) }} > {code}
    .boot2 : {at("boot2")}{{ KEEP(*(.boot2)) }} > {code}
    .vectors : {at("vectors")}ALIGN(256) {{ KEEP(*(.vectors)) }} > {code}
    .image_def : {at("image_def")}ALIGN(4) {{ KEEP(*(.image_def)) }} > {code}
    .model_code : {at("model_code")}ALIGN(16) {{ {model}(.text .text.*) }} > {code}
    .text : {at("text")}ALIGN(4) {{ *(.text .text.*) }} > {code}
    .weights {weights_at}: ALIGN(16) {{ {model}({_RODATA}) }} > {flash.name}
    .rodata : ALIGN(4) {{ *({_RODATA}) . = ALIGN(4); }} > {flash.name}
    .stack (NOLOAD) : ALIGN(8)
    {{
        __stack_limit = .;
        __ek_stack_limit = .;
        . = . + {stack_bytes};
        __ek_stack_top = .;
    }} > {main.name}
    .tables : ALIGN(16)
    {{
        __ek_tables_start = .;
        {model}(.data .data.* .sdata .sdata.*)
        . = ALIGN(4);
        __ek_tables_end = .;
    }} > {tables.name} AT > {flash.name}
    __ek_tables_load = LOADADDR(.tables);
    .data : ALIGN(8)
    {{
        __ek_data_start = .;
        *(.data .data.* .sdata .sdata.*)
        . = ALIGN(4);
        __ek_data_end = .;
    }} > {main.name} AT > {flash.name}
    __ek_data_load = LOADADDR(.data);
    .bss (NOLOAD) : ALIGN(8)
    {{
        __ek_bss_start = .;
        *(.bss .bss.* .sbss .sbss.* COMMON)
        . = ALIGN(4);
        __ek_bss_end = .;
    }} > {main.name}
    .noinit (NOLOAD) : ALIGN(8) {{ *(.noinit) }} > {main.name}
    .staging (NOLOAD) : ALIGN(16) {{ *(.staging) }} > {staging.name}
    .arena (NOLOAD) : ALIGN(16) {{ *(.arena) }} > {arena.name}
    /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.comment) }}
}}
"""


# ---- reading ELF files ----


def _section_bytes(path: Path, name: str) -> bytes:
    section = read_elf_file(path).get_section_by_name(name)
    content: bytes = b"" if section is None else section.data()
    return content


def _model_symbol(objects: Iterable[Path]) -> str:
    """The one global object whose name ends in ``_model``: the model's descriptor."""
    found = set()
    for path in objects:
        for symbol in read_elf_file(path).get_section_by_name(".symtab").iter_symbols():
            info = symbol["st_info"]
            is_global = info["type"] == "STT_OBJECT" and info["bind"] == "STB_GLOBAL"
            if is_global and symbol.name.endswith("_model"):
                found.add(symbol.name)
    if len(found) != 1:
        raise ModelError(
            f"the artifact's sources define {len(found)} model descriptors; a firmware has one"
        )
    return str(found.pop())


def read_elf(path: Path, target: Target) -> _Image:
    """Allocated sections with the region that they lie in, and sized symbols, largest first."""
    elf = read_elf_file(path)
    origins = sorted(
        (
            (origin, region.name)
            for region in target.memory
            for origin in (region.origin, region.fetch_origin)
            if origin is not None
        ),
        reverse=True,
    )
    sections = []
    names = {}
    for index, section in enumerate(elf.iter_sections()):
        if not section["sh_flags"] & 2 or section["sh_size"] == 0:
            continue
        address = section["sh_addr"]
        region = next((name for origin, name in origins if origin <= address), "")
        names[index] = section.name
        sections.append(Section(section.name, region, address, section["sh_size"]))
    symbols = [
        Symbol(s.name, names[s["st_shndx"]], s["st_value"], s["st_size"])
        for s in elf.get_section_by_name(".symtab").iter_symbols()
        if s["st_size"] > 0 and s["st_shndx"] in names
    ]
    symbols.sort(key=lambda s: (-s.nbytes, s.name))
    return _Image(tuple(sections), tuple(symbols))


def flat_image(elf: Path) -> tuple[int, bytes]:
    """The bytes to be flashed, and the address of the first."""
    pieces = [
        (segment["p_paddr"], segment.data())
        for segment in read_elf_file(elf).iter_segments()
        if segment["p_type"] == "PT_LOAD" and segment["p_filesz"] > 0
    ]
    pieces.sort()
    start = pieces[0][0]
    content = bytearray()
    for address, data in pieces:
        content.extend(b"\xff" * (address - start - len(content)))
        content.extend(data)
    return start, bytes(content)


#: UF2 family ids by port: https://github.com/microsoft/uf2 "utils/uf2families.json"; of the
#: RP2350 that of secure Arm images (RP2350 datasheet 5.5.3)
_UF2_FAMILIES = {"rp2040": 0xE48BFF56, "rp2350": 0xE48BFF59}


def uf2(start: int, content: bytes, family: int) -> bytes:
    """A UF2 file (https://github.com/microsoft/uf2): 512-byte blocks of 256 bytes each."""
    import struct

    content += b"\0" * (-len(content) % 256)
    count = len(content) // 256
    blocks = []
    for index in range(count):
        head = struct.pack(
            "<8I", 0x0A324655, 0x9E5D5157, 0x2000, start + 256 * index, 256, index, count, family
        )
        data = content[256 * index : 256 * (index + 1)].ljust(476, b"\0")
        blocks.append(head + data + struct.pack("<I", 0x0AB16F30))
    return b"".join(blocks)


def boot2_checksum(code: bytes) -> int:
    """The RP2040 boot ROM's CRC-32: most significant bit first, not inverted at the end."""
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    value = zlib.crc32(code.translate(reverse)) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)
