# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Avocado's environment: pinned wheels in, the files of a virtual environment out."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.mayfly.virt.plugins.module_utils import _avocado
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._pack import pack

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "roles/avocado/files/requirements.txt"
HASH = "a" * 64


def wheel(**files: str) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return zipfile.ZipFile(buffer)


def requirement(text: str) -> _avocado.Requirement:
    return _avocado.read_requirements("file", text)[0]


def test_what_is_shipped_is_pinned_and_new_enough() -> None:
    requirements = _avocado.read_requirements(str(SHIPPED), SHIPPED.read_text())
    assert _avocado.avocado_version(str(SHIPPED), requirements) == "113.0"
    pinned = {one.name: one for one in requirements}
    assert pinned["avocado-framework-plugin-result-html"].version == "113.0"
    # It has pkg_resources, which Avocado imports, and does not warn of it.
    assert int(pinned["setuptools"].version.split(".")[0]) < 80
    assert [pinned["markupsafe"].wanted(python) for python in ((3, 9), (3, 12), (3, 13), (3, 14))] == [True, True, False, False]


@pytest.mark.parametrize(
    "line",
    [
        "avocado-framework",
        "avocado-framework>=108",
        "avocado-framework==113.0",
        f"-r other --hash=sha256:{HASH}",
        "git+https://example.org/a",
    ],
)
def test_what_is_not_pinned_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput, match="is not <name>==<version>"):
        _avocado.read_requirements("file", line)


def test_a_marker_that_is_not_understood_is_refused() -> None:
    assert requirement(f'a==1 ; python_version >= "3.10" --hash=sha256:{HASH}').least == (3, 10)
    with pytest.raises(InvalidInput, match="is not understood"):
        requirement(f'a==1 ; sys_platform == "linux" --hash=sha256:{HASH}')


@pytest.mark.parametrize("version", ["107.0", "92.3", "107", "82.0"])
def test_a_version_that_hides_failures_is_refused(version: str) -> None:
    requirements = [requirement(f"Avocado_Framework=={version} --hash=sha256:{HASH}")]
    with pytest.raises(InvalidInput, match="older than 108"):
        _avocado.avocado_version("file", requirements)


def test_requirements_without_avocado_are_refused() -> None:
    with pytest.raises(InvalidInput, match="avocado-framework is not among them"):
        _avocado.avocado_version("file", [requirement(f"jinja2==3 --hash=sha256:{HASH}")])


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1-cp311-cp311-macosx_11_0_x86_64.whl", False),
        ("a-1-py2-none-any.whl", False),
        ("a-1.whl", False),
    ],
)
def test_a_wheel_says_in_its_name_what_it_is_for(name: str, fits: bool) -> None:
    assert _avocado.usable(name, (3, 11), "x86_64") is fits


def test_a_wheel_is_chosen_by_its_checksum_not_its_name() -> None:
    wanted = [requirement(f"jinja2==3.1.6 --hash=sha256:{HASH}")]
    assert _avocado.choose(wanted, {"jinja2-3.1.6-py3-none-any.whl": HASH}, (3, 11), "x86_64", "/w") == {
        "jinja2": "jinja2-3.1.6-py3-none-any.whl"
    }
    with pytest.raises(MayflyError, match=r"of jinja2-3\.1\.6-py3-none-any\.whl none has a checksum that is pinned"):
        _avocado.choose(wanted, {"jinja2-3.1.6-py3-none-any.whl": "b" * 64}, (3, 11), "x86_64", "/w")
    with pytest.raises(MayflyError, match=r"/w has none for Python 3\.11 on x86_64\. Put it there"):
        _avocado.choose(wanted, {}, (3, 11), "x86_64", "/w")


def test_a_machine_without_pinned_wheels_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no wheels are pinned"):
        _avocado.pip_platforms("riscv64")
    with pytest.raises(InvalidInput, match="not written like"):
        _avocado.python_version("3")


def test_a_wheel_that_wants_its_files_elsewhere_is_refused() -> None:
    for name in ("a-1.data/scripts/run", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(MayflyError, match="in a place of its own"):
            _avocado.environment([wheel(**{name: ""})], "/opt/a", (3, 11), True)


def test_the_environment_works(tmp_path: Path) -> None:
    """Made of a wheel and unpacked, its program runs with this machine's interpreter, and sees what it brought."""
    prefix = tmp_path / "environment"
    python = sys.version_info[:2]
    made = wheel(
        **{
            "tool/__init__.py": "import sys, tool.data\ndef main():\n    print('tool', tool.data.ANSWER, sys.prefix)\n    return 3\n",
            "tool/data.py": "ANSWER = 42\n",
            "tests/test_tool.py": "assert False\n",
            "tool-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: tool\nVersion: 1\n",
            "tool-1.dist-info/entry_points.txt": "[console_scripts]\nrun-tool = tool:main\n\n[tool.plugins]\nx = tool.data:ANSWER\n",
        }
    )
    files = _avocado.environment([made], str(prefix), python, False)
    assert not [name for name in files if "/tests/" in name]
    prefix.mkdir()
    subprocess.run(["tar", "-xzf", "-", "-C", str(prefix)], input=pack(files), timeout=60, check=True)
    # The link is for the guest's /usr/bin; here the interpreter of the tests stands in.
    (prefix / "bin/python3").unlink()
    (prefix / "bin/python3").symlink_to(Path(sys.executable).resolve())
    done = subprocess.run([prefix / "bin/run-tool"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, f"tool 42 {prefix}\n"), done.stderr
