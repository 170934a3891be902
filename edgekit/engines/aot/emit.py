"""C text from a planned program. The same program gives the same bytes.

One function per step, ``<prefix>_s<index>``, calls an *instance*: a function that calls a kernel
with literal numbers, which the compiler then specialises. Steps whose numbers are equal share an
instance; numbers that are not worth code of their own become its parameters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.engines.aot.lowering import (
    CTYPE_BYTES,
    CTYPE_DTYPES,
    CTYPES,
    Argument,
    Data,
    Input,
    Kernel,
    Literal,
    Output,
    Scratch,
    Table,
)
from edgekit.engines.aot.memory import Layout
from edgekit.records import TensorView
from edgekit.resources import firmware_dir

_WIDTH = 96
_LONGEST_PREFIX = 48

#: Share of an inference's estimated instructions above which a shape gets code of its own.
_OWN_CODE_SHARE = 0.02

#: Literals that differ between the strips of an operator; their instance takes them at run time.
_STRIP_LITERALS = frozenset(("in_h", "out_h", "pad_h", "pad_top", "pixels", "strip"))

#: Words that cannot be a prefix: C and C++ keywords, and headers of the C library, which
#: ``<prefix>.h`` would hide. Names that start with ``ek_`` are this project's own.
_RESERVED = frozenset(
    """
    auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef
    union unsigned void volatile while asm class namespace template this new delete operator
    private public protected virtual bool
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal
    stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath
    threads time uchar wchar wctype main
    """.split()
)

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def prefix_of(name: str) -> str:
    """A C identifier for a model's name, whatever is in it."""
    word = re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")
    if not word:
        word = "model_" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    if word[0].isdigit() or word in _RESERVED or word.startswith("ek_") or word == "ek":
        word = f"model_{word}"
    if len(word) > _LONGEST_PREFIX:
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        word = f"{word[: _LONGEST_PREFIX - 9].rstrip('_')}_{digest}"
    return word


def comment_text(text: str) -> str:
    """Text that cannot end a comment, start a trigraph or break a line."""
    plain = "".join(c if c.isprintable() and ord(c) < 127 else "." for c in text)
    # A blank goes between the characters that mean something together.
    return re.sub(r"(?<=\*)(?=/)|(?<=/)(?=[*/])|(?<=\?)(?=\?)", " ", plain).rstrip("\\")


