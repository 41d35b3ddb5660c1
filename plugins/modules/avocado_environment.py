#!/usr/bin/python
# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module avocado_environment: Avocado's virtual environment for a guest, made on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: avocado_environment
short_description: Make a virtual environment with Avocado for another machine
version_added: 0.2.0
description:
  - Runs on the controller. Fetches pinned wheels with pip, or takes them from a directory, verifies their checksums, and makes of them
    one archive with a virtual environment for a guest. In an emulated guest, pip would take minutes for it.
  - Nothing of the guest is needed but the version of its Python. The same wheels make the same archive.
extends_documentation_fragment:
  - mayfly.virt._attributes.elsewhere
options:
  requirements:
    description:
      - A requirements file of pip, each line pinned with C(==) and with C(--hash=sha256:).
      - C(avocado-framework) must be among them, at least 108.
    type: path
    required: true
  wheels:
    description:
      - Directory that has the wheels, for a controller without a package index. When left out, C(pip download) fetches them into O(cache).
    type: path
  python:
    description:
      - Version of the guest's Python, such as V(3.11).
    type: str
    required: true
  machine:
    description:
      - The guest's machine, C(x86_64) or C(aarch64).
    type: str
    required: true
  prefix:
    description:
      - Where the environment will lie in the guest.
    type: str
    default: /opt/mayfly/avocado
  system_site_packages:
    description:
      - Whether it sees the distribution's packages too, such as the libvirt bindings.
    type: bool
    default: true
  cache:
    description:
      - Directory on the controller for wheels and archives. It is made if it is not there.
    type: path
    required: true
author:
  - The Mayfly authors (@mayfly)
"""

EXAMPLES = r"""
---
- name: Make Avocado for a guest with Debian 12
  mayfly.virt.avocado_environment:
    requirements: requirements.txt
    python: "3.11"
    machine: x86_64
    cache: ~/.cache/mayfly
  delegate_to: localhost
"""

RETURN = r"""
archive:
  description: The environment on the controller, a gzipped tar. Its content belongs to O(prefix).
  returned: success, but not in check mode when it would have to be made
  type: str
  sample: /home/me/.cache/mayfly/avocado-113.0-1c2d3e4f5a6b7c8d.tar.gz
key:
  description: What this environment was made of, as 16 hexadecimal digits. It also stands in its file C(mayfly-key).
  returned: success
  type: str
  sample: 1c2d3e4f5a6b7c8d
version:
  description: Version of Avocado.
  returned: success
  type: str
  sample: "113.0"
"""

import hashlib
import os
import sys
import tempfile
import typing as t
import zipfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _avocado
from ..module_utils._errors import MayflyError, failing
from ..module_utils._pack import File, pack

FORMAT = 1  # counted up when the same wheels shall make another environment


def digests(directory: Path) -> dict[str, str]:
    """Return the checksum of each wheel in a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*.whl"))}


def fetch(module: AnsibleModule, wanted: list[_avocado.Requirement], directory: Path) -> None:
    """Have pip download the wheels for the guest, not for this machine."""
    directory.mkdir(parents=True, exist_ok=True)
    # Markers are about the Python that runs pip. What is wanted is decided, so they are left out.
    lines = [f"{one.name}=={one.version} {' '.join(f'--hash=sha256:{digest}' for digest in sorted(one.hashes))}" for one in wanted]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        argv += ["--require-hashes", "--implementation=cp", f"--python-version={module.params['python']}", f"--dest={directory}"]
        argv += [f"--platform={platform}" for platform in _avocado.pip_platforms(module.params["machine"])]
        code, out, err = module.run_command([*argv, "-r", file.name], expand_user_and_vars=False)
    if code != 0:
        text = "\n".join((err or out).strip().splitlines()[-10:])
        raise MayflyError(
            "fetch the wheels of",
            "Avocado",
            text or f"pip ended with status {code}",
            f"pip is run by {sys.executable}. Without pip or a package index there, give a directory of wheels.",
        )


def provide(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    path = Path(params["requirements"])
    try:
        requirements = _avocado.read_requirements(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MayflyError("read requirements", str(path), str(error), "Correct the path.") from error
    version = _avocado.avocado_version(str(path), requirements)
    python = _avocado.python_version(params["python"])
    _avocado.pip_platforms(params["machine"])
    wanted = [requirement for requirement in requirements if requirement.wanted(python)]
    words = [str(FORMAT), params["prefix"], str(params["system_site_packages"]), params["python"], params["machine"]]
    words += sorted(digest for requirement in wanted for digest in requirement.hashes)
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    archive = Path(params["cache"], f"avocado-{version}-{key}.tar.gz")
    result = {"key": key, "version": version}
    if archive.exists():
        return {"changed": False, "archive": str(archive), **result}
    if module.check_mode:
        return {"changed": True, **result}
    directory = Path(params["wheels"] or Path(params["cache"], "wheels"))
    if not params["wheels"]:
        fetch(module, wanted, directory)
    chosen = _avocado.choose(wanted, digests(directory), python, params["machine"], str(directory))
    wheels = [zipfile.ZipFile(directory / wheel) for wheel in chosen.values()]
    files = _avocado.environment(wheels, params["prefix"], python, params["system_site_packages"])
    files["mayfly-key"] = File(f"{key}\n".encode())
    archive.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=archive.parent, prefix=".avocado-")
    with open(handle, "wb") as file:
        file.write(pack(files))
    os.replace(name, archive)
    return {"changed": True, "archive": str(archive), **result}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "requirements": {"type": "path", "required": True},
            "wheels": {"type": "path"},
            "python": {"type": "str", "required": True},
            "machine": {"type": "str", "required": True},
            "prefix": {"type": "str", "default": "/opt/mayfly/avocado"},
            "system_site_packages": {"type": "bool", "default": True},
            "cache": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    with failing(module):
        result = provide(module)
    after = f"Avocado {result['version']} for Python {module.params['python']}, {result['key']}\n"
    module.exit_json(diff={"before": "" if result["changed"] else after, "after": after}, **result)


if __name__ == "__main__":
    main()
