# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module promises: a second run is quiet, check mode tells the truth and makes nothing, absent is absent."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver_kit import Host, Modules, domain

pytestmark = pytest.mark.real_seeds

RUN = {"id": "r1", "owner": "jane", "deadline": 3600}


@dataclasses.dataclass
class Case:
    """A module's call that makes things, and the one that removes them."""

    module: str
    present: dict[str, Any]
    absent: dict[str, Any]
    before: tuple[tuple[str, dict[str, Any]], ...] = ()


def guest(name: str, **options: Any) -> dict[str, Any]:
    return domain(name, **{"image": "tiny", "disk_gib": 1, **options})


SEED = {"name": "one-r1", "user": "tester", "authorized_keys": ["ssh-ed25519 AAAA jane"], "user_data": {"timezone": "UTC"}}
OVERLAYS = [{"name": "one-r1", "image": "tiny"}, {"name": "two-r1", "image": "large", "size_gib": 40}]
# One seed is enough: xorriso takes a tenth of a second at best.
DOMAINS = [guest("one-r1", guest="one", role="server", image="booting", cmdline="quiet"), domain("two-r1")]
XML = "<domain type='test'><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"

CASES: dict[str, Callable[[Path], Case]] = {
    "image": lambda files: Case(
        "image",
        {"images": [{"name": "new", "source": str(files / "vmlinuz")}]},
        {"images": [{"name": "new"}], "state": "absent"},
    ),
    "image of stored bytes": lambda files: Case(
        "image",
        {"images": [{"name": "again", "source": str(files / "tiny.qcow2")}]},
        {"images": [{"name": "again"}], "state": "absent"},
    ),
    "overlay": lambda files: Case("overlay", {"run": RUN, "overlays": OVERLAYS}, {"run": RUN, "overlays": OVERLAYS, "state": "absent"}),
    "overlay in an open run": lambda files: Case(
        "overlay",
        {"run": RUN, "overlays": OVERLAYS},
        {"run": RUN, "overlays": [{"name": "one-r1"}, {"name": "two-r1"}], "state": "absent"},
        before=(("seed", {"run": RUN, "seeds": [SEED]}),),
    ),
    "seed": lambda files: Case("seed", {"run": RUN, "seeds": [SEED]}, {"run": RUN, "seeds": [SEED], "state": "absent"}),
    "several seeds": lambda files: Case(
        "seed",
        {"run": RUN, "seeds": [SEED, {"name": "two-r1", "macs": ["52:54:00:00:00:01", "52:54:00:00:00:02"]}]},
        {"run": RUN, "seeds": [{"name": "two-r1"}, {"name": "one-r1"}], "state": "absent"},
        before=(("overlay", {"run": RUN, "overlays": OVERLAYS}),),
    ),
    "domain": lambda files: Case("domain", {"run": RUN, "domains": DOMAINS}, {"run": RUN, "domains": DOMAINS, "state": "absent"}),
    "domain, the whole run": lambda files: Case(
        "domain", {"run": RUN, "domains": DOMAINS, "wait": "none"}, {"run": RUN, "state": "absent", "clean_run": True}
    ),
    "domain with an overlay and a seed left over": lambda files: Case(
        "domain",
        {"run": RUN, "domains": DOMAINS[:1]},
        {"run": RUN, "domains": [{"name": "one-r1"}], "state": "absent"},
        before=(("overlay", {"run": RUN, "overlays": OVERLAYS[:1]}), ("seed", {"run": RUN, "seeds": [SEED]})),
    ),
    "domain of one's own XML": lambda files: Case(
        "domain",
        {"run": RUN, "domains": [{"name": "one-r1", "accel": "tcg", "xml": XML}]},
        {"run": RUN, "domains": [{"name": "one-r1"}], "state": "absent"},
    ),
    "domain beside another of its run": lambda files: Case(
        "domain",
        {"run": RUN, "domains": DOMAINS},
        {"run": RUN, "domains": DOMAINS[1:], "state": "absent"},
        before=(("domain", {"run": RUN, "domains": DOMAINS[:1]}),),
    ),
    "network": lambda files: Case(
        "network",
        {"networks": [{"name": "lab", "subnet": "10.77.0.0/24"}, {"name": "closed", "subnet": "10.78.0.0/24", "forward": "none"}]},
        {"networks": [{"name": "lab"}, {"name": "closed"}], "state": "absent"},
    ),
}


