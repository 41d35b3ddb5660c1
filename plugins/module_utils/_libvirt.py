# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that imports libvirt: connect, look, create, destroy, and errors a person can act on."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import traceback
import typing as t

from ._domain_xml import SeenDomain, parse
from ._errors import MayflyError
from ._patience import within

libvirt: t.Any
LIBVIRT_ERROR: str | None
try:
    import libvirt
except ImportError:
    libvirt = None
    LIBVIRT_ERROR = traceback.format_exc()
else:
    LIBVIRT_ERROR = None

DAEMON_REMEDY = (
    "Is the libvirt daemon running, and may this user use it? The play mayfly.virt.hypervisor sets it up; "
    "mayfly.virt.doctor tells what is missing."
)
_RUNNING = "running"
_DISK_ERRORS = {1: "unspecified I/O error", 2: "no space left"}
_KEY_HELD = 100  # milliseconds


@dataclasses.dataclass(frozen=True)
class Lease:
    """An unexpired DHCP lease of a libvirt network."""

    network: str
    bridge: str
    mac: str
    address: str
    client_id: str
    expiry: int  # seconds since the epoch, 0 = never


@dataclasses.dataclass(frozen=True)
class Network:
    """A libvirt network as far as guests and inventory care."""

    name: str
    active: bool
    autostart: bool = False


@dataclasses.dataclass(frozen=True)
class Node:
    """What the hypervisor has. Sizes in MiB."""

    memory_mib: int
    available_mib: int
    cpus: int


@dataclasses.dataclass(frozen=True)
class Happening:
    """Something that libvirt told of a domain."""

    uuid: str
    what: str  # crashed, stopped, rebooted, watchdog or io_error
    detail: str


