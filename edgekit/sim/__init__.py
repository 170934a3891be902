"""Virtual boards: the ELF file that is flashed runs here, from the target's own file.

What is executed is exact: every instruction is counted, and two runs of the same firmware on
the same input give the same count. What is estimated is the time: cycles come from a model
of the core (:mod:`edgekit.sim.timing`) and carry its error.

========== =====================================================================
board      memory, CPU, faults, run loop: :class:`edgekit.sim.board.Board`
counter    counts of executed blocks, by C or by Python (counter.c)
thumb      what an instruction is and needs, as features of a block
riscv      the same for RISC-V cores, and what their boards have otherwise
timing     features to cycles
system     the system control space: SysTick, NVIC, SCB, DWT
uart       UARTs at bit level of their registers, and the line to the outside
stm32      what the STM32 families share
families   the families of chips, one module each
debug      the debug port, for OpenOCD, pyOCD and GDB
nvm        flash controllers
rom        boot ROMs and boot loaders of erased boards
server     a board in a process of its own, and the messages to it
========== =====================================================================

A target file says what a board is made of; beyond memory, core and clock the simulator reads

``sim``
    ``family``: a module of this package, see :mod:`edgekit.sim.families`; ``boot``: address of
    the vector table when it is not the start of the first flash region; ``hse_hz``: external
    oscillator; ``qemu``: QEMU's machine.
``timing``
    ``model``: "cortex-m4", "cortex-m33", "cortex-m7" or "cortex-m0plus"; ``basis``: "board"
    when ``constants`` were fitted on this board, "core" when the core's are taken;
    ``constants``: weights by feature that replace the model's; ``cache``: {sets, ways,
    line_bytes} of the data cache in front of the flash.
``uart``
    ``instance``, ``base``, ``tx``, ``rx``, ``af``: what the console needs; the simulator
    checks that the firmware really routes these pins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.sim.board import Board
    from edgekit.targets import Target


def board_class(target: Target) -> type[Board]:
    """The class of a target's virtual board, by the architecture of its core."""
    if str(target.core).startswith("riscv"):
        from edgekit.sim.riscv import RiscvBoard

        return RiscvBoard
    from edgekit.sim.board import Board

    return Board
