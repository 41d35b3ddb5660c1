# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backing chains: the rules, and what to say to qemu-img."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ._errors import InvalidInput, MayflyError
from ._types import RunCommand

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Layer:
    """One file of a chain."""

    path: str
    format: str
    virtual_size: int  # bytes


@dataclasses.dataclass(frozen=True)
class Chain:
    """A disk and what it stands on, topmost first."""

    layers: tuple[Layer, ...]

    @property
    def top(self) -> Layer:
        return self.layers[0]

    @property
    def backing(self) -> tuple[Layer, ...]:
        return self.layers[1:]


def info_argv(path: Path, form: str = "") -> list[str]:
    # -U: the question must also be answered while a guest holds the file. A given format is believed, for in a raw disk the guest
    # could write what looks like a chain to any file of the host.
    given = ["-f", form] if form else []
    return ["qemu-img", "info", "-U", *given, "--backing-chain", "--output=json", str(path)]


def create_argv(path: Path, base: Layer, size: int) -> list[str]:
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", base.format, "-b", base.path, str(path), str(size)]


def parse_info(text: str) -> Chain:
    """Return the chain from the answer to info_argv."""
    layers = [Layer(entry["filename"], entry["format"], entry["virtual-size"]) for entry in json.loads(text)]
    return Chain(tuple(layers))


def read_chain(path: Path, run_command: RunCommand, form: str = "") -> Chain:
    """Ask qemu-img for the whole chain below a file. Every member must be there."""
    code, out, err = run_command(info_argv(path, form))
    if code != 0:
        raise MayflyError(
            "read backing chain of",
            str(path),
            err.strip() or f"qemu-img ended with status {code}",
            "Is every backing file in its place and a disk image?",
        )
    return parse_info(out)


def overlay_size(name: str, base: Layer, size_gib: int | None, default_gib: int = 20) -> int:
    """Return the overlay's size in bytes: never less than what it stands on."""
    if size_gib is None:
        return max(default_gib * GIB, base.virtual_size)
    if size_gib * GIB < base.virtual_size:
        raise InvalidInput(
            "Overlay",
            name,
            f"its size of {size_gib} GiB is less than the {base.virtual_size / GIB:.1f} GiB of its base {base.path}",
            f"Ask for at least {-(-base.virtual_size // GIB)} GiB, or leave the size out.",
        )
    return size_gib * GIB


def check_same(path: Path, seen: Chain, base: Layer, size: int) -> None:
    """Refuse an existing overlay that is not the wanted one: it may hold somebody's data and is never overwritten."""
    below = seen.backing[0].path if seen.backing else "nothing"
    if below != base.path or seen.top.virtual_size != size:
        raise MayflyError(
            "use overlay",
            str(path),
            f"it exists with {seen.top.virtual_size} bytes on {below}, wanted are {size} bytes on {base.path}",
            "Remove it first (state: absent), or ask for what is there.",
        )
