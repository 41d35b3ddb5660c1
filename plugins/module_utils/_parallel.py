# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One step for several things at the same time."""

from __future__ import annotations

import concurrent.futures
import typing as t

# Making and ending domains is mostly waiting for QEMU; more at once than this gains nothing and floods libvirtd.
MAX_PARALLEL = 8

Thing = t.TypeVar("Thing")


def at_once(things: t.Sequence[Thing], step: t.Callable[[Thing], object]) -> None:
    """Take a step for all of them at the same time; all come to their end, then the first one's error is raised."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
        futures = [pool.submit(step, thing) for thing in things]
    for future in futures:
        future.result()