def string_literal(text: str) -> str:
    """A C string literal of printable ASCII."""
    return '"' + comment_text(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Emitted:
    """The artifact's files by their relative path, and the bytes of all tables in them."""

    files: Mapping[str, str]
    weights_bytes: int
    #: functions that call a kernel; several steps may share one
    instances: int = 0
    in_ram: tuple[TableInRam, ...] = ()


@dataclass(frozen=True)
class TableInRam:
    """A table that start-up copies into RAM."""

    name: str
    nbytes: int
    #: how often an inference reads through it
    estimated_reads: float


@dataclass
class _Placed:
    """A table in the sources; steps with equal content share it."""

    name: str
    table: Table
    values: Any
    reads: float = 0.0

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


def emit(
    layout: Layout, *, command: str, goal: str = "speed", tables_ram_bytes: int | None = 0
) -> Emitted:
    """The C of a planned program.

    Args:
        layout: the planned program.
        command: the command line that asked for it, for the files' first lines.
        goal: ``flash`` shares instances between shapes.
        tables_ram_bytes: RAM for the tables that are read most often, which are then initialised
            data that start-up code copies; ``None`` for all of them.
    """
    emitter = _Emitter(layout, command, goal, tables_ram_bytes)
    files = emitter.files()
    in_ram = sorted(emitter.in_ram(), key=lambda placed: -placed.reads)
    return Emitted(
        files,
        emitter.weights_bytes(),
        emitter.instances,
        tuple(TableInRam(p.name, p.nbytes, round(p.reads, 2)) for p in in_ram),
    )


@dataclass(frozen=True)
class _Slot:
    """An argument of an instance: a parameter with its C declaration, or a literal."""

    text: str
    declaration: str | None = None


@dataclass
class _Instance:
    """A group of steps that share code; which literals stay so is known once all are in."""

    index: int
    kernel: Kernel
    types: tuple[str, ...]
    steps: list[int]
    varying: set[int]


class _Emitter:
    def __init__(
        self, layout: Layout, command: str, goal: str, tables_ram_bytes: int | None
    ) -> None:
        self.tables_ram_bytes = tables_ram_bytes
        self.layout = layout
        self.program = layout.program
        self.model = layout.program.model
        self.plan = layout.plan
        self.command = comment_text(command)
        self.goal = goal
        self.prefix = prefix_of(self.model.name)
        self.upper = self.prefix.upper()
        self.nodes = [self.program.node(step) for step in self.program.steps]
        self.tables: dict[tuple[str, bytes], _Placed] = {}
        self.instances = 0

    def files(self) -> dict[str, str]:
        bodies = self._instances_and_steps()
        files = {
            f"{self.prefix}.h": self._header(),
            f"{self.prefix}.c": self._source(bodies),
            f"{self.prefix}_weights.h": self._weights(),
            "CMakeLists.txt": self._cmake(),
        }
        include = firmware_dir() / "include"
        files["ek_model.h"] = (include / "ek_model.h").read_text()
        files.update(
            (f"kernels/{name}", text)
            for name, text in sorted(_headers({k.header for k in self.layout.kernels}).items())
        )
        return files

    def weights_bytes(self) -> int:
        """Bytes of all tables, equal ones counted once."""
        return sum(placed.nbytes for placed in self.tables.values())

    def in_ram(self) -> list[_Placed]:
        """The tables that go into RAM: those that are read most often, as long as there is room."""
        left = self.tables_ram_bytes
        if left is None:
            return list(self.tables.values())
        chosen = []
        for placed in sorted(self.tables.values(), key=lambda p: (-p.reads, p.name)):
            if placed.nbytes <= left:
                chosen.append(placed)
                left -= placed.nbytes
        return chosen

    # -- pieces --------------------------------------------------------------------------------

    def _banner(self, comment: str = "/*") -> str:
        lines = [
            f"Made by edgekit {__version__}: {self.command}",
            f"Model: {comment_text(self.model.name)}, sha256 {self.model.sha256}",
        ]
        if comment == "#":
            return "".join(f"# {line}\n" for line in lines)
        return f"/* {lines[0]}\n * {lines[1]}\n */\n"

    def _header(self) -> str:
        guard = f"{self.upper}_H"
        plan = self.plan
        defines = [
            (f"{self.upper}_ARENA_BYTES", str(plan.arena_bytes)),
            (f"{self.upper}_ARENA_ALIGN", str(self.layout.align_bytes)),
            (f"{self.upper}_STEP_COUNT", f"{len(plan.steps)}u"),
        ]
        if plan.feeds:
            defines.append((f"{self.upper}_FEED_COUNT", f"{len(plan.feeds)}u"))
        functions: list[str] = []
        for word, views in (("input", plan.inputs), ("output", plan.outputs)):
            for index, view in enumerate(views):
                suffix = "" if index == 0 else str(index)
                defines += self._view_defines(f"{self.upper}_{word.upper()}{suffix}", view)
                ctype = CTYPES[view.dtype]
                if view.fed:
                    continue
                offset = f"{self.upper}_{word.upper()}{suffix}_OFFSET"
                place = f"arena + {offset}"
                if view.apart:
                    functions.append(
                        f"/* {comment_text(view.name)}: {view.dtype} {_shape(view.shape)}; not in"
                        " the arena. It is only read; aligned to 4.\n"
                        " * To be set before the first inference, and again when it moves or when"
                        " the arena was in use elsewhere. */\n"
                        f"static inline void {self.prefix}_set_{word}{suffix}("
                        f"int8_t *arena, const {ctype} *data) {{\n"
                        f"    *(const {ctype} **)(void *)({place}) = data;\n}}\n"
                    )
                    continue
                value = place if ctype == "int8_t" else f"({ctype} *)(void *)({place})"
                functions.append(
                    f"/* {comment_text(view.name)}: {view.dtype} {_shape(view.shape)} */\n"
                    f"static inline {ctype} *{self.prefix}_{word}{suffix}(int8_t *arena) {{\n"
                    f"    return {value};\n}}\n"
                )
        width = max(len(name) for name, _ in defines)
        define_text = "".join(f"#define {name:<{width}} {value}\n" for name, value in defines)
        return (
            f"{self._banner()}"
            f"#ifndef {guard}\n#define {guard}\n\n"
            '#include <stdint.h>\n\n#include "ek_model.h"\n\n'
            "#ifdef __cplusplus\n"
            'extern "C" {\n'
            "#endif\n\n"
            f"/* real value = SCALE * (stored value - ZERO_POINT); offsets are in the arena */\n"
            f"{define_text}\n"
            f"extern const ek_model_t {self.prefix}_model;\n\n"
            + self._invoke_declaration()
            + "/* One step of an inference, for callers that must not block: steps 0 to\n"
            " * STEP_COUNT - 1 in this order are one inference; other indices do nothing. */\n"
            f"void {self.prefix}_step(int8_t *arena, uint32_t index);\n\n"
            "/* Nothing to do: constants are in flash, and the arena needs no initial content. */\n"
            f"static inline void {self.prefix}_init(int8_t *arena) {{\n    (void)arena;\n}}\n\n"
            + "\n".join(functions)
            + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
        )

    def _invoke_declaration(self) -> str:
        if not self.plan.feeds:
            return (
                "/* One inference. `arena` has ARENA_BYTES bytes, aligned to ARENA_ALIGN; write\n"
                " * the inputs first, read the outputs afterwards. The arena holds all state:\n"
                " * models may share one, one after the other. */\n"
                f"void {self.prefix}_invoke(int8_t *arena);\n\n"
            )
        (view,) = self.plan.inputs
        return (
            f"/* Writes `count` rows of the input, from row `first` on, to `to`. {view.dtype}"
            f" {_shape(view.shape)};\n"
            " * INPUT_ROW_BYTES bytes a row, at most INPUT_FEED_ROWS rows at a time. */\n"
            f"typedef void (*{self.prefix}_rows_t)(void *context, int8_t *to, uint32_t first,"
            " uint32_t count);\n\n"
            "/* One inference. `arena` has ARENA_BYTES bytes, aligned to ARENA_ALIGN. The input\n"
            " * is never whole in it: `rows` is called whenever rows are wanted, in ascending\n"
            " * order, once for each. Read the outputs afterwards. The arena holds all state:\n"
            " * models may share one, one after the other. */\n"
            f"void {self.prefix}_invoke(int8_t *arena, {self.prefix}_rows_t rows,"
            " void *context);\n\n"
            "/* For callers of single steps: what to write where, and right before which step. */\n"
            f"extern const ek_feed_t {self.prefix}_feeds[{self.upper}_FEED_COUNT];\n\n"
        )

    def _invoke_definition(self) -> str:
        prefix, upper = self.prefix, self.upper
        if not self.plan.feeds:
            return (
                f"void {prefix}_invoke(int8_t *arena) {{\n"
                f"    for (uint32_t i = 0; i < {upper}_STEP_COUNT; ++i) {{\n"
                f"        {prefix}_steps[i](arena);\n    }}\n}}\n\n"
            )
        feeds = "".join(
            f"    {{{f.step}u, {f.input}u, {f.start}u, {f.offset}u, {f.nbytes}u}},\n"
            for f in self.plan.feeds
        )
        return (
            f"const ek_feed_t {prefix}_feeds[{upper}_FEED_COUNT] = {{\n{feeds}}};\n\n"
            f"void {prefix}_invoke(int8_t *arena, {prefix}_rows_t rows, void *context) {{\n"
            "    uint32_t next = 0;\n"
            f"    for (uint32_t i = 0; i < {upper}_STEP_COUNT; ++i) {{\n"
            f"        if (next < {upper}_FEED_COUNT && {prefix}_feeds[next].step == i) {{\n"
            f"            const ek_feed_t *feed = &{prefix}_feeds[next++];\n"
            "            rows(\n"
            "                context, arena + feed->offset,\n"
            f"                feed->start / {upper}_INPUT_ROW_BYTES,\n"
            f"                feed->nbytes / {upper}_INPUT_ROW_BYTES\n"
            "            );\n"
            "        }\n"
            f"        {prefix}_steps[i](arena);\n    }}\n}}\n\n"
        )

    def _view_defines(self, name: str, view: TensorView) -> list[tuple[str, str]]:
        place = [(f"{name}_OFFSET", str(view.offset))]
        if view.fed:
            place = [
                (f"{name}_ROWS", f"{view.shape[1]}u"),
                (f"{name}_ROW_BYTES", f"{view.nbytes // view.shape[1]}u"),
                (f"{name}_FEED_ROWS", f"{max(feed.rows for feed in self.plan.feeds)}u"),
            ]
        found = [
            *place,
            (f"{name}_BYTES", str(view.nbytes)),
            (f"{name}_COUNT", str(view.nbytes // CTYPE_BYTES[CTYPES[view.dtype]])),
        ]
        if view.scale is not None:
            found.append((f"{name}_SCALE", _float(view.scale)))
            zero_point = _int(view.zero_point)
            text = f"({zero_point})" if view.zero_point < 0 else zero_point
            found.append((f"{name}_ZERO_POINT", text))
        return found

    def _source(self, bodies: str) -> str:
        prefix, plan = self.prefix, self.plan
        headers = sorted({kernel.header for kernel in self.layout.kernels})
        includes = "".join(f'#include "kernels/{header}"\n' for header in headers)
        count = len(plan.steps)
        sha = ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(self.model.sha256))
        spans = {
            # Of an input apart there is a pointer at the offset; the size is the input's own.
            "inputs": [(v.offset, v.nbytes) for v in plan.inputs],
            "outputs": [(v.offset, v.nbytes) for v in plan.outputs],
            "step_outputs": [(s.offset, s.nbytes) for s in plan.steps],
        }
        span_text = "".join(
            f"static const ek_span_t {prefix}_{name}[{max(len(values), 1)}] = {{\n"
            # A model of constants alone would have no inputs; C has no empty arrays.
            + "".join(f"    {{{at}u, {n}u}},\n" for at, n in values or [(0, 0)])
            + "};\n\n"
            for name, values in spans.items()
        )
        steps = "".join(f"    {prefix}_s{i},\n" for i in range(count))
        return (
            f"{self._banner()}"
            f'#include "{prefix}.h"\n\n#include <stddef.h>\n\n'
            f'{includes}#include "{prefix}_weights.h"\n\n'
            "/* Steps keep their symbols, so that profilers and debuggers see them. */\n"
            "#if defined(__GNUC__) && !defined(__clang__)\n"
            "#define EK_STEP __attribute__((noinline, noclone, no_icf))\n"
            "#else\n"
            "#define EK_STEP __attribute__((noinline))\n"
            "#endif\n"
            "#define EK_INSTANCE static __attribute__((noinline))\n\n"
            f"{bodies}"
            f"static void (*const {prefix}_steps[{count}])(int8_t *arena) = {{\n"
            f"{steps}}};\n\n"
            f"void {prefix}_step(int8_t *arena, uint32_t index) {{\n"
            f"    if (index < {self.upper}_STEP_COUNT) {{\n"
            f"        {prefix}_steps[index](arena);\n    }}\n}}\n\n"
            f"{self._invoke_definition()}"
            f"{span_text}"
            f"const ek_model_t {prefix}_model = {{\n"
            f"    {string_literal(self.model.name)},\n"
            f"    {string_literal('aot ' + __version__)},\n"
            f"    {{{_wrap(sha, 8)}}},\n"
            f"    {self.upper}_ARENA_BYTES,\n    {self.upper}_ARENA_ALIGN,\n"
            f"    {len(plan.inputs)}u,\n    {len(plan.outputs)}u,\n"
            f"    {self.upper}_STEP_COUNT,\n"
            f"    {prefix}_inputs,\n    {prefix}_outputs,\n    {prefix}_step_outputs,\n"
            f"    {'0' if plan.feeds else prefix + '_invoke'},\n    {prefix}_step,\n"
            "};\n"
        )

    def _weights(self) -> str:
        guard = f"{self.upper}_WEIGHTS_H"
        in_ram = {placed.name for placed in self.in_ram()}
        tables = [self._table_text(p, p.name in in_ram) for p in self.tables.values()]
        return (
            f"{self._banner()}"
            f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
            + "\n".join(tables)
            + "\n#endif\n"
        )

    def _cmake(self) -> str:
        return (
            f"{self._banner('#')}"
            "cmake_minimum_required(VERSION 3.13)\n"
            f"project({self.prefix} C)\n\n"
            f"add_library({self.prefix} STATIC {self.prefix}.c)\n"
            f"target_include_directories({self.prefix} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})\n"
            f"target_compile_features({self.prefix} PUBLIC c_std_11)\n"
            "if(NOT CMAKE_BUILD_TYPE)\n"
            f"  target_compile_options({self.prefix} PRIVATE -O2)\n"
            "endif()\n"
        )

    # -- steps ---------------------------------------------------------------------------------

    def _instances_and_steps(self) -> str:
        groups: dict[Any, _Instance] = {}
        of_step: list[_Instance] = []
        for index, (kernel, key) in enumerate(zip(self.layout.kernels, self._keys(), strict=True)):
            types = tuple(self._ctype(index, kernel, arg) for arg in kernel.args)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Instance(len(groups), kernel, types, [], set())
            for position, (a, b) in enumerate(zip(group.kernel.args, kernel.args, strict=True)):
                if isinstance(a, Literal) and isinstance(b, Literal) and a.value != b.value:
                    group.varying.add(position)
            group.steps.append(index)
            of_step.append(group)
        text = [self._instance(group) for group in groups.values()]
        self.instances = len(groups)
        prototypes = []
        for index, group in enumerate(of_step):
            name = f"{self.prefix}_s{index}"
            prototypes.append(f"void {name}(int8_t *arena);\n")
            text.append(self._step(index, group, name))
        return (
            "".join(text[: len(groups)]) + "".join(prototypes) + "\n" + "".join(text[len(groups) :])
        )

    def _key(self, step: int, *, extents: bool) -> Any:
        """What steps must agree on to share an instance; ``extents`` may be left out of it."""
        kernel = self.layout.kernels[step]
        strip = self.program.steps[step].outputs[0] in self.program.rows

        def fixed(arg: Argument) -> Any:
            if not isinstance(arg, Literal):
                return type(arg)
            loose = arg.soft or (arg.extent and (self.goal == "flash" or not extents))
            loose = loose or (strip and arg.name in _STRIP_LITERALS)
            return (arg.name, type(arg.value)) if loose else (arg.name, arg.value)

        types = tuple(self._ctype(step, kernel, arg) for arg in kernel.args)
        return (kernel.function, types, tuple(fixed(arg) for arg in kernel.args))

    def _keys(self) -> list[Any]:
        """The instance of each step, as a key.

        An instance of its own for each shape costs code. Shapes with little to gain, because
        few instructions are spent in them, share one that takes the extents at run time.
        """
        steps = range(len(self.layout.kernels))
        keys = [self._key(step, extents=True) for step in steps]
        total = sum(kernel.cost for kernel in self.layout.kernels)
        share: dict[Any, float] = {}
        for step in steps:
            share[keys[step]] = share.get(keys[step], 0.0) + self.layout.kernels[step].cost
        small = {key for key, cost in share.items() if cost < _OWN_CODE_SHARE * total}
        return [
            self._key(step, extents=False) if keys[step] in small else keys[step] for step in steps
        ]

    def _ctype(self, step: int, kernel: Kernel, arg: Argument) -> str:
        node = self.nodes[step]
        if isinstance(arg, Input):
            tensor = node.inputs[arg.index]
            if tensor is None:
                raise ValueError(f"{kernel.function} asks for the absent input {arg.index}")
            return f"const {CTYPES[tensor.dtype]} *"
        if isinstance(arg, Output):
            return f"{CTYPES[node.outputs[arg.index].dtype]} *"
        if isinstance(arg, Scratch):
            return f"{arg.ctype} *"
        if isinstance(arg, Data):
            return f"const {_table(kernel, arg.table).ctype} *"
        return "float " if isinstance(arg.value, float) else "int32_t "

    def _instance(self, group: _Instance) -> str:
        kernel = group.kernel
        slots = []
        for position, (arg, ctype) in enumerate(zip(kernel.args, group.types, strict=True)):
            if isinstance(arg, Literal) and position not in group.varying:
                slots.append(_Slot(_number(arg.value)))
            elif _repeats(kernel, position):
                slots.append(_Slot(_parameter(arg)))
            else:
                name = _parameter(arg)
                slots.append(_Slot(name, f"{ctype}{name}"))
        declared = [slot.declaration for slot in slots if slot.declaration]
        steps = ", ".join(str(step) for step in group.steps)
        return (
            f"/* {'steps' if len(group.steps) > 1 else 'step'} {steps} */\n"
            + _call(f"EK_INSTANCE void {self._instance_name(group)}", declared, " {\n")
            + _call(f"    {kernel.function}", [slot.text for slot in slots], ";\n")
            + "}\n\n"
        )

    def _instance_name(self, group: _Instance) -> str:
        return f"{self.prefix}_k{group.index}"

    def _step(self, index: int, group: _Instance, name: str) -> str:
        kernel = self.layout.kernels[index]
        step = self.plan.steps[index]
        arguments = []
        for position, (arg, ctype) in enumerate(zip(kernel.args, group.types, strict=True)):
            if isinstance(arg, Literal):
                if position in group.varying:
                    arguments.append(_number(arg.value))
            elif _repeats(kernel, position):
                continue
            elif isinstance(arg, Data):
                arguments.append(self._place_table(index, _table(kernel, arg.table)))
            else:
                arguments.append(self._pointer(index, arg, ctype))
        where = f"{step.kind} {_shape(step.shape)}, operators {list(step.ops)}, {step.macs} MACs"
        return (
            f"/* {where} */\n"
            f"EK_STEP void {name}(int8_t *arena) {{\n"
            + _call(f"    {self._instance_name(group)}", arguments, ";\n")
            + "}\n\n"
        )

    def _pointer(self, step: int, arg: Argument, ctype: str) -> str:
        node = self.nodes[step]
        if isinstance(arg, Scratch):
            offset = self.layout.scratch[step]
        else:
            tensor = node.outputs[arg.index] if isinstance(arg, Output) else None
            if isinstance(arg, Input):
                tensor = node.inputs[arg.index]
            assert tensor is not None  # _ctype has refused absent inputs
            if tensor.is_constant:
                table = Table(f"tensor{tensor.index}", CTYPES[tensor.dtype], tensor.data())
                return self._place_table(step, table)
            offset = self.layout.offsets[tensor.index]
            if self.program.home(tensor.index) in self.program.apart:
                within = self.program.offset(tensor.index)
                pointer = f"*(const int8_t *const *)(const void *)(arena + {offset})"
                place = f"{pointer} + {within}" if within else pointer
                return place if ctype == "const int8_t *" else f"({ctype})(const void *)({place})"
        place = "arena" if offset == 0 else f"arena + {offset}"
        if ctype in ("int8_t *", "const int8_t *"):
            return place
        return f"({ctype})(void *)({place})"

    def _place_table(self, step: int, table: Table) -> str:
        """The name of a table in the sources; tables of equal content are the same one."""
        import numpy as np

        values = np.ascontiguousarray(table.values, CTYPE_DTYPES[table.ctype]).reshape(-1)
        key = (f"{table.ctype}/{table.align_bytes}", values.tobytes())
        if key not in self.tables:
            name = f"{self.prefix}_s{step}_{table.name}"
            self.tables[key] = _Placed(name, table, values)
        self.tables[key].reads += self.layout.kernels[step].table_reads
        return self.tables[key].name

    def _table_text(self, placed: _Placed, in_ram: bool) -> str:
        table = placed.table
        align = max(table.align_bytes, CTYPE_BYTES[table.ctype])
        constant, place = ("", f', section(".data.{placed.name}")') if in_ram else ("const ", "")
        return (
            f"static {constant}{table.ctype} {placed.name}[{max(placed.values.size, 1)}]\n"
            f"    __attribute__((aligned({align}){place})) = {{\n{_numbers(placed.values)}}};\n"
        )


def _table(kernel: Kernel, name: str) -> Table:
    return next(table for table in kernel.tables if table.name == name)


def _repeats(kernel: Kernel, position: int) -> bool:
    """Whether a kernel takes a pointer that it has taken before, such as for an unused input."""
    return kernel.args[position] in kernel.args[:position]


def _parameter(arg: Argument) -> str:
    if isinstance(arg, Input):
        return f"input{arg.index}"
    if isinstance(arg, Output):
        return f"output{arg.index}" if arg.index else "output"
    if isinstance(arg, Scratch):
        return "scratch"
    return arg.table if isinstance(arg, Data) else arg.name


def _number(value: int | float) -> str:
    return _float(value) if isinstance(value, float) else _int(value)


def _int(value: int) -> str:
    # C has no negative literals: -2147483648 is the negation of a number that does not fit.
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(int(value))


def _float(value: float) -> str:
    import numpy as np

    text = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    return f"{text}f"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape) or "scalar"


def _numbers(values: Any) -> str:
    """Lines of numbers, comma after each; ``0`` where there is none."""
    if values.size == 0:
        return "    0,\n"
    texts = (
        [_float(v) for v in values.tolist()]
        if values.dtype.kind == "f"
        else [_int(v) for v in values.tolist()]
    )
    lines = []
    line = "   "
    for text in texts:
        if len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {text},"
    lines.append(line)
    return "\n".join(lines) + "\n"


def _wrap(text: str, indent: int) -> str:
    """A comma-separated list over several lines."""
    lines = [""]
    for part in text.split(", "):
        if len(lines[-1]) + len(part) + 2 + indent > _WIDTH:
            lines.append("")
        lines[-1] += f"{part}, "
    pad = "\n" + " " * indent
    return pad + pad.join(line.rstrip() for line in lines) + "\n    "


def _call(head: str, arguments: Sequence[str], tail: str) -> str:
    """``head(arguments)tail``, over several lines where it is long."""
    one = f"{head}({', '.join(arguments) or ('void' if '{' in tail else '')}){tail}"
    if len(one) <= _WIDTH + len(tail):
        return one
    indent = " " * (len(head) - len(head.lstrip()))
    lines = [f"{head}("]
    line = f"{indent}   "
    for position, argument in enumerate(arguments):
        text = f" {argument}{',' if position + 1 < len(arguments) else ''}"
        if len(line) + len(text) > _WIDTH:
            lines.append(line)
            line = f"{indent}   "
        line += text
    lines.append(line)
    return "\n".join(lines) + f"\n{indent}){tail}"


def _headers(names: set[str]) -> Mapping[str, str]:
    """The kernel headers and whatever they include of ours, by name."""
    folders = (firmware_dir() / "kernels", firmware_dir() / "include")
    found: dict[str, str] = {}
    queue = sorted(names)
    while queue:
        name = queue.pop()
        if name in found or name == "ek_model.h":
            continue
        path = next((f / name for f in folders if (f / name).is_file()), None)
        if path is None or Path(name).name != name:
            raise FileNotFoundError(f"the kernel header {name} is not in {folders[0]}")
        found[name] = path.read_text()
        queue += _INCLUDE.findall(found[name])
    return found
