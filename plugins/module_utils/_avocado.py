# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Avocado: pinned wheels to a virtual environment for another machine, without running anything of that machine. Pure."""

from __future__ import annotations

import configparser
import dataclasses
import re
import typing as t
import zipfile

from ._errors import InvalidInput, MayflyError
from ._pack import File

OLDEST = 108  # before, one skipped assertion hides the failed ones after it, and the test counts as skipped
MACHINES = ("x86_64", "aarch64")

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!-]+)(?P<rest>.*)")
_MARKER = re.compile(r""";\s*python_version\s*(?P<compare><|>=)\s*["'](?P<version>\d+\.\d+)["']""")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)")
_PYTHON = re.compile(r"3\.\d{1,2}")

# A wheel's top level that is no part of its program: the HTML plugin ships its own tests, and would hide a suite's package of that name.
_LEFT_OUT = ("tests/",)


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One pinned package, the checksums of its wheels, and for which versions of Python it is wanted."""

    name: str
    version: str
    hashes: frozenset[str]
    below: tuple[int, ...] = ()
    least: tuple[int, ...] = ()

    def wanted(self, python: tuple[int, ...]) -> bool:
        return (not self.below or python < self.below) and (not self.least or python >= self.least)


def python_version(text: str) -> tuple[int, ...]:
    if not _PYTHON.fullmatch(text):
        raise InvalidInput("Version of Python", text, "it is not written like 3.11", "Give major and minor number.")
    return tuple(int(part) for part in text.split("."))


def read_requirements(where: str, text: str) -> list[Requirement]:
    """Return what a file of requirements asks for, as pip reads it: each pinned, each with checksums, nothing else."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        parsed = _LINE.match(line)
        hashes = frozenset(_HASH.findall(line))
        if not parsed or not hashes:
            raise InvalidInput(
                "Requirements",
                where,
                f"'{line[:80]}' is not <name>==<version> with --hash=sha256:<digest>",
                "pip-compile --generate-hashes writes such.",
            )
        rest = _HASH.sub("", parsed["rest"]).strip()
        marker = _MARKER.fullmatch(rest) if rest else None
        if rest and not marker:
            raise InvalidInput("Requirements", where, f"'{rest[:80]}' is not understood", "Only python_version with < or >= is.")
        limit = python_version(marker["version"]) if marker else ()
        below = marker is not None and marker["compare"] == "<"
        name = re.sub(r"[-_.]+", "-", parsed["name"]).lower()
        found.append(Requirement(name, parsed["version"], hashes, below=limit if below else (), least=() if below else limit))
    return found


def check_version(version: str, where: str) -> str:
    """Return the version of Avocado, or refuse one that hides failures."""
    number = re.match(r"\d+", version)
    if not number:
        raise InvalidInput("Avocado", version, f"that is no version ({where})", "Correct it.")
    if int(number.group()) < OLDEST:
        raise InvalidInput(
            "Avocado", version, f"it is older than {OLDEST}, which shows failed tests as skipped ({where})", f"Use {OLDEST} or newer."
        )
    return version


def avocado_version(where: str, requirements: t.Iterable[Requirement]) -> str:
    for requirement in requirements:
        if requirement.name == "avocado-framework":
            return check_version(requirement.version, where)
    raise InvalidInput("Requirements", where, "avocado-framework is not among them", "Add it, or leave the file out.")


def pip_platforms(machine: str) -> list[str]:
    """Return the platforms that pip download is told."""
    if machine not in MACHINES:
        raise InvalidInput(
            "Machine", machine, "no wheels are pinned for it", f"Known: {', '.join(MACHINES)}. Or let pip in the guest install Avocado."
        )
    return [f"manylinux2014_{machine}", f"manylinux_2_17_{machine}"]


def usable(wheel: str, python: tuple[int, ...], machine: str) -> bool:
    """Tell by its name whether a wheel is for this Python and machine."""
    parts = wheel[: -len(".whl")].split("-")
    if len(parts) < 5:
        return False
    tags, _abi, platforms = parts[-3].split("."), parts[-2], parts[-1].split(".")
    own = f"cp{python[0]}{python[1]}"
    fits = "py3" in tags or own in tags
    return fits and ("any" in platforms or any(name.startswith("manylinux") and name.endswith(machine) for name in platforms))


def choose(
    requirements: t.Sequence[Requirement], digests: t.Mapping[str, str], python: tuple[int, ...], machine: str, where: str
) -> dict[str, str]:
    """Return the wheel for each requirement by name, from the wheels there are and their checksums."""
    chosen = {}
    for requirement in requirements:
        if not requirement.wanted(python):
            continue
        fitting = [wheel for wheel, digest in sorted(digests.items()) if digest in requirement.hashes and usable(wheel, python, machine)]
        if not fitting:
            named = sorted(wheel for wheel in digests if re.sub(r"[-_.]+", "-", wheel).lower().startswith(f"{requirement.name}-"))
            others = f"; of {', '.join(named)} none has a checksum that is pinned, or none is for it" if named else ""
            raise MayflyError(
                "find the wheel of",
                f"{requirement.name} {requirement.version}",
                f"{where} has none for Python {python[0]}.{python[1]} on {machine}{others}",
                "Put it there, or leave avocado_wheels empty so that pip fetches it.",
            )
        chosen[requirement.name] = fitting[0]
    return chosen


# -- a virtual environment ----------------------------------------------------------------------------------------------

_SCRIPT = """\
#!{prefix}/bin/python3
import sys
from {module} import {function}
sys.exit({call}())
"""


def environment(wheels: t.Iterable[zipfile.ZipFile], prefix: str, python: tuple[int, ...], site_packages: bool) -> dict[str, File]:
    """Return the files of a virtual environment at the prefix, as `venv` and `pip` would make it: by relative path.

    An environment is a directory with a pyvenv.cfg, a link to its interpreter, packages and scripts. So it can be made on a fast machine.
    """
    version = f"{python[0]}.{python[1]}"
    packages = f"lib/python{version}/site-packages"
    config = f"home = /usr/bin\ninclude-system-site-packages = {'true' if site_packages else 'false'}\nversion = {version}\n"
    files = {
        "pyvenv.cfg": File(config.encode()),
        "bin/python3": File(target=f"/usr/bin/python{version}"),
        "bin/python": File(target="python3"),
    }
    for wheel in wheels:
        for member in wheel.infolist():
            if member.is_dir() or member.filename.startswith(_LEFT_OUT):
                continue
            if ".data/" in member.filename or ".." in member.filename.split("/") or member.filename.startswith("/"):
                raise MayflyError(
                    "unpack wheel", str(wheel.filename), f"it wants {member.filename} in a place of its own, which is not done here"
                )
            content = wheel.read(member)
            files[f"{packages}/{member.filename}"] = File(content, bool(member.external_attr >> 16 & 0o100))
            if member.filename.endswith(".dist-info/entry_points.txt"):
                files |= scripts(content.decode(), prefix)
    return files


def scripts(entry_points: str, prefix: str) -> dict[str, File]:
    """Return the programs that a wheel's entry points ask for."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(entry_points)
    found = {}
    for name, value in parser.items("console_scripts") if parser.has_section("console_scripts") else []:
        module, _colon, call = value.partition(":")
        text = _SCRIPT.format(prefix=prefix, module=module.strip(), function=call.strip().split(".")[0], call=call.strip())
        found[f"bin/{name}"] = File(text.encode(), executable=True)
    return found
