"""The house rules that no linter knows: files of at most 400 lines, names that say something, no lock files.

    python tests/layout.py

Exits with 1 and one line for each file that breaks a rule.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MOST_LINES = 400
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
LOCK_FILES = {"Cargo.lock", "uv.lock", "package-lock.json", "poetry.lock"}


def broken(path: Path) -> list[str]:
    """What is wrong with one tracked file."""
    found = []
    if path.suffix == ".py" and len(path.read_text("utf-8").splitlines()) > MOST_LINES:
        found.append(f"{path}: over {MOST_LINES} lines")
    if path.stem in EMPTY_NAMES:
        found.append(f"{path}: a name that says nothing")
    if path.name in LOCK_FILES:
        found.append(f"{path}: a lock file names a registry's host; pin in the manifest")
    return found


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    problems = [line for name in listed.stdout.splitlines() if Path(name).is_file() for line in broken(Path(name))]
    sys.stdout.writelines(f"{line}\n" for line in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
