"""Makes the one-file program: pack.py OUTPUT INTERPRETER. Run by build.sh, with a Python that has shiv.

shiv writes the archive: `#!` line, members in sorted order with fixed times and modes. Its bootstrap, which
unpacks to ~/.shiv, runs what it finds there and obeys SHIV_*, is left out: start.py takes its place.
(The archive's environment.json is shiv's too. Nothing reads it.)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

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
# The modules that `gofer runsc` needs for a container, its tracer too.
LAUNCH = """__init__ output signals runsc/__init__ runsc/calls runsc/errors runsc/flags runsc/guard runsc/redirect runsc/tracer"""
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
        files = sorted(path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("gofer/**/*.py"))
        for file in files:
            _write(stage / file, (CHECKOUT / file).read_bytes())
        for python in pythons.find().values():
            for kind, chosen in (("bundle", files), ("launch", [f"gofer/{name}.py" for name in LAUNCH.split()])):
                bundle = _run(python, str(HERE / "bundle.py"), str(CHECKOUT), *chosen)
                _write(stage / f"{_magic(python)}.{kind}", bundle)
        start = (HERE / "start.py").read_text() + (CHECKOUT / "gofer/__main__.py").read_text()
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


def _magic(python: str) -> int:
    code = "import importlib.util as u; print(int.from_bytes(u.MAGIC_NUMBER[:2], 'little'))"
    return int(_run(python, "-c", code))


def _run(python: str, *args: str) -> bytes:
    # Not -I: that would ignore PYTHONHASHSEED as well.
    command = [python, "-sS", *args]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, env={"PYTHONHASHSEED": "0"}).stdout


if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2])
