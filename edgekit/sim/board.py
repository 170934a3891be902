"""A virtual board: a target's memory and peripherals around a CPU that executes an ELF file."""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DeviceError, UsageError, missing_extra
from edgekit.sim import thumb
from edgekit.sim.counter import (
    EVENT_NONE,
    EVENT_REFUSED,
    EVENT_REQUEST,
    EVENT_STACK,
    FLAG_FP,
    FLAG_MARKER,
    FLAG_REFUSED,
    FLAG_STACK,
    MILLI,
    NEVER,
    BlockInfo,
    Setup,
    make_counter,
)
from edgekit.sim.device import BoardFault, Bus
from edgekit.sim.line import Line, MemoryLine
from edgekit.sim.rom.memory import PowerLoss
from edgekit.sim.symbols import MACHINES, Image
from edgekit.sim.system import PENDSV, SVCALL, SYSTICK, SystemControl
from edgekit.sim.timing import CoreModel, Cycles, estimate_cycles, model_for

if TYPE_CHECKING:
    from edgekit.sim.debug.core import CoreDebug
    from edgekit.sim.nvm import Controller
    from edgekit.sim.rom.memory import FlashMemory
    from edgekit.targets import Region, Target

_PAGE = 4096
_THUMB = 1
#: Never reached: no code runs in the system space.
_NOWHERE = 0xFFFFFFF0
_EXCEPTION_RETURN = 0xFFFFFFE0
#: An LR value of exception entry: thread or handler mode, main stack, no floating point state
_RETURN_TO_THREAD, _RETURN_TO_HANDLER = 0xFFFFFFF9, 0xFFFFFFF1
_STACK_LIMIT_SYMBOLS = ("__stack_limit", "__StackLimit", "_stack_limit")

#: Unicorn's model of each core. Cortex-M0 stands for M0+: same instruction set.
_MODELS = {
    "cortex-m0": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
}
_FPU = ("fpv4-sp-d16", "fpv5-d16", "fpv5-sp-d16")


#: DFSR, ARMv7-M ARM C1.6.1: why the CPU halted
HALTED, BKPT, DWTTRAP, VCATCH, EXTERNAL = 1, 2, 4, 8, 16


class Replay:
    """An instruction that is executed again because one of its stores was stopped.

    Stores up to that one have been done; those after it are new.
    """

    def __init__(self, board: Board, address: int, held: bytes) -> None:
        self._board = board
        self._until: int | None = address
        self._first = held
        #: what the flash holds where something else was stored
        self.held: list[tuple[int, bytes]] = []

    def store(self, nvm: Controller, address: int, data: bytes) -> None:
        if self._until is None:
            self.held.append((address, nvm.store(address, data)))
        elif address == self._until:
            self._until = None
            self.held.append((address, self._first))
        else:
            # the controller may have given up what this one had left
            self.held.append((address, self._board.memory(address, len(data))))


class Fault(DeviceError):
    """The firmware broke a rule of its chip; the board has stopped."""


@dataclass(frozen=True)
class StepCount:
    """What one step, or one whole inference, executed."""

    instructions: int
    features: dict[str, int] = field(default_factory=dict)
    cycles: Cycles | None = None


@dataclass(frozen=True)
class Counters:
    """Executed instructions of the last inference of a model, and of all before.

    ``features`` and cycles are there only when the board profiles. All of it is simulated:
    instructions are exact, cycles an estimate that carries its error.
    """

    model: str
    inferences: int
    #: of the last complete inference, steps included
    total: StepCount
    steps: tuple[StepCount, ...]
    #: by function, of the last inference, callees not included
    functions: dict[str, int]
    #: of each of the latest inferences, the last one last
    inference_instructions: tuple[int, ...]
    inference_cycles: tuple[int, ...]
    profiled: bool
    clock_hz: int
    #: what a real board would not forgive but the simulation survived
    reports: tuple[str, ...] = ()

    @property
    def instructions(self) -> int:
        return self.total.instructions


