# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image recipes: what a built image is made of, and the mmdebstrap call that makes it. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing as t

from ._errors import InvalidInput

ROOT_LABEL = "mayfly-root"

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_/:~=-]*")
_FRESHNESS = re.compile(r'Acquire::(Check-Valid-Until|Check-Date) "[a-z0-9]+";')
_KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
_BASE_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "init",
    "iproute2",
    "libpam-systemd",
    "openssh-server",
    "python3",
    "qemu-guest-agent",
    "sudo",
    "systemd-resolved",
    "udev",
    "zstd",
)
_CMDLINE = f"root=LABEL={ROOT_LABEL} ro console=tty0 console=ttyS0 net.ifnames=0"

# cloud-init runs in Python under emulation, where each module costs a second: only those that a seed of ours can ask for.
_CLOUD_CFG = """\
users: []
disable_root: false
preserve_hostname: false
datasource_list: [NoCloud, None]
cloud_init_modules: [seed_random, bootcmd, write-files, set_hostname, update_hostname, ca-certs, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
system_info:
  distro: debian
  paths: {cloud_dir: /var/lib/cloud/, templates_dir: /etc/cloud/templates/}
  network: {renderers: [networkd]}
  ssh_svcname: ssh
"""

_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
)

# Runs on the builder with the new root as $1.
_SETUP = """\
set -eu
root=$1
mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/usr/share/initramfs-tools/modules.d"
# A guest of ours has virtio disks; the panic device must speak before the root file system is there.
echo MODULES=list >"$root/etc/initramfs-tools/conf.d/mayfly"
printf '%s\\n' virtio_pci virtio_blk virtio_scsi sd_mod ext4 pvpanic_mmio pvpanic_pci >"$root/usr/share/initramfs-tools/modules.d/mayfly"
if [ -n "$SUITES" ]; then
    # The added suites come from the mirror that the first one comes from.
    mirror=$(sed -n 's/^deb \\(\\[[^]]*\\] \\)\\{0,1\\}\\([^ ]*\\) .*/\\2/p' "$root/etc/apt/sources.list" | head -n 1)
    for suite in $SUITES; do
        echo "deb $mirror $suite $COMPONENTS" >>"$root/etc/apt/sources.list"
    done
fi
"""

