# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is asked and told when a libvirt is brought into it, as shell text, and how its answers are read. Pure."""

from __future__ import annotations

import shlex
import typing as t

from ..module_utils._errors import InvalidInput
from ._contact import MARK
from ._libvirt_artifacts import Guest

STAMP = "/var/lib/mayfly-libvirt/source"  # what was brought last: its kind and fingerprint
UNFIT = 20  # exit status: refused before anything was changed

_APT = "-y -q --no-install-recommends --allow-downgrades -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
_APT += " -o Dpkg::Options::=--force-unsafe-io"  # a guest that is gone tomorrow
_DNF = "-y --nogpgcheck --allowerasing --setopt=install_weak_deps=False"


def probe_text() -> str:
    """Shell text that prints what the machine is and has."""
    return "\n".join(
        [
            "LC_ALL=C; export LC_ALL",
            f"printf '%s\\n' {MARK.strip()}",
            '(. /etc/os-release; echo "distribution $ID-$VERSION_ID")',
            'echo "machine $(uname -m)"',
            f'[ -e {STAMP} ] && echo "stamp $(cat {STAMP})"',
            "if command -v dpkg-query >/dev/null; then",
            "  echo manager apt",
            "  dpkg-query -W -f 'package ${db:Status-Status} ${Package} ${Version}\\n'",
            "elif command -v rpm >/dev/null; then",
            "  echo manager dnf",
            "  rpm -qa --qf 'package installed %{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\n'",
            "fi",
        ]
    )


def read_probe(text: str) -> tuple[Guest, dict[str, str], str]:
    """Return the machine, its packages with their versions, and what was brought last."""
    facts: dict[str, str] = {}
    installed = {}
    for line in text.splitlines():
        word, _space, rest = line.partition(" ")
        if word == "package":
            status, _space, package = rest.partition(" ")
            if status == "installed":
                name, _space, version = package.partition(" ")
                installed[name] = version
        else:
            facts[word] = rest
    return (
        Guest(facts.get("distribution", "unknown"), facts.get("machine", "unknown"), facts.get("manager", "")),
        installed,
        facts.get("stamp", ""),
    )


def known(distribution: str, distributions: t.Mapping[str, t.Mapping[str, t.Any]]) -> t.Mapping[str, t.Any]:
    """Return what is known of a distribution, or refuse it."""
    for name in (distribution, f"{distribution.rpartition('-')[0]}-*"):
        if name in distributions:
            return distributions[name]
    names = ", ".join(sorted(distributions))
    raise InvalidInput("Distribution of the guest", distribution, f"the role knows {names}", "Use a guest with one of these.")


def packages_text(names: t.Sequence[str], manager: str) -> str:
    """Shell text that installs packages by name."""
    words = " ".join(shlex.quote(name) for name in names)
    return "\n".join([*_head(), "cd /", *_install(words, manager, "names"), "unset SYSTEMD_OFFLINE; systemctl daemon-reload"])


def files_text(names: t.Sequence[str], manager: str, stamp: str) -> str:
    """Shell text that installs the package files that come in an archive on its standard input, and what they depend on.

    What cannot be installed together is found before anything is changed.
    """
    words = " ".join(shlex.quote(f"./{name}") for name in names)
    return "\n".join([*_head(), *_unpack(), *_install(words, manager, "files"), *_stamp(stamp)])


def tree_text(stamp: str) -> str:
    """Shell text that puts a staged installation, an archive on its standard input, over the root file system.

    Files in /etc that are there stay: they may have been set up already.
    """
    return "\n".join(
        [
            *_head(),
            'cat > "$dir/tree.tar"',
            *_no_newer_library(),
            'put() { tar -C / -xf "$dir/tree.tar" --no-same-owner --keep-directory-symlink "$@"; }',
            "put --no-overwrite-dir --exclude=./etc",
            'if tar -tf "$dir/tree.tar" ./etc >/dev/null 2>&1; then put --skip-old-files ./etc; fi',
            "ldconfig",
            *_stamp(stamp),
        ]
    )


