# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is given that its image does not have, made here at full speed: a kernel module of ours, and packages of Debian.

Both must fit the image to the version. Nothing is installed here: Debian's packages are unpacked below build/.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "kernel_faults"
COREDUMP = "systemd-coredump"  # without libdw1, which the image has with its bpftrace, it knows no backtraces


class NotInTheArchive(Exception):
    """Debian has another version now: the image is older."""


def build(image: dict[str, Any], target: Path) -> Path:
    """Return a directory with mayfly_faults.ko for the image's kernel, and the package systemd-coredump for its systemd."""
    files = target / "files"
    made_from = target / "made-from"
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()
    mark = f"{image['digest']} {sources}\n"
    if made_from.exists() and made_from.read_text() == mark:
        return files
    shutil.rmtree(target, ignore_errors=True)
    files.mkdir(parents=True)
    listing = Path(image["path"]).with_suffix(".packages.txt").read_text()
    versions = {name: version for name, version, _architecture in map(str.split, listing.splitlines())}
    _download([f"{COREDUMP}={versions['systemd']}"], files)
    _build_module(image["kernel_release"], target, files)
    made_from.write_text(mark)
    return files


def _download(packages: list[str], target: Path) -> None:
    done = subprocess.run(["apt-get", "-q", "download", *packages], cwd=target, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotInTheArchive(done.stdout + done.stderr)


def _build_module(release: str, target: Path, files: Path) -> None:
    """Debian's headers and build tools, as they lie below /usr, and what they say of the compiler."""
    debs, root, sources = target / "debs", target / "root", target / "kernel_faults"
    debs.mkdir()
    version, flavour = release.rsplit("-", 2)[0], release.removesuffix("-amd64").rpartition("-")[2]
    common = release.removesuffix(f"-{flavour}-amd64")
    kbuild = ".".join(version.split(".")[:2])
    _download([f"linux-headers-{release}", f"linux-headers-{common}-common", f"linux-kbuild-{kbuild}"], debs)
    for deb in debs.iterdir():
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    headers = root / "usr" / "src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("include /usr/src/", f"include {root}/usr/src/"))
    shutil.copytree(SOURCES, sources)
    # Not with the flags of the make that may run the tests.
    argv = ["env", "-i", "PATH=/usr/bin:/bin", "make", "-s", "-C", str(headers), f"M={sources}", "modules"]
    subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    shutil.copy(sources / "mayfly_faults.ko", files)
