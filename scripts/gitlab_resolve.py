# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write pipelines for GitLab as it sees them, with references and extends filled in and hidden jobs gone.

    gitlab_resolve.py DIRECTORY FILE...

GitLab's schema does not look into hidden jobs. What is written is JSON, and so YAML.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

# Keys of a pipeline that are no jobs.
GLOBAL = ("stages", "variables", "workflow", "default", "include")


class Reference(list[str]):
    """!reference [job, key]"""


class Loader(yaml.SafeLoader):
    """Reads what GitLab reads."""


def _reference(loader: yaml.SafeLoader, node: yaml.Node) -> Reference:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise yaml.constructor.ConstructorError(None, None, "!reference wants a list of keys", node.start_mark)
    return Reference(loader.construct_sequence(node))


Loader.add_constructor("!reference", _reference)


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.load(path.read_text(encoding="utf-8"), Loader))  # noqa: S506 - it is a SafeLoader


def resolve(pipeline: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline as GitLab sees it: references and extends filled in, hidden jobs gone."""

    def filled(value: Any) -> Any:
        if isinstance(value, Reference):
            target: Any = pipeline
            for key in value:
                target = target[key]
            return filled(target)
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            lines: list[Any] = []
            for each in value:
                lines += filled(each) if isinstance(each, list) else [filled(each)]  # a script in a script, as GitLab takes it
            return lines
        return value

    def extended(job: dict[str, Any]) -> dict[str, Any]:
        base = extended(pipeline[job["extends"]]) if "extends" in job else {}
        return merge(base, {key: value for key, value in job.items() if key != "extends"})

    def merge(base: Any, over: Any) -> Any:
        if not (isinstance(base, dict) and isinstance(over, dict)):
            return over
        return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}

    jobs = {name: filled(extended(job)) for name, job in pipeline.items() if name not in GLOBAL and not name.startswith(".")}
    return {**{name: filled(pipeline[name]) for name in GLOBAL if name in pipeline}, **jobs}


def main(target: Path, *sources: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for source in sources:
        try:
            resolved = resolve(read(source))
        except (KeyError, TypeError, yaml.YAMLError) as error:
            sys.exit(f"Could not resolve '{source}': it refers to what is not there, or is no YAML: {error}")
        (target / source.name).write_text(json.dumps(resolved, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
