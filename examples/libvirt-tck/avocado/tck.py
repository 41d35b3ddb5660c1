# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt-tck's library gives to its Perl tests, for tests in Python: a connection, objects called tck, and their removal."""

from __future__ import annotations

import os
import platform
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from avocado import Test

URI = os.environ.get("LIBVIRT_TCK_URI", "qemu:///system")
SCRATCH = Path(os.environ.get("LIBVIRT_TCK_SCRATCH", "/var/cache/libvirt-tck"))
NAME = "tck"  # the wrapper removes what begins so, and says which test left it


class LibvirtTest(Test):
    """A test of the libvirt at URI. What it makes must be called tck, and is taken away when it has ended."""

    def setUp(self) -> None:
        # libvirt prints every error on standard error by itself; an error that a test expects is no news.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        self.conn = libvirt.open(URI)

    def tearDown(self) -> None:
        for domain in self.conn.listAllDomains():
            if domain.name().startswith(NAME):
                if domain.isActive():
                    domain.destroy()
                else:
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        for pool in self.conn.listAllStoragePools():
            if pool.name().startswith(NAME):
                for volume in pool.listAllVolumes() if pool.isActive() else []:
                    volume.delete()
                if pool.isActive():
                    pool.destroy()
                else:
                    pool.undefine()
        self.conn.close()

    # -- assertions ------------------------------------------------------------------------------------------------------

    def assert_error(self, code: int, call: Callable[..., Any], *arguments: Any) -> libvirt.libvirtError:
        """Call something that must end with this error of libvirt, as ok_error() of the Perl library."""
        with self.assertRaises(libvirt.libvirtError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.get_error_code(), code, f"another error than expected: {caught.exception}")
        return caught.exception

    # -- builders --------------------------------------------------------------------------------------------------------

    def domain_type(self) -> str:
        """Return kvm where libvirt offers it for this machine, else qemu."""
        for guest in ET.fromstring(self.conn.getCapabilities()).iter("guest"):
            arch = guest.find("arch")
            if guest.findtext("os_type") == "hvm" and arch is not None and arch.get("name") == platform.machine():
                types = {domain.get("type") for domain in arch.iter("domain")}
                return "kvm" if "kvm" in types else "qemu"
        return self.cancel(f"libvirt has no virtual machines of {platform.machine()}")

    def generic_domain(self, name: str = NAME) -> str:
        """Return the XML of a small domain that boots a kernel and its initrd, as generic_domain() of the Perl library."""
        bucket = SCRATCH / f"os-{platform.machine()}-hvm"
        disk = bucket / "disk-python.img"
        if not disk.exists():
            with disk.open("wb") as file:
                file.truncate(100 << 20)
        domain = ET.Element("domain", type=self.domain_type())
        ET.SubElement(domain, "name").text = name
        ET.SubElement(domain, "memory", unit="MiB").text = "256"
        system = ET.SubElement(domain, "os")
        ET.SubElement(system, "type", arch=platform.machine()).text = "hvm"
        ET.SubElement(system, "kernel").text = str(bucket / "vmlinuz")
        ET.SubElement(system, "initrd").text = str(bucket / "initrd")
        features = ET.SubElement(domain, "features")
        ET.SubElement(features, "acpi")
        ET.SubElement(features, "apic")
        devices = ET.SubElement(domain, "devices")
        node = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(node, "driver", name="qemu", type="raw")
        ET.SubElement(node, "source", file=str(disk))
        ET.SubElement(node, "target", dev="vda", bus="virtio")
        ET.SubElement(devices, "console", type="pty")
        return ET.tostring(domain, encoding="unicode")

    def generic_pool(self, name: str = NAME) -> str:
        """Return the XML of a pool that is a directory, and make the directory anew."""
        directory = SCRATCH / "storage-fs" / name
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        pool = ET.Element("pool", type="dir")
        ET.SubElement(pool, "name").text = name
        ET.SubElement(ET.SubElement(pool, "target"), "path").text = str(directory)
        return ET.tostring(pool, encoding="unicode")

    def generic_volume(self, name: str = NAME, form: str = "raw", capacity: int = 50 << 20, allocation: int = 0) -> str:
        """Return the XML of a volume; sizes are in bytes."""
        volume = ET.Element("volume")
        ET.SubElement(volume, "name").text = name
        ET.SubElement(volume, "capacity").text = str(capacity)
        ET.SubElement(volume, "allocation").text = str(allocation)
        ET.SubElement(ET.SubElement(volume, "target"), "format", type=form)
        return ET.tostring(volume, encoding="unicode")
