# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The element in a domain's <metadata> that says whose it is."""

from __future__ import annotations

import dataclasses
import typing as t

from ._lxml import etree
from ._names import is_run_id

NAMESPACE = "urn:mayfly:virt:1"


@dataclasses.dataclass(frozen=True)
class Tag:
    """Who made a domain, for what and until when. Times are ISO 8601 in UTC."""

    run: str
    guest: str
    owner: str = ""
    job_url: str = ""
    created: str = ""
    deadline: str = ""
    state_dir: str = ""
    image: str = ""
    digest: str = ""
    kernel: str = ""
    accel: str = ""
    user: str = ""
    role: str = ""
    spec: str = ""

    def to_element(self) -> t.Any:
        """Return the <run> element; empty fields are left out."""
        root = etree.Element(_q("run"), nsmap={"mayfly": NAMESPACE})
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value:
                etree.SubElement(root, _q(field.name)).text = value
        return root

    @classmethod
    def from_domain(cls, domain: t.Any) -> Tag | None:
        """Return the tag of a parsed <domain>, or None when it is not ours. Unknown children are a later version's."""
        root = domain.find(f"metadata/{_q('run')}")
        if root is None:
            return None
        known = {field.name for field in dataclasses.fields(cls)}
        children = [child for child in root if isinstance(child.tag, str) and etree.QName(child).namespace == NAMESPACE]
        found = {etree.QName(child).localname: child.text or "" for child in children}
        if not is_run_id(found.get("run", "")) or not found.get("guest"):
            return None
        return cls(**{name: value for name, value in found.items() if name in known})


def _q(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"
