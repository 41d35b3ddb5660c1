# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guarded import of lxml, so that a missing library is one clear error and sanity tests can import every module."""

from __future__ import annotations

import sys
import traceback
import typing as t

LXML_ERROR: str | None = None
try:
    from lxml import etree as _etree
except ImportError:
    _etree = None
    LXML_ERROR = traceback.format_exc()

# Untyped: lxml carries no types, and where it is missing make_module() has failed before anything is called here.
etree: t.Any = _etree


def missing_library(library: str, package: str) -> str:
    """Return the sentence for a Python library that is not there."""
    return (
        f"The Python library {library} is missing for the interpreter {sys.executable}. On Debian it is the package {package} "
        "for /usr/bin/python3: install it there and set ansible_python_interpreter=/usr/bin/python3 for this host."
    )
