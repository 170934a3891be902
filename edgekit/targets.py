"""Target files: one YAML file per board in ``targets/``, data only.

``load_target("nucleo-l4r5zi")`` reads and checks one; a malformed file is reported with its
line and the reason.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import UsageError
from edgekit.resources import targets_dir

if TYPE_CHECKING:
    import yaml

    from edgekit.yamlfile import YamlFile

TargetKind = Literal["host", "mcu", "edgetpu", "linux", "android"]


@dataclass(frozen=True)
class Region:
    """A memory of the target. ``kind``: flash (executable, read-only), ram, tcm, rom."""

    name: str
    kind: Literal["flash", "ram", "tcm", "rom"]
    origin: int
    nbytes: int
    #: where the CPU fetches instructions from this flash, if that is elsewhere than its data
    fetch_origin: int | None = None

    def offset_of(self, address: int) -> int | None:
        """Offset of an address in this region, seen as data or as code; ``None`` outside."""
        for origin in (self.origin, self.fetch_origin):
            if origin is not None and origin <= address < origin + self.nbytes:
                return address - origin
        return None


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

    @property
    def largest_ram_bytes(self) -> int:
        """The largest RAM in one piece: an arena must fit one region."""
        return max((r.nbytes for r in self.memory if r.kind in ("ram", "tcm")), default=0)

    @property
    def unverified_facts(self) -> tuple[str, ...]:
        """The facts whose source could not be read."""
        return tuple(
            fact for item in self.sources if not item["verified"] for fact in item["facts"]
        )

    def engine_setting(self, engine: str, key: str, default: Any = None) -> Any:
        """A setting of one engine, e.g. ``engine_setting("tflm", "kernels")``."""
        return self.engine_options.get(engine, {}).get(key, default)


#: Every instruction-set extension that a target file may name.
EXTENSIONS = (
    "thumb",  # ARMv6-M and the 16-bit encodings of its successors
    "thumb2",  # ARMv7-M, ARMv8-M Mainline
    "dsp",  # SMLAD, SXTB16 and the other SIMD instructions of ARMv7E-M and ARMv8-M
    "fpv4-sp-d16",
    "fpv5-sp-d16",
    "fpv5-d16",
    "mve",  # Helium, integer
    "mve-fp",  # Helium, floating point
    "xtensa",
    "s3-simd",  # ESP32-S3's processor instruction extensions
    "rv32imc",
    "armv8-a",
    "neon",
    "x86-64",
)
_KINDS = ("host", "mcu", "edgetpu", "linux", "android")
_REGION_KINDS = ("flash", "ram", "tcm", "rom")
_LINK_KINDS = ("none", "serial", "usb", "pci", "ssh", "adb", "qemu", "virtual")
#: Names a folder (or several, separated like PATH) of the user's own target files.
PATH_VARIABLE = "EDGEKIT_TARGETS_PATH"


def load_target(name: str) -> Target:
    """The target of a name or alias, or of a file when ``name`` is a path to a ``.yaml``.

    Raises:
        UsageError: there is no such target, or its file is malformed.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        return read_target(Path(name))
    wanted = name.strip().lower().replace("_", "-")
    for folder in target_folders():
        path = folder / f"{wanted}.yaml"
        if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", wanted) and path.is_file():
            return read_target(path)
    targets = list_targets()
    for target in targets:
        if wanted in target.aliases:
            return target
    words = [word for target in targets for word in (target.name, *target.aliases)]
    near = difflib.get_close_matches(wanted, words, n=3)
    near += [word for word in words if wanted and wanted in word and word not in near][:3]
    fix = f"edgekit targets (lists all {len(targets)})"
    if near:
        fix = f"{', '.join(near)}, or {fix}"
    raise UsageError(f"there is no target '{name}'", None, fix)


def list_targets() -> tuple[Target, ...]:
    """Every target, by name. The user's own files come before ours of the same name.

    Raises:
        UsageError: one of the files is malformed.
    """
    files = {path.stem: path for folder in reversed(target_folders()) for path in _files(folder)}
    targets = tuple(read_target(files[stem]) for stem in sorted(files))
    names = {target.name for target in targets}
    taken: dict[str, str] = {}
    for target in targets:
        for alias in target.aliases:
            if alias in names or taken.setdefault(alias, target.name) != target.name:
                raise UsageError(
                    f"the alias '{alias}' of {target.name} already stands for another target",
                    str(files[target.name]),
                )
    return targets


