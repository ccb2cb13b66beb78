"""Where the server listens: an address, a Unix socket or a socket that is open already, and what it says of that."""

import errno
import os
import socket
import sys
from pathlib import Path

from apps.core.process import NAME, VERSION
from apps.core.settings import Settings

BACKLOG = 2048


def listener_of(settings: Settings) -> socket.socket:
    """The socket of the settings: one that is open already, a Unix socket, or an address."""
    if settings.api_fd is not None:
        return socket.socket(fileno=settings.api_fd)
    return listen_unix(settings.api_uds) if settings.api_uds else listen(settings.api_host, settings.api_port)


def listen_unix(path: Path) -> socket.socket:
    """Bind a Unix socket that its owner alone may open. Exits with one line where another process listens there."""
    if not hasattr(socket, "AF_UNIX"):
        sys.exit("API_UDS: this system has no Unix sockets")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if path.is_socket() and not _is_listened_on(path):
            path.unlink()
        listener.bind(str(path))
    except OSError as error:
        sys.exit(f"{path} cannot be listened on ({str(error.strerror or error).lower()})")
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def listen(host: str, port: int) -> socket.socket:
    """Bind an address. Exits with one line where it is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        advice = ": stop what uses it, or choose another port with API_PORT" if error.errno == errno.EADDRINUSE else ""
        sys.exit(f"{host}:{port} cannot be listened on ({str(error.strerror).lower()}){advice}")
    listener.set_inheritable(True)
    return listener


def greeting(settings: Settings, listener: socket.socket) -> str:
    """The banner; where there is no page to open, one line that says what listens where."""
    name = listener.getsockname()
    where = name if isinstance(name, str) else f"{name[0]}:{name[1]}"
    if settings.serve_role == "model":
        return f"{NAME} {VERSION} serves {settings.local_model} to a fleet on {where}"
    return f"{NAME} {VERSION} listens on {where}" if isinstance(name, str) else banner(settings, name[1])


def banner(settings: Settings, port: int) -> str:
    """What a person at the terminal wants to know: addresses, models, whether keys are asked for."""
    host = "localhost" if settings.api_host in ("0.0.0.0", "::") else settings.api_host  # noqa: S104 - compared
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    console = f"  console  {address}/\n" if settings.console == "on" else ""
    keys = {"off": "off", "on": "on"}.get(settings.auth, "off until the first key is made")
    return (
        f"\n{NAME} {VERSION}\n{console}  docs     {address}/docs\n  OpenAI   {address}/v1\n"
        f"  local    {settings.local_model}, loading (see {address}/ready)\n  keys     {keys}\n"
    )
