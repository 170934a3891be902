"""Counts of executed blocks: the callbacks of counter.c, or the same in Python.

The C library is compiled once with the system's compiler or ziglang's and kept in edgekit's
cache folder. Without any compiler the Python version counts the same, many times slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

FLAG_REFUSED, FLAG_FP, FLAG_STACK, FLAG_MARKER = 1, 2, 4, 8
EVENT_NONE, EVENT_REQUEST, EVENT_REFUSED, EVENT_STACK = range(4)
NEVER = (1 << 64) - 1
LOG_LENGTH = 4096
#: Cycles are kept in thousandths.
MILLI = 1000
_XPSR_IT = 0x0600FC00

_SOURCE = Path(__file__).with_name("counter.c")


class _Block(ctypes.Structure):
    pass


_Block._fields_ = [
    ("address", ctypes.c_uint32),
    ("nbytes", ctypes.c_uint32),
    ("instructions", ctypes.c_uint32),
    ("flags", ctypes.c_uint32),
    ("stack_bytes", ctypes.c_uint32),
    ("bucket", ctypes.c_uint32),
    ("cost", ctypes.c_uint64),
    ("counts", ctypes.POINTER(ctypes.c_uint64)),
    ("likely_next", ctypes.POINTER(_Block)),
]


class _Reads(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("lines8", "lines16", "lines32", "misses", "n")]


class _Log(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("bucket", "instructions", "cost")]


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("bucket", "return_address", "sp", "pad")]


_DESCRIBE = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Block))


class _Counter(ctypes.Structure):
    _fields_ = [
        ("reg_read", ctypes.c_void_p),
        ("reg_write", ctypes.c_void_p),
        ("emu_stop", ctypes.c_void_p),
        ("describe", _DESCRIBE),
        ("reg_sp", ctypes.c_int32),
        ("reg_lr", ctypes.c_int32),
        ("reg_status", ctypes.c_int32),
        ("bucket_count", ctypes.c_uint32),
        ("watched_flags", ctypes.c_uint32),
        ("stack_limit", ctypes.c_uint32),
        ("cost_per_taken", ctypes.c_uint32),
        ("cost_per_line8", ctypes.c_uint32),
        ("cost_per_miss", ctypes.c_uint32),
        ("cache_sets", ctypes.c_uint32),
        ("cache_ways", ctypes.c_uint32),
        ("cache_line_shift", ctypes.c_uint32),
        ("inference_last", ctypes.POINTER(ctypes.c_uint32)),
        ("deadline", ctypes.c_uint64),
        ("now", ctypes.c_uint64),
        ("instructions", ctypes.c_uint64),
        ("inferences", ctypes.c_uint64),
        ("event", ctypes.c_uint32),
        ("event_address", ctypes.c_uint32),
        ("reads", ctypes.POINTER(_Reads)),
        ("log", _Log * LOG_LENGTH),
        ("bucket", ctypes.c_uint32),
        ("frame_count", ctypes.c_uint32),
        ("frames", _Frame * 16),
        ("inference_start_instructions", ctypes.c_uint64),
        ("inference_start_cost", ctypes.c_uint64),
        ("previous", ctypes.POINTER(_Block)),
        ("previous_counts", ctypes.POINTER(ctypes.c_uint64)),
        ("previous_end", ctypes.c_uint32),
        ("return_address", ctypes.c_uint32),
        ("table", ctypes.c_void_p),
        ("table_bits", ctypes.c_uint32),
        ("block_count", ctypes.c_uint32),
        ("blocks", ctypes.POINTER(ctypes.POINTER(_Block))),
        ("blocks_capacity", ctypes.c_uint32),
        ("line8", ctypes.c_uint64),
        ("line16", ctypes.c_uint64),
        ("line32", ctypes.c_uint64),
        ("cache_last", ctypes.c_uint64),
        ("cache_tags", ctypes.c_void_p),
    ]


@dataclass
class BlockInfo:
    """What is known of a block before it is executed; ``cost`` in thousandths of a cycle."""

    instructions: int
    cost: int
    flags: int = 0
    stack_bytes: int = 0
    bucket: int = 0


@dataclass(frozen=True)
class BlockCount:
    """How often a block was executed in a bucket, and left by a taken branch."""

    address: int
    nbytes: int
    instructions: int
    executed: int
    taken: int


@dataclass(frozen=True)
class Reads:
    """Data reads from flash: how often they entered another line of 8, 16, 32 bytes, missed
    the cache, and their bytes."""

    lines8: int
    lines16: int
    lines32: int
    misses: int
    nbytes: int


@dataclass(frozen=True)
class Setup:
    """What a counter needs to know."""

    bucket_count: int
    #: per bucket: last bucket of the inference that it starts, or 0
    inference_last: Sequence[int]
    #: sets, ways, bytes of a line of the cache in front of the flash
    cache: tuple[int, int, int] | None = None
    cost_per_taken: int = 0
    cost_per_line8: int = 0
    cost_per_miss: int = 0
    #: address below which the stack must not go
    stack_limit: int = 0
    #: Unicorn's numbers of the stack pointer and of the register with the return address
    sp_register: int = 0
    link_register: int = 0
    #: the register with the IT state; 0 in cores without one
    status_register: int = 0


Describe = Callable[[int, int], BlockInfo]


class Counter(Protocol):
    """What both counters offer. ``now`` is in thousandths of a cycle."""

    title: str
    now: int
    deadline: int
    watched_flags: int
    instructions: int
    event: int
    event_address: int
    inferences: int

    def install(self, uc: Any, flash: Iterable[tuple[int, int]], reads: bool) -> None: ...
    def jumped(self) -> None: ...
    def forget(self) -> None: ...
    def cut(self, instructions: int, cost: int) -> None: ...
    def block_end(self) -> int | None: ...
    def describe_again(self, first: int, last: int) -> None: ...
    def blocks(self, bucket: int) -> list[BlockCount]: ...
    def reads(self, bucket: int) -> Reads: ...
    def log(self, bucket: int) -> list[tuple[int, int]]: ...
    def totals(self) -> dict[int, int]: ...
    def raise_error(self) -> None: ...
    def close(self) -> None: ...


def library() -> Path | None:
    """The compiled counter, made when the cache folder has none; ``None`` without a compiler."""
    from edgekit.cache import cache_folder

    source = _SOURCE.read_bytes()
    key = hashlib.sha256(source + sys.platform.encode() + os.uname().machine.encode())
    path = cache_folder("sim") / f"counter-{key.hexdigest()[:16]}.so"
    if path.exists():
        return path
    for compiler in _compilers():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / "counter.so"
            command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(built), str(_SOURCE)]
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode == 0 and built.exists():
                os.replace(built, path)
                return path
    return None


def _compilers() -> Iterable[list[str]]:
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            yield [found]
    from importlib.util import find_spec

    if find_spec("ziglang"):
        yield [sys.executable, "-m", "ziglang", "cc"]


def make_counter(setup: Setup, describe: Describe, *, python: bool = False) -> Counter:
    """The C counter, or the Python one when asked for or when nothing can compile."""
    path = None if python else library()
    if path is None:
        return PythonCounter(setup, describe)
    return NativeCounter(setup, describe, path)


def _forward(name: str) -> Any:
    """A property that is a field of the C record."""

    def read(self: NativeCounter) -> int:
        return int(getattr(self._c, name))

    def write(self: NativeCounter, value: int) -> None:
        setattr(self._c, name, value)

    return property(read, write)


class NativeCounter:
    """Counts through callbacks in C."""

    title = "compiled"
    now: int = _forward("now")
    deadline: int = _forward("deadline")
    watched_flags: int = _forward("watched_flags")
    instructions: int = _forward("instructions")
    event: int = _forward("event")
    event_address: int = _forward("event_address")
    inferences: int = _forward("inferences")

    def __init__(self, setup: Setup, describe: Describe, path: Path) -> None:
        self._lib = lib = ctypes.CDLL(str(path))
        lib.ek_new.restype = ctypes.POINTER(_Counter)
        lib.ek_sizes.restype = ctypes.c_size_t
        for name in ("ek_free", "ek_jumped", "ek_forget"):
            getattr(lib, name).argtypes = [ctypes.POINTER(_Counter)]
        lib.ek_cut.argtypes = [ctypes.POINTER(_Counter), ctypes.c_uint32, ctypes.c_uint64]
        lib.ek_describe_again.argtypes = [ctypes.POINTER(_Counter), *2 * [ctypes.c_uint64]]
        if (lib.ek_sizes(0), lib.ek_sizes(1)) != (ctypes.sizeof(_Counter), ctypes.sizeof(_Block)):
            raise RuntimeError("counter.c and counter.py disagree about their records")
        sets, ways, line_bytes = setup.cache or (0, 0, 1)
        self._pointer = lib.ek_new(setup.bucket_count, sets, ways, line_bytes.bit_length() - 1)
        self._c: Any = self._pointer.contents
        self._last = (ctypes.c_uint32 * setup.bucket_count)(*setup.inference_last)
        self._c.inference_last = self._last
        self._c.cost_per_taken = setup.cost_per_taken
        self._c.cost_per_line8 = setup.cost_per_line8
        self._c.cost_per_miss = setup.cost_per_miss
        self._c.stack_limit = setup.stack_limit
        self._c.reg_sp, self._c.reg_lr = setup.sp_register, setup.link_register
        self._c.reg_status = setup.status_register
        self._error: BaseException | None = None

        def fill(pointer: Any) -> None:
            block = pointer.contents
            try:
                info = describe(block.address, block.nbytes)
            except BaseException as error:  # a callback cannot raise through C: kept, raised later
                self._error = error
                info = BlockInfo(0, 0, FLAG_REFUSED)
            block.instructions, block.cost = info.instructions, info.cost
            block.flags, block.stack_bytes, block.bucket = (
                info.flags,
                info.stack_bytes,
                info.bucket,
            )

        self._fill = _DESCRIBE(fill)
        self._c.describe = self._fill

    def install(self, uc: Any, flash: Iterable[tuple[int, int]], reads: bool) -> None:
        import unicorn
        from unicorn.unicorn_py3.unicorn import uclib

        self._c.reg_read = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value
        self._c.reg_write = ctypes.cast(uclib.uc_reg_write, ctypes.c_void_p).value
        self._c.emu_stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        self._hook(uclib, uc, unicorn.UC_HOOK_BLOCK, self._lib.ek_block, 1, 0)
        if reads:
            for first, last in flash:
                self._hook(uclib, uc, unicorn.UC_HOOK_MEM_READ, self._lib.ek_read, first, last)

    def _hook(self, uclib: Any, uc: Any, kind: int, function: Any, first: int, last: int) -> None:
        handle = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            uc._uch,
            ctypes.byref(handle),
            kind,
            ctypes.cast(function, ctypes.c_void_p),
            ctypes.cast(self._pointer, ctypes.c_void_p),
            ctypes.c_uint64(first),
            ctypes.c_uint64(last),
        )
        if status:
            raise RuntimeError(f"Unicorn refused a hook (status {status})")

    def raise_error(self) -> None:
        """Raises what a callback could not."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def jumped(self) -> None:
        """The program counter was changed from outside: no branch was taken."""
        self._lib.ek_jumped(self._pointer)

    def forget(self) -> None:
        """A reset: an inference that was under way is dropped."""
        self._lib.ek_forget(self._pointer)

    def cut(self, instructions: int, cost: int) -> None:
        self._lib.ek_cut(self._pointer, instructions, cost)

    def block_end(self) -> int | None:
        """Where the block ends that is being executed, ``None`` when none is."""
        return int(self._c.previous_end) if self._c.previous else None

    def describe_again(self, first: int, last: int) -> None:
        """The code from ``first`` up to ``last`` is another than it was."""
        self._lib.ek_describe_again(self._pointer, first, last)

    def blocks(self, bucket: int) -> list[BlockCount]:
        found = []
        for index in range(self._c.block_count):
            block = self._c.blocks[index].contents
            executed, taken = block.counts[2 * bucket], block.counts[2 * bucket + 1]
            if executed:
                found.append(
                    BlockCount(block.address, block.nbytes, block.instructions, executed, taken)
                )
        return found

    def reads(self, bucket: int) -> Reads:
        reads = self._c.reads[bucket]
        return Reads(reads.lines8, reads.lines16, reads.lines32, reads.misses, reads.n)

    def log(self, bucket: int) -> list[tuple[int, int]]:
        """Instructions and cost of the latest inferences that ``bucket`` starts."""
        count = self._c.inferences
        first = max(0, count - LOG_LENGTH)
        entries = (self._c.log[index % LOG_LENGTH] for index in range(first, count))
        return [(item.instructions, item.cost) for item in entries if item.bucket == bucket]

    def totals(self) -> dict[int, int]:
        totals: dict[int, int] = {}
        for index in range(self._c.block_count):
            block = self._c.blocks[index].contents
            for bucket in range(self._c.bucket_count):
                executed = block.counts[2 * bucket]
                if executed:
                    totals[bucket] = totals.get(bucket, 0) + executed * block.instructions
        return totals

    def close(self) -> None:
        if self._pointer:
            self._lib.ek_free(self._pointer)
            self._pointer = None
            self._c = None


