# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemons of a libvirt under test: which are chosen, what is written into their files, which subnet is free."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mayfly.virt.plugins.module_utils import _libvirt_daemons as ld
from ansible_collections.mayfly.virt.plugins.module_utils._errors import InvalidInput, MayflyError
from ansible_collections.mayfly.virt.plugins.module_utils._plan import Action
from ansible_collections.mayfly.virt.plugins.modules import libvirt_daemons

# As /etc/libvirt/libvirtd.conf of Debian 12 has them.
CONF = """\
#log_level = 3
# Logging filters:
#log_filters="1:qemu 1:libvirt 4:object 4:json 4:event 1:util"

# Logging outputs:
#log_outputs="3:syslog:libvirtd"
unix_sock_group = "libvirt"
"""
# /proc/net/route of a guest with 10.213.7.52/20 on eth0 and libvirt's default network started.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100D50A\t0003\t0\t0\t1024\t00000000\t0\t0\t0
eth0\t0000D50A\t00000000\t0001\t0\t0\t1024\t00F0FFFF\t0\t0\t0
virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
DEFAULT = """\
<network>
  <name>default</name>
  <uuid>0c6cd4a7-64cc-4f52-9c8a-0b7c7a5a3e1b</uuid>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <mac address='52:54:00:4a:6a:2a'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
    </dhcp>
  </ip>
</network>
"""


def unit(name: str, *, active: bool = False, enabled: bool = False, there: bool = True) -> str:
    load, state = ("loaded", "enabled" if enabled else "disabled") if there else ("not-found", "")
    return f"Id={name}\nLoadState={load}\nActiveState={'active' if active else 'inactive'}\nUnitFileState={state}\nMainPID=7\n"


def units(*texts: str) -> dict[str, ld.Unit]:
    return ld.read_units("\n".join(texts))


MONOLITHIC = [unit("libvirtd.service", active=True), unit("libvirtd.socket", active=True, enabled=True)]
MODULAR = [unit("virtqemud.service"), unit("virtqemud.socket"), unit("virtnetworkd.service")]


def test_units_are_read_as_systemctl_prints_them() -> None:
    seen = units(*MONOLITHIC, unit("virtqemud.service", there=False))
    assert seen["libvirtd.service"] == ld.Unit("libvirtd.service", there=True, active=True, enabled=False, state="disabled", pid=7)
    assert not seen["virtqemud.service"].there


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("auto", MONOLITHIC, "monolithic"),
        ("auto", MODULAR, "modular"),
        ("auto", [*MONOLITHIC, *MODULAR], "monolithic"),  # it is in use
        ("auto", [unit("libvirtd.service"), *MODULAR], "modular"),  # neither is
        ("auto", [*MONOLITHIC, unit("virtqemud.service", active=True)], "modular"),  # both are
        ("modular", [*MONOLITHIC, *MODULAR], "modular"),
        ("monolithic", [*MONOLITHIC, *MODULAR], "monolithic"),
    ],
)
def test_the_mode_is_what_is_asked_for_or_in_use(wanted: str, there: list[str], chosen: str) -> None:
    assert ld.choose_mode(wanted, units(*there)) == chosen


def test_a_mode_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has only monolithic ones"):
        ld.choose_mode("modular", units(*MONOLITHIC))
    with pytest.raises(MayflyError, match=r"neither libvirtd\.service nor virtqemud\.service"):
        ld.choose_mode("auto", units(unit("libvirtd.service", there=False)))


def test_daemons_are_told_with_the_units_they_have() -> None:
    seen = units(*MONOLITHIC, unit("libvirtd-admin.socket"), unit("virtlogd.service"), unit("virtlogd.socket"), *MODULAR)
    daemons = ld.daemons_of("monolithic", seen)
    assert [daemon.name for daemon in daemons] == ["libvirtd", "virtlogd"]
    assert daemons[0].record("/var/log/libvirt", True) == {
        "name": "libvirtd",
        "log": "/var/log/libvirt/libvirtd.log",
        "unit": "libvirtd.service",
        "sockets": ["libvirtd.socket", "libvirtd-admin.socket"],
        "admin": "libvirtd:///system",
        "active": True,
    }
    assert ld.others_of("modular", seen) == ["libvirtd.socket", "libvirtd.service"]
    assert ld.others_of("monolithic", seen) == []  # neither active nor enabled


