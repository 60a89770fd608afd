"""What may not stand in a committed file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Folders of one machine. The brackets keep this line from finding itself.
MACHINE_PATHS = re.compile(r"(?<![\w.$}-])/(?:roo[t]|wor[k]|hom[e]/\w|User[s]/\w)/|/tm[p]/[a-z]")
TEXT = {".py", ".md", ".sql", ".yml", ".yaml", ".toml", ".json", ".txt", ".cfg", ".ipynb", ".csv", ".env", ""}


def tracked_files() -> list[Path]:
    """Files that are committed or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_committed_text_holds_a_path_of_one_machine() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in TEXT and path.name != "uv.lock":
            lines = path.read_text(errors="replace").splitlines()
            found += [
                f"{path.relative_to(REPOSITORY)}:{n}: {line[:160]}"
                for n, line in enumerate(lines, 1)
                if MACHINE_PATHS.search(line)
            ]
    assert not found, "\n".join(found)


def test_no_committed_file_is_large() -> None:
    # uv.lock is the one that must be: 1.4 MB.
    large = [path for path in tracked_files() if path.stat().st_size > 2_000_000]
    assert not large
