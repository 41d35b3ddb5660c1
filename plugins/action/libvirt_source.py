# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action mayfly.virt.libvirt_source: bring the libvirt under test into a guest.

What is brought is read and judged on the controller, and the guest is asked once what it is and has; only then it is changed, by one
command that carries everything over.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import typing as t
import urllib.parse
import zipfile
from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleFileNotFound
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase

from ..module_utils._errors import InvalidInput, MayflyError
from ..plugin_utils import _libvirt_artifacts as la
from ..plugin_utils import _libvirt_source as ls
from ..plugin_utils._contact import MARK, ContactFailed, printable, run_once

_ARGUMENTS: dict[str, t.Any] = {
    "source": {"type": "str", "choices": ["distribution", "artifacts", "tree"], "required": True},
    "distributions": {"type": "dict", "required": True},
    "packages": {"type": "list", "elements": "str", "default": []},
    "artifacts": {"type": "list", "elements": "raw", "default": []},
    "skip": {"type": "list", "elements": "str", "default": []},
    "tree": {"type": "path"},
    "meson_options": {"type": "list", "elements": "str", "default": []},
    "install_seconds": {"type": "int", "default": 300},
    "build_seconds": {"type": "int", "default": 1800},
    "factor": {"type": "float", "default": 1.0},
}
_PROBE_SECONDS = 30
_GRACE = 30  # seconds beyond what a command may take: connecting to an emulated guest takes some
_BYTES_A_SECOND = 200_000  # that come into a slow guest
_DOWNLOAD_SECONDS = 60  # without a byte
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        name = str((task_vars or {}).get("inventory_hostname", "the guest"))
        try:
            with tempfile.TemporaryDirectory(prefix="mayfly-artifacts-") as workspace:
                work = self._plan(given, name, Path(workspace))
                result.update(changed=work.needed, source=given["source"], diff=work.diff, actions=work.actions)
                if work.needed and not self._task.check_mode:
                    self._apply(work, name)
        except MayflyError as error:
            raise AnsibleActionFail(str(error)) from error
        except ContactFailed as error:
            raise AnsibleActionFail(f"The libvirt under test could not be brought to {name}: {error}.") from error
        return result

    # --- what is to be done -------------------------------------------------------------------------------------

    def _plan(self, given: dict[str, t.Any], name: str, workspace: Path) -> Work:
        """Read what is brought, ask the guest, and decide. Nothing is changed here."""
        source = given["source"]
        if source != "artifacts" and given["artifacts"]:
            raise InvalidInput("Artifacts", f"for {name}", f"the source is {source}", "Set the source to artifacts.")
        if source != "tree" and given["tree"]:
            raise InvalidInput("Tree", given["tree"], f"the source is {source}", "Set the source to tree.")
        packages: list[la.Package] = []
        tree: tuple[str, Path] | None = None
        if source == "artifacts":
            packages = read_artifacts(given["artifacts"], given["skip"], self._find, workspace)
        elif source == "tree":
            tree = read_tree(given["tree"], self._find)
        guest, installed, stamp = self._probe()
        known = ls.known(guest.distribution, given["distributions"])
        if packages:
            return artifacts_work(packages, guest, installed, stamp, name, given)
        if tree:
            return tree_work(tree, stamp, given)
        return packages_work(given["packages"] or list(known["packages"]), guest, installed, given)

    def _find(self, path: str) -> Path:
        try:
            return Path(self._find_needle("files", path))
        except AnsibleFileNotFound:
            # Without its cause, which lists each path that Ansible tried.
            raise InvalidInput(
                "Path", path, "there is none of that name on the controller", "Name what an earlier stage left, best absolutely."
            ) from None

    # --- the guest ----------------------------------------------------------------------------------------------

    def _execute(self, command: str, data: bytes) -> dict[str, t.Any]:
        return self._low_level_execute_command(command, sudoable=True, in_data=data, encoding_errors="surrogateescape")

    def _probe(self) -> tuple[la.Guest, dict[str, str], str]:
        status, output, errors = run_once(self._execute, ls.probe_text(), b"\n", 6 * _PROBE_SECONDS)
        text = output.decode("utf-8", "replace").partition(MARK)[2]
        if not text:
            raise ContactFailed(f"it ended with status {status}: {printable(errors.strip())[:500]}")
        return ls.read_probe(text)

    def _apply(self, work: Work, name: str) -> None:
        limit = work.seconds + _GRACE + len(work.data) / _BYTES_A_SECOND
        status, _output, errors = run_once(self._execute, work.command, work.data or b"\n", limit)
        if status:
            told = "\n".join(printable(line) for line in errors.strip().splitlines()[-30:])
            remedy = "Nothing was changed in it." if status == ls.UNFIT else "The guest may be half changed: make it anew."
            raise MayflyError("bring the libvirt under test to", name, f"{work.what} cannot be installed:\n{told}\n", remedy)


