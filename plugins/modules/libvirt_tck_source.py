#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module libvirt_tck_source: libvirt-tck from git, an archive or a directory, as one file for a guest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_tck_source
short_description: Fetch libvirt-tck from git, an archive or a directory
version_added: 0.2.0
description:
  - Runs on the controller. Takes libvirt-tck from where it lies, makes sure that it is what was asked for, and packs what a guest
    needs of it into one archive in O(cache). The same files make the same archive.
  - Nothing is built. The library and the tests run from the tree as it is.
extends_documentation_fragment:
  - mayfly.virt._attributes.elsewhere
options:
  repository:
    description:
      - URL or path of a git repository. Needs O(commit).
    type: str
  commit:
    description:
      - The commit, all 40 hexadecimal digits. Branches and tags are refused, because they may be others next week.
    type: str
  archive:
    description:
      - URL or path of a tar archive, compressed or not. Needs O(sha256).
    type: str
  sha256:
    description:
      - SHA-256 of O(archive), 64 hexadecimal digits.
    type: str
  path:
    description:
      - A directory on the controller, such as a checkout. What it holds now is taken, committed or not.
    type: path
  cache:
    description:
      - Directory on the controller for repositories and for the packed archives. It is made if it is not there.
    type: path
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Take a commit of libvirt-tck
  mayfly.virt.libvirt_tck_source:
    repository: https://gitlab.com/libvirt/libvirt-tck.git
    commit: 0123456789abcdef0123456789abcdef01234567
    cache: ~/.cache/mayfly
  delegate_to: localhost
"""

RETURN = r"""
archive:
  description: The packed tree on the controller, a gzipped tar.
  returned: success, but not in check mode when it would have to be fetched
  type: str
  sample: /home/me/.cache/mayfly/libvirt-tck-1c2d3e4f5a6b7c8d.tar.gz
key:
  description: SHA-256 of the packed tree, shortened to 16 digits.
  returned: when RV(archive) is
  type: str
  sample: 1c2d3e4f5a6b7c8d
version:
  description: Version that the library says of itself.
  returned: when RV(archive) is
  type: str
  sample: 2.1.0
last:
  description: Path of the last file in the archive. Where it is there, all are.
  returned: when RV(archive) is
  type: str
  sample: scripts/storage/255-vol-qcow2-backing-store-auto.t
tests:
  description: Number of tests in it.
  returned: when RV(archive) is
  type: int
  sample: 95
origin:
  description: Where it comes from, in words.
  returned: success
  type: str
  sample: commit 0123456789abcdef0123456789abcdef01234567 of https://gitlab.com/libvirt/libvirt-tck.git
