"""A real sshd on the loopback, started by a test, with keys of its own; stopped when the test is over."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.ssh import Access

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
{more}
"""


@dataclass(frozen=True)
class Server:
    """A server that runs: its port, and the folder with `host.pub`, `user` and the client's `known_hosts`."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def access(self, **changes: object) -> Access:
        options = {"address": f"{getpass.getuser()}@127.0.0.1", "port": self.port}
        options |= {"identity": self.folder / "user", "folder": self.folder}
        return Access(**{**options, **changes})  # type: ignore[arg-type]

    def drop_connections(self) -> None:
        """End every connection as a pulled cable would, and go on listening."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in children.split():
            os.kill(int(pid), signal.SIGKILL)


@contextmanager
def run_sshd(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Yield a server; skip the test where there is no sshd or it does not start."""
    if SSHD is None:
        pytest.skip("no sshd on this machine: apt-get install openssh-server")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd wants it, when it is root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A home without the start-up files of whoever runs the tests: some take seconds.
    values = {"HOME": str(folder), **(environment or {})}
    more = "SetEnv " + " ".join(f'{key}="{value}"' for key, value in values.items())
    (folder / "config_of_sshd").write_text(_CONFIG.format(port=port, folder=folder, more=more))
    host = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}\n")
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "config_of_sshd")], stdout=log, stderr=log
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield Server(port=port, folder=folder, process=process)
    finally:
        process.terminate()
        process.wait(10)
        log.close()
