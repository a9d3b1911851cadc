"""A connection to a board over SSH, by paramiko. Main entry: `connect`.

paramiko is used bare: fabric adds a runner of shell strings on top of it, which is just what names from outside must
not meet. Host keys are verified against known_hosts; `~/.ssh/config`, keys and the agent are read as `ssh` reads them.
"""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.core.errors import DeviceError, InputError
from edgeq.core.optional import require

if TYPE_CHECKING:
    import paramiko

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9_:][A-Za-z0-9_.:-]*)"
)
_TIMEOUT_S = 20
_KEEPALIVE_S = 15
# What paramiko raises of a private key that is cut off or altered, beside its own errors.
_DAMAGED = (ValueError, AssertionError, IndexError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a board.

    Attributes:
        address: [USER@]HOST; HOST may be a name of ~/.ssh/config.
        port: None leaves it to ~/.ssh/config, else 22.
        identity: private key; None tries those of ~/.ssh/config, the agent and ~/.ssh.
        accepts_new: write an unknown host key to known_hosts; a changed one is refused all the same.
        folder: of known_hosts and config.
    """

    address: str
    port: int | None = None
    identity: Path | None = None
    accepts_new: bool = False
    folder: Path = Path("~/.ssh")


class Board:
    """A board that answers: commands and files."""

    def __init__(self, client: paramiko.SSHClient, address: str) -> None:
        self._client = client
        self.address = address
        self.files = client.open_sftp()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(
        self,
        words: Sequence[str],
        *,
        folder: str,
        say: Callable[[str], None],
        is_terminal: bool = False,
    ) -> int:
        """Return the exit code of a command in `folder`; each line of its output goes to `say` as it comes.

        Args:
            words: the command; every word is quoted.
            folder: on the board.
            say: takes a line.
            is_terminal: give it a terminal, so that it ends when the connection does.

        Raises:
            DeviceError: if the connection is lost before the command ends.
        """
        channel = self._start(words, folder, is_terminal=is_terminal)
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        while data := channel.recv(1 << 15):
            *lines, rest = (rest + decode(data)).split("\n")
            for line in lines:
                say(line.rstrip("\r"))
        if rest:
            say(rest)
        code = int(channel.recv_exit_status())
        if code < 0:
            raise lost_connection(self.address)
        return code

    @contextmanager
    def attached(self, words: Sequence[str], *, folder: str) -> Iterator[str | int]:
        """Run a command beside the block, until its input ends with the block or with the connection.

        Yields:
            the first line that it prints; or its exit code, if it ends without one.
        """
        channel = self._start(words, folder)
        try:
            line = channel.makefile().readline()
            yield line.rstrip("\n") if line else int(channel.recv_exit_status())
        finally:
            with suppress(*faults()):  # it ends with the connection, too
                channel.settimeout(_TIMEOUT_S)
                channel.shutdown_write()
                while channel.recv(1 << 10):
                    pass
            channel.close()

    def _start(self, words: Sequence[str], folder: str, *, is_terminal: bool = False) -> Any:
        """Return the channel of a command that was begun in `folder`."""
        import paramiko

        try:
            channel = self._transport().open_session()
        except paramiko.SSHException as error:
            raise lost_connection(self.address) from error
        if is_terminal:
            channel.get_pty("dumb", width=500)
        channel.set_combine_stderr(is_terminal)
        channel.exec_command(f"cd -- {shlex.quote(folder)} && exec {shlex.join(words)}")
        return channel

    def _transport(self) -> Any:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise lost_connection(self.address)
        return transport


def faults() -> tuple[type[Exception], ...]:
    """Return what paramiko raises where a file of the board cannot be used, or the connection ends."""
    import paramiko

    return (OSError, EOFError, paramiko.SSHException)


def lost_connection(address: str) -> DeviceError:
    """Return the error of a connection that ended early."""
    return DeviceError(
        f"the connection to {address} was lost",
        why="nothing is lost with it: what was copied and built stays on the board",
        mend="run the same command again; it goes on from there",
    )


def connect(access: Access) -> Board:
    """Return the board that `access` names.

    Raises:
        MissingDependencyError: if paramiko is not installed.
        InputError: if the address is none, or the key or a file of ~/.ssh cannot be read.
        DeviceError: if the board cannot be reached, its host key is not the known one, or it lets nobody in.
    """
    paramiko = require("paramiko", why="for SSH", install="pip install 'edgeq[ssh]'")
    match = _ADDRESS.fullmatch(access.address)
    if match is None:
        raise InputError(
            f"'{access.address}' is no address of a board",
            why="it is [USER@]HOST",
            mend="pass for instance nvidia@192.168.55.1",
        )
    if access.identity is not None:
        _check_key(paramiko, access.identity)
    folder = access.folder.expanduser()
    settings, known = folder / "config", folder / "known_hosts"
    with _faults_of(paramiko, settings):
        config = _read_config(paramiko, settings, match["host"])
        port = access.port or _read_port(config)
    host = str(config.get("hostname", match["host"]))
    client = paramiko.SSHClient()
    for path in (Path("/etc/ssh/ssh_known_hosts"), known):
        with _faults_of(paramiko, path):
            if path.is_file():
                client.load_system_host_keys(str(path))
    client.set_missing_host_key_policy(_policy(paramiko, known, access))
    keys = [str(access.identity)] if access.identity else config.get("identityfile", [])
    with _faults_of(paramiko, settings):
        proxy = _proxy(paramiko, config, host, port)
    if proxy is None:
        _check_host(host)
    try:
        client.connect(
            host,
            port=port,
            username=match["user"] or config.get("user"),
            key_filename=[key for key in keys if access.identity or Path(key).is_file()] or None,
            look_for_keys=access.identity is None,
            sock=proxy,
            timeout=_TIMEOUT_S,
            banner_timeout=_TIMEOUT_S,
            auth_timeout=_TIMEOUT_S,
        )
        client.get_transport().set_keepalive(_KEEPALIVE_S)
        return Board(client, access.address)
    except (DeviceError, InputError):
        client.close()
        raise
    except _DAMAGED as error:
        client.close()
        raise InputError(
            f"a private key of ssh's is damaged: {error}",
            why="edgeq tries those of ~/.ssh/config and ~/.ssh in turn",
            mend="pass the right one by --identity, or mend or remove the other",
            path=folder,
        ) from error
    except (paramiko.SSHException, OSError) as error:
        is_login = _is_login(client.get_transport()) and not isinstance(error, OSError)
        client.close()
        raise _explain(paramiko, error, access, known, is_login=is_login) from error


def _check_key(paramiko: Any, path: Path) -> None:
    """Check that a private key can be read: paramiko tells of one that cannot as of a board that is off."""
    reason = "it is no private key"
    kinds = (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key)
    try:
        if any(_is_key(paramiko, kind, path) for kind in kinds):
            return
    except OSError as error:
        reason = error.strerror or str(error)
    raise InputError(
        f"--identity cannot be used: {reason}",
        why="edgeq logs in with a private key as ssh-keygen makes it: RSA, ECDSA or Ed25519",
        mend="pass for instance --identity ~/.ssh/id_ed25519; a key that the agent has needs no --identity",
        path=path,
    )


def _is_key(paramiko: Any, kind: Any, path: Path) -> bool:
    try:
        kind.from_private_key_file(str(path).removesuffix("-cert.pub"))
    except paramiko.PasswordRequiredException:
        return True  # the agent may have it
    except (paramiko.SSHException, *_DAMAGED):
        return False  # of another kind, or cut off
    return True


@contextmanager
def _faults_of(paramiko: Any, path: Path) -> Iterator[None]:
    """Raise what the block meets in the file `path` of ssh's as a fault of that file."""
    kinds = (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, OSError)
    try:
        yield
    except (*kinds, ValueError, OverflowError) as error:  # the last two: of keys
        raise InputError(
            f"ssh's {path.name} cannot be used: {error}",
            why="edgeq reads and runs what it says by paramiko, which takes most of what ssh takes, but not "
            "@cert-authority or @revoked",
            mend="mend that line, take it out, or mend the file's permissions",
            path=path,
        ) from error


def _read_config(paramiko: Any, path: Path, host: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(paramiko.SSHConfig.from_path(str(path)).lookup(host))
    except paramiko.CouldNotCanonicalize as error:  # whose text is the name alone
        msg = f"{host} is in none of CanonicalDomains, and CanonicalizeFallbackLocal is no"
        raise ValueError(msg) from error


def _read_port(config: dict[str, Any]) -> int:
    text = str(config.get("port", 22))
    if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 1 << 16:
        msg = f"Port {text} is none"
        raise ValueError(msg)
    return int(text)


def _check_host(host: str) -> None:
    try:
        host.encode("idna")  # as the look-up does
    except UnicodeError as error:
        raise InputError(
            f"'{host}' is no name of a host",
            why="between its dots are 1 to 63 characters each",
            mend="mend the address, or HostName in ~/.ssh/config",
        ) from error


def _proxy(paramiko: Any, config: dict[str, Any], host: str, port: int) -> Any:
    """Return the socket that the user's own config asks for; a jump goes through the system's ssh."""
    command = config.get("proxycommand")
    jump = config.get("proxyjump")
    if command is None and jump not in (None, "none"):
        command = shlex.join(["ssh", "-W", f"[{host}]:{port}", str(jump)])
    return None if command in (None, "none") else paramiko.ProxyCommand(command)


def _policy(paramiko: Any, known: Path, access: Access) -> Any:
    class Policy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # the base is known at run time only
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            if not access.accepts_new:
                raise DeviceError(
                    f"the host key of {access.address} is not known: {key.get_name()} {key.fingerprint}",
                    why="another machine could answer at this address",
                    mend="compare it with the board's (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then log in "
                    "once with ssh, or pass --accept-new-host-key",
                )
            with _faults_of(paramiko, known):
                self._keep(hostname, key)

        def _keep(self, hostname: str, key: Any) -> None:
            known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with known.open("a+b") as file:
                file.seek(0)
                end = file.read()[-1:]
                # A last line without an end would take the new one in.
                first = b"" if end in (b"", b"\n") else b"\n"
                line = f"{hostname} {key.get_name()} {key.get_base64()}\n"
                file.write(first + line.encode())

    return Policy()


def _is_login(transport: Any) -> bool:
    """Return whether a connection is at its login; the error may be one of the last key, tried as another kind."""
    is_open = transport and transport.is_active() and transport.initial_kex_done
    return bool(is_open and not transport.is_authenticated())


def _explain(
    paramiko: Any, error: Exception, access: Access, known: Path, *, is_login: bool
) -> Exception:
    address = access.address
    if isinstance(error, paramiko.BadHostKeyException):
        return DeviceError(
            f"the host key of {address} is not the known one",
            why="another machine answers at this address, or the board was set up anew",
            mend=f"if you know why, remove the old key: ssh-keygen -R HOST, and pass --accept-new-host-key ({known})",
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        return InputError(
            "the private key has a passphrase",
            why="edgeq asks for none",
            mend="load it into the agent: ssh-add KEY",
        )
    is_refusal = isinstance(error, paramiko.AuthenticationException)
    if is_login or is_refusal:
        return DeviceError(
            f"{address} lets nobody in" + (f": {error}" if is_refusal else ""),
            why="edgeq logs in with keys: --identity, the agent, ~/.ssh/config and ~/.ssh",
            mend=f"copy your key to the board: ssh-copy-id {address}",
        )
    return DeviceError(
        f"{address} cannot be reached: {error}",
        why="the bundle goes over SSH",
        mend=f"try `ssh {address}`; is the board on, the address right, and its SSH server running?",
    )
