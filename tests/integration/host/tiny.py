# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that boots in seconds under emulation: the kernel of a stored image, and an initial RAM disk with busybox.

It asks for an address by DHCP, like any guest, and then does what the word tiny=... on its command line says. It has no sshd and no
cloud-init: what needs those is tested on a real Debian guest.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

MODULES = ("virtio_net", "virtio_pci", "virtio_blk", "pvpanic-mmio", "qemu_fw_cfg")

INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /lib/modules/order); do insmod "/lib/modules/$module"; done
what=$(sed -n 's/.*tiny=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
case $what in
panic) echo c >/proc/sysrq-trigger ;;
off) poweroff -f ;;
write) cat /proc/version /dev/zero 2>/dev/null | dd of=/dev/vda bs=4096 count=16 iflag=fullblock conv=fsync ;;
silent) while :; do sleep 60; done ;;
esac
ip link set lo up
ip link set eth0 up
udhcpc -q -i eth0 -s /bin/lease
case $what in
# Can it reach a TCP port? probe:ADDRESS:PORT:ROUTE, where ROUTE is "direct" or a gateway to go by.
probe:*)
    IFS=: read -r _ address port route <<X
$what
X
    [ "$route" = direct ] || ip route add "$address/32" via "$route"
    if nc -w 5 "$address" "$port" </dev/null >/dev/null 2>&1; then echo "tiny: reached $address:$port"
    else echo "tiny: cannot reach $address:$port"; fi ;;
# Or answer on one.
listen:*) echo "tiny: listening"; while :; do nc -l -p "${what#listen:}" -e /bin/true; done & ;;
esac
echo "tiny: ready"
while :; do sleep 60; done
"""

LEASE = """\
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
"""


def build(image: dict[str, str], target: Path) -> dict[str, Path]:
    """Make kernel, initial RAM disk and an empty disk from a stored image; return their paths. Nothing is made twice."""
    files = {"kernel": target / "vmlinuz", "initrd": target / "initrd", "disk": target / "disk.qcow2"}
    made_from = target / "made-from"
    mark = json.dumps([image["digest"], MODULES, INIT, LEASE])
    if made_from.exists() and made_from.read_text() == mark:
        return files
    shutil.rmtree(target, ignore_errors=True)
    root = target / "root"
    modules = root / "lib" / "modules"
    for directory in ("bin", "dev", "proc", "sys", "lib/modules"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    _write(root / "init", INIT)
    _write(root / "bin" / "lease", LEASE)
    names = _copy_modules(image, modules, target)
    (modules / "order").write_text("\n".join(names) + "\n")
    listing = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=listing.encode(), capture_output=True, check=True)
    files["initrd"].write_bytes(gzip.compress(archive.stdout, 1))
    shutil.copy(image["kernel"], files["kernel"])
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(files["disk"]), "64M"], check=True)
    made_from.write_text(mark)
    return files


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _copy_modules(image: dict[str, str], target: Path, scratch: Path) -> list[str]:
    """Read the modules out of the image's file system, each after those it depends on; return their file names in order."""
    raw = scratch / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", image["path"], str(raw)], check=True)
    base = f"/usr/lib/modules/{image['kernel_release']}"
    dep = scratch / "modules.dep"
    _dump(raw, f"{base}/modules.dep", dep)
    needs = {line.split(":")[0]: line.split(":")[1].split() for line in dep.read_text().splitlines()}
    order: list[str] = []

    def visit(path: str) -> None:
        for needed in needs[path]:
            visit(needed)
        if path not in order:
            order.append(path)

    for module in MODULES:
        visit(next(path for path in needs if path.endswith(f"/{module}.ko")))
    for path in order:
        _dump(raw, f"{base}/{path}", target / Path(path).name)
    raw.unlink()
    return [Path(path).name for path in order]


def _dump(raw: Path, path: str, target: Path) -> None:
    subprocess.run(["debugfs", "-R", f"dump {path} {target}", str(raw)], capture_output=True, check=True)
    assert target.stat().st_size > 0, f"{path} is not in the image"
