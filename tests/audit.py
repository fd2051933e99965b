"""Known vulnerabilities of the packages that this project names, in the versions installed here, from pip-audit.

    python tests/audit.py [package …]

Exits with 1 if there is a version without one of them. Where pypi.org cannot be asked, one line says so.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = "avatar-gs"


def pinned(names: Sequence[str]) -> list[str]:
    """``name==version`` of each that is installed, without the local part of a version."""
    lines = []
    for name in sorted(set(names)):
        try:
            lines.append(f"{name}=={Version(importlib.metadata.version(name)).public}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return lines


def audited(lines: Sequence[str]) -> tuple[list[dict], str]:
    """The packages with vulnerabilities, as pip-audit reports them, or why it could not ask."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(lines))
        options = ["--requirement", str(file), "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
        done = subprocess.run([sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True)
    try:
        return [found for found in json.loads(done.stdout)["dependencies"] if found.get("vulns")], ""
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["no answer"])[-1]


def main(names: Sequence[str]) -> int:
    required = [Requirement(line).name for line in importlib.metadata.requires(PROJECT) or []]
    lines = pinned(names or required)
    vulnerable, unasked = audited(lines)
    if unasked:
        print(f"audit: skipped, {unasked[:160]}")
        return 0
    mended = False
    for package in vulnerable:
        for found in package["vulns"]:
            mended |= bool(found["fix_versions"])
            remedy = ", ".join(found["fix_versions"]) or "no version"
            print(f"audit: {package['name']} {package['version']}: {found['id']}, mended in {remedy}")
    print(f"audit: {len(lines)} packages, {len(vulnerable)} with known vulnerabilities")
    return int(mended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
