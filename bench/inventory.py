# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin with 0, 10 and 100 tagged domains, on libvirt's own test driver: what a hundred guests add to ansible-inventory."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import measure, row

REPEATS = 5
SIZES = (0, 10, 100)


def node(count: int) -> str:
    """Return the file from which the test driver takes its domains."""
    domains = "".join(
        f"""
  <domain type='test'>
    <name>guest{number}-bench</name>
    <metadata>
      <m:run xmlns:m='urn:mayfly:virt:1'>
        <m:run>bench</m:run><m:guest>guest{number}</m:guest><m:image>debian-12</m:image><m:accel>kvm</m:accel><m:user>root</m:user>
        <m:state_dir>/var/lib/mayfly</m:state_dir>
      </m:run>
    </metadata>
    <memory>1048576</memory>
    <os><type>hvm</type></os>
    <devices>
      <interface type='network'><mac address='52:54:00:00:{number >> 8:02x}:{number & 255:02x}'/><source network='default'/></interface>
    </devices>
  </domain>"""
        for number in range(count)
    )
    network = "<network><name>default</name><bridge name='virbr0'/><ip address='192.0.2.1' netmask='255.255.255.0'/></network>"
    return f"<node>{domains}\n  {network}\n</node>\n"


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        for size in SIZES:
            (Path(directory) / f"node{size}.xml").write_text(node(size))
            config = f"plugin: mayfly.virt.guests\nuris: ['test://{directory}/node{size}.xml']\n"
            place = Path(directory) / str(size)
            place.mkdir()
            (place / "mayfly.yml").write_text(config)
        for _repeat in range(REPEATS):
            for size in SIZES:
                measured = measure(["ansible-inventory", "-i", f"{directory}/{size}/mayfly.yml", "--list"])
                listed = len(json.loads(measured.output).get("_meta", {}).get("hostvars", {}))
                assert listed == size, f"{listed} of {size} guests are listed"
                seconds[size].append(measured.seconds)
    medians = {size: statistics.median(times) for size, times in seconds.items()}
    growth = medians[100] - medians[0]
    measured_text = f"{growth:.2f} s ({', '.join(f'{size}: {median:.2f} s' for size, median in medians.items())})"
    return [row("inventory: growth for 100 guests", measured_text, "≤ 0.3 s", growth <= 0.3, seconds=seconds)]