class Work(t.NamedTuple):
    """What is to be done to a guest."""

    what: str
    needed: bool
    actions: list[str]
    diff: list[dict[str, str]]
    command: str = ""
    data: bytes = b""
    seconds: float = 0


def artifacts_work(
    packages: list[la.Package], guest: la.Guest, installed: dict[str, str], stamp: str, name: str, given: dict[str, t.Any]
) -> Work:
    la.check_guest(packages, guest, name)
    mark = f"artifacts {la.fingerprint(packages)}"
    needed = stamp != mark or bool(la.outdated(packages, installed))
    before = "".join(f"{package.name} {installed[package.name]}\n" for package in packages if package.name in installed)
    after = "".join(f"{package.name} {package.version}\n" for package in packages)
    data = pack(packages) if needed else b""
    return Work(
        what=f"{len(packages)} packages of {packages[0].source} {packages[0].source_version}",
        needed=needed,
        actions=[f"install {package.name} {package.version}" for package in packages] if needed else [],
        diff=[{"before_header": "packages", "after_header": "packages", "before": before, "after": after}] if needed else [],
        command=ls.files_text([package.path.name for package in packages], guest.manager, mark),
        data=data,
        seconds=given["install_seconds"] * given["factor"],
    )


def packages_work(names: list[str], guest: la.Guest, installed: dict[str, str], given: dict[str, t.Any]) -> Work:
    missing = [name for name in names if name not in installed]
    return Work(
        what=", ".join(missing),
        needed=bool(missing),
        actions=[f"install {name}" for name in missing],
        diff=[{"before_header": "packages", "after_header": "packages", "before": "", "after": "\n".join([*missing, ""])}]
        if missing
        else [],
        command=ls.packages_text(missing, guest.manager),
        seconds=given["install_seconds"] * given["factor"],
    )


def tree_work(tree: tuple[str, Path], stamp: str, given: dict[str, t.Any]) -> Work:
    kind, path = tree
    archive, digest = pack_tree(path)
    mark = f"{kind} {digest} {' '.join(given['meson_options']) if kind == 'source' else ''}".strip()
    seconds = given["build_seconds" if kind == "source" else "install_seconds"] * given["factor"]
    return Work(
        what=f"the {'source' if kind == 'source' else 'installed'} tree {path}",
        needed=stamp != mark,
        actions=[f"{'build' if kind == 'source' else 'install'} {path}"] if stamp != mark else [],
        diff=[{"before_header": "tree", "after_header": "tree", "before": f"{stamp}\n", "after": f"{mark}\n"}] if stamp != mark else [],
        command=ls.build_text(given["meson_options"], seconds, mark) if kind == "source" else ls.tree_text(mark),
        data=archive,
        seconds=seconds,
    )


# --- on the controller ------------------------------------------------------------------------------------------


def read_artifacts(entries: list[t.Any], skip: list[str], find: t.Callable[[str], Path], workspace: Path) -> list[la.Package]:
    """Return the packages of all entries, or refuse them."""
    if not entries:
        raise InvalidInput("Artifacts", "", "none are given", "Give a directory, an archive, or URLs with their SHA-256.")
    files: list[Path] = []
    where = []
    for number, entry in enumerate(entries):
        given = {"path": entry} if isinstance(entry, str) else dict(entry)
        unknown = sorted(set(given) - {"path", "url", "sha256"})
        if unknown or ("path" in given) == ("url" in given):
            raise InvalidInput("Artifact", str(entry)[:200], "it is not a path, nor has it either path or url, and sha256", "")
        directory = workspace / str(number)
        directory.mkdir()
        where.append(given.get("path") or given["url"])
        path = find(given["path"]) if "path" in given else download(given, directory)
        if given.get("sha256"):
            if path.is_dir():
                raise InvalidInput("Artifact", str(path), "a directory has no SHA-256", f"Put a file {la.SUMS} into it.")
            la.check_digest(path, check_sha256(given))
        files += files_of(path, directory)
    packages = [package for package in (la.read_package(path) for path in files) if package]
    chosen = la.choose(packages, skip)
    la.check_together(chosen, ", ".join(where))
    return chosen


