"""OpenSSH's server on the loopback interface, for the current user, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class SshServer:
    """A running sshd. ``config`` is for the client (``ssh -F``)."""

    port: int
    user: str
    config: Path
    process: subprocess.Popen[bytes]
    log: Path = field(repr=False)

    @property
    def address(self) -> str:
        return f"ssh:{self.user}@127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Ends the server's side of every connection at once; how many there were."""
        sessions = children_of(self.process.pid)
        for pid in sessions:
            os.kill(pid, signal.SIGKILL)
        return len(sessions)

    def stop(self) -> None:
        self.cut()
        self.process.terminate()
        self.process.wait(timeout=10)


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(folder.name))
    return found


def processes_naming(text: str) -> list[str]:
    """Command lines of all processes but this one that name a path."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                place = os.readlink(folder / "cwd")
            except OSError:
                continue
            if text in line or text in place:
                found.append(line)
    return found


def start(folder: Path) -> SshServer:
    """Starts sshd with everything it needs in ``folder``; skips where there is none."""
    program = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("OpenSSH's server is not installed: sudo apt install openssh-server")
    if os.geteuid() == 0:
        # sshd refuses to start as root without its empty folder, which only a boot makes.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    authorized = folder / "authorized_keys"
    authorized.write_bytes((folder / "user_key.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What pip needs on this computer to reach its index.
    passed = [f'{key}="{value}"' for key, value in os.environ.items() if key.startswith("PIP_")]
    server = folder / "sshd_config"
    server.write_text(
        "\n".join(
            [
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {folder / 'host_key'}",
                f"AuthorizedKeysFile {authorized}",
                f"PidFile {folder / 'sshd.pid'}",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "UsePAM no",
                "StrictModes no",
                "PermitRootLogin prohibit-password",
                "Subsystem sftp internal-sftp",
                *(["SetEnv " + " ".join(passed)] if passed else []),
            ]
        )
        + "\n"
    )
    user = getpass.getuser()
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {key}\n")
    client = folder / "ssh_config"
    client.write_text(
        f"Host *\n  IdentityFile {folder / 'user_key'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
    )
    log = folder / "sshd.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(server)], stdin=subprocess.DEVNULL, stderr=stream
        )
    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"sshd does not start: {log.read_text()}") from None
            time.sleep(0.05)
    return SshServer(port, user, client, process, log)