def filter_targets(
    targets: Iterable[Target],
    *,
    core: str | None = None,
    min_ram_bytes: int | None = None,
    min_flash_bytes: int | None = None,
    engine: str | None = None,
    kind: str | None = None,
) -> tuple[Target, ...]:
    """Those of the targets that fulfil every condition that is not ``None``.

    Raises:
        UsageError: no target at all has this core, engine or kind.
    """
    chosen = tuple(targets)
    known: dict[str, tuple[str | None, set[str]]] = {
        "core": (core, {target.core for target in chosen if target.core}),
        "engine": (engine, {name for target in chosen for name in target.engines}),
        "kind": (kind, set(_KINDS)),
    }
    for option, (wanted, words) in known.items():
        if wanted is not None and wanted not in words:
            near = difflib.get_close_matches(wanted, sorted(words), n=1)
            fix = f"--{option} {near[0]}" if near else f"one of: {', '.join(sorted(words))}"
            raise UsageError(f"no target has the {option} '{wanted}'", None, fix)
    return tuple(
        target
        for target in chosen
        if core in (None, target.core)
        and kind in (None, target.kind)
        and (engine is None or engine in target.engines)
        and target.ram_bytes >= (min_ram_bytes or 0)
        and target.flash_bytes >= (min_flash_bytes or 0)
    )


