# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of storage volumes in a directory. Ported from libvirt-tck's storage/100-create-vol-dir.t."""

from __future__ import annotations

import libvirt
from tck import LibvirtTest

MIB = 1 << 20


class VolumeLifecycle(LibvirtTest):
    """Volumes are made, found, resized and deleted in a transient pool."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = self.conn.storagePoolCreateXML(self.generic_pool())

    def test_a_sparse_raw_volume_takes_no_room(self) -> None:
        volume = self.pool.createXML(self.generic_volume("tck1"))
        _kind, capacity, allocation = volume.info()
        self.assertEqual(capacity, 50 * MIB)
        self.assertLess(allocation, MIB, "a sparse volume has hardly any blocks")

    def test_a_full_raw_volume_takes_all_of_it(self) -> None:
        volume = self.pool.createXML(self.generic_volume("tck2", allocation=50 * MIB))
        _kind, capacity, allocation = volume.info()
        self.assertEqual(capacity, 50 * MIB)
        self.assertGreaterEqual(allocation, 50 * MIB)

    def test_a_volume_is_found_by_name_key_and_path(self) -> None:
        volume = self.pool.createXML(self.generic_volume("tck3", form="qcow2"))
        self.assertEqual(self.pool.listVolumes(), ["tck3"])
        found = [
            self.pool.storageVolLookupByName("tck3"),
            self.conn.storageVolLookupByKey(volume.key()),
            self.conn.storageVolLookupByPath(volume.path()),
        ]
        self.assertEqual([other.path() for other in found], [volume.path()] * 3)
        self.assertIn('<format type="qcow2"/>', volume.XMLDesc().replace("'", '"'))

    def test_a_name_is_taken_once(self) -> None:
        self.pool.createXML(self.generic_volume("tck4"))
        self.assert_error(libvirt.VIR_ERR_STORAGE_VOL_EXIST, self.pool.createXML, self.generic_volume("tck4"))

    def test_a_volume_grows(self) -> None:
        volume = self.pool.createXML(self.generic_volume("tck5"))
        volume.resize(80 * MIB)
        self.assertEqual(volume.info()[1], 80 * MIB)

    def test_a_deleted_volume_is_gone(self) -> None:
        volume = self.pool.createXML(self.generic_volume("tck6"))
        volume.delete()
        self.assertEqual(self.pool.numOfVolumes(), 0)
        self.assert_error(libvirt.VIR_ERR_NO_STORAGE_VOL, self.pool.storageVolLookupByName, "tck6")
