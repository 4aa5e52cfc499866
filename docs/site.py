#!/usr/bin/env python3
"""Makes a site of the pages: site.py FOLDER, with mkdocs of the Python that runs this; FOLDER/site is the site.

The pages stay where they stand in the checkout, so that their links to each other mean the same on both. What they link to
besides comes along as it is. A link that leads nowhere ends it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CONFIG = """\
site_name: gofer
docs_dir: pages
site_dir: site
use_directory_urls: false
theme: {name: readthedocs, highlightjs: false}
plugins: []
validation: {links: {not_found: warn, anchors: warn, absolute_links: warn, unrecognized_links: warn}, nav: {omitted_files: info}}
nav:
"""
FIRST = ("README.md", "docs/tutorial.md", "docs/runsc.md", "SECURITY.md")


def main(args: list[str]) -> int:
    if len(args) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(args[0])
    pages = folder / "pages"
    for name in ("docs", "bench"):
        shutil.copytree(CHECKOUT / name, pages / name, ignore=shutil.ignore_patterns("__pycache__", "*.py", "*.c", "*.sh"))
    for path in CHECKOUT.glob("*.md"):
        shutil.copy(path, pages)
    shutil.copy(CHECKOUT / "LICENSE", pages)
    found = sorted(path.relative_to(pages).as_posix() for path in pages.rglob("*.md"))
    nav = [*FIRST, *(name for name in found if name not in FIRST)]
    (folder / "mkdocs.yml").write_text(CONFIG + "".join(f"  - {name}\n" for name in nav))
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", folder / "mkdocs.yml"]
    return subprocess.run(build).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