class Board:
    """One board with one firmware; this class is that of Cortex-M cores.

    :class:`edgekit.sim.riscv.RiscvBoard` replaces what another architecture has otherwise;
    :func:`edgekit.sim.board_class` tells which one a target needs.

    Args:
        target: the board; memory, core, clock and peripherals come from it.
        elf: the firmware; an image that was read already, to run what ``flash`` holds.
        profile: count features and estimate cycles; otherwise a cycle is an instruction.
        line: the other end of the console UART.
        python_counter: count in Python even when C could be had.
        flash: flash memory that was programmed before; the firmware is then not loaded, but
            only explains what runs.
        debug: the debug port's side of the CPU; a board that has one starts whatever is in its
            flash, and waits for a debugger when nothing can run.

    Raises:
        UsageError: the target cannot be simulated, or the ELF file does not fit it.
        MissingDependency: a package of the ``sim`` extra is not installed.
    """

    #: Peripheral address spaces (base, bytes): peripherals and the system's own. An RP2040 has
    #: two more of its own.
    PERIPHERAL_SPACES: tuple[tuple[int, int], ...] = (
        (0x40000000, 0x20000000),
        (0xE0000000, 0x00100000),
    )
    #: set in an address to execute the core's instruction set there
    ENTRY_BIT = _THUMB
    #: whether it can count what a cycle model needs
    PROFILES = True
    #: whether an instruction can make those behind it conditional
    HAS_IT = True
    #: machine of its programs, as ELF calls it
    MACHINE = "EM_ARM"

    def __init__(
        self,
        target: Target,
        elf: Path | Image,
        *,
        profile: bool = False,
        line: Line | None = None,
        python_counter: bool = False,
        flash: FlashMemory | None = None,
        debug: CoreDebug | None = None,
    ) -> None:
        try:
            import unicorn
        except ImportError:
            raise missing_extra("unicorn", "sim", "a virtual board") from None
        # Unicorn comes without types
        self._unicorn: Any = unicorn
        self.target = target
        self._uc, self._const = self._open_cpu()
        self.image = elf if isinstance(elf, Image) else Image(Path(elf))
        if self.image.machine not in (None, self.MACHINE):
            raise UsageError(
                f"this firmware is for {MACHINES[str(self.image.machine)]} cores, and "
                f"{target.name} has a {target.core}",
                str(self.image.path),
                f"edgekit build --target {target.name}",
            )
        self.profile = profile = profile and self.PROFILES
        self.line = line or MemoryLine()
        self.reports: list[str] = []
        self.fault: Fault | None = None
        self.model: CoreModel | None = model_for(target) if profile else None
        self._flash = [region for region in target.memory if region.kind in ("flash", "rom")]
        self._pending_error: str | None = None
        self._power_loss: PowerLoss | None = None
        self._reset_wanted = False
        self._stop_wanted = False
        self._output_checked = False
        #: goes up whenever a peripheral's setting changes: what was computed may be stale
        self.settings = 0
        self._hz = 0.0
        self._hz_computed = -1
        self.debug = debug
        #: the flash's cells where they are kept in files
        self.flash_memory = flash
        #: programs the flash; ``None`` in families whose controller is not simulated
        self.nvm: Controller | None = None
        self._stops: dict[int, int] = {}
        self._stopped_at: int | None = None
        self._watches: list[int] = []
        self._watched: int | None = None
        #: a store to the flash that left something else there than it stored
        self._odd_store: tuple[int, bytes] | None = None
        self._replay: Replay | None = None

        self._interrupt: int | None = None
        self._regions = (*target.memory, *self._family_regions())
        self._memory: list[tuple[int, int, mmap.mmap]] = []
        self._map_memory(flash)
        if flash is None:
            self._load()
        self._plan_buckets()
        self.counter = make_counter(self._counter_setup(), self._describe, python=python_counter)
        self.counter.install(
            self._uc,
            [(region.origin, region.origin + region.nbytes - 1) for region in self._flash],
            profile,
        )
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid_access)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        for base, nbytes in (*self.PERIPHERAL_SPACES, *self._family_spaces()):
            self._uc.mmio_map(base, nbytes, self._mmio_read, base, self._mmio_write, base)
        self.bus = Bus()
        self.system: SystemControl
        self._boot_address = 0
        self._pc = 0
        if debug is not None:
            debug.attach(self)
        self.reset()

    # the CPU

    def _open_cpu(self) -> tuple[Any, Any]:
        """Unicorn's CPU of the target's core, and the module with its registers' numbers.

        Raises:
            UsageError: there is no such CPU.
        """
        from unicorn import arm_const

        target = self.target
        if target.core not in _MODELS or "mve" in target.isa:
            raise UsageError(
                f"{target.name} cannot be simulated: Unicorn has no {target.core}"
                + (" with vector instructions" if "mve" in target.isa else ""),
                fix="--port qemu, if the target names a QEMU machine"
                if target.sim.get("qemu")
                else None,
            )
        cpu = self._unicorn.Uc(self._unicorn.UC_ARCH_ARM, self._unicorn.UC_MODE_THUMB)
        cpu.ctl_set_cpu_model(getattr(arm_const, _MODELS[target.core]))
        return cpu, arm_const

    def _number(self, register: str) -> int:
        """Unicorn's number of a register: ``PC``, ``SP``, ``LR`` and the core's own names."""
        return int(getattr(self._const, f"UC_ARM_REG_{register}"))

    def _analyse(self, code: bytes, address: int) -> Any:
        """What the instructions of a block are and need (:class:`edgekit.sim.thumb.Block`)."""
        return thumb.analyse(code, address)

    def _text(self, code: bytes) -> str:
        """The first instruction of ``code`` for a reader."""
        return thumb.decode(thumb.split(code)[0]).text

    # memory

    def _map_memory(self, flash: FlashMemory | None) -> None:
        uc = self._unicorn
        for region in self._regions:
            nbytes = -(-region.nbytes // _PAGE) * _PAGE
            rights = uc.UC_PROT_READ | uc.UC_PROT_EXEC
            if flash is not None and region.kind == "flash":
                memory = flash.map_of(region.origin)
            else:
                memory = mmap.mmap(-1, nbytes)
                if region.kind in ("flash", "rom"):
                    memory[:] = b"\xff" * nbytes  # erased
                else:
                    rights = uc.UC_PROT_ALL
            self._memory.append((region.origin, region.nbytes, memory))
            if region.fetch_origin is not None:
                # the same cells once more, for instructions only
                self._memory.append((region.fetch_origin, region.nbytes, memory))
                self._uc.mem_map_ptr(
                    region.fetch_origin, nbytes, uc.UC_PROT_EXEC, _address_of(memory)
                )
                rights = uc.UC_PROT_READ
            self._uc.mem_map_ptr(region.origin, nbytes, rights, _address_of(memory))

    def add_information(self, address: int, data: bytes) -> None:
        """Read-only memory that the factory has written: sizes, ids."""
        first = address - address % _PAGE
        place = self._find(first, 1)
        if place is None:
            nbytes = -(-(address + len(data) - first) // _PAGE) * _PAGE
            memory = mmap.mmap(-1, nbytes)
            memory[:] = b"\xff" * nbytes
            self._memory.append((first, nbytes, memory))
            rights = self._unicorn.UC_PROT_READ
            self._uc.mem_map_ptr(first, nbytes, rights, _address_of(memory))
        self.write_memory(address, data)

    def _load(self) -> None:
        for segment in self.image.segments:
            place = self._find(segment.address, len(segment.data))
            if place is None:
                raise UsageError(
                    f"the firmware has {len(segment.data):,} bytes for {segment.address:#010x}; "
                    f"{self.target.name} has no memory there",
                    str(self.image.path),
                    f"edgekit build --target {self.target.name}",
                )
            origin, _, memory = place
            offset = segment.address - origin
            memory[offset : offset + len(segment.data)] = segment.data

    def _find(self, address: int, nbytes: int) -> tuple[int, int, mmap.mmap] | None:
        for origin, size, memory in self._memory:
            if origin <= address and address + nbytes <= origin + size:
                return origin, size, memory
        return None

    def memory(self, address: int, nbytes: int) -> bytes:
        """A piece of the board's memory.

        Raises:
            UsageError: the target has no memory there.
        """
        place = self._find(address, nbytes)
        if place is None:
            raise UsageError(f"{self.target.name} has no memory at {address:#010x}")
        offset = address - place[0]
        return bytes(place[2][offset : offset + nbytes])

    def write_memory(self, address: int, data: bytes) -> None:
        """Changes memory from outside, flash included."""
        place = self._find(address, len(data))
        if place is None:
            raise UsageError(f"{self.target.name} has no memory at {address:#010x}")
        offset = address - place[0]
        place[2][offset : offset + len(data)] = data

    def has_memory(self, address: int, nbytes: int) -> bool:
        return self._find(address, nbytes) is not None

    def is_flash(self, address: int) -> bool:
        return self._kind(address) == "flash"

    def is_read_only(self, address: int) -> bool:
        """Whether it is neither flash nor RAM."""
        return self._kind(address) in (None, "rom")

    def _kind(self, address: int) -> str | None:
        for region in self._regions:
            if region.origin <= address < region.origin + region.nbytes:
                return region.kind
        return None

    def _word(self, address: int) -> int:
        return int.from_bytes(self.memory(address, 4), "little")

    # what is counted

    def _plan_buckets(self) -> None:
        self._markers: dict[int, int] = {}
        self._model_buckets: dict[str, tuple[int, int]] = {}
        last = [0]
        for inference in self.image.inferences:
            first = len(last)
            self._model_buckets[inference.model] = (first, len(inference.steps))
            last.append(first + len(inference.steps))
            if inference.invoke is not None:
                self._markers[inference.invoke] = first
            for index, address in enumerate(inference.steps):
                last.append(0)
                self._markers[address] = first + 1 + index
        self._inference_last = last

    def _counter_setup(self) -> Setup:
        weights = self.model.weights if self.model else {}
        limit = next(
            (self.image.symbols[n] for n in _STACK_LIMIT_SYMBOLS if n in self.image.symbols), 0
        )
        return Setup(
            bucket_count=len(self._inference_last),
            inference_last=self._inference_last,
            cache=self.model.cache if self.model else None,
            cost_per_taken=round(MILLI * weights.get("taken_total", 0)),
            cost_per_line8=round(MILLI * weights.get("flash_data_lines8", 0)),
            cost_per_miss=round(MILLI * weights.get("flash_cache_misses", 0)),
            stack_limit=limit,
            sp_register=self._number("SP"),
            link_register=self._number("LR"),
            status_register=self._number("XPSR") if self.HAS_IT else 0,
        )

    def _describe(self, address: int, nbytes: int) -> BlockInfo:
        """What the counter must know of a block before its first execution."""
        block = self._analyse(self.memory(address, nbytes), address)
        instructions = block.feature("instructions")
        cost = MILLI * instructions
        if self.model is not None:
            weights = self.model.weights
            cost = round(
                MILLI
                * sum(
                    weights[name] * count
                    for name, count in zip(thumb.FEATURES, block.features, strict=True)
                    if name in weights
                )
            )
        flags = 0
        if block.stack_bytes:
            flags |= FLAG_STACK
        if block.is_fp:
            flags |= FLAG_FP
        if self._refused(block):
            flags |= FLAG_REFUSED
        bucket = self._markers.get(address, 0)
        if bucket:
            flags |= FLAG_MARKER
        return BlockInfo(instructions, cost, flags, block.stack_bytes, bucket)

    def _refused(self, block: thumb.Block) -> thumb.Instruction | None:
        """The first instruction that the target's core does not have."""
        for instruction in block.instructions:
            extension = instruction.extension
            if extension == "fp" and not any(self.target.has(name) for name in _FPU):
                return instruction
            if extension in ("dsp", "mve") and not self.target.has(extension):
                return instruction
        return None

    # time

    def cpu_hz(self) -> float:
        """The CPU's clock, from the registers of the clock tree."""
        if self._hz_computed != self.settings:
            self._hz = self._clock()
            self._hz_computed = self.settings
        return self._hz

    def skip(self, cycles: int) -> None:
        """Lets time pass in which the CPU executes nothing."""
        self.counter.now += cycles * MILLI

    def skip_to(self, now: int) -> None:
        """Lets time pass up to ``now`` (thousandths of a cycle)."""
        self.counter.now = max(self.counter.now, now)

    def attend(self, at: int) -> None:
        """Asks for the run loop at a time (thousandths of a cycle)."""
        if at < self.counter.deadline:
            self.counter.deadline = at

    # what peripherals tell

    def report(self, message: str) -> None:
        """Something that a real board would not forgive; said once."""
        if message not in self.reports:
            self.reports.append(message)

    def first_output(self) -> None:
        """Called when a byte leaves: by then the clock must be what the target says."""
        if self._output_checked:
            return
        self._output_checked = True
        expected, found = self.target.clock_hz, self.cpu_hz()
        if expected and abs(found - expected) > 0.5:
            self.report(
                f"the clock registers give {found:,.0f} Hz; {self.target.name} states "
                f"{expected:,} Hz"
            )

    @property
    def reset_wanted(self) -> bool:
        """Whether the chip has asked to be reset (boards with a debug port)."""
        return self._reset_wanted

    def request_reset(self) -> None:
        self._reset_wanted = True
        self.attend(0)

    def allow_fpu(self, allowed: bool) -> None:
        base = FLAG_REFUSED | FLAG_STACK | FLAG_MARKER
        self.counter.watched_flags = base if allowed else base | FLAG_FP

    # Unicorn's callbacks. What goes wrong in them is kept and raised by the run loop.

    def _mmio_read(self, uc: Any, offset: int, nbytes: int, base: Any) -> int:
        try:
            return self.bus.read(base + offset, nbytes)
        except BoardFault as error:
            self._stop_with(str(error))
        return 0

    def _mmio_write(self, uc: Any, offset: int, nbytes: int, value: int, base: Any) -> None:
        try:
            if self.bus.write(base + offset, nbytes, value):
                self.settings += 1
        except BoardFault as error:
            self._stop_with(str(error))

    def _stop_with(self, message: str) -> None:
        if self._pending_error is None:
            self._pending_error = message
        self._uc.emu_stop()

    def _on_invalid_access(
        self, uc: Any, access: int, address: int, nbytes: int, value: int, _: object
    ) -> bool:
        kind = self._unicorn
        address &= 0xFFFFFFFF
        if access in (kind.UC_MEM_FETCH_UNMAPPED, kind.UC_MEM_FETCH_PROT):
            if address >= _EXCEPTION_RETURN:
                return False
            back = self._uc.reg_read(self._number("LR")) & ~1
            what = (
                f"jump to {address:#010x}: no code can be there; "
                f"the link register says {self.image.place(back)}"
            )
        elif access == kind.UC_MEM_WRITE_PROT:
            if self.nvm is not None and self.nvm.programs(address):
                return self._store_to_flash(address, nbytes, value)
            what = f"write of {nbytes} bytes to flash at {address:#010x}"
        elif access == kind.UC_MEM_READ_UNMAPPED:
            what = f"read of {nbytes} bytes at {address:#010x}: the target has no memory there"
        else:
            what = f"write of {nbytes} bytes at {address:#010x}: the target has no memory there"
        self._pending_error = what
        return False

    def _on_interrupt(self, uc: Any, number: int, _: object) -> None:
        self._interrupt = number
        uc.emu_stop()

    # running

    def reset(self) -> None:
        """What a reset pin does: memory stays, everything else starts again."""
        from edgekit.sim.families import assemble

        if self.nvm is not None:
            self.nvm.give_up()
        self.bus = Bus()
        self._reset_core()
        family = assemble(self)
        self._clock = family.cpu_hz
        self.settings += 1
        self._interrupt = None
        self._reset_wanted = False
        self._pending_error = None
        self._odd_store = None
        self._output_checked = False
        self.counter.forget()
        self.counter.deadline = NEVER
        self.allow_fpu(False)
        if self.debug is None:
            family.boot()
        else:
            self.debug.boot(family)

    def _reset_core(self) -> None:
        """The core's registers, and its own peripherals on a bus that is new."""
        self.system = SystemControl(
            self,
            str(self.target.core),
            has_fpu=any(self.target.has(name) for name in _FPU),
            systick_divider=8,
        )
        self.bus.add(self.system)
        for number in range(13):
            self._uc.reg_write(self._const.UC_ARM_REG_R0 + number, 0)
        self._uc.reg_write(self._const.UC_ARM_REG_PRIMASK, 0)

    def start_at(self, table: int) -> None:
        """Starts at a vector table: stack pointer and reset handler.

        Raises:
            Fault: there is nothing to start at.
        """
        sp, entry = self._word(table), self._word(table + 4)
        if entry == 0xFFFFFFFF:
            raise Fault(f"the flash at {table:#010x} is erased: there is nothing to start")
        if not entry & 1:
            raise Fault(f"the reset vector {entry:#010x} is not a Thumb address")
        self.system.set_vector_table(table)
        self.jump(entry, sp)

    def jump(self, address: int, sp: int, lr: int = 0xFFFFFFFF) -> None:
        """Continues at an address with a stack."""
        self._uc.reg_write(self._number("SP"), sp)
        self._uc.reg_write(self._number("LR"), lr)
        self._pc = address & ~1

    def stop(self) -> None:
        """Ends :meth:`run` soon; may be called from another thread."""
        self._stop_wanted = True
        self.counter.deadline = 0
        self.line.wake()

    def run(self, *, timeout_s: float | None = None) -> None:
        """Executes until :meth:`stop`, a fault, or for ``timeout_s`` of real time.

        Raises:
            Fault: the firmware broke a rule of its chip; the message says what and where.
        """
        if self.fault is not None:
            raise self.fault
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._stop_wanted = False
        try:
            while not self._stop_wanted:
                if until is not None:
                    if time.monotonic() > until:
                        return
                    # look at the clock on the wall after a while
                    self.attend(self.counter.now + 20_000_000 * MILLI)
                self.run_once()
        finally:
            self.flush()

    def flush(self) -> None:
        """Sends on what the firmware has put on the line."""
        for device in self.bus.devices:
            wire = getattr(device, "wire", None)
            if wire is not None:
                wire.flush()

    def run_once(self) -> None:
        """Executes up to the next thing that needs the board: an event, a wait, an exception.

        Raises:
            Fault: the firmware broke a rule of its chip.
        """
        self._interrupt = None
        error: Any = None
        try:
            self._uc.emu_start(self._pc | self.ENTRY_BIT, _NOWHERE)
        except self._unicorn.UcError as raised:
            if self._power_loss is not None:
                raise self._power_loss from None
            error = raised
        self._pc = self._uc.reg_read(self._number("PC"))
        event, self.counter.event = self.counter.event, EVENT_NONE
        self.counter.raise_error()
        if self._odd_store is not None:
            self._finish_store()
            return
        if self._stopped_at is not None and self.debug is not None:
            self._stop_at_breakpoint(self._stopped_at)
            return
        if self._watched is not None and self.debug is not None:
            self._stop_at_watchpoint(self._watched)
            return
        if self._pending_error is not None:
            self._fail(self._pending_error, self._pc)
        if event == EVENT_REFUSED:
            self._fail_refused(self.counter.event_address)
        if event == EVENT_STACK:
            self._fail_stack(self.counter.event_address)
        if event == EVENT_REQUEST:
            self._pc = self.counter.event_address
            self._attend()
            return
        if self._pc >= _EXCEPTION_RETURN and (error is not None or self._interrupt in (3, 8)):
            self._exception_return()
        elif self._interrupt is not None:
            self._service(self._interrupt)
        elif error is not None:
            self._invalid(error)
        else:
            self._halted()

    def _attend(self) -> None:
        self.counter.deadline = NEVER
        if self._reset_wanted:
            self.flush()
            if self.debug is None:
                self.reset()
            return
        if self._stop_wanted:
            return
        self.system.advance()
        self._take_exception()

    def _take_exception(self) -> None:
        if self.debug is not None and self.debug.masks_interrupts:
            return
        if self._uc.reg_read(self._const.UC_ARM_REG_PRIMASK) & 1:
            # looked at again when there may be a change: interrupts wake within a microsecond
            if self.system.next_exception() is not None:
                self.attend(self.counter.now + MILLI * 100)
            return
        number = self.system.next_exception()
        if number is not None:
            self._enter_exception(number)

    def _enter_exception(self, number: int) -> None:
        """Exception entry, ARMv7-M ARM B1.5.6: eight words on the stack, aligned to eight."""
        const, uc = self._const, self._uc
        self.system.pending.discard(number)
        sp = uc.reg_read(const.UC_ARM_REG_SP)
        status = uc.reg_read(const.UC_ARM_REG_XPSR)
        aligned = sp & 4
        frame = sp - 32 - aligned & ~7
        names = ("R0", "R1", "R2", "R3", "R12", "LR")
        words = [uc.reg_read(getattr(const, f"UC_ARM_REG_{name}")) for name in names]
        words += [self._pc, status & ~(1 << 9) | (1 << 9 if aligned else 0)]
        if self._find(frame, 32) is None:
            self._fail_stack(self._pc)
        self.write_memory(frame, b"".join(word.to_bytes(4, "little") for word in words))
        uc.reg_write(const.UC_ARM_REG_SP, frame)
        back = _RETURN_TO_HANDLER if self.system.active else _RETURN_TO_THREAD
        uc.reg_write(const.UC_ARM_REG_LR, back)
        self.system.active.append(number)
        self._pc = self._word(self.system.vector_table() + 4 * number) & ~1
        self.counter.jumped()
        self.skip(12)

    def _exception_return(self) -> None:
        const, uc = self._const, self._uc
        if not self.system.active:
            self._fail(f"exception return to {self._pc:#010x} outside an exception", self._pc)
        self.system.active.pop()
        frame = uc.reg_read(const.UC_ARM_REG_SP)
        words = [self._word(frame + 4 * index) for index in range(8)]
        for name, word in zip(("R0", "R1", "R2", "R3", "R12", "LR"), words[:6], strict=True):
            uc.reg_write(getattr(const, f"UC_ARM_REG_{name}"), word)
        uc.reg_write(const.UC_ARM_REG_SP, frame + 32 + (4 if words[7] & 1 << 9 else 0))
        uc.reg_write(const.UC_ARM_REG_XPSR_NZCVQG, words[7] & 0xF80F0000)
        self._pc = words[6] & ~1
        self.counter.jumped()
        self.skip(10)
        self._take_exception()

    def _service(self, number: int) -> None:
        if number == 2:  # SVC; the program counter is behind it
            self.system.pending.add(SVCALL)
            self._take_exception()
        elif number == 4:  # data abort: memory is there, so it is the address
            text = thumb.decode(thumb.split(self.memory(self._pc, 4))[0]).text
            self._fail(f"unaligned access, which the {self.target.core} refuses: {text}", self._pc)
        elif number == 7 and self.debug is not None and self.debug.enabled:
            self._take_back(self._pc)
            self.debug.halt(BKPT)
        elif number == 7:
            self._fail("breakpoint instruction without a debugger", self._pc)
        else:
            self._fail(f"exception {number} of the CPU", self._pc)

    def _invalid(self, error: Any) -> None:
        # Unicorn refuses WFE; it is a hint, and waiting for nothing is a right way to do it.
        before = self._pc - 2
        if self._find(before, 2) and self.memory(before, 2) == b"\x20\xbf":
            self._wait()
            return
        code = self.memory(self._pc, 4) if self._find(self._pc, 4) else b""
        if error.errno == self._unicorn.UC_ERR_INSN_INVALID and code:
            text = self._text(code)
            self._fail(f"the {self.target.core} does not have this instruction: {text}", self._pc)
        self._fail(f"the CPU stopped: {error}", self._pc)

    def _halted(self) -> None:
        """Unicorn came back without a reason: at a WFI, or after a request to stop."""
        before = self._pc - 2
        if self._find(before, 2) and self.memory(before, 2) == b"\x30\xbf":
            self._wait()

    def _wait(self) -> None:
        """WFI and WFE: time passes until the next thing that is due, or the outside speaks."""
        next_event = self.system.next_event()
        if next_event != NEVER:
            self.skip_to(next_event)
            self._attend()
            return
        wires = [device.wire for device in self.bus.devices if hasattr(device, "wire")]
        if wires:
            wires[0].flush()
            wires[0].idle()
        else:
            self.line.wait(0.02)
        if self.counter.deadline == 0:
            self._attend()

    # flash that is programmed by a program

    def _store_to_flash(self, address: int, nbytes: int, value: int) -> bool:
        """A store of the CPU to memory that only the controller may change.

        Where the flash then holds what was stored, Unicorn's own store does no harm. Where it
        does not, the instruction is stopped in its middle and carried through afterwards.
        """
        data = (value & (1 << 8 * nbytes) - 1).to_bytes(nbytes, "little")
        assert self.nvm is not None
        try:
            if self._replay is not None:
                self._replay.store(self.nvm, address, data)
                return True
            held = self.nvm.store(address, data)
        except BoardFault as error:
            self._pending_error = str(error)
            return False
        except PowerLoss as error:
            self._power_loss = error  # Unicorn would keep only that the store failed
            return False
        if held != data:
            self._odd_store = (address, held)
            self._uc.emu_stop()
        return True

    def _finish_store(self) -> None:
        """The rest of an instruction one of whose stores left something else in the flash."""
        assert self._odd_store is not None
        self._replay = Replay(self, *self._odd_store)
        self._odd_store = None
        self._take_back(self._pc)
        try:
            self._step_once()
        finally:
            replay, self._replay = self._replay, None
            for address, held in replay.held:
                self.write_memory(address, held)

    def _take_back(self, address: int) -> None:
        """Does not count what is left of the block that is being executed, from ``address``."""
        end = self.counter.block_end()
        if end is not None and address < end and self._find(address, end - address):
            rest = self._describe(address, end - address)
            self.counter.cut(rest.instructions, rest.cost)
        self.counter.jumped()

    def _step_once(self) -> None:
        """Executes one instruction, which counts as one; an IT block is executed whole.

        Raises:
            Fault: the firmware broke a rule of its chip.
        """
        self._interrupt = None
        self._uc.ctl_flush_tb()
        self.counter.event = EVENT_REQUEST  # so that blocks are not counted
        error: Any = None
        try:
            self._uc.emu_start(self._pc | self.ENTRY_BIT, _NOWHERE, count=1)
        except self._unicorn.UcError as raised:
            if self._power_loss is not None:
                raise self._power_loss from None
            error = raised
        finally:
            self.counter.event = EVENT_NONE
            self._uc.ctl_flush_tb()
        self._pc = self._uc.reg_read(self._number("PC"))
        self.counter.jumped()
        self.counter.raise_error()
        if self._pending_error is not None:
            self._fail(self._pending_error, self._pc)
        if self._pc >= _EXCEPTION_RETURN and (error is not None or self._interrupt in (3, 8)):
            self._exception_return()
        elif self._interrupt is not None:
            self._service(self._interrupt)
        elif error is not None:
            self._invalid(error)
        self.counter.instructions += 1
        self.counter.now += MILLI

    # what a debugger does

    @property
    def pc(self) -> int:
        """Address of the next instruction."""
        return self._pc

    def set_pc(self, address: int) -> None:
        self._pc = address & ~1
        self.counter.jumped()

    def register(self, name: str) -> int:
        """A register of the CPU by its name, as ``R0``, ``MSP``, ``XPSR``, ``S5``."""
        return int(self._uc.reg_read(getattr(self._const, f"UC_ARM_REG_{name}")))

    def set_register(self, name: str, value: int) -> None:
        self._uc.reg_write(getattr(self._const, f"UC_ARM_REG_{name}"), value)

    def wait_halted(self, seconds: float) -> None:
        """Time passes for the peripherals while a debugger holds the CPU."""
        cycles = round(seconds * self.cpu_hz())
        self.skip(cycles)
        self.system.stand_still(cycles * MILLI)

    def step(self) -> None:
        """Executes one instruction, or enters a pending exception.

        Raises:
            Fault: the firmware broke a rule of its chip.
        """
        before = self._pc
        self._take_exception()
        if self._pc == before:
            self._step_once()
        self.system.advance()

    def stop_at(self, addresses: set[int]) -> None:
        """Stops before instructions at these addresses, and at no others."""
        for address in set(self._stops) - addresses:
            self._uc.hook_del(self._stops.pop(address))
            self._uc.ctl_remove_cache(address & ~3, (address & ~3) + 4)
        for address in addresses - set(self._stops):
            self._stops[address] = self._uc.hook_add(
                self._unicorn.UC_HOOK_CODE, self._on_stop, begin=address, end=address
            )
            self._uc.ctl_remove_cache(address & ~3, (address & ~3) + 4)

    def _on_stop(self, uc: Any, address: int, nbytes: int, _: object) -> None:
        if not self.counter.event:  # not during a single step
            self._stopped_at = address
            uc.emu_stop()

    def _stop_at_breakpoint(self, address: int) -> None:
        self._stopped_at = None
        self._take_back(address)
        self._pc = address
        assert self.debug is not None
        self.debug.halt(BKPT)

    def watch(self, places: list[tuple[int, int, bool, bool]]) -> None:
        """Stops after accesses to data: (first, last, whether reads, whether writes do)."""
        for handle in self._watches:
            self._uc.hook_del(handle)
        self._watches.clear()
        for index, (first, last, reads, writes) in enumerate(places):
            kinds = self._unicorn.UC_HOOK_MEM_READ if reads else 0
            kinds |= self._unicorn.UC_HOOK_MEM_WRITE if writes else 0
            if kinds:
                handle = self._uc.hook_add(kinds, self._on_watched, index, begin=first, end=last)
                self._watches.append(handle)
        self._uc.ctl_flush_tb()

    def _on_watched(self, uc: Any, access: int, address: int, n: int, value: int, k: Any) -> None:
        if not self.counter.event:  # not while the instruction is finished
            self._watched = int(k)
            uc.emu_stop()

    def _stop_at_watchpoint(self, index: int) -> None:
        """The CPU halts behind the instruction that made the access."""
        self._watched = None
        self._take_back(self._pc)
        self._step_once()
        assert self.debug is not None
        self.debug.watchpoint(index)

    def forget_code(self, places: list[tuple[int, int]]) -> None:
        """Code in these places, (address, bytes), may have changed."""
        self._uc.ctl_flush_tb()
        for address, nbytes in places:
            self.counter.describe_again(address, address + nbytes)

    # what went wrong

    def _fail(self, message: str, address: int) -> None:
        self._pending_error = None
        self.fault = Fault(message, self.image.place(address))
        raise self.fault

    def _fail_refused(self, address: int) -> None:
        block = self._analyse(self.memory(address, 512), address)
        position = address
        for instruction in block.instructions:
            single = thumb.Block((instruction,), (), 0, instruction.is_fp)
            if self._refused(single):
                self._fail(
                    f"{self.target.name} ({self.target.core}) does not have this instruction: "
                    f"{instruction.text}",
                    position,
                )
            if instruction.is_fp and self.counter.watched_flags & FLAG_FP:
                self._fail(
                    f"floating point before the FPU is enabled (CPACR): {instruction.text}",
                    position,
                )
            position += instruction.nbytes
        self._fail("an instruction that the target does not have", address)

    def _fail_stack(self, address: int) -> None:
        sp = self._uc.reg_read(self._number("SP"))
        limit = next(
            (self.image.symbols[n] for n in _STACK_LIMIT_SYMBOLS if n in self.image.symbols), 0
        )
        self._fail(
            f"stack overflow: the stack pointer is {sp:#010x}, the stack ends at {limit:#010x}",
            address,
        )

    # results

    def counters(self, model: str | None = None) -> Counters:
        """Counts of the last inference of a model (the image's first one by default).

        Raises:
            UsageError: the image has no such model.
        """
        names = list(self._model_buckets)
        if not names:
            raise UsageError(
                "the firmware has no NAME_invoke function to count", str(self.image.path)
            )
        name = names[0] if model is None else model
        if name not in self._model_buckets:
            raise UsageError(f"the firmware has no model '{name}'; it has {', '.join(names)}")
        first, step_count = self._model_buckets[name]
        functions: dict[str, int] = {}
        buckets = range(first, first + step_count + 1)
        parts = []
        for bucket in buckets:
            features = dict.fromkeys((*thumb.FEATURES, "taken_total"), 0) if self.profile else {}
            instructions = 0
            for block in self.counter.blocks(bucket):
                amount = block.executed * block.instructions
                instructions += amount
                function = self.image.function_at(block.address)
                label = function.name if function else f"{block.address:#010x}"
                functions[label] = functions.get(label, 0) + amount
                if self.profile:
                    static = thumb.analyse(
                        self.memory(block.address, block.nbytes), block.address
                    ).features
                    for feature, count in zip(thumb.FEATURES, static, strict=True):
                        features[feature] += count * block.executed
                    features["taken_total"] += block.taken
            if self.profile:
                reads = self.counter.reads(bucket)
                features["flash_data_lines8"] = reads.lines8
                features["flash_data_lines16"] = reads.lines16
                features["flash_data_lines32"] = reads.lines32
                features["flash_cache_misses"] = reads.misses
                features["read_bytes_flash"] = reads.nbytes
            parts.append(StepCount(instructions, features, estimate_cycles(features, self.target)))
        total_features: dict[str, int] = {}
        for part in parts:
            for feature, count in part.features.items():
                total_features[feature] = total_features.get(feature, 0) + count
        log = self.counter.log(first)
        return Counters(
            model=name,
            inferences=self.counter.inferences if len(names) == 1 else len(log),
            total=StepCount(
                sum(part.instructions for part in parts),
                total_features,
                estimate_cycles(total_features, self.target),
            ),
            steps=tuple(parts[1:]),
            functions=dict(sorted(functions.items(), key=lambda item: -item[1])),
            inference_instructions=tuple(instructions for instructions, _ in log),
            inference_cycles=tuple(cost // MILLI for _, cost in log) if self.model else (),
            profiled=self.profile,
            clock_hz=round(self.cpu_hz()),
            reports=tuple(self.reports),
        )

    def _family_spaces(self) -> tuple[tuple[int, int], ...]:
        from edgekit.sim.families import spaces

        return spaces(self.target)

    def _family_regions(self) -> tuple[Region, ...]:
        from edgekit.sim.families import nonvolatile

        return nonvolatile(self.target)

    def close(self) -> None:
        """Ends the board; its line is closed by whoever opened it."""
        self.counter.close()


def _address_of(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


__all__ = ["PENDSV", "SYSTICK", "Board", "Counters", "Fault", "StepCount"]