def known_later(diff: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put into a diff what check mode says in place of a digest that only the conversion brings to light."""
    known = copy.deepcopy(diff)
    for part in known:
        if part["after_header"].startswith("image "):
            part["after"] = re.sub(r"^[0-9a-f]{64}\n$", "(its digest will be known then)\n", part["after"])
    return known


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, files: Path, run: Modules, clock: object) -> Case:
    made = CASES[request.param](files)
    for module, params in made.before:
        run(module, **params)
    return made


def same_prediction(predicted: dict[str, Any], done: dict[str, Any]) -> None:
    assert predicted["changed"] == done["changed"]
    assert predicted["actions"] == done["actions"]
    assert [(each["name"], each["changed"]) for each in predicted["results"]] == [
        (each["name"], each["changed"]) for each in done["results"]
    ]
    assert predicted["diff"] in (done["diff"], known_later(done["diff"]))


def every_change_is_in_the_diff(done: dict[str, Any]) -> None:
    assert len(done["diff"]) == len(done["actions"]) > 0
    for part in done["diff"]:
        assert part["before"] != part["after"]
        assert part["before_header"] == part["after_header"]
        assert "PRIVATE KEY" not in part["before"] + part["after"]


def what_is_returned_is_there(case: Case, done: dict[str, Any], host: Host) -> None:
    assert done["results"]
    for result in done["results"]:
        for key in ("path", "private_key", "known_hosts"):
            assert not result.get(key) or Path(result[key]).is_file()
        assert case.module != "domain" or host.domains()[result["name"]] == result["uuid"]


def test_made_once_then_quiet(case: Case, run: Modules, host: Host) -> None:
    nothing, before = host.now(), host.now(times=True)
    predicted = run(case.module, check=True, **case.present)
    assert host.now(times=True) == before

    done = run(case.module, **case.present)
    assert done["changed"] is True
    same_prediction(predicted, done)
    every_change_is_in_the_diff(done)
    what_is_returned_is_there(case, done, host)
    made = host.now()
    assert made != nothing

    for check in (True, False):
        again = run(case.module, check=check, **case.present)
        assert (again["changed"], again["diff"], again["actions"]) == (False, [], [])
        assert not any(result["changed"] for result in again["results"])
        assert host.now() == made


def test_removed_once_then_quiet(case: Case, run: Modules, host: Host) -> None:
    run(case.module, **case.present)
    before = host.now(times=True)
    predicted = run(case.module, check=True, **case.absent)
    assert host.now(times=True) == before

    done = run(case.module, **case.absent)
    assert done["changed"] is True
    same_prediction(predicted, done)
    every_change_is_in_the_diff(done)
    gone = host.now()
    assert set(gone.tree) < set(before.tree) or set(gone.domains) < set(before.domains) or set(gone.networks) < set(before.networks)

    for check in (True, False):
        again = run(case.module, check=check, **case.absent)
        assert (again["changed"], again["diff"], again["actions"]) == (False, [], [])
        assert host.now() == gone


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if not make(Path("/")).before])
def test_removing_what_never_was_is_quiet(name: str, files: Path, run: Modules, host: Host) -> None:
    case = CASES[name](files)
    before = host.now(times=True)
    answer = run(case.module, **case.absent)
    assert (answer["changed"], answer["diff"], answer["actions"]) == (False, [], [])
    assert host.now(times=True) == before


def test_check_mode_alone_is_enough_to_be_refused(case: Case, run: Modules, host: Host) -> None:
    """A bad wish beside good ones is refused in check mode just as without it, and nothing is made of the good ones either."""
    (key,) = [key for key in ("images", "overlays", "seeds", "domains", "networks") if key in case.present]
    wishes = {**case.present, key: [*case.present[key], case.present[key][0]]}
    before = host.now(times=True)
    said = {run.fail(case.module, check=check, **wishes)["msg"] for check in (True, False)}
    assert len(said) == 1
    assert "it is given more than once" in said.pop()
    assert host.now(times=True) == before