def check_sha256(given: dict[str, t.Any]) -> str:
    digest = str(given.get("sha256") or "")
    if not _SHA256.fullmatch(digest):
        target = given.get("url") or given["path"]
        raise InvalidInput("Artifact", target, f"its sha256 '{digest}' is none", "Give the 64 hexadecimal digits that sha256sum prints.")
    return digest


def download(given: dict[str, t.Any], directory: Path) -> Path:
    """Fetch a file; its checksum is compared by the caller."""
    check_sha256(given)
    url = given["url"]
    name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    if not name.isprintable() or name in ("", ".", ".."):
        raise InvalidInput("Artifact", url, "it names no file", "Give the URL of one package or archive.")
    path = directory / name
    try:
        with open_url(url, http_agent="mayfly.virt", timeout=_DOWNLOAD_SECONDS) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file, _CHUNK)
    except OSError as error:  # URLError is one
        raise MayflyError("fetch artifact", url, str(error), "Nothing was changed.") from error
    return path


def files_of(path: Path, directory: Path) -> list[Path]:
    """Return the package files in a directory or an archive, or the one file that it is."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in la.SUFFIXES and file.is_file())
        sums = path / la.SUMS
        if sums.is_file():
            la.check_sums(path, files, sums.read_text(encoding="utf-8", errors="replace"))
        return files
    if path.suffix in la.SUFFIXES:
        return [path]
    unpacked = directory / "unpacked"
    unpacked.mkdir()
    try:
        unpack(path, unpacked)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InvalidInput("Artifacts", str(path), f"the archive cannot be read: {error}", "Bring it anew.") from error
    return files_of(unpacked, directory)


def unpack(path: Path, directory: Path) -> None:
    """Take package files and checksums out of an archive, and nothing else of it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    keep(entry.filename, lambda entry=entry, archive=archive: archive.open(entry), directory)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isreg():
                    keep(member.name, lambda member=member, tar=tar: tar.extractfile(member), directory)
    else:
        raise ValueError("it is neither a directory, a package (.deb, .rpm), a tar nor a zip archive")


def keep(name: str, opened: t.Callable[[], t.IO[bytes] | None], directory: Path) -> None:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or not name.isprintable():
        raise ValueError(f"it has an entry called {name!r}")
    if not (parts[-1].endswith(la.SUFFIXES) or parts[-1] == la.SUMS):
        return
    target = directory.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    file = opened()
    if file is not None:
        with file, target.open("xb") as out:
            shutil.copyfileobj(file, out, _CHUNK)


def read_tree(path: str | None, find: t.Callable[[str], Path]) -> tuple[str, Path]:
    """Return whether a tree is a source or an installed one, and where it lies."""
    if not path:
        raise InvalidInput("Tree", "", "none is given", "Give a source tree, or what DESTDIR=... meson install made.")
    found = find(path)
    if (found / "meson.build").is_file():
        return "source", found
    if any((found / place).is_file() for place in ("usr/sbin/libvirtd", "usr/sbin/virtqemud", "usr/bin/virtqemud")):
        return "installed", found
    raise InvalidInput(
        "Tree",
        str(found),
        "it has neither meson.build nor usr/sbin/libvirtd nor usr/sbin/virtqemud",
        "Give a source tree, or what DESTDIR=... meson install made with the prefix /usr.",
    )


def pack(packages: list[la.Package]) -> bytes:
    """Return package files as one archive; they are packed themselves."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for package in packages:
            archive.add(package.path, arcname=package.path.name, filter=_owned_by_root)
    return buffer.getvalue()


def pack_tree(path: Path) -> tuple[bytes, str]:
    """Return a tree as one archive, and what tells its content from another's."""
    buffer = io.BytesIO()
    digest = hashlib.sha256()

    def add(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        kept = _owned_by_root(member)
        if kept is not None:
            digest.update(f"{kept.name} {kept.mode:o} {kept.type!r} {kept.linkname} {kept.size}\n".encode("utf-8", "surrogateescape"))
            if kept.isreg():
                digest.update((path / kept.name).read_bytes())
        return kept

    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3, format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(os.listdir(path)):
            if name not in ("run", ".git", "build"):
                archive.add(path / name, arcname=f"./{name}", filter=add)
    return buffer.getvalue(), digest.hexdigest()


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Accounts of the controller mean nothing in the guest; sockets and devices are no part of a build."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
