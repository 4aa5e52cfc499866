#!/usr/bin/env python3
"""Other C libraries, interpreters and machines to serve on: tests/elsewhere.py PLACE [PYTEST ARGUMENT...]

  aarch64, riscv64    Debian's CPython for that machine, under qemu-user
  glibc-2.31          that of Debian 11, with CPython 3.9
  glibc-2.41          that of Debian 13, with CPython 3.13
  musl                CPython 3.13, built here on the machine's musl-gcc (some minutes of a CPU)
  free-threaded       the same source built with --disable-gil (some more)
  3.14, 3.15          those of Debian's next release, on its glibc

runs the suite, or what pytest's arguments say of it, with this interpreter and a PLACE's servers. Without a PLACE it makes those
that tests/test_elsewhere.py uses. Everything comes from the mirror that apt uses here, signed, and stays in .venv/elsewhere.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from newer import mirror

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = (CHECKOUT / ".venv/elsewhere").resolve()  # configure minds symlinks
LIBRARIES = ("libc6", "libgcc-s1", "libexpat1", "zlib1g")
APT = """\
Dir::State "{0}"; Dir::State::lists "{0}/lists"; Dir::State::status "/dev/null"; Dir::Cache "{0}"; Dir::Etc "{0}/etc";
APT::Architecture "{1}"; APT::Architectures {{ "{1}"; }}; APT::Sandbox::User "root"; Acquire::Languages "none";
Acquire::Check-Valid-Until "false"; Acquire::Retries "1"; Acquire::http::Timeout "30"; Acquire::https::Timeout "30";
"""
# Modules that no server needs: they take longer to build than the rest.
WITHOUT = (
    "audioop _asyncio _bisect _blake2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _csv _ctypes_test "
    "_curses _curses_panel _datetime _dbm _decimal _elementtree _gdbm _interpchannels _interpqueues _interpreters _lsprof _lzma "
    "_bz2 _md5 _multibytecodec _multiprocessing _opcode _pickle _queue _sha1 _sha2 _sha3 _sqlite3 _statistics _tkinter _uuid "
    "_xxtestfuzz _zoneinfo cmath pyexpat readline syslog unicodedata zlib _hashlib _ssl _posixshmem xxlimited xxlimited_35 "
    "xxsubtype"
).split()


class Place(NamedTuple):
    suite: str
    architecture: str  # as Debian says; "source": to be built
    python: str
    libffi: str
    qemu: str = ""


PLACES = {
    "aarch64": Place("trixie", "arm64", "python3.13", "libffi8", "aarch64"),
    "riscv64": Place("trixie", "riscv64", "python3.13", "libffi8", "riscv64"),
    "glibc-2.31": Place("bullseye", "amd64", "python3.9", "libffi7"),
    "glibc-2.41": Place("trixie", "amd64", "python3.13", "libffi8"),
    "musl": Place("trixie", "source", "python3.13", "libffi"),
    "free-threaded": Place("trixie", "source", "python3.13", ""),
    "3.14": Place("sid", "amd64", "python3.14", "libffi8"),
    "3.15": Place("sid", "amd64", "python3.15", "libffi8"),
}
OF_THE_GATE = ("aarch64", "riscv64", "glibc-2.31", "glibc-2.41", "musl", "3.14")


def command(name: str) -> list[str]:
    """What runs that place's Python; Missing where it has not been made."""
    if (FOLDER / name / "absent").exists():
        raise Absent((FOLDER / name / "absent").read_text())
    if not (FOLDER / name / "made").exists():
        raise Missing(f"{FOLDER / name} is not there: tests/run --install makes it")
    return _command(PLACES[name], FOLDER / name)


def _command(place: Place, folder: Path) -> list[str]:
    python = str(folder / "usr/bin" / place.python)
    # a57: without the pointer authentication of newer ones, which takes most of an emulator's time
    cpu = ["-cpu", "cortex-a57"] if place.qemu == "aarch64" else []
    return [str(_qemu(place.qemu)), *cpu, "-L", str(folder), python] if place.qemu else [python]


class Missing(Exception):
    pass


class Absent(Missing):
    """It cannot be had: mirrors drop old releases."""


def make(name: str) -> None:
    """Unpack or build a place, if that was not done; where the mirror has not got it, that is kept in mind."""
    try:
        _make(name)
    except Absent as error:
        print(f"{name}: {error}", flush=True)
        (FOLDER / name / "absent").write_text(str(error))


