# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer: what a person writes with libvirt-python and qemu-img, one guest after the other. Uses nothing of Mayfly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import libvirt

image = json.loads(sys.argv[1])
connection = libvirt.open("qemu:///system")
work = Path(image["path"]).parents[1] / "loop-files"
work.mkdir(mode=0o755)
subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / "id")], check=True)
for number, name in enumerate(sys.argv[2:]):
    disk, seed, tree = work / f"{name}.qcow2", work / f"{name}.iso", work / f"{name}.seed"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image["path"], str(disk), "20G"], check=True)
    tree.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / f"{name}.host")], check=True)
    (tree / "meta-data").write_text(json.dumps({"instance-id": name, "local-hostname": name}))
    key = (work / f"{name}.host").read_text()
    (tree / "user-data").write_text("#cloud-config\n" + json.dumps({"ssh_keys": {"ed25519_private": key}}))
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o", str(seed), str(tree)], check=True)
    connection.createXML(f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/><vmcoreinfo state='on'/></features>
  <cpu mode='maximum'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/><source file='{disk}'/>
      <backingStore type='file'><format type='qcow2'/><source file='{image["path"]}'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{seed}'/><target dev='vdb' bus='virtio'/><readonly/>
    </disk>
    <interface type='network'><mac address='52:54:00:be:0c:{number:02x}'/><source network='mayfly'/><model type='virtio'/></interface>
    <serial type='pty'><log file='{work}/{name}.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <panic model='isa'/>
  </devices>
</domain>""")