def _no_newer_library() -> list[str]:
    """The loader takes the library with the highest number, whoever installed it."""
    message = '"the library $directory/$newest is newer than $target of the tree, and would be used instead"'
    return [
        "link=$(tar -tvf \"$dir/tree.tar\" | sed -n 's|.* [.]\\(/.*/libvirt[.]so[.]0\\) -> \\(libvirt[.]so[.]0[.0-9]*\\)$|\\1 \\2|p')",
        'if [ -n "$link" ]; then',
        '  directory=$(dirname "${link% *}") target=${link#* }',
        '  newest=$({ echo "$target"; cd "$directory" && ls libvirt.so.0.*; } 2>/dev/null | sort -V | tail -n 1)',
        f'  [ "$newest" = "$target" ] || {{ echo {message} >&2; exit {UNFIT}; }}',
        "fi",
    ]


def build_text(options: t.Sequence[str], seconds: float, stamp: str) -> str:
    """Shell text that builds the source tree that comes in an archive on its standard input, and installs it."""
    words = " ".join(shlex.quote(option) for option in options)
    steps = f"meson setup build {words} && ninja -C build"
    return "\n".join(
        [
            *_head(),
            "for program in meson ninja cc; do",
            f'  command -v "$program" >/dev/null || {{ echo "the program $program is not installed in it" >&2; exit {UNFIT}; }}',
            "done",
            *_unpack(),
            f"timeout {seconds:.0f} sh -c {shlex.quote(steps)} > build.log 2>&1 || {{ tail -n 30 build.log >&2; exit {UNFIT}; }}",
            "meson install -C build --no-rebuild > build.log 2>&1 || { tail -n 30 build.log >&2; exit 1; }",
            "ldconfig",
            *_stamp(stamp),
        ]
    )


def _head() -> list[str]:
    return [
        "set -eu; umask 022",
        f"[ -d /run/systemd/system ] || {{ echo 'systemd does not run in it' >&2; exit {UNFIT}; }}",
        # Packages' scripts restart daemons, one after the other: whoever sets them up does that, once.
        "LC_ALL=C DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1; export LC_ALL DEBIAN_FRONTEND SYSTEMD_OFFLINE",
        "dir=$(mktemp -d /var/tmp/mayfly-libvirt.XXXXXXXX)",
        "trap 'cd /; rm -rf \"$dir\"' EXIT HUP INT TERM",
    ]


def _unpack() -> list[str]:
    return ['tar -xf - --no-same-owner -C "$dir"', 'cd "$dir"']


def _install(words: str, manager: str, what: str) -> list[str]:
    log = '"$dir/.log"'
    refuse = f"{{ tail -n 30 {log} >&2; exit {UNFIT}; }}"
    fail = f"{{ tail -n 30 {log} >&2; exit 1; }}"
    if manager == "apt":
        again = " --reinstall" if what == "files" else ""
        # An image has no lists of packages. They are only fetched where the files do not suffice.
        return [
            f"if ! apt-get -s {_APT} install {words} >/dev/null 2>&1; then",
            f"  apt-get -q update > {log} 2>&1 || {refuse}",
            f"  apt-get -s {_APT} install {words} > {log} 2>&1 || {refuse}",
            "fi",
            f"apt-get {_APT}{again} install {words} > {log} 2>&1 </dev/null || {fail}",
        ]
    return [
        f"dnf {_DNF} --setopt=tsflags=test install {words} > {log} 2>&1 </dev/null || {refuse}",
        f"dnf {_DNF} install {words} > {log} 2>&1 </dev/null || {fail}",
    ]


def _stamp(stamp: str) -> list[str]:
    return [
        "unset SYSTEMD_OFFLINE; systemctl daemon-reload",
        f"mkdir -p {STAMP.rpartition('/')[0]}",
        f"echo {shlex.quote(stamp)} > {STAMP}",
    ]
