"""Write the bill of materials of a release (CycloneDX 1.6, JSON): what requirements.lock installs, what is vendored.

    python tools/sbom.py [--lock requirements.lock] [--out dist/proponent.cdx.json]

Everything is read from the lock, so that the same lock gives the same bytes; licences are those that the installed
packages declare, where they are installed.
"""

import argparse
import hashlib
import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

ROOT = Path(__file__).parents[1]
VENDORED = {"htmx.org": ("2.0.11", "0BSD", ROOT / "src" / "proponent" / "web" / "static" / "htmx.min.js")}
"""Files of other projects in this one: version, licence, file."""


def packages(lock: str) -> list[tuple[str, str, str, list[str]]]:
    """Name, version, marker and hashes of every package of a lock."""
    found = []
    for entry in re.split(r"(?<!\\)\n", lock):
        head = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]*?))?\s*(?:\\|$)", entry)
        if head is not None:
            hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
            found.append((head[1], head[2], (head[3] or "").strip(), hashes))
    return found


def licences(name: str) -> list[dict[str, Any]]:
    """The licence that an installed package declares as an SPDX expression."""
    try:
        said = metadata(name).get("License-Expression")
    except PackageNotFoundError:
        said = None
    return [{"expression": said}] if said else []


def component(name: str, version: str, marker: str, hashes: list[str]) -> dict[str, Any]:
    """A package; its hashes are those of all its files, of which an installation takes one."""
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    made: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    declared = licences(name)
    if declared:
        made["licenses"] = declared
    files = [{"alg": "SHA-256", "content": one} for one in hashes]
    made["externalReferences"] = [{"type": "distribution", "url": f"https://pypi.org/project/{name}/{version}/"}]
    made["externalReferences"][0]["hashes"] = files
    if marker:
        made["properties"] = [{"name": "marker", "value": marker}]
    return made


def vendored(name: str, version: str, licence: str, path: Path) -> dict[str, Any]:
    """A file of another project that is part of the wheel."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "type": "library",
        "bom-ref": f"pkg:npm/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:npm/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"id": licence}}],
    }


def bill(lock: str) -> dict[str, Any]:
    """The bill of materials of a lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = [component(*one) for one in packages(lock)]
    parts += [vendored(name, *one) for name, one in VENDORED.items()]
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": sorted(parts, key=lambda one: one["bom-ref"]),
        "dependencies": [{"ref": own, "dependsOn": sorted(one["bom-ref"] for one in parts)}],
    }
    serial = uuid5(NAMESPACE_URL, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())
    return {**content, "serialNumber": f"urn:uuid:{serial}"}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements.lock")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "proponent.cdx.json")
    options = parser.parse_args()
    content = bill(options.lock.read_text(encoding="utf-8"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(content['components'])} components")


if __name__ == "__main__":
    main()
