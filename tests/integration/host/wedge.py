# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real libvirt daemon behind a socket of ours, which lets some calls, or all, never arrive: to its client the daemon hangs."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path
from urllib.parse import quote

DAEMON = "/var/run/libvirt/libvirt-sock"
DOMAIN_GET_STATE = 212  # libvirt's number of the call, in its remote_protocol.x


class Wedge:
    """A daemon that does not hear the given calls; None: no call at all."""

    def __init__(self, directory: Path, deaf_to: set[int] | None) -> None:
        self._deaf_to = deaf_to
        self._sockets: list[socket.socket] = []
        path = directory / "libvirt-sock"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.uri = f"qemu+unix:///system?socket={quote(str(path))}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Wedge:
        return self

    def __exit__(self, *_unused: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # its peer has gone
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _address = self._listener.accept()
                daemon = socket.socket(socket.AF_UNIX)
                daemon.connect(DAEMON)
                self._sockets += [client, daemon]
                threading.Thread(target=self._calls, args=(client, daemon), daemon=True).start()
                threading.Thread(target=self._answers, args=(daemon, client), daemon=True).start()

    def _calls(self, client: socket.socket, daemon: socket.socket) -> None:
        """Pass messages on: their length, program, version and the number of the call, four bytes each, and the rest."""
        with contextlib.suppress(OSError), client.makefile("rb") as stream:
            while len(head := stream.read(16)) == 16:
                length, _program, _version, call = struct.unpack(">4I", head)
                message = head + stream.read(length - 16)
                if self._deaf_to is not None and call not in self._deaf_to:
                    daemon.sendall(message)

    def _answers(self, daemon: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := daemon.recv(65536):
                client.sendall(data)
