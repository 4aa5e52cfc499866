#!/usr/bin/env python3
"""Finds the CPythons of this machine: one line `3.N PATH` for each minor version from 3.9 on.

Looks at `python3.N` and `python3` along PATH, at /usr/bin and /usr/local/bin, and at pyenv's versions where
pyenv is installed; its shims on PATH are shell scripts that take half a second each to run one of those versions, or none. Each
candidate is asked what it is.
"""

import glob
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = 9, 15  # the minor versions that are supported, and tested
ASK = "import os, sys as s; print(s.implementation.name, *s.version_info[:2], os.path.realpath(s.executable))"


def find(oldest: int = OLDEST) -> dict[int, str]:
    """Minor version -> path of its interpreter, in rising order; the first found of each counts."""
    found: dict[int, str] = {}
    for candidate in _candidates():
        try:
            run = subprocess.run([candidate, "-IS", "-c", ASK], capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired):
            continue
        words = run.stdout.strip().split(" ", 3)
        if run.returncode == 0 and words[:2] == ["cpython", "3"] and int(words[2]) >= oldest:
            found.setdefault(int(words[2]), words[3])
    return dict(sorted(found.items()))


def _candidates() -> list[str]:
    names = ["python3"] + [f"python3.{minor}" for minor in range(NEWEST + 1)]
    paths = [sys.executable]  # whoever runs this is the main one
    roots = _pyenv_roots()
    shims = [os.path.join(root, "shims") for root in roots]
    for folder in os.get_exec_path() + ["/usr/bin", "/usr/local/bin"]:
        if folder not in shims:
            paths += [os.path.join(folder, name) for name in names]
    for root in roots:
        paths += sorted(glob.glob(os.path.join(root, "versions", "*", "bin", "python3")))
    return [path for path in dict.fromkeys(paths) if os.access(path, os.X_OK)]


def _pyenv_roots() -> list[str]:
    roots = [os.environ.get("PYENV_ROOT", "")]
    pyenv = shutil.which("pyenv")
    if pyenv:
        roots.append(subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip())
    return [root for root in dict.fromkeys(roots) if root]


if __name__ == "__main__":
    for minor, path in find().items():
        print(f"3.{minor} {path}")