"""

import hashlib
import io
import os
import tarfile
import tempfile
import typing as t
import urllib.error
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ..module_utils import _tck
from ..module_utils._errors import InvalidInput, MayflyError, failing
from ..module_utils._pack import File, pack

LIMIT = 64 << 20  # bytes of an archive; the whole TCK has 1 MiB
GIT_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}


def from_path(path: str) -> dict[str, File]:
    root = Path(path)
    if not root.is_dir():
        raise InvalidInput("Source of libvirt-tck", path, "there is no such directory on the controller", "Correct the path.")
    files = {}
    for directory, names, plain in os.walk(root):
        names[:] = [name for name in names if name not in (".git", "blib", "_build")]
        for name in plain:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                files[str(file.relative_to(root))] = File(file.read_bytes(), os.access(file, os.X_OK))
    return files


def from_tar(where: str, content: bytes) -> dict[str, File]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = [member for member in archive if member.isfile()]
            if sum(member.size for member in members) > LIMIT:
                raise InvalidInput("Archive of libvirt-tck", where, f"it holds more than {LIMIT >> 20} MiB", "Is it the right file?")
            return {member.name: File(archive.extractfile(member).read(), bool(member.mode & 0o100)) for member in members}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MayflyError("read archive", where, f"it is no tar archive that can be read ({error})", "Fetch it again.") from error


def from_archive(location: str, sha256: str) -> dict[str, File]:
    try:
        if "://" in location:
            content = open_url(location, http_agent="mayfly.virt", timeout=60).read(LIMIT + 1)
        else:
            content = Path(location).read_bytes()
    except (OSError, urllib.error.URLError) as error:
        raise MayflyError("fetch archive", location, str(error), "Is it there, and can the controller reach it?") from error
    if len(content) > LIMIT:
        raise InvalidInput("Archive of libvirt-tck", location, f"it has more than {LIMIT >> 20} MiB", "Is it the right file?")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise MayflyError(
            "verify archive", location, f"its SHA-256 is {found}, not {sha256}", "Find out which of the two is wrong before you go on."
        )
    return from_tar(location, content)


class Repository:
    """A bare copy of a git repository in the cache."""

    def __init__(self, module: AnsibleModule, url: str, cache: Path) -> None:
        self._module, self._url = module, url
        self._path = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"

    def _git(self, *words: str) -> tuple[int, str]:
        code, _out, err = self._module.run_command(
            ["git", "-C", str(self._path), *words], expand_user_and_vars=False, environ_update=GIT_ENVIRONMENT
        )
        return code, err.strip()

    def has(self, commit: str) -> bool:
        return self._path.is_dir() and self._git("cat-file", "-e", f"{commit}^{{commit}}")[0] == 0

    def fetch(self, commit: str) -> None:
        """Fetch one commit; where the server does not hand out what no branch points to, everything."""
        self._module.get_bin_path("git", required=True)
        self._path.mkdir(parents=True, exist_ok=True)
        self._must("init", "--quiet", "--bare")
        if self._git("fetch", "--quiet", "--depth=1", self._url, commit)[0] != 0:
            self._must("fetch", "--quiet", self._url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        if not self.has(commit):
            raise MayflyError(
                "fetch commit",
                commit,
                f"no branch and no tag of {self._url} has it",
                "Is it the right repository? Was the branch rewritten?",
            )

    def _must(self, *words: str) -> None:
        code, error = self._git(*words)
        if code != 0:
            raise MayflyError("fetch repository", self._url, f"git {words[0]}: {error}", "Can the controller reach it?")

    def files(self, commit: str) -> dict[str, File]:
        with tempfile.TemporaryDirectory(dir=self._path) as directory:
            archive = Path(directory, "tree.tar")
            self._must("archive", f"--output={archive}", commit)
            return from_tar(f"commit {commit}", archive.read_bytes())


def checked(params: dict[str, t.Any]) -> None:
    if params["repository"]:
        _tck.check_commit(params["commit"])
    if params["archive"]:
        _tck.check_sha256(params["archive"], params["sha256"])


def origin(params: dict[str, t.Any]) -> str:
    if params["repository"]:
        return f"commit {params['commit']} of {params['repository']}"
    if params["archive"]:
        return f"{params['archive']} (sha256 {params['sha256']})"
    return params["path"]


def source_files(module: AnsibleModule, cache: Path) -> tuple[bool, dict[str, File] | None]:
    """Return whether something had to be fetched, and the files; none in check mode if they are not here."""
    params = module.params
    if params["path"]:
        return False, from_path(params["path"])
    if params["archive"]:
        return False, from_archive(params["archive"], params["sha256"])
    repository = Repository(module, params["repository"], cache)
    missing = not repository.has(params["commit"])
    if missing and module.check_mode:
        return True, None
    if missing:
        repository.fetch(params["commit"])
    return missing, repository.files(params["commit"])


def provide(module: AnsibleModule) -> dict[str, t.Any]:
    checked(module.params)
    cache = Path(module.params["cache"])
    where = origin(module.params)
    fetched, files = source_files(module, cache)
    if files is None:
        return {"changed": True, "origin": where}
    tree = _tck.tree(where, files)
    content = pack(tree.files)
    key = hashlib.sha256(content).hexdigest()[:16]
    archive = cache / f"libvirt-tck-{key}.tar.gz"
    new = not archive.exists()
    if new and not module.check_mode:
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache, prefix=".libvirt-tck-")
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(name, archive)
    facts = {"key": key, "version": tree.version, "tests": tree.tests, "last": max(tree.files)}
    return {"changed": fetched or new, "origin": where, "archive": str(archive), **facts}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str"},
            "commit": {"type": "str"},
            "archive": {"type": "str"},
            "sha256": {"type": "str"},
            "path": {"type": "path"},
            "cache": {"type": "path", "required": True},
        },
        mutually_exclusive=[("repository", "archive", "path")],
        required_one_of=[("repository", "archive", "path")],
        required_together=[("repository", "commit"), ("archive", "sha256")],
        supports_check_mode=True,
    )
    with failing(module):
        result = provide(module)
    before = "" if result["changed"] else result["origin"]
    module.exit_json(diff={"before": before, "after": result["origin"]}, **result)


if __name__ == "__main__":
    main()