@pytest.mark.parametrize(
    ("exe", "maps", "answer"),
    [
        ("/usr/sbin/libvirtd", "7f0 r-xp 00 08:01 1 /usr/lib/x86_64-linux-gnu/libvirt.so.0.9000.0", False),
        ("/usr/sbin/libvirtd (deleted)", "", True),
        ("/usr/sbin/libvirtd", "7f0 r-xp 00 08:01 1 /usr/lib/x86_64-linux-gnu/libvirt.so.0.9000.0 (deleted)", True),
        ("/usr/sbin/libvirtd", "7f0 rw-s 00 00:01 1 /memfd:x (deleted)", False),
    ],
)
def test_a_daemon_of_before_the_installation_is_known(exe: str, maps: str, answer: bool) -> None:
    assert ld.replaced(exe, maps) is answer


# --- configuration ----------------------------------------------------------------------------------------------


def test_options_are_set_beside_their_examples_and_all_else_stays() -> None:
    changed = ld.set_options(CONF, {"log_filters": "1:*", "log_outputs": "1:file:/var/log/libvirt/libvirtd.log", "max_size": 3})
    assert changed.splitlines() == [
        *CONF.splitlines()[:3],
        'log_filters = "1:*"',
        *CONF.splitlines()[3:6],
        'log_outputs = "1:file:/var/log/libvirt/libvirtd.log"',
        'unix_sock_group = "libvirt"',
        "max_size = 3",
    ]


def test_an_option_that_is_set_is_changed_and_one_set_twice_is_set_once() -> None:
    text = 'log_filters="2:qemu"\nother = 1\n  log_filters = "3:qemu"\n'
    assert ld.set_options(text, {"log_filters": "1:*"}) == 'other = 1\nlog_filters = "1:*"\n'


LINES = st.lists(st.sampled_from([*CONF.splitlines(), "", 'log_filters = "4:x"', "a_log_filters = 2", "log_filtersx = 1"]), max_size=12)


@given(LINES)
def test_setting_options_twice_is_setting_them_once(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    once = ld.set_options(text, {"log_filters": "1:*", "max_size": 5})
    assert ld.set_options(once, {"log_filters": "1:*", "max_size": 5}) == once
    others = [line for line in lines if not line.startswith("log_filters =")]
    assert [line for line in once.splitlines() if line not in ('log_filters = "1:*"', "max_size = 5")] == others


@pytest.mark.parametrize("value", ['1:*"\nhost_uuid = "x', 'a"b', "a\\"])
def test_a_value_that_would_end_its_string_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="quotation mark"):
        ld.check_word("log_filters", value)


# --- the network ------------------------------------------------------------------------------------------------


def networks(*texts: str) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text) for text in texts]


def test_what_the_guest_reaches_is_read_from_the_kernel() -> None:
    assert ld.read_routes(ROUTES, "virbr0") == networks("10.213.0.0/20")
    assert ld.read_routes(ROUTES, "") == networks("10.213.0.0/20", "192.168.122.0/24")
    assert ld.read_nameservers("nameserver 192.168.122.1\nnameserver fe80::1\nsearch x\n") == networks("192.168.122.1/32")


@pytest.mark.parametrize(
    ("wanted", "present", "taken", "chosen"),
    [
        ("", "192.168.122.1/255.255.255.0", ["10.213.0.0/20"], "192.168.122.0/24"),
        ("", "192.168.122.1/255.255.255.0", ["192.168.122.0/24"], "192.168.123.0/24"),
        ("", "192.168.122.1/24", ["192.168.122.1/32"], "192.168.123.0/24"),  # a name server behind the default route
        ("", "192.168.122.1/24", ["192.168.0.0/17"], "192.168.128.0/24"),
        ("", "", [], "192.168.122.0/24"),
        ("10.9.0.0/16", "192.168.122.1/24", ["10.213.0.0/20"], "10.9.0.0/16"),
    ],
)
def test_a_subnet_is_kept_moved_or_taken_as_told(wanted: str, present: str, taken: list[str], chosen: str) -> None:
    assert str(ld.choose_subnet(wanted, present, networks(*taken))) == chosen


