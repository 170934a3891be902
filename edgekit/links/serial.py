"""A serial port: ``serial:/dev/ttyACM0`` or ``serial:/dev/ttyACM0:921600``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgekit.errors import DeviceError, UsageError
from edgekit.records import Firmware
from edgekit.targets import Target

if TYPE_CHECKING:
    from serial import Serial

DEFAULT_BAUD = 115200


class SerialLink:
    """A serial port, 8N1 without flow control."""

    def __init__(self, port: Serial, name: str) -> None:
        self.name = name
        self.baud = int(port.baudrate)
        self._port = port

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        import serial

        try:
            self._port.timeout = timeout_s
            data: bytes = self._port.read(1)
            if data:
                data += self._port.read(min(self._port.in_waiting, max_bytes - 1))
        except (serial.SerialException, OSError, TypeError) as error:
            raise _gone(self.name, error) from None
        return data

    def write(self, data: bytes) -> None:
        import serial

        try:
            self._port.write(data)
        except (serial.SerialException, OSError, TypeError) as error:
            raise _gone(self.name, error) from None

    def close(self) -> None:
        self._port.close()


def _gone(name: str, error: Exception) -> DeviceError:
    return DeviceError(f"the device on {name} went away: {error}", name, "check cable and power")


def open(rest: str, target: Target | None, firmware: Firmware | None) -> SerialLink:
    """Opens ``/dev/ttyX[:baud]``; the speed is the target's when none is given."""
    import serial

    path, separator, speed = rest.rpartition(":")
    if not separator or not speed.isdigit():
        path, speed = rest, ""
    if not path:
        raise UsageError("which serial port?", fix="serial:/dev/ttyACM0 or serial:COM3")
    baud = int(speed) if speed else DEFAULT_BAUD
    if not speed and target is not None:
        baud = int(target.uart.get("baud", target.link.get("baud", DEFAULT_BAUD)))
    try:
        port = serial.Serial(path, baud, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        number = getattr(error, "errno", None)
        text = str(error).lower()
        if number == 13 or "permission" in text:
            fix = "add yourself to the group that owns the port: sudo usermod -aG dialout $USER"
            raise DeviceError("no permission to open the port", path, fix) from None
        if number in (11, 16) or "lock" in text or "busy" in text:
            raise DeviceError("the port is in use by another program", path) from None
        # pyserial wraps the system's error in one of its own that says everything twice
        reason = os.strerror(number) if number else str(error)
        raise DeviceError(
            f"the port cannot be opened: {reason}", path, "edgekit devices lists what is attached"
        ) from None
    return SerialLink(port, path)
