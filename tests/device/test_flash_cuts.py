"""Power is lost at twenty random moments of a flash: the board can be flashed again each time.

In a smaller sample all but esptool see fewer moments.

The tools are the unmodified ones; stm32loader and UF2 drives are cut in
``test_flash_virtual.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import flashing
from edgekit.errors import DeviceError, EdgekitError
from edgekit.flashers import load_flasher
from edgekit.flashers._process import is_installed
from edgekit.links.virtual import VirtualLink
from edgekit.records import Firmware
from edgekit.sim.rom.memory import EXIT_POWER_LOSS
from edgekit.targets import Target, load_target

CUTS = 20
#: Boards at a time: tools wait more than they work
AT_ONCE = 2
#: An older firmware has so many bytes.
OLD_BYTES = 64 << 10
MIDDLE = "the board or the probe went away in the middle"
#: target, flasher, what it may find when the board goes away
TOOLS = [
    ("nucleo-l4r5zi", "openocd", {MIDDLE}),
    ("nucleo-h7a3zi-q", "openocd", {MIDDLE}),
    ("nrf52840dk", "openocd", {MIDDLE}),
    ("nrf52840dk", "pyocd", {MIDDLE}),
    ("feather-nrf52840", "adafruit-nrfutil", {"the port went away"}),
    ("esp32-c3", "esptool", {"the port went away"}),
    ("nucleo-l4r5zi", "stm32flash", {"the board stopped answering", "the port went away"}),
]
Make = Callable[[str, str], Firmware]


def _prepare(target: Target, state: Path, seed: int) -> None:
    """An older firmware in the flash, so that there is something to erase."""
    state.mkdir(exist_ok=True)
    for region in target.memory:
        if region.kind == "flash":
            old = random.Random(seed).randbytes(OLD_BYTES)
            path = state / f"{region.name.lower()}.flash"
            path.write_bytes(old + b"\xff" * (region.nbytes - OLD_BYTES))


def _flash(order: flashing.Order, state: Path, cut: int | None) -> tuple[EdgekitError | None, int]:
    """(how it failed, operations of the flash or the exit code of the board's process)."""
    entry = flashing._virtual_entry(order)
    assert entry is not None
    flasher = load_flasher(str(entry["name"]))
    by_probe = flasher.NEEDS == "probe"
    board = VirtualLink(
        order.target, None, connect=False, state=state, boot_rom=not by_probe,
        power_loss_after=cut, debug_port=0 if by_probe else None,
    )  # fmt: skip
    job = replace(
        flashing._job(order, entry),
        port=board.port,
        volume=board.volume,
        debug_port=board.debug_port,
    )
    # A board that loses power gives its pseudo-terminal back. While this end is open its number is
    # not given to another board, which a tool that tries the port once more would then find.
    held = os.open(board.port, os.O_RDWR | os.O_NOCTTY) if board.port.startswith("/dev/") else None
    try:
        flasher.flash(job, lambda share: None)
        return None, board.state()["flash_operations"]
    except EdgekitError as error:
        try:
            return error, board._process.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the board still has power, but: {error}") from None
    finally:
        board.close()
        if held is not None:
            os.close(held)


@pytest.mark.parametrize(("name", "tool", "sentences"), TOOLS)
def test_power_may_be_lost_at_any_moment(
    toy_firmware: Make,
    name: str,
    tool: str,
    sentences: set[str],
    tmp_path: Path,
    seed: int,
    sample: float,
) -> None:
    if not is_installed(tool):
        pytest.skip(f"{tool} is not installed")
    compiler = "gcc" if shutil.which("arm-none-eabi-gcc") else "zig"
    firmware, target = toy_firmware(name, compiler), load_target(name)
    generator = random.Random(seed)

    def order(state: Path) -> flashing.Order:
        port = f"virtual:state={state}"
        return flashing.order_of(firmware, target, port=port, flasher=tool)

    _prepare(target, tmp_path / "whole", seed)
    failed, total = _flash(order(tmp_path / "whole"), tmp_path / "whole", None)
    assert failed is None
    # each page that is erased and each unit that is programmed is a moment
    unit = 256 if tool == "esptool" else 16
    assert total > firmware.images["bin"].stat().st_size // unit
    cuts = CUTS if tool == "esptool" else max(3, round(CUTS * sample))
    moments = [generator.randrange(total) for _ in range(cuts)]

    def cut(index: int) -> str:
        state = tmp_path / f"board{index}"
        _prepare(target, state, seed + index)
        error, code = _flash(order(state), state, moments[index])
        assert error is not None and code == EXIT_POWER_LOSS, f"{moments[index]} of {total}"
        assert isinstance(error, DeviceError)
        identity = flashing.carry_out(order(state)).identity
        assert identity is not None and identity.build_id == firmware.build_id
        shutil.rmtree(state)
        return error.what

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = set(pool.map(cut, range(cuts)))
    assert found <= sentences