class Hypervisor:
    """One connection to one libvirt daemon."""

    def __init__(self, connection: t.Any, uri: str) -> None:
        self._connection = connection
        self.uri = uri

    @classmethod
    def open(cls, uri: str, answer_timeout: float | None = None, *, read_only: bool = False) -> Hypervisor:
        """Connect, within a time limit if there is one.

        That takes a thread, and who forks soon after must do without: the child may wait for a lock that only the thread could give back.
        """
        # libvirt prints every error to stderr beside raising it; the exception is enough.
        libvirt.registerErrorHandler(lambda *_unused: None, None)
        opener = libvirt.openReadOnly if read_only else libvirt.open
        try:
            connection = (
                opener(uri) if answer_timeout is None else within(answer_timeout, lambda: opener(uri), "connect to libvirt at", uri)
            )
        except libvirt.libvirtError as error:
            raise MayflyError("connect to libvirt at", uri, error.get_error_message() or str(error), DAEMON_REMEDY) from error
        return cls(connection, uri)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Hypervisor:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    # -- looking ---------------------------------------------------------------------------------------------------

    def domains(self) -> list[SeenDomain]:
        """Return every running domain. One that goes away between list and look is left out."""
        with _attempt("list domains of", self.uri):
            listed = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        seen = (self._seen(domain) for domain in listed)
        return [domain for domain in seen if domain is not None]

    def domain(self, name: str) -> SeenDomain | None:
        """Return the domain of that name, running or not, or None."""
        try:
            found = self._connection.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise MayflyError("look up domain", name, error.get_error_message(), DAEMON_REMEDY) from error
        return self._seen(found)

    def _seen(self, domain: t.Any) -> SeenDomain | None:
        try:
            return parse(domain.XMLDesc())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise MayflyError("read domain", domain.name(), error.get_error_message(), DAEMON_REMEDY) from error

    def xml(self, uuid: str) -> str:
        """Return libvirt's whole description of a domain, empty when there is none any more."""
        with _attempt("read domain", uuid):
            try:
                return self._connection.lookupByUUIDString(uuid).XMLDesc()
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return ""
                raise

    def states(self) -> dict[str, str]:
        """Return uuid to state of every domain there is, in one call where the driver has it."""
        names = {
            libvirt.VIR_DOMAIN_NOSTATE: "no state",
            libvirt.VIR_DOMAIN_RUNNING: _RUNNING,
            libvirt.VIR_DOMAIN_BLOCKED: _RUNNING,
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
            libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
            libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
        }
        with _attempt("read domain states of", self.uri):
            try:
                stats = self._connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
                stats = [(domain, {"state.state": _state_of(domain)}) for domain in self._connection.listAllDomains()]
        return {domain.UUIDString(): names[values["state.state"]] for domain, values in stats}

    def networks(self) -> dict[str, Network]:
        """Return the libvirt networks by name."""
        with _attempt("list networks of", self.uri):
            return {
                network.name(): Network(network.name(), bool(network.isActive()), bool(network.isPersistent() and network.autostart()))
                for network in self._connection.listAllNetworks()
            }

    def leases(self, networks: t.Iterable[str] | None = None) -> list[Lease]:
        """Return the unexpired IPv4 leases of the given networks, or of all active ones. One call for each network."""
        wanted = None if networks is None else set(networks)
        leases = []
        with _attempt("read DHCP leases of", self.uri):
            for network in self._connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
                if wanted is not None and network.name() not in wanted:
                    continue
                try:
                    entries = network.DHCPLeases()
                except libvirt.libvirtError as error:
                    # The test driver has none; another network may be stopped between list and look.
                    if error.get_error_code() in (
                        libvirt.VIR_ERR_NO_SUPPORT,
                        libvirt.VIR_ERR_NO_NETWORK,
                        libvirt.VIR_ERR_OPERATION_INVALID,
                    ):
                        continue
                    raise
                leases += [
                    Lease(
                        network=network.name(),
                        bridge=entry["iface"],
                        mac=entry["mac"].lower(),
                        address=entry["ipaddr"],
                        client_id=entry.get("clientid") or "",
                        expiry=entry["expirytime"],
                    )
                    for entry in entries
                    if entry["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4
                ]
        return leases

    def node(self) -> Node:
        """Return memory and processors of the host."""
        with _attempt("read the capacity of", self.uri):
            _model, memory_mib, cpus, *_rest = self._connection.getInfo()
            # getInfo counts NUMA cells and has been seen to miss hot-added memory; the statistics do not.
            try:
                stats = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                    raise
                return Node(memory_mib, memory_mib, cpus)
        reclaimable = stats.get("free", 0) + stats.get("buffers", 0) + stats.get("cached", 0)
        return Node(stats["total"] // 1024, reclaimable // 1024, cpus)

    def versions(self) -> dict[str, str]:
        """Return the versions of libvirt and of the hypervisor behind it."""
        with _attempt("read versions of", self.uri):
            return {
                "libvirt": _dotted(self._connection.getLibVersion()),
                self._connection.getType().lower(): _dotted(self._connection.getVersion()),
            }

    def domain_capabilities(self, accel: str) -> str:
        """Return the XML of what domains of that acceleration may have, empty when there can be none."""
        virt_type = "kvm" if accel == "kvm" else "qemu"
        with _attempt(f"read capabilities of {virt_type} domains of", self.uri):
            try:
                return self._connection.getDomainCapabilities(None, "x86_64", "q35", virt_type)
            except libvirt.libvirtError as error:
                unknown = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT)
                if error.get_error_code() in unknown:
                    return ""
                raise

    def virt_type(self, accel: str) -> str:
        """Return the type of a <domain> of that acceleration under this driver."""
        with _attempt("ask for the driver of", self.uri):
            if self._connection.getType() == "TEST":
                return "test"
        return "kvm" if accel == "kvm" else "qemu"

    # -- evidence --------------------------------------------------------------------------------------------------

    def condition(self, uuid: str) -> dict[str, t.Any]:
        """Return how a domain is: state and reason as libvirt's numbers, I/O errors of disks, what libvirt warns of, statistics."""
        with _attempt("read the condition of domain", uuid):
            domain = self._connection.lookupByUUIDString(uuid)
            state, reason = domain.state()
            return {
                "state": state,
                "reason": reason,
                "disk_errors": {disk: _DISK_ERRORS.get(code, str(code)) for disk, code in (domain.diskErrors() or {}).items()},
                "messages": list(domain.messages()),
                # Not waiting for a QEMU that is busy with something else.
                "statistics": self._connection.domainListGetStats([domain], 0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)[0][1],
            }

    def screenshot(self, uuid: str) -> bytes:
        """Return what is on a domain's screen, in the format of the hypervisor's choice."""
        with _attempt("take a screenshot of domain", uuid):
            domain = self._connection.lookupByUUIDString(uuid)
            stream = self._connection.newStream()
            domain.screenshot(stream, 0)
            pieces: list[bytes] = []
            stream.recvAll(lambda _stream, data, kept: kept.append(data), pieces)
            stream.finish()
        return b"".join(pieces)

    def press(self, uuid: str, keys: t.Sequence[int]) -> None:
        """Press keys together, by Linux' numbers for them."""
        with _attempt("send a key to domain", uuid):
            domain = self._connection.lookupByUUIDString(uuid)
            domain.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, _KEY_HELD, list(keys), len(keys))

    def interrupt(self, uuid: str) -> None:
        """Send a non-maskable interrupt."""
        with _attempt("send an NMI to domain", uuid):
            self._connection.lookupByUUIDString(uuid).injectNMI()

    def dump_memory(self, uuid: str, path: str) -> None:
        """Write a domain's memory to a file on the hypervisor, compressed. It goes on afterwards if it ran before."""
        with _attempt("dump the memory of domain", uuid):
            domain = self._connection.lookupByUUIDString(uuid)
            domain.coreDumpWithFormat(path, libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB, libvirt.VIR_DUMP_MEMORY_ONLY)

    def pause(self, uuid: str) -> None:
        """Stop a domain's processors. QEMU writes down what it holds of its disks before."""
        with _attempt("pause domain", uuid):
            self._connection.lookupByUUIDString(uuid).suspend()

    def resume(self, uuid: str) -> None:
        """Let a paused domain go on."""
        with _attempt("resume domain", uuid):
            self._connection.lookupByUUIDString(uuid).resume()

    # -- changing --------------------------------------------------------------------------------------------------

    def create(self, name: str, xml: str) -> SeenDomain:
        """Create a transient domain and return it running."""
        with _attempt("create domain", name, "Look at the reason above and at /var/log/libvirt/qemu/ on the hypervisor."):
            return parse(self._connection.createXML(xml, libvirt.VIR_DOMAIN_START_VALIDATE).XMLDesc())

    def network_xml(self, name: str) -> str | None:
        """Return libvirt's description of a network, or None when there is none of that name."""
        network = self._network(name)
        if network is None:
            return None
        with _attempt("read network", name):
            return network.XMLDesc()

    def define_network(self, name: str, xml: str) -> None:
        """Make a network anew: persistent, started now and with the host. When that fails, the old one is put back."""
        old = self._network(name)
        with _attempt("make network", name, "Is its subnet or bridge in use already? Choose others."):
            before = old.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE) if old is not None else None
            if old is not None:
                self._drop(old)
            try:
                self._start_network(xml)
            except libvirt.libvirtError:
                half = self._network(name)
                if half is not None:
                    self._drop(half)
                if before is not None:
                    self._start_network(before)
                raise

    def _start_network(self, xml: str) -> None:
        network = self._connection.networkDefineXML(xml)
        network.create()
        network.setAutostart(True)

    def autostart_network(self, name: str) -> None:
        """Let a network start with the host."""
        network = self._network(name)
        if network is not None:
            with _attempt("change network", name):
                network.setAutostart(True)

    def remove_network(self, name: str) -> None:
        """Stop and forget a network."""
        network = self._network(name)
        if network is not None:
            with _attempt("remove network", name):
                self._drop(network)

    def _network(self, name: str) -> t.Any:
        try:
            return self._connection.networkLookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
                return None
            raise MayflyError("look up network", name, error.get_error_message(), DAEMON_REMEDY) from error

    @staticmethod
    def _drop(network: t.Any) -> None:
        persistent = network.isPersistent()
        if network.isActive():
            network.destroy()
        if persistent:
            network.undefine()

    def destroy(self, name: str, uuid: str) -> bool:
        """End the domain with that uuid; tell whether there was one. Its namesakes are never touched."""
        try:
            self._connection.lookupByUUIDString(uuid).destroy()
        except libvirt.libvirtError as error:
            # A transient domain may be gone already, or go between the two calls.
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return False
            raise MayflyError("destroy domain", name, error.get_error_message(), DAEMON_REMEDY) from error
        return True


