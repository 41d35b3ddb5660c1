# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files may know libvirt, proven from their text and with the library out of reach."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TREE = ROOT / "build" / "tree"
PLUGINS = ROOT / "plugins"
UTILS = sorted((PLUGINS / "module_utils").glob("_*.py"))


def imported(path: Path) -> set[str]:
    """Return the top-level names of absolute imports anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_reading_of_imports_sees_guarded_ones(tmp_path: Path) -> None:
    source = tmp_path / "guarded.py"
    source.write_text("try:\n    import libvirt\nexcept ImportError:\n    pass\ndef f():\n    from lxml import etree\n")
    assert imported(source) == {"libvirt", "lxml"}


def test_only_one_file_imports_libvirt() -> None:
    assert len(UTILS) > 20
    everything = [path for path in PLUGINS.rglob("*.py") if "libvirt" in imported(path)]
    assert [path.name for path in everything] == ["_libvirt.py"]


def test_only_one_file_imports_lxml() -> None:
    assert [path.name for path in PLUGINS.rglob("*.py") if "lxml" in imported(path)] == ["_lxml.py"]


@pytest.mark.parametrize("path", UTILS, ids=lambda path: path.name)
def test_module_utils_run_programs_through_the_module_only(path: Path) -> None:
    """ansible-test forbids these on the target side from 2.21."""
    assert not imported(path) & {"subprocess", "six"}


def test_every_file_imports_without_libvirt_and_lxml() -> None:
    """Sanity tests and hosts without the libraries import every module; the error comes when main() runs."""
    names = [f"module_utils.{path.stem}" for path in UTILS]
    names += [f"modules.{path.stem}" for path in sorted((PLUGINS / "modules").glob("[a-z]*.py"))]
    script = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('libvirt', 'lxml'):
            raise ImportError(f'{{name}} is out of reach')
sys.meta_path.insert(0, Block())
sys.path.insert(0, {str(TREE)!r})
base = 'ansible_collections.mayfly.virt.plugins.'
for name in {names!r}:
    importlib.import_module(base + name)
libvirt = importlib.import_module(base + 'module_utils._libvirt')
lxml = importlib.import_module(base + 'module_utils._lxml')
assert libvirt.libvirt is None and lxml.etree is None
assert 'out of reach' in libvirt.LIBVIRT_ERROR and 'out of reach' in lxml.LXML_ERROR
assert sys.executable in lxml.missing_library('libvirt', 'python3-libvirt')
print('imported', len({names!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"imported {len(names)}\n"