def _make(name: str) -> None:
    place, folder = PLACES[name], FOLDER / name
    if (folder / "made").exists():
        return
    print(f"{name}: from Debian's {place.suite}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if place.architecture == "source":
        _build(name, place, folder)
    else:
        _unpack(place, folder)
    ask = "import ctypes, mmap, select, _socket, sys; print('CPython', sys.version)"
    subprocess.run([*_command(place, folder), "-IS", "-c", ask], check=True)
    (folder / "made").touch()


def _unpack(place: Place, folder: Path) -> None:
    minimal, standard = f"lib{place.python}-minimal", f"lib{place.python}-stdlib"
    packages = [*LIBRARIES, place.libffi, f"{place.python}-minimal", minimal, standard]
    for package in _fetch(place, folder, ["download", *(f"{each}:{place.architecture}" for each in packages)], "*.deb"):
        subprocess.run(["dpkg", "-x", package, folder], check=True)
        package.unlink()
    for name in ("lib", "lib64"):  # where packages still use both, those files are found below /usr as well
        if (folder / name).is_dir():
            shutil.copytree(folder / name, folder / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder / name)
        if (folder / "usr" / name).is_dir():
            (folder / name).symlink_to(f"usr/{name}")
    if not place.qemu:
        libraries = folder / "usr/lib/x86_64-linux-gnu"
        loader = sorted(libraries.glob("ld-*.so*"))[0]
        argv = ["patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries]
        subprocess.run([*argv, folder / "usr/bin" / place.python], check=True)


def _build(name: str, place: Place, folder: Path) -> None:
    source = _source(place, folder, place.python)
    options = ["--prefix", str(folder / "usr"), "--without-ensurepip", "--disable-test-modules"]
    env = {**os.environ, "CFLAGS": "-O1 -g0", **{f"py_cv_module_{each}": "n/a" for each in WITHOUT}}
    if name == "musl":
        env.update(CC=str(_musl_compiler(folder)), PKG_CONFIG="false")
        libffi = _source(place._replace(suite="bookworm"), folder, place.libffi)  # the last that comes with a configure
        _run(
            [libffi / "configure", "--prefix", folder / "ffi", "--disable-shared", "--disable-docs", "--with-pic"],
            libffi,
            env,
        )
        _run(["make", "-j2", "install"], libffi, env)
        libraries = next((folder / "ffi").glob("lib*/libffi.a"))
        options += [f"LIBFFI_CFLAGS=-I{folder}/ffi/include", f"LIBFFI_LIBS={libraries}", "--without-mimalloc"]
    else:
        options.append("--disable-gil")
    _run([source / "configure", *options], source, env)
    _run(["make", "-j2", "all"], source, env)
    _run(["make", "altinstall", "COMPILEALL_OPTS=-q -x ."], source, env)
    shutil.rmtree(source)


def _run(argv: Sequence["str | Path"], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: {done.stdout[-3000:]}")


def _musl_compiler(folder: Path) -> Path:
    """musl-gcc knows no Linux headers, and tells configure that it is for glibc."""
    headers = folder / "headers"
    headers.mkdir()
    for name, place in (("linux", "linux"), ("asm-generic", "asm-generic"), ("asm", "x86_64-linux-gnu/asm")):
        (headers / name).symlink_to(f"/usr/include/{place}")
    compiler = folder / "musl-gcc"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *--print-multiarch*) exit 0;; esac\nexec musl-gcc -idirafter {headers} "$@"\n'
    )
    compiler.chmod(0o755)
    return compiler


def _source(place: Place, folder: Path, package: str) -> Path:
    (archive,) = _fetch(place, folder, ["source", "--download-only", "--only-source", package], "*.orig.tar.*[!c]")
    target = folder / package
    target.mkdir()
    subprocess.run(["tar", "--extract", "--strip-components=1", f"--file={archive}"], cwd=target, check=True)
    for leftover in folder.glob(f"{package}_*"):
        leftover.unlink()
    return target


def _fetch(place: Place, folder: Path, words: list[str], pattern: str) -> list[Path]:
    """Run apt-get in the folder, with a state of its own for that suite; what it brought there."""
    state = FOLDER / f"apt-{place.suite}-{place.architecture}"
    architecture = "amd64" if place.architecture == "source" else place.architecture
    env = {**os.environ, "APT_CONFIG": str(state / "conf")}
    if not (state / "conf").exists():
        kind = "deb-src" if place.architecture == "source" else "deb"
        for name in ("lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"):
            (state / name).mkdir(parents=True, exist_ok=True)
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (state / "etc/sources.list").write_text(f"{kind} [signed-by={keys}] {mirror()} {place.suite} main\n")
        (state / "conf").write_text(APT.format(state, architecture))
        if subprocess.run(["apt-get", "-qq", "update"], env=env).returncode:
            shutil.rmtree(state)
            raise Absent(f"this machine's mirror has no {place.suite} for {architecture}, or cannot be reached")
    if subprocess.run(["apt-get", "-qq", *words], cwd=folder, env=env).returncode:
        raise Absent(
            f"this machine's mirror has no {place.python} in {place.suite} for {architecture} any more, or cannot be reached"
        )
    return sorted(folder.glob(pattern))


def _qemu(machine: str) -> Path:
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise Missing(f"no qemu-{machine}: tests/run --install installs it")


def main(args: list[str]) -> int:
    if not args:
        for name in OF_THE_GATE:
            make(name)
        return 0
    if args[0] not in PLACES:
        print(__doc__, file=sys.stderr)
        return 2
    make(args[0])
    env = {**os.environ, "SERVER_PYTHON": " ".join(command(args[0]))}
    return subprocess.run([sys.executable, "-m", "pytest", *args[1:]], cwd=CHECKOUT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
