#!/usr/bin/env python3
"""Makes docs/terminal.svg, the picture of a terminal in README: picture.py [FILE]. The commands are run, in a new directory."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from xml.sax.saxutils import escape

CHECKOUT = Path(__file__).resolve().parent.parent
SESSION = (
    "gofer serve demo --socket ./demo.sock --read-only &",
    "gofer ls -l ./demo.sock:",
    "gofer cat ./demo.sock:/link",
    "gofer rm ./demo.sock:/docs/hello.txt",
    "gofer serve demo --quiet --trace -- gofer cat :/docs/hello.txt",
)
SETUP = (
    "mkdir -p demo/docs && echo hello > demo/docs/hello.txt && ln -s docs/hello.txt demo/link && "
    "touch -hd @1700000000 demo/* demo/*/*"
)
BUTTONS = ("#ff5f56", "#ffbd2e", "#27c93f")
COLUMNS, LINE, CHARACTER, MARGIN = 110, 18, 8.0, 14
STYLE = (
    "text{font:13px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre;fill:#d4d4d4}"
    ".p{fill:#7ec699}.c{fill:#ffffff;font-weight:bold}.e{fill:#f0a875}"
)


def session() -> "list[tuple[str, str]]":
    """Class and text of each line."""
    shown: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        place = Path(folder)
        (place / "bin").mkdir()
        (place / "bin/gofer").write_text(f'#!/bin/sh\nexec {sys.executable} -ISB {CHECKOUT} "$@"\n')
        (place / "bin/gofer").chmod(0o755)
        env = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
        subprocess.run(["sh", "-c", SETUP], cwd=place, check=True)
        with open(place / "log", "wb") as log:
            server = subprocess.Popen(["sh", "-c", "exec " + SESSION[0].rstrip(" &")], cwd=place, env=env, stderr=log)
        try:
            while not (place / "demo.sock").exists():
                if server.poll() is not None:
                    raise SystemExit((place / "log").read_text())
            for command in SESSION:
                shown.append(("c", command))
                if command == SESSION[0]:
                    subprocess.run([place / "bin/gofer", "ls", "demo.sock:"], cwd=place, env=env, stdout=subprocess.DEVNULL)
                    text = (place / "log").read_text()
                else:
                    argv = ["sh", "-c", f"{command} 2>&1"]
                    text = subprocess.run(argv, cwd=place, env=env, stdout=subprocess.PIPE, text=True).stdout
                for line in text.replace(f"{place}/bin/gofer", "gofer").replace(str(place), "/srv").splitlines():
                    if "look at it with" not in line:
                        kind = "e" if line.startswith("gofer: rm") else ""
                        shown += [(kind, part) for part in textwrap.wrap(line, COLUMNS, subsequent_indent="    ")]
        finally:
            server.terminate()
            server.wait()
    return shown


def picture(lines: "list[tuple[str, str]]") -> str:
    width, height = int(COLUMNS * CHARACTER + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN + 22
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>A terminal: gofer serves a directory, and commands look at it</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>',
        *(f'<circle cx="{18 + 18 * n}" cy="16" r="5.5" fill="{fill}"/>' for n, fill in enumerate(BUTTONS)),
    ]
    for number, (kind, line) in enumerate(lines):
        y = MARGIN + 22 + (number + 1) * LINE - 5
        text = f'<tspan class="p">$ </tspan><tspan class="c">{escape(line)}</tspan>' if kind == "c" else escape(line)
        style = ' class="e"' if kind == "e" else ""
        parts.append(f'<text x="{MARGIN}" y="{y}" xml:space="preserve"{style}>{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main(args: list[str]) -> int:
    if not shutil.which("sh") or len(args) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    Path(args[0] if args else CHECKOUT / "docs/terminal.svg").write_text(picture(session()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