def target_folders() -> list[Path]:
    """Where target files are looked for, first match wins: the user's folders, then ours."""
    own = [Path(item) for item in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if item]
    for folder in own:
        if not folder.is_dir():
            raise UsageError(f"this folder of target files does not exist: {folder}", PATH_VARIABLE)
    return [*own, targets_dir()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.yaml") if not path.name.startswith("."))


def read_target(path: Path) -> Target:
    """Reads and checks one target file.

    Raises:
        UsageError: with file, line and reason.
    """
    from edgekit.yamlfile import YamlFile

    file = YamlFile(path)
    pairs = file.mapping(file.root, "a target file", [item.name for item in fields(Target)])
    for item in fields(Target):
        required = item.default is MISSING and item.default_factory is MISSING
        if required and item.name not in pairs:
            raise file.error(file.root, f"the key '{item.name}' is missing")
    values = {key: _FIELDS[key](file, node, key) for key, (_, node) in pairs.items()}
    target = Target(**values)
    lines = {key: node for key, (_, node) in pairs.items()}
    if target.name != path.stem:
        raise file.error(
            lines["name"],
            f"the file is called {path.name}, but the target in it '{target.name}'",
            f"rename the file to {target.name}.yaml, or the target to {path.stem}",
        )
    if target.kind == "mcu":
        for key in ("core", "isa", "clock_hz", "memory", "engines"):
            if key not in pairs:
                raise file.error(file.root, f"a microcontroller's file must have the key '{key}'")
        for kinds, title in ((("flash",), "flash"), (("ram", "tcm"), "ram")):
            if not any(region.kind in kinds for region in target.memory):
                raise file.error(lines["memory"], f"'memory' has no region of kind {title}")
    return target


def _name(file: YamlFile, node: yaml.Node, key: str) -> str:
    word = file.text(node, f"'{key}'")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", word):
        raise file.error(
            node, f"'{key}' must be of small letters, digits, '-' and '.', not '{word}'"
        )
    return word


def _text(file: YamlFile, node: yaml.Node, key: str) -> str:
    return file.text(node, f"'{key}'")


def _names(file: YamlFile, node: yaml.Node, key: str) -> tuple[str, ...]:
    return tuple(_name(file, item, key) for item in file.sequence(node, f"'{key}'"))


def _choice(file: YamlFile, node: yaml.Node, key: str, known: tuple[str, ...]) -> str:
    word = file.text(node, f"'{key}'")
    if word not in known:
        raise file.unknown(node, f"'{word}' is no {key}", word, known)
    return word


def _kind(file: YamlFile, node: yaml.Node, key: str) -> str:
    return _choice(file, node, key, _KINDS)


def _isa(file: YamlFile, node: yaml.Node, key: str) -> tuple[str, ...]:
    return tuple(_choice(file, item, key, EXTENSIONS) for item in file.sequence(node, f"'{key}'"))


def _hertz(file: YamlFile, node: yaml.Node, key: str) -> int:
    return file.hertz(node, f"'{key}'")


def _memory(file: YamlFile, node: yaml.Node, key: str) -> tuple[Region, ...]:
    regions: list[Region] = []
    for item in file.sequence(node, f"'{key}'"):
        pairs = file.mapping(item, "a memory region", [f.name for f in fields(Region)])
        for name in ("name", "kind", "origin", "nbytes"):
            if name not in pairs:
                raise file.error(item, f"the memory region has no '{name}'")
        kind: Any = _choice(file, pairs["kind"][1], "kind", _REGION_KINDS)
        region = Region(
            name=file.text(pairs["name"][1], "a region's 'name'"),
            kind=kind,
            origin=file.integer(pairs["origin"][1], "'origin'"),
            nbytes=file.nbytes(pairs["nbytes"][1], "'nbytes'"),
            fetch_origin=file.integer(pairs["fetch_origin"][1], "'fetch_origin'")
            if "fetch_origin" in pairs
            else None,
        )
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", region.name):
            raise file.error(
                item, f"a region's name is of capitals, digits and '_', not '{region.name}'"
            )
        if not 0 <= region.origin < 1 << 32 or region.origin + region.nbytes > 1 << 32:
            raise file.error(
                item, f"region {region.name} does not lie within the 32-bit address space"
            )
        for other in regions:
            if other.name == region.name:
                raise file.error(item, f"two memory regions are called {region.name}")
            start = max(other.origin, region.origin)
            end = min(other.origin + other.nbytes, region.origin + region.nbytes)
            if start < end:
                raise file.error(
                    item,
                    f"regions {other.name} and {region.name} overlap by {end - start:,} B"
                    f" at 0x{start:08x}",
                )
        regions.append(region)
    return tuple(regions)


def _settings(file: YamlFile, node: yaml.Node, key: str) -> dict[str, Any]:
    file.mapping(node, f"'{key}'")
    settings: dict[str, Any] = file.plain(node, key)
    return settings


def _link(file: YamlFile, node: yaml.Node, key: str) -> dict[str, Any]:
    known = ("kind", "baud", "usb_ids", "parity", "host", "user", "folder", "note")
    pairs = file.mapping(node, "'link'", known)
    if "kind" not in pairs:
        raise file.error(node, "'link' has no 'kind'")
    _choice(file, pairs["kind"][1], "kind", _LINK_KINDS)
    if "baud" in pairs and not 0 < file.integer(pairs["baud"][1], "'baud'") <= 20_000_000:
        raise file.error(pairs["baud"][1], "'baud' must be between 1 and 20,000,000")
    if "usb_ids" in pairs:
        for item in file.sequence(pairs["usb_ids"][1], "'usb_ids'"):
            if not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", file.text(item, "a USB id")):
                raise file.error(item, "a USB id is written vendor:product, such as '0483:374b'")
    return _settings(file, node, key)


def _flashers(file: YamlFile, node: yaml.Node, key: str) -> tuple[dict[str, Any], ...]:
    flashers = []
    for item in file.sequence(node, f"'{key}'"):
        pairs = file.mapping(item, "a flasher")
        if "name" not in pairs:
            raise file.error(item, "the flasher has no 'name'")
        _name(file, pairs["name"][1], "name")
        flashers.append(_settings(file, item, key))
    return tuple(flashers)


def _timing(file: YamlFile, node: yaml.Node, key: str) -> dict[str, Any]:
    known = ("model", "basis", "constants", "cache", "error", "note", "instructions_per_cycle")
    pairs = file.mapping(node, "'timing'", known)
    if "model" in pairs:
        _name(file, pairs["model"][1], "model")
    elif "instructions_per_cycle" not in pairs:
        raise file.error(node, "'timing' has no 'model'")
    if "instructions_per_cycle" in pairs:
        item = pairs["instructions_per_cycle"][1]
        if file.number(item, "'instructions_per_cycle'") <= 0:
            raise file.error(item, "'instructions_per_cycle' must be above 0")
    if "basis" in pairs:
        _choice(file, pairs["basis"][1], "basis", ("board", "core"))
    if "constants" in pairs:
        constants = file.mapping(pairs["constants"][1], "'constants'")
        for name, (_, value) in constants.items():
            file.number(value, f"'{name}'")
    return _settings(file, node, key)


def _sources(file: YamlFile, node: yaml.Node, key: str) -> tuple[dict[str, Any], ...]:
    sources = []
    for item in file.sequence(node, f"'{key}'"):
        pairs = file.mapping(item, "a source", ("facts", "source", "verified"))
        for name in ("facts", "source", "verified"):
            if name not in pairs:
                raise file.error(item, f"the source has no '{name}'")
        facts = file.sequence(pairs["facts"][1], "'facts'")
        sources.append(
            {
                "facts": [file.text(fact, "a fact") for fact in facts],
                "source": file.text(pairs["source"][1], "'source'"),
                "verified": file.boolean(pairs["verified"][1], "'verified'"),
            }
        )
    return tuple(sources)


#: How each key of a target file is read. ``uart``, ``sim``, ``toolchain`` and
#: ``engine_options`` are read by the port, the simulator, the build and the engine.
_FIELDS: dict[str, Callable[[YamlFile, yaml.Node, str], Any]] = {
    "name": _name,
    "title": _text,
    "kind": _kind,
    "aliases": _names,
    "core": _name,
    "isa": _isa,
    "clock_hz": _hertz,
    "memory": _memory,
    "port": _name,
    "uart": _settings,
    "link": _link,
    "flashers": _flashers,
    "engines": _names,
    "toolchain": _settings,
    "timing": _timing,
    "sim": _settings,
    "engine_options": _settings,
    "sources": _sources,
}
