# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the images a job stands on to options of the module image. Pure."""

from __future__ import annotations

import typing as t

from ..module_utils._errors import InvalidInput

Options = dict[str, t.Any]
# Toolchain to what it adds to an image of each base: names of packages, or C(packages) and the further C(suites) they come from.
Toolchains = t.Mapping[str, t.Mapping[str, t.Union[list[str], Options]]]


_NOT_BUILT = "it is neither in the catalogue of recipes nor defined by the job"


def plan(
    wanted: t.Sequence[Options],
    catalog: t.Mapping[str, Options],
    toolchains: Toolchains,
    settings: t.Mapping[str, t.Any],
) -> dict[str, list[t.Any]]:
    """Return the images to make, and the names that can only be in the store already.

    The catalog maps a base to a recipe or an import; toolchains map a name to what it adds by base; settings hold what all builds
    share.
    """
    make, stored = [], []
    for image in wanted:
        base = catalog.get(image["base"])
        if base is None:
            _refuse_additions({**image, "packages": [*image.get("toolchains", []), *image.get("packages", [])]}, _NOT_BUILT)
            stored.append(image["base"])
        elif "recipe" in base:
            make.append(_built(image, base["recipe"], toolchains, settings))
        else:
            # Toolchains may be in it already; their roles prove that in the guest.
            _refuse_additions(image, "it is imported, not built")
            make.append({**base, "name": image["name"]})
    return {"make": make, "stored": stored}


def _built(image: Options, recipe: Options, toolchains: Toolchains, settings: t.Mapping[str, t.Any]) -> Options:
    packages = [*recipe.get("packages", []), *settings.get("packages", []), *image.get("packages", [])]
    suites = [*recipe.get("suites", []), *settings.get("suites", [])]
    for name in image.get("toolchains", []):
        added = _toolchain(image, name, toolchains)
        packages += added["packages"]
        suites += [suite for suite in added["suites"] if suite not in suites]
    result = {
        **recipe,
        "packages": sorted(set(packages)),
        "suites": suites,
        "ca_certificates": [*recipe.get("ca_certificates", []), *settings.get("ca_certificates", [])],
    }
    if settings.get("serial"):
        result["serial"] = settings["serial"]
    kernel = image.get("kernel") or ""
    if kernel == "backports":
        suite = f"{recipe['suite']}-backports"
        result["suites"] = sorted({*result["suites"], suite})
        result["kernel_suite"] = suite
    elif kernel:
        result["kernel"] = kernel
    options: Options = {"name": image["name"], "recipe": result}
    if settings.get("mirror"):
        options["mirror"] = settings["mirror"]
    if settings.get("apt_options"):
        options["apt_options"] = list(settings["apt_options"])
    return options


def _toolchain(image: Options, name: str, toolchains: Toolchains) -> dict[str, list[str]]:
    if name not in toolchains:
        raise InvalidInput("Toolchain", name, f"there is none of that name (known: {', '.join(sorted(toolchains))})", "Correct the job.")
    by_base = toolchains[name]
    if image["base"] not in by_base:
        known = ", ".join(sorted(by_base))
        raise InvalidInput(
            "Toolchain", name, f"its packages are not known for {image['base']} (known for: {known})", "Give them as packages."
        )
    added = by_base[image["base"]]
    if isinstance(added, t.Mapping):
        return {"packages": list(added.get("packages", [])), "suites": list(added.get("suites", []))}
    return {"packages": list(added), "suites": []}


def _refuse_additions(image: Options, why: str) -> None:
    additions = [*image.get("packages", []), *([image["kernel"]] if image.get("kernel") else [])]
    if additions:
        raise InvalidInput(
            "Image",
            image["base"],
            f"{why}, so {', '.join(additions)} cannot be baked into it",
            "Use an image that is built by recipe, such as debian-12, or one that has them already.",
        )
