"""pyOCD's probe server, as its ``remote:`` probe speaks to it (``pyocd server``).

Each line is a JSON object: a request with ``id``, ``request`` and ``arguments``; an answer with
the same ``id``, a ``status`` (0: fine) and a ``result`` or an ``error``. Registers of the debug
and access ports are read and written whole; how they get over the wires is the probe's own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from edgekit.sim.debug.dap import DP_RDBUFF, AccessFault
from edgekit.sim.debug.runner import DebugRunner
from edgekit.sim.debug.wire import SerialWire

_VERSION = 1
_FINE, _GENERAL, _FAULT = 0, 1, 12
_LONGEST_LINE = 1 << 20
_MOST = 1 << 16


class _Refused(Exception):
    """Answered with this text."""


class RemoteProbe:
    """One connection of a pyOCD."""

    def __init__(self, runner: DebugRunner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._connected = False
        self._wire = SerialWire(runner)
        self._handlers: dict[str, Callable[..., Any]] = {
            "hello": self._hello,
            "readprop": self._property,
            "open": self._nothing,
            "close": self._nothing,
            "lock": self._nothing,
            "unlock": self._nothing,
            "flush": self._nothing,
            "set_clock": self._nothing,
            "connect": self._connect,
            "disconnect": self._disconnect,
            "swj_sequence": self._sequence,
            "reset": self._reset,
            "assert_reset": self._assert_reset,
            "is_reset_asserted": lambda: runner.in_reset,
            "read_dp": self._read_dp,
            "write_dp": self._write_dp,
            "read_ap": lambda register: self._ap(register, [None])[0],
            "write_ap": lambda register, value: self._ap(register, [value]) and None,
            "read_ap_multiple": lambda r, count: self._ap(r, [None] * _bounded(count)),
            "write_ap_multiple": lambda register, values: self._ap(register, values) and None,
            "get_memory_interface_for_ap": lambda version, address: None,
        }

    def serve(self, connection: socket.socket, first: bytes) -> None:
        """Answers until the other side closes."""
        pending = first
        while True:
            *lines, pending = pending.split(b"\n")
            for line in lines:
                connection.sendall(self.answer(line) + b"\n")
            if len(pending) > _LONGEST_LINE:
                return
            data = connection.recv(65536)
            if not data:
                return
            pending += data

    def answer(self, line: bytes) -> bytes:
        """The answer to one line."""
        number: Any = -1
        try:
            request = json.loads(line)
            number = request["id"]
            handler = self._handlers.get(request["request"])
            if handler is None:
                raise _Refused(f"unknown request type {request['request']!r}")
            result = handler(*request.get("arguments", []))
        except AccessFault:
            return _reply(number, _FAULT, error="FAULT ACK")
        except _Refused as refused:
            return _reply(number, _GENERAL, error=str(refused))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return _reply(number, _GENERAL, error=f"malformed request: {error}")
        return _reply(number, _FINE, result=result)

    def _nothing(self, *arguments: Any) -> None:
        pass

    def _hello(self, version: int) -> None:
        if version != _VERSION:
            raise _Refused(f"protocol version {version} is not supported, {_VERSION} is")

    def _property(self, name: str) -> Any:
        known: dict[str, Any] = {
            "vendor_name": "edgekit",
            "product_name": self._name,
            "supported_wire_protocols": ["DEFAULT", "SWD"],
            "wire_protocol": "SWD" if self._connected else None,
            "capabilities": ["SWJ_SEQUENCE", "BANKED_DP_REGISTERS"],
            "unique_id": self._name,
        }
        if name not in known:
            raise _Refused(f"unknown property name '{name}' requested")
        return known[name]

    def _connect(self, protocol: str) -> None:
        if protocol not in ("DEFAULT", "SWD"):
            raise _Refused(f"invalid protocol name {protocol}")
        self._connected = True

    def _disconnect(self) -> None:
        self._connected = False

    def _sequence(self, count: int, bits: int) -> None:
        self._wire.sequence(_bounded(count), bits)

    def _reset(self) -> None:
        def pulse() -> None:
            self._runner.drive_reset(True)
            self._runner.drive_reset(False)

        self._runner.call(pulse)

    def _assert_reset(self, asserted: bool) -> None:
        self._runner.call(lambda: self._runner.drive_reset(bool(asserted)))

    def _read_dp(self, register: int) -> int:
        port = self._runner.port
        if register == DP_RDBUFF:
            return 0
        self._wire.require_selected()
        return self._runner.call(lambda: port.read_dp(register & 0xC))

    def _write_dp(self, register: int, value: int) -> None:
        port = self._runner.port
        self._wire.require_selected()
        self._runner.call(lambda: port.write_dp(register & 0xC, value & 0xFFFFFFFF))

    def _ap(self, register: int, values: list[int | None]) -> list[int]:
        """Accesses to one register in a row; ``None`` reads."""
        port = self._runner.port
        self._wire.require_selected()

        def run() -> list[int]:
            found = []
            for value in values:
                if value is None:
                    found.append(port.read_ap(register & 0xC))
                else:
                    port.write_ap(register & 0xC, value & 0xFFFFFFFF)
                    found.append(0)
            return found

        return self._runner.call(run)


def _bounded(count: int) -> int:
    """A number of transfers or bits that one request may ask for."""
    if not 0 <= count <= _MOST:
        raise _Refused(f"{count} at once are too many")
    return count


def _reply(number: Any, status: int, *, result: Any = None, error: str | None = None) -> bytes:
    answer: dict[str, Any] = {"id": number, "status": status}
    if error is not None:
        answer["error"] = error
    elif result is not None:
        answer["result"] = result
    return json.dumps(answer).encode()
