# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Types that several rooms share."""

from __future__ import annotations

import typing as t

# AnsibleModule.run_command, or whatever stands in for it: (argv, **options) -> (status, stdout, stderr).
RunCommand = t.Callable[..., tuple[int, str, str]]