@pytest.mark.parametrize(
    ("wanted", "taken", "why"),
    [
        ("10.213.1.0/24", ["10.213.0.0/20"], "reaches 10.213.0.0/20 elsewhere"),
        ("8.8.8.0/24", [], "not private"),
        ("192.168.1.0/30", [], "smaller than a /28"),
        ("192.168.1.7/24", [], "has host bits set"),
        ("default", [], "Expected 4 octets"),
    ],
)
def test_a_subnet_that_cannot_be_is_refused(wanted: str, taken: list[str], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        ld.choose_subnet(wanted, "192.168.122.1/24", networks(*taken))


def test_where_nothing_is_free_that_is_said() -> None:
    with pytest.raises(MayflyError, match="Give one that is free"):
        ld.choose_subnet("", "192.168.122.1/24", networks("192.168.0.0/16"))


def test_a_network_is_moved_and_keeps_what_else_it_is() -> None:
    moved = ld.network_xml("default", ipaddress.IPv4Network("192.168.123.0/24"), DEFAULT)
    assert ld.network_subnet(moved) == "192.168.123.1/24"
    assert '<range start="192.168.123.2" end="192.168.123.254" />' in moved
    assert "0c6cd4a7-64cc-4f52-9c8a-0b7c7a5a3e1b" in moved
    assert ld.bridge_of(moved) == "virbr0"
    assert "192.168.122" not in moved


def test_a_network_that_is_not_there_is_made() -> None:
    made = ld.network_xml("default", ipaddress.IPv4Network("192.168.122.0/24"), None)
    assert ld.network_subnet(made) == "192.168.122.1/24"
    assert '<forward mode="nat" />' in made


# --- what was found ---------------------------------------------------------------------------------------------


def test_versions_are_read_as_virsh_prints_them() -> None:
    said = """\
Compiled against library: libvirt 9.0.0
Using library: libvirt 9.0.0
Using API: QEMU 9.0.0
Running hypervisor: QEMU 7.2.22
Running against daemon: 11.3.0
"""
    assert ld.read_versions(said) == {"library": "9.0.0", "qemu": "7.2.22", "libvirt": "11.3.0"}


def test_a_distribution_that_nobody_wrote_down_is_refused_with_those_that_are_known() -> None:
    assert ld.release('NAME="Debian"\nVERSION_ID="12"\nID=debian\n') == "debian-12"
    ld.check_supported("fedora-42", ["debian-12", "fedora-*"])
    with pytest.raises(InvalidInput, match="debian-12, fedora"):
        ld.check_supported("arch-unknown", ["debian-12", "fedora-*"])


# --- the plan ---------------------------------------------------------------------------------------------------


def planned(mode: str, seen: dict[str, ld.Unit], *changed: str, replaced: bool = False) -> list[str]:
    files = [Action("update", "file", path) for path in changed]
    steps = libvirt_daemons.service_actions(ld.daemons_of(mode, seen), mode, seen, files, lambda _pid: replaced)
    return [step.sentence() for step in steps]


STARTED = [
    *MONOLITHIC,
    unit("virtlogd.service", active=True),
    unit("virtlogd.socket", active=True, enabled=True),
    unit("logrotate.timer", there=False),
]
CHANGED = "(its settings changed)"


def test_nothing_is_done_where_all_is_as_it_shall_be() -> None:
    assert planned("monolithic", units(*STARTED)) == []


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        (["/etc/libvirt/libvirtd.conf"], [f"update service libvirtd.service {CHANGED}"]),
        (["/etc/systemd/system/virtlogd.service.d/50-mayfly.conf"], [f"update service virtlogd.service {CHANGED}"]),
        (["/etc/libvirt/qemu.conf"], [f"update service libvirtd.service {CHANGED}"]),
        (["/etc/mayfly/libvirt-test.json"], []),
    ],
)
def test_a_daemon_is_restarted_for_its_own_settings_alone(changed: list[str], steps: list[str]) -> None:
    assert planned("monolithic", units(*STARTED), *changed) == steps


def test_a_daemon_whose_program_was_replaced_is_restarted() -> None:
    why = "(its program was installed after it was started)"
    steps = [f"update service {name}.service {why}" for name in ("libvirtd", "virtlogd")]
    assert planned("monolithic", units(*STARTED), replaced=True) == steps


def test_the_other_daemons_go_and_what_both_share_is_started_anew() -> None:
    steps = planned("modular", units(*STARTED, *MODULAR))
    assert steps == [
        "remove unit libvirtd.socket (the daemons are modular)",
        "remove unit libvirtd.service (the daemons are modular)",
        "update socket virtqemud.socket (it is not started, or not at boot)",
        "update service virtqemud.service (it is not started)",
        "update service virtnetworkd.service (it is not started)",
        "update socket virtlogd.socket (it is not started, or not at boot)",
        "update service virtlogd.service (its sockets are to be started)",
    ]


def test_the_timer_that_cuts_logs_is_masked_once() -> None:
    text = unit("logrotate.timer", active=True, enabled=True)
    assert planned("monolithic", units(*STARTED[:-1], text)) == ["remove timer logrotate.timer (it would cut the logs of a test)"]
    assert planned("monolithic", units(*STARTED[:-1], text.replace("=enabled", "=masked"))) == []
