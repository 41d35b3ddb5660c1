# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the hypervisor under test: which doors of the wall let through what comes from the network's bridge.

Two network namespaces on isolated ports of the bridge stand for two guests. Prints a JSON object, door to whether it was passed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
import typing as t

BRIDGE = "mayfly0"
HOST, GUEST, NEIGHBOUR = "10.214.16.1", "10.214.16.2", "10.214.16.3"
OPENED, CLOSED = 3142, 3143
# Asks for the address of "localhost".
DNS_QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01"
# Transaction "mayf", answer by broadcast, of a card that no libvirt made; option 53 is 1.
DHCP_DISCOVER = struct.pack("!4B4sHH16x16s192x", 1, 1, 6, 0, b"mayf", 0, 0x8000, b"\x02mayfl") + b"\x63\x82\x53\x63\x35\x01\x01\xff"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def guest(name: str, address: str) -> t.Iterator[str]:
    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}-tap", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"{name}-tap", "master", BRIDGE, "up")
        subprocess.run(["bridge", "link", "set", "dev", f"{name}-tap", "isolated", "on"], check=True)
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        yield name
    finally:
        ip("netns", "delete", name)


def inside(name: str, what: t.Callable[[], t.Any]) -> t.Any:
    """Return what a thread that has entered the namespace returns; a socket stays in it when the thread is gone."""
    answer: list[t.Any] = []

    def enter() -> None:
        with open(f"/run/netns/{name}", "rb") as namespace:
            os.setns(namespace.fileno(), os.CLONE_NEWNET)
        answer.append(what())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return answer[0]


def connects(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False


def resolves() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(DNS_QUERY, (HOST, 53))
        try:
            return asking.recv(512)[:2] == DNS_QUERY[:2]
        except OSError:
            return False


def offers_address() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)  # dnsmasq looks for three seconds whether the address is taken
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asking.bind(("", 68))
        asking.sendto(DHCP_DISCOVER, ("255.255.255.255", 67))
        try:
            return asking.recv(1024)[4:8] == DHCP_DISCOVER[4:8]
        except OSError:
            return False


def listen(port: int) -> socket.socket:
    return socket.create_server(("", port))


def main() -> None:
    with guest("probe", GUEST) as one, guest("neighbour", NEIGHBOUR) as other, listen(OPENED), listen(CLOSED):
        ip("-n", one, "route", "add", NEIGHBOUR, "via", HOST)
        ip("-n", other, "route", "add", GUEST, "via", HOST)
        with inside(other, lambda: listen(CLOSED)):
            reached = {
                "dhcp": inside(one, offers_address),
                "dns over udp": inside(one, resolves),
                "dns over tcp": inside(one, lambda: connects(HOST, 53)),
                "opened port": inside(one, lambda: connects(HOST, OPENED)),
            }
            for door, address, port in (
                ("ssh", HOST, 22),
                ("closed port", HOST, CLOSED),
                ("neighbour by way of the host", NEIGHBOUR, CLOSED),
            ):
                reached[door] = inside(one, lambda address=address, port=port: connects(address, port))
                reached[f"{door}, from the host"] = connects(address, port)
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
