"""Debug probes, with OpenOCD."""

from __future__ import annotations

from edgekit.errors import UsageError
from edgekit.flashers import Job, PlanStep, Progress, Report, describe, written
from edgekit.flashers._process import Sign, failure, find_tool, run_tool, tool_version

NAME = "openocd"
TITLE = "a debug probe, with OpenOCD"
NEEDS = "probe"
TOOL = "openocd"
TAKES_DEBUG_PORT = True

_SIGNS = (
    Sign(
        r"LIBUSB_ERROR_ACCESS|Permission denied|insufficient permissions",
        "no permission to use the debug probe",
        "edgekit doctor shows the udev rule",
    ),
    Sign(
        r"LIBUSB_ERROR_BUSY|unable to claim|claim_interface failed",
        "the debug probe is in use by another program",
        "end other debuggers and IDEs",
    ),
    Sign(
        r"No device matches|open failed|unable to find a matching CMSIS-DAP|"
        r"no (J-Link )?device found",
        "there is no debug probe, or not the one that was asked for",
        "edgekit devices",
    ),
    Sign(
        r"Cannot identify target|UNEXPECTED idcode|auto_probe failed|Unknown device",
        "the chip is another one than the target's",
        "edgekit flash FIRMWARE --target NAME, with the board that is attached",
    ),
    Sign(
        r"Programming Started[\s\S]*(failed to send USB|LIBUSB_ERROR_(NO_DEVICE|IO|PIPE|OTHER))",
        "the board or the probe went away in the middle",
        "check power and cable, and flash again: an interrupted flash does no harm",
    ),
    Sign(
        r"Could not find MEM-AP to control the core",
        "the chip keeps debuggers out of its memory, or is another one than the target's",
        "for nRF52, openocd … -c init -c nrf52_recover erases everything and lets them in",
    ),
    Sign(
        r"init mode failed|unable to connect to the target|Cannot connect|cannot read IDR|"
        r"examination failed|Error connecting DP",
        "the probe does not reach the chip",
        "check power and the cable; hold reset while flashing if the firmware sleeps",
    ),
    Sign(
        r"Verify Failed|verification failed|checksum mismatch",
        "what was read back differs from what was written",
        "flash again",
    ),
    Sign(
        r"Can't find (interface|target)/",
        "this OpenOCD does not know the target's interface or chip",
        "a newer OpenOCD, or another flasher: edgekit targets NAME",
    ),
    Sign(
        r"write.?protect|flash write failed|failed erasing",
        "the flash refuses: it is write-protected",
        "unlock it (for STM32: stm32x unlock, which erases everything)",
    ),
)


def _adapter(job: Job) -> list[str]:
    """What says which adapter: the target's, or the virtual ST-LINK of a virtual board."""
    interface = str(job.settings["interface"])
    if job.debug_port is None:
        more = ["-c", f"adapter serial {job.serial_number}"] if job.serial_number else []
        # an adapter that has several takes JTAG when it is not told
        if "transport" in job.settings:
            more += ["-c", f"transport select {job.settings['transport']}"]
        return ["-f", interface, *more]
    if interface == "interface/stlink.cfg":
        return ["-f", interface, "-c", f"hla_stlink_backend tcp {job.debug_port}"]
    commands = (
        "adapter driver st-link", "st-link vid_pid 0x0483 0x374b",
        f"st-link backend tcp {job.debug_port}", "transport select dapdirect_swd",
    )  # fmt: skip
    return [word for command in commands for word in ("-c", command)]


def plan(job: Job) -> tuple[PlanStep, ...]:
    for key in ("interface", "target"):
        if key not in job.settings:
            raise UsageError(
                f"the flasher openocd of {job.target.name} has no '{key}'",
                job.target.name,
                "{name: openocd, interface: interface/stlink.cfg, target: target/stm32l4x.cfg}",
            )
    command = [TOOL, *_adapter(job)]
    # nobody is to attach, and another OpenOCD may be using these ports
    for server in ("gdb_port", "tcl_port", "telnet_port"):
        command += ["-c", f"{server} disabled"]
    command += ["-f", str(job.settings["target"])]
    for piece in job.pieces[:-1]:
        command += ["-c", f"program {{{piece.path}}} {piece.address:#x} verify"]
    last = job.pieces[-1]
    command += ["-c", f"program {{{last.path}}} {last.address:#x} verify reset exit"]
    return (
        PlanStep(f"erase and write {describe(job.pieces)}, read it back, reset", tuple(command)),
    )


def flash(job: Job, progress: Progress) -> Report:
    tool = find_tool(TOOL)
    command = [tool, *(plan(job)[0].command or ())[1:]]
    where = job.serial_number or ("debug port" if job.debug_port else "debug probe")
    stages = ("Programming Started", "Programming Finished", "Verify Started", "Verified OK")

    def show(text: str) -> None:
        passed = sum(text.count(f"** {stage} **") for stage in stages)
        progress(min(1.0, passed / (len(stages) * len(job.pieces))))

    text = run_tool(command, where=where, signs=_SIGNS, on_text=show)
    if text.count("** Verified OK **") != len(job.pieces):
        raise failure(command, where, text, "did not verify everything", _SIGNS)
    return Report(NAME, tool_version(TOOL), where, written(job), "read back by OpenOCD")
