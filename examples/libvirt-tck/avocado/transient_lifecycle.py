# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a transient domain. Ported from libvirt-tck's domain/050-transient-lifecycle.t."""

from __future__ import annotations

import libvirt
from tck import NAME, LibvirtTest


class TransientLifecycle(LibvirtTest):
    """A transient domain has no configuration file: once destroyed, all trace of it is gone."""

    def test_a_transient_domain_leaves_no_trace(self) -> None:
        self.log.info("Creating a new transient domain")
        domain = self.conn.createXML(self.generic_domain())
        self.assertEqual(domain.name(), NAME)
        self.assertTrue(domain.isActive())
        self.assertFalse(domain.isPersistent())

        self.log.info("Destroying the transient domain")
        domain.destroy()

        self.log.info("Checking that transient domain has gone away")
        self.assert_error(libvirt.VIR_ERR_NO_DOMAIN, self.conn.lookupByName, NAME)