@dataclass
class _PyBlock:
    address: int
    nbytes: int
    info: BlockInfo
    #: by bucket: executed, left by a taken branch
    counts: dict[int, list[int]]


class PythonCounter:
    """Counts like counter.c, without a compiler; a microsecond and more for each block."""

    title = "Python (slow: no C compiler and no ziglang found)"

    def __init__(self, setup: Setup, describe: Describe) -> None:
        self._setup = setup
        self._describe = describe
        self.now = self.instructions = self.inferences = 0
        self.deadline = NEVER
        self.watched_flags = 0
        self.event = EVENT_NONE
        self.event_address = 0
        self._blocks: dict[tuple[int, int], _PyBlock] = {}
        self._reads: dict[int, list[int]] = {}
        self._log: list[tuple[int, int, int]] = []
        self._frames: list[tuple[int, int, int]] = []
        self._bucket = 0
        self._return_address = 1
        self._previous: tuple[int, list[int]] | None = None
        self._start = (0, 0)
        self._error: BaseException | None = None
        self._forget()

    def _forget(self) -> None:
        self._line8 = self._line16 = self._line32 = self._cached = -1
        sets = self._setup.cache[0] if self._setup.cache else 0
        self._cache: list[list[int]] = [[] for _ in range(sets)]

    def install(self, uc: Any, flash: Iterable[tuple[int, int]], reads: bool) -> None:
        import unicorn

        uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        if reads:
            for first, last in flash:
                uc.hook_add(unicorn.UC_HOOK_MEM_READ, self._on_read, begin=first, end=last)

    def raise_error(self) -> None:
        """Raises what a callback could not."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _on_block(self, uc: Any, address: int, nbytes: int, _: object) -> None:
        if self.event:
            return
        block = self._blocks.get((address, nbytes))
        if block is None:
            try:
                info = self._describe(address, nbytes)
            except Exception as error:
                self._error = error
                info = BlockInfo(0, 0, FLAG_REFUSED)
            block = self._blocks[address, nbytes] = _PyBlock(address, nbytes, info, {})
        if self.now >= self.deadline:
            self._stop(uc, EVENT_REQUEST, address)
            return
        previous = self._previous
        if previous and previous[0] != address:
            previous[1][1] += 1
            self.now += self._setup.cost_per_taken
        self._previous = None
        if address == self._return_address:
            self._leave(uc, address)
        watched = block.info.flags & self.watched_flags
        if watched:
            if watched & (FLAG_REFUSED | FLAG_FP):
                self._stop(uc, EVENT_REFUSED, address)
                return
            if watched & FLAG_STACK:
                sp = uc.reg_read(self._setup.sp_register)
                if sp - block.info.stack_bytes < self._setup.stack_limit:
                    self._stop(uc, EVENT_STACK, address)
                    return
            if watched & FLAG_MARKER:
                self._enter(uc, block.info.bucket)
        self.now += block.info.cost
        self.instructions += block.info.instructions
        counts = block.counts.setdefault(self._bucket, [0, 0])
        counts[0] += 1
        self._previous = (address + nbytes, counts)

    def _stop(self, uc: Any, event: int, address: int) -> None:
        self.event, self.event_address = event, address
        uc.emu_stop()

    def _enter(self, uc: Any, bucket: int) -> None:
        back = uc.reg_read(self._setup.link_register) & ~1
        frame = (bucket, back, uc.reg_read(self._setup.sp_register))
        if self._frames and self._frames[-1] == frame:
            return
        last = self._setup.inference_last[bucket]
        if last or self._bucket == 0:
            for block in self._blocks.values():
                for cleared in range(bucket, max(last, bucket) + 1):
                    block.counts.pop(cleared, None)
                    self._reads.pop(cleared, None)
            self._forget()
        if last:
            self._start = (self.instructions, self.now)
        self._frames.append(frame)
        self._bucket, self._return_address = bucket, frame[1]

    def _leave(self, uc: Any, address: int) -> None:
        sp = uc.reg_read(self._setup.sp_register)
        while self._frames and self._frames[-1][1:] == (address, sp):
            if self._setup.inference_last[self._frames[-1][0]]:
                self.inferences += 1
                spent = (self.instructions - self._start[0], self.now - self._start[1])
                entry = (self._frames[-1][0], *spent)
                self._log = [*self._log[1 - LOG_LENGTH :], entry]
            self._frames.pop()
        self._bucket, self._return_address = self._frames[-1][:2] if self._frames else (0, 1)

    def _on_read(self, uc: Any, kind: int, address: int, size: int, value: int, _: object) -> None:
        if self._setup.status_register:  # see it_state_clear in counter.c
            status = uc.reg_read(self._setup.status_register)
            if status & _XPSR_IT:
                uc.reg_write(self._setup.status_register, status & ~_XPSR_IT)
        counts = self._reads.setdefault(self._bucket, [0] * 5)
        counts[4] += size
        for line in range(address >> 3, (address + size - 1 >> 3) + 1):
            if line == self._line8:
                continue
            self._line8 = line
            counts[0] += 1
            self.now += self._setup.cost_per_line8
            if line >> 1 != self._line16:
                self._line16 = line >> 1
                counts[1] += 1
            if line >> 2 != self._line32:
                self._line32 = line >> 2
                counts[2] += 1
            if self._setup.cache:
                sets, ways, line_bytes = self._setup.cache
                cached = (line << 3) // line_bytes
                if cached != self._cached:
                    self._cached = cached
                    ways_used = self._cache[cached % sets]
                    if cached in ways_used:
                        ways_used.remove(cached)
                    else:
                        counts[3] += 1
                        self.now += self._setup.cost_per_miss
                    ways_used.insert(0, cached)
                    del ways_used[ways:]

    def jumped(self) -> None:
        """The program counter was changed from outside: no branch was taken."""
        self._previous = None

    def forget(self) -> None:
        """A reset: an inference that was under way is dropped."""
        self._previous = None
        self._frames.clear()
        self._bucket, self._return_address = 0, 1

    def cut(self, instructions: int, cost: int) -> None:
        self.instructions -= instructions
        self.now -= cost
        self._previous = None

    def block_end(self) -> int | None:
        return self._previous[0] if self._previous else None

    def describe_again(self, first: int, last: int) -> None:
        for block in self._blocks.values():
            if block.address < last and first < block.address + block.nbytes:
                block.info = self._describe(block.address, block.nbytes)

    def blocks(self, bucket: int) -> list[BlockCount]:
        return [
            BlockCount(block.address, block.nbytes, block.info.instructions, *block.counts[bucket])
            for block in self._blocks.values()
            if block.counts.get(bucket, (0, 0))[0]
        ]

    def reads(self, bucket: int) -> Reads:
        return Reads(*self._reads.get(bucket, (0, 0, 0, 0, 0)))

    def log(self, bucket: int) -> list[tuple[int, int]]:
        """Instructions and cost of the latest inferences that ``bucket`` starts."""
        return [entry[1:] for entry in self._log if entry[0] == bucket]

    def totals(self) -> dict[int, int]:
        totals: dict[int, int] = {}
        for block in self._blocks.values():
            for bucket, (executed, _) in block.counts.items():
                totals[bucket] = totals.get(bucket, 0) + executed * block.info.instructions
        return totals

    def close(self) -> None:
        self._blocks.clear()
