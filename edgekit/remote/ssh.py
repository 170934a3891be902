"""A computer reached with the OpenSSH client: its programs ``ssh`` and ``scp`` run as processes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from edgekit.errors import DeviceError, MissingDependency, UsageError

#: Names a configuration file of OpenSSH (``ssh -F``) in the place of the user's own.
CONFIG_VARIABLE = "EDGEKIT_SSH_CONFIG"
#: ssh ends with this code when the connection fails or breaks; others are the command's.
_CONNECTION_FAILED = 255
_CONNECT_TIMEOUT_S = 15
_HEARTBEAT_S = 2.0

#: What ssh prints, what it means, and what helps.
_FAILURES = (
    (r"Permission denied", "the login is refused", "ssh-copy-id {name} (keys only: edgekit cannot "
     "type a password)"),
    (r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
     "its host key is not known, or has changed", "ssh {name} once by hand"),
    (r"Could not resolve hostname|Name or service not known", "there is no computer of that name",
     "its address in the place of its name"),
    (r"Connection refused", "nothing listens for ssh there",
     "on the device: sudo apt install openssh-server; and the port in --port ssh:USER@HOST:PORT"),
    (r"timed out|No route to host|Network is unreachable", "it does not answer",
     "is it switched on and in this network?"),
    (r"closed by remote host|Connection reset|Broken pipe|Connection closed",
     "the connection was cut", "the same command again"),
)  # fmt: skip


@dataclass(frozen=True)
class SshHost:
    """Where to log in. ``port`` ``None`` and ``user`` empty: as ssh's configuration says."""

    host: str
    user: str = ""
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> SshHost:
        """``user@host:port``, ``host``, ``user@[IPv6 address]:port``.

        Raises:
            UsageError: it is none of these.
        """
        match = re.fullmatch(
            r"(?:(?P<user>[^@:\s-][^@:\s]*)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^@:\s\[\]-][^@:\s\[\]]*))"
            r"(?::(?P<port>\d{1,5}))?",
            text,
        )
        if match is None or int(match["port"] or 22) > 65535 or match["port"] == "0":
            raise UsageError(
                f"'{text}' is no address for ssh", f"--port ssh:{text}", "--port ssh:USER@HOST:PORT"
            )
        port = int(match["port"]) if match["port"] else None
        return cls(match["v6"] or match["host"], match["user"] or "", port)

    @property
    def name(self) -> str:
        """``user@host``, as a person would type it."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def run(self, command: str, *, timeout_s: float = 60.0) -> str:
        """Runs a shell command there and returns its standard output.

        Raises:
            DeviceError: the connection or the command failed.
            MissingDependency: there is no ssh on this computer.
        """
        try:
            ended = subprocess.run(
                self.command(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.name} did not answer within {timeout_s:g} s") from None
        if ended.returncode == _CONNECTION_FAILED:
            raise self.failure(ended.stderr)
        if ended.returncode:
            lines = (ended.stderr or ended.stdout).strip().splitlines()
            raise DeviceError(
                f"a command failed on {self.name}: {lines[-1] if lines else command}", self.name
            )
        return ended.stdout

    def send(self, files: list[Path], folder: str, *, timeout_s: float = 600.0) -> None:
        """Copies files into a folder there, under their own names.

        Raises:
            DeviceError: the connection or the copy failed.
        """
        program = _program("scp")
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"{self.user}@{host}" if self.user else host
        command = [
            program,
            "-q",
            *self._options("-P"),
            "--",
            *map(str, files),
            f"{place}:{folder}/",
        ]
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"copying to {self.name} took over {timeout_s:g} s") from None
        if ended.returncode:
            raise self.failure(ended.stderr)

    @contextmanager
    def session(self, command: str) -> Iterator[Session]:
        """A command there with open pipes; ends with the block."""
        with Session(self, self.command(command)) as session:
            yield session

    def command(self, command: str) -> list[str]:
        """The words that run a command of sh there, whatever shell the user has."""
        target = f"{self.user}@{self.host}" if self.user else self.host
        line = f"exec sh -c {quoted(command)}"
        return [_program("ssh"), "-T", *self._options("-p"), "--", target, line]

    def _options(self, port_option: str) -> list[str]:
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_TIMEOUT_S}"]
        # A cable that is pulled is noticed after 20 s.
        options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        config = os.environ.get(CONFIG_VARIABLE)
        if config:
            options += ["-F", config]
        if self.port is not None:
            options += [port_option, str(self.port)]
        return options

    def failure(self, printed: str) -> DeviceError:
        """The error for what ssh or scp printed."""
        for pattern, what, fix in _FAILURES:
            if re.search(pattern, printed):
                return DeviceError(
                    f"{self.name}: {what}", self._place, fix.format(name=self._by_hand)
                )
        lines = [line for line in printed.strip().splitlines() if line.strip()]
        return DeviceError(
            f"{self.name}: {lines[-1] if lines else 'ssh failed without a word'}",
            self._place,
            f"does this work by hand? ssh {self._by_hand} true",
        )

    @property
    def _by_hand(self) -> str:
        return f"-p {self.port} {self.name}" if self.port else self.name

    @property
    def _place(self) -> str:
        return f"ssh:{self.name}" + (f":{self.port}" if self.port else "")


class Session:
    """A running command on the other side, told every few seconds that this side is alive."""

    def __init__(self, host: SshHost, command: list[str]) -> None:
        self._host, self._command = host, command

    def __enter__(self) -> Session:
        self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C must reach edgekit alone, which then ends the session in order.
            start_new_session=True,
        )
        self._errors = bytearray()
        self._ended = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._collect, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def send(self, line: str) -> None:
        """Writes one line; a connection that is gone shows when lines are read."""
        with self._writing:
            try:
                _pipe(self._child.stdin).write(line.encode() + b"\n")
                _pipe(self._child.stdin).flush()
            except (OSError, ValueError):
                self._ended.set()

    def lines(self) -> Iterator[str]:
        """What the command prints, line by line, until it ends or the connection does."""
        for line in _pipe(self._child.stdout):
            yield line.decode("utf-8", "replace").rstrip("\r\n")

    def end(self) -> tuple[int, str]:
        """Waits for ssh; its exit code and what it printed on standard error."""
        try:
            code = self._child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        return code, self._errors.decode("utf-8", "replace")

    def _collect(self) -> None:
        stream = _pipe(self._child.stderr)
        while True:
            chunk = stream.read(4096)
            if not chunk:
                return
            self._errors += chunk

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_S):
            self.send("")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        # The end of its input is how the other side learns that it must stop.
        with self._writing, suppress(OSError):
            _pipe(self._child.stdin).close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for stream in (self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingDependency(
            f"reaching a Linux board needs the program {name}",
            fix="sudo apt install openssh-client",
        )
    return path


def quoted(text: str) -> str:
    """A word for the shell there."""
    return shlex.quote(text)
