# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told of a task's result. Pure."""

from __future__ import annotations

import typing as t

from ansible import constants as C

Line = tuple[str, t.Optional[str]]
Result = t.Mapping[str, t.Any]

_PHASES = {"prepare": "Prepare", "run": "Run", "collect": "Collect", "cleanup": "Clean up"}


def lines(action: str, result: Result, took: float) -> list[Line]:
    """Return the lines a successful task deserves, each with its colour; most deserve none."""
    show = _SHOWN.get(action)
    return show(result, took) if show else []


def block(action: str, result: Result) -> list[str]:
    """Return what is shown as it is, without the time before it: the summary of a job."""
    return ["", *result["summary"].rstrip().splitlines(), ""] if action == "mayfly.virt.verdict" else []


def is_loop(result: Result) -> bool:
    """Tell whether the result is that of a loop as a whole."""
    items = result.get("results")
    return isinstance(items, list) and any("ansible_loop_var" in item for item in items if isinstance(item, dict))


def message(result: Result) -> str:
    """Return why a task failed."""
    text = str(result.get("msg") or "no message")
    stderr = str(result.get("stderr") or "").strip()
    return f"{text}\n{stderr}" if stderr and stderr not in text else text


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _phase(result: Result, _took: float) -> list[Line]:
    phase = result.get("phase", {})  # a loop over guests has none of its own
    if phase.get("event") == "start" and not phase.get("guest"):
        return [(_PHASES.get(phase["phase"], phase["phase"]), C.COLOR_HIGHLIGHT)]
    return []


def _images(result: Result, took: float) -> list[Line]:
    return [(_image(image, took), None) for image in result.get("results", [])]


def _image(image: Result, took: float) -> str:
    text = f"  image {image['name']}"
    if "digest" not in image:
        return text
    if image.get("imported"):
        how = "built" if image["source"]["kind"] == "recipe" else "imported"
        return f"{text}: {how} in {took:.0f} s, {image['size'] // 1024**2} MiB"
    return f"{text}: reused, of {image['created'][:16].replace('T', ' ')} UTC"


def _domains(result: Result, took: float) -> list[Line]:
    made = [_guest(guest) for guest in result.get("results", []) if guest.get("stage", "none") != "none"]
    if made:
        return [(line, None) for line in made]
    removed = [step for step in result.get("actions", []) if step.startswith("remove ")]
    return [(f"  {_count(removed, 'domain')} and everything of the run removed in {took:.1f} s", None)] if removed else []


def _guest(guest: Result) -> str:
    seconds = guest["seconds"].get(guest["stage"], 0)
    kernel = f", kernel {guest['kernel']}" if guest["kernel"] else ""
    where = f", {guest['address']}" if guest["address"] else ""
    return f"  guest {guest['guest']}: {guest['stage']} after {seconds:.1f} s ({guest['accel']}{kernel}{where})"


def _count(steps: t.Sequence[str], kind: str) -> str:
    number = sum(step.startswith(f"remove {kind} ") for step in steps)
    return f"{number} {kind}" if number == 1 else f"{number} {kind}s"


def _evidence(result: Result, _took: float) -> list[Line]:
    return [(f"  kept {len(result['files'])} files of the guest", None)] if result.get("files") else []


def _verdict(result: Result, _took: float) -> list[Line]:
    colour = C.COLOR_OK if result["verdict"] == "passed" else C.COLOR_ERROR
    return [(f"Verdict: {result['verdict']}", colour)]


def _debug(result: Result, _took: float) -> list[Line]:
    text = result.get("msg")
    if isinstance(text, (list, tuple)):
        return [(f"  {line}", None) for line in text]
    return [(f"  {text}", None)] if isinstance(text, str) else []


def _sweep(result: Result, _took: float) -> list[Line]:
    return [(f"  {step}", None) for step in result.get("actions", [])]


_SHOWN: dict[str, t.Callable[[Result, float], list[Line]]] = {
    "mayfly.virt.phase": _phase,
    "mayfly.virt.image": _images,
    "mayfly.virt.domain": _domains,
    "mayfly.virt.evidence": _evidence,
    "mayfly.virt.verdict": _verdict,
    "mayfly.virt.sweep": _sweep,
    "ansible.builtin.debug": _debug,
}