_CUSTOMIZE = """\
set -eu
root=$1
# Nothing of the builder, nothing that two guests would share.
: >"$root/etc/machine-id"
: >"$root/etc/hostname"
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
echo "LABEL=$ROOT_LABEL / ext4 defaults,x-systemd.growfs 0 1" >"$root/etc/fstab"
install -m 0644 "$FILES/cloud.cfg" "$root/etc/cloud/cloud.cfg"
# networkd's identifier would come from machine-id; cloud-init's networkd renderer drops dhcp-identifier. It names its files by card.
for number in 0 1 2 3; do
    dropin="$root/etc/systemd/network/10-cloud-init-eth$number.network.d"
    mkdir -p "$dropin"
    printf '[DHCPv4]\\nClientIdentifier=mac\\n' >"$dropin/mayfly.conf"
done
chroot "$root" systemctl enable systemd-networkd.service systemd-resolved.service
chroot "$root" systemctl mask $MASKED
if [ -d "$FILES/ca" ]; then
    cp "$FILES"/ca/*.crt "$root/usr/local/share/ca-certificates/"
    chroot "$root" update-ca-certificates
fi
chroot "$root" dpkg-query -W -f '${Package} ${Version} ${Architecture}\\n' >"$FILES/packages.txt"
for image in "$root"/boot/vmlinuz-*; do
    [ -e "$image" ] || continue
    release=${image##*/vmlinuz-}
    # The newest kernel is the one to boot, as update-grub would choose.
    newest=$(printf '%s\\n%s\\n' "${newest:-$release}" "$release" | sort -V | tail -n 1)
done
if [ -n "${newest:-}" ]; then
    cp "$root/boot/vmlinuz-$newest" "$FILES/vmlinuz"
    cp "$root/boot/initrd.img-$newest" "$FILES/initrd"
    echo "$newest" >"$FILES/release"
fi
"""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the option RV(recipe) of an image says, and nothing that depends on when or where it is built."""

    suite: str
    packages: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    kernel: str = "cloud"
    kernel_suite: str = ""
    cmdline: str = ""
    ca_certificates: tuple[str, ...] = ()  # PEM
    disk_gib: int = 4
    serial: str = ""

    def canonical(self) -> dict[str, t.Any]:
        """Return the recipe as it is kept in a manifest: equal recipes give equal images."""
        data = dataclasses.asdict(self)
        data["packages"] = sorted(set(self.packages))
        data["suites"] = list(self.suites)
        data["components"] = list(self.components)
        data["ca_certificates"] = [hashlib.sha256(pem.encode()).hexdigest() for pem in self.ca_certificates]
        # When this file makes another image of the same recipe, stored ones are built anew.
        made_by = [_SETUP, _CUSTOMIZE, _CLOUD_CFG, hook_environment(self, ""), self.full_cmdline()]
        made_by += [mmdebstrap_argv(self, "", ""), mke2fs_argv(self, "", "")]
        data["made_by"] = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        return data

    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()

    def kernel_package(self) -> str:
        package = _KERNELS.get(self.kernel, self.kernel)
        return f"{package}/{self.kernel_suite}" if self.kernel_suite else package

    def full_cmdline(self) -> str:
        return f"{_CMDLINE} {self.cmdline}".strip()


def check(name: str, recipe: Recipe) -> None:
    """Refuse words that would not be words to apt or the shell."""
    words = [recipe.suite, recipe.kernel, *recipe.suites, *recipe.components, *recipe.packages]
    for word in [*words, *([recipe.kernel_suite] if recipe.kernel_suite else [])]:
        if not _WORD.fullmatch(word):  # neither an option nor two words
            raise InvalidInput("Recipe of image", name, f"'{word}' is no name of a suite or package", "Use the names that apt knows.")
    if recipe.kernel_suite and recipe.kernel_suite not in (recipe.suite, *recipe.suites):
        raise InvalidInput(
            "Recipe of image",
            name,
            f"kernel_suite '{recipe.kernel_suite}' is not among its suites",
            "Add it to suites.",
        )


def files(recipe: Recipe) -> dict[str, str]:
    """Return the files that the hooks read, by path below their directory."""
    authorities = {f"ca/mayfly-{number}.crt": pem for number, pem in enumerate(recipe.ca_certificates)}
    return {"cloud.cfg": _CLOUD_CFG, "setup": _SETUP, "customize": _CUSTOMIZE, **authorities}


def hook_environment(recipe: Recipe, files_dir: str) -> dict[str, str]:
    return {
        "FILES": files_dir,
        "SUITES": " ".join(recipe.suites),
        "COMPONENTS": " ".join(recipe.components),
        "MASKED": " ".join(_MASKED),
        "ROOT_LABEL": ROOT_LABEL,
        "LC_ALL": "C.UTF-8",
    }


def freshness_options(dump: str) -> list[str]:
    """Return what the builder's own apt was told about the age of a mirror's lists, from the output of apt-config dump.

    A machine whose mirror keeps a suite for longer than the suite's signature says can build images from it no other way.
    """
    return [line.rstrip(";") for line in dump.splitlines() if _FRESHNESS.fullmatch(line)]


def mmdebstrap_argv(recipe: Recipe, root: str, files_dir: str, mirror: str = "", apt_options: t.Sequence[str] = ()) -> list[str]:
    """Return the call that fills root. Without a mirror, mmdebstrap knows the distribution's own, security updates included."""
    packages = [*_BASE_PACKAGES, recipe.kernel_package(), *sorted(set(recipe.packages))]
    argv = [
        # mmdebstrap mounts /proc, /sys and /dev into the new root; in a namespace of their own these end with it, kill -9 included.
        *("unshare", "--mount", "--propagation", "private"),
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--components={','.join(recipe.components)}",
        f"--include={','.join(packages)}",
        f'--setup-hook=sh "{files_dir}/setup" "$1"',
        f'--customize-hook=sh "{files_dir}/customize" "$1"',
        *(f"--aptopt={option}" for option in apt_options),
        recipe.suite,
        root,
    ]
    return [*argv, mirror] if mirror else argv


def mke2fs_argv(recipe: Recipe, root: str, image: str) -> list[str]:
    options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    return [
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-L",
        ROOT_LABEL,
        "-J",
        "size=16",
        "-E",
        options,
        "-d",
        root,
        image,
        f"{recipe.disk_gib}G",
    ]
