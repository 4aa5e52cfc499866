"""Makes the one-file program: pack.py OUTPUT INTERPRETER. Run by build.sh, with a Python that has shiv.

shiv writes the archive: `#!` line, members in sorted order with fixed times and modes. Its bootstrap, which
unpacks to ~/.shiv, runs what it finds there and obeys SHIV_*, is left out: start.py takes its place.
(The archive's environment.json is shiv's too. Nothing reads it.)
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bundle
import parts
import pythons
import shiv.builder
import shiv.cli

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent

# What Linux makes of `#!INTERPRETER -BISc...`: INTERPRETER, one argument with all the rest of the line (Linux
# before 5.1 takes 127 bytes), the file's path, the caller's arguments. With -c Python does not go through
# `runpy`, as for an archive named on its command line: 5 to 12 ms (Python 3.11, 3.9) of a start of 25.
# -B: not even byte code of the standard library is written. -I, -S: isolated, no site-packages.
START = "import sys,zipimport as z;a=sys.argv;del a[0];exec(z.zipimporter(a[0]).get_data('__main__.py'))"
LONGEST = 127 - len(f"#! -BISc{START}")


def pack(output: Path, interpreter: str) -> None:
    # Linux ends the interpreter's path at the first blank.
    if (
        not interpreter.startswith("/")
        or len(os.fsencode(interpreter)) > LONGEST
        or interpreter.split() != [interpreter]
    ):
        sys.exit(
            f"build.sh: {interpreter}: an absolute path of {LONGEST} bytes at most, without blanks: make a link to it"
        )
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        files = parts.modules(CHECKOUT)
        stamp = _stamp(list(files.values()))
        plan = {"files": files, "parts": parts.parts(CHECKOUT), "at_once": parts.AT_ONCE, "stamp": stamp}
        _write(stage / "source", bundle.source(str(CHECKOUT), stamp, files))
        for python in pythons.find().values():
            magic = _magic(python)
            with tempfile.TemporaryDirectory() as made:
                _run(python, str(HERE / "bundle.py"), str(CHECKOUT), made, stdin=json.dumps(plan))
                for part in Path(made).iterdir():
                    _write(stage / f"{magic}.{part.name}", part.read_bytes())
        start = (HERE / "start.py").read_text()
        shiv.builder.MAIN_TEMPLATE = start.replace("{", "{{").replace("}", "}}")
        shiv.builder.iter_package_files = lambda package: iter(())  # the files of its bootstrap
        shiv.cli.main(
            ["--site-packages", folder, "--uncompressed", "--reproducible", "--entry-point", "gofer.cli:main"]
            + ["--python", f"{interpreter} -BISc{START}", "--output-file", str(output)]
        )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def _stamp(files: list[str]) -> str:
    """What tells the parts of one build from those of another."""
    every = hashlib.sha256()
    for file in ("gofer/__main__.py", "onefile/loader.py", *files):
        every.update(file.encode() + b"\0" + (CHECKOUT / file).read_bytes())
    return every.hexdigest()[:16]


def _magic(python: str) -> int:
    code = "import importlib.util as u; print(int.from_bytes(u.MAGIC_NUMBER[:2], 'little'))"
    return int(_run(python, "-c", code))


def _run(python: str, *args: str, stdin: str = "") -> str:
    # Not -I: that would ignore these as well. Nobody reads in which columns of a line a fault was: a tenth less to load.
    env = {"PYTHONHASHSEED": "0", "PYTHONNODEBUGRANGES": "1"}
    command = [python, "-sS", *args]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True, text=True, env=env).stdout


if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2])