class Events:
    """What happens to the domains of one libvirt daemon, put into a queue by a thread of its own.

    libvirt's event loop is one for the whole process and must be there before the connection is made.
    """

    _loop: threading.Thread | None = None

    def __init__(self, uri: str, happenings: queue.SimpleQueue[t.Any]) -> None:
        self._start_loop()
        self._put = happenings.put
        self._hypervisor = Hypervisor.open(uri)
        connection = self._hypervisor._connection
        wanted = {
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: self._lifecycle,
            libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: self._reboot,
            libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: self._watchdog,
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: self._io_error,
        }
        with _attempt("be told of what happens to domains by", uri):
            self._callbacks = [connection.domainEventRegisterAny(None, event, callback, None) for event, callback in wanted.items()]

    @classmethod
    def _start_loop(cls) -> None:
        if cls._loop is None or not cls._loop.is_alive():
            libvirt.virEventRegisterDefaultImpl()
            cls._loop = threading.Thread(target=cls._run_loop, daemon=True)
            cls._loop.start()

    @staticmethod
    def _run_loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def states(self) -> dict[str, str]:
        """Return uuid to state, as Hypervisor.states()."""
        return self._hypervisor.states()

    def alive(self) -> bool:
        """Tell whether events can still come."""
        return bool(self._hypervisor._connection.isAlive())

    def close(self) -> None:
        """Hear no more. The callbacks would keep the connection open."""
        with _attempt("hear no more of", self._hypervisor.uri):
            for callback in self._callbacks:
                self._hypervisor._connection.domainEventDeregisterAny(callback)
        self._hypervisor.close()

    def _lifecycle(self, _connection: t.Any, domain: t.Any, event: int, detail: int, _data: t.Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            loaded = detail == libvirt.VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED
            self._tell(domain, "crashed", "its crash kernel was loaded" if loaded else "its kernel panicked")
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            how = {
                libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "it was shut down from inside",
                libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "it was destroyed",
                libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "it crashed",
                libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "QEMU failed",
            }
            self._tell(domain, "stopped", how.get(detail, f"it was taken away (detail {detail})"))

    def _reboot(self, _connection: t.Any, domain: t.Any, _data: t.Any) -> None:
        self._tell(domain, "rebooted", "the guest was reset or booted again")

    def _watchdog(self, _connection: t.Any, domain: t.Any, action: int, _data: t.Any) -> None:
        self._tell(domain, "watchdog", f"its watchdog device fired (action {action})")

    def _io_error(self, _connection: t.Any, domain: t.Any, path: str, device: str, _action: int, reason: str, _data: t.Any) -> None:
        self._tell(domain, "io_error", f"{device} on {path}: {reason or 'I/O error'}")

    def _tell(self, domain: t.Any, what: str, detail: str) -> None:
        self._put(Happening(domain.UUIDString(), what, detail))


@contextlib.contextmanager
def _attempt(attempted: str, target: str, remedy: str = DAEMON_REMEDY) -> t.Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise MayflyError(attempted, target, error.get_error_message() or str(error), remedy) from error


def _state_of(domain: t.Any) -> int:
    try:
        return int(domain.state()[0])
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return int(libvirt.VIR_DOMAIN_SHUTOFF)
        raise


def _dotted(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
