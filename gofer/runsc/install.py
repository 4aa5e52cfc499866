"""`gofer runsc install ENGINE` and `uninstall ENGINE`: make this program a runtime of Docker, podman or containerd.

An engine wants one program for a runtime, so a script is written that calls `gofer runsc`, and an entry for it in the
engine's own configuration. First everything is read and the whole change is worked out; what is broken, or is somebody
else's, ends it there. Then each file is written beside its place and renamed into it: an engine that reads meanwhile
sees the old one or the new one. Owner and mode stay.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff
from json import dumps as quoted  # for JSON, and for TOML too
from shlex import quote
from typing import NamedTuple

from gofer.output import put, say
from gofer.runsc.edits import FRESH, add_block, add_member, read_json, read_toml, remove_block, remove_member
from gofer.runsc.redirect import find_runsc, find_target
from gofer.runsc.tracer import Refusal

ENGINES = ("docker", "podman", "containerd")
WRITTEN = "# Written by `gofer runsc install`; the next one overwrites it, `gofer runsc uninstall` removes it.\n"
_CRI = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}  # by the version of config.toml


class Place(NamedTuple):
    engine: str
    name: str
    script: str
    config: str


class Change(NamedTuple):
    """Of one file. old, new: its text; None: there is none."""

    path: str
    old: str | None
    new: str | None
    mode: int = 0o644


def main(args: list[str]) -> int:
    """args: from the word `install` or `uninstall` on. The exit status. Refusal, OSError: why nothing was changed."""
    options = _options(args)
    name, home = options.name, os.geteuid() != 0
    script = options.script or (os.path.expanduser("~/.local/bin/") if home else "/usr/local/bin/") + name
    config = options.config or _default_config(options.engine, name, home)
    place = Place(options.engine, name, os.path.abspath(script), os.path.abspath(config))
    if options.action == "install":
        command = [find_target(options.gofer), "runsc", "--runsc", find_runsc(options.runsc), "--", *options.flags]
        changes = _install(place, f'#!/bin/sh\n{WRITTEN}exec {" ".join(map(quote, command))} "$@"\n')
    else:
        changes = _uninstall(place)
    changes = [change for change in changes if change.old != change.new]
    if options.dry_run:
        put("".join(map(_difference, changes)).encode("utf-8", "backslashreplace"))
        return 0
    _write(changes)
    for change in changes:
        say(f"{'removed' if change.new is None else 'wrote'} {change.path}")
    say(_next(place, options.action) if changes else "nothing to change")
    return 0


def parser(action: str) -> argparse.ArgumentParser:
    """Of the words from `action` on."""
    parser = argparse.ArgumentParser(
        prog=f"gofer runsc {action}",
        usage="gofer runsc install ENGINE [options] [-- RUNSC-FLAGS]\n       gofer runsc uninstall ENGINE [options]",
        description="Make this program a runtime of a container engine, or undo that: a script, and the script's entry in the "
        "engine's configuration. What else stands there stays as it is; what is broken, or not ours, is left alone.",
        epilog="RUNSC-FLAGS come before runsc's command at every call. In a virtual machine without KVM or cgroups runsc needs "
        "`-- --platform=systrap --network=none --ignore-cgroups` (ptrace before 2023).",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("install", "uninstall"), help=argparse.SUPPRESS)
    parser.add_argument("engine", metavar="ENGINE", choices=ENGINES, help=", ".join(ENGINES))
    parser.add_argument("--name", type=_name, default="runsc-gofer", help="of the runtime (default: runsc-gofer)")
    parser.add_argument("--runsc", metavar="PATH", default="runsc", help="the runsc to run (default: the first in $PATH)")
    parser.add_argument("--gofer", metavar="FILE", default="", help="the gofer to use (default: this very file)")
    parser.add_argument("--script", metavar="FILE", help="the script (default: NAME in /usr/local/bin or ~/.local/bin)")
    parser.add_argument("--config", metavar="FILE", help="the engine's configuration (default: root's, or your own)")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    return parser


def _options(args: list[str]) -> argparse.Namespace:
    head, flags = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    made = parser(args[0])
    options = made.parse_args(head)
    if flags and options.action == "uninstall":
        made.error("uninstall takes no flags for runsc")
    options.flags = flags
    return options


def _name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]+", text):
        raise argparse.ArgumentTypeError("may have letters, digits, _ and -")
    return text


def _default_config(engine: str, name: str, home: bool) -> str:
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    files = {
        "docker": "docker/daemon.json",
        "podman": f"containers/containers.conf.d/{name}.conf",  # a file of its own: read after all others
        "containerd": "containerd/config.toml",
    }
    return f"{folder if home else '/etc'}/{files[engine]}"


def _shim_config(place: Place) -> str:
    """For gVisor's shim; containerd's entry names it."""
    return os.path.join(os.path.dirname(place.config), place.name + ".toml")


def _install(place: Place, script: str) -> list[Change]:
    """The engine's own file comes last: what it names is there before it is."""
    old = _read_script(place)
    changes = [Change(place.script, old, script, 0o755)]
    if place.engine == "containerd":
        path = _shim_config(place)
        with _about(path):
            meaning = {"binary_name": place.script}
            new = add_block(_read(path) or "", place.name, "", f"binary_name = {quoted(place.script)}\n", meaning)
        changes.append(Change(path, _read(path), new))
    text = _read(place.config)
    with _about(place.config):
        add = {"docker": _add_docker, "podman": _add_podman, "containerd": _add_containerd}[place.engine]
        changes.append(Change(place.config, text, add(text or "", place)))
    return changes


def _uninstall(place: Place) -> list[Change]:
    text = _read(place.config)
    changes = []
    if text is not None:
        with _about(place.config):
            new = _remove_docker(text, place) if place.engine == "docker" else remove_block(text, place.name)
        emptied = place.engine == "podman" and not new.strip()
        changes.append(Change(place.config, text, None if emptied else new))
    shim = _shim_config(place)
    if place.engine == "containerd" and (text := _read(shim)) is not None:
        with _about(shim):
            changes.append(Change(shim, text, remove_block(text, place.name).strip() or None))
    old = _read_script(place)
    if not any(place.script in (_read(path) or "") for path in _other_configs(place)):
        changes.append(Change(place.script, old, None))
    return changes


def _other_configs(place: Place) -> list[str]:
    """Those that may name the same script."""
    paths = [_default_config(engine, place.name, home) for engine in ENGINES for home in (False, True)]
    return [path for path in paths if path != place.config]


def _add_docker(text: str, place: Place) -> str:
    text = text if text.strip() else "{}\n"
    if _is_in_docker(text, place):
        return text
    return add_member(text, "runtimes", place.name, {"path": place.script})


def _remove_docker(text: str, place: Place) -> str:
    if not text.strip() or not _is_in_docker(text, place):
        return text
    if read_json(text).get("default-runtime") == place.name:
        raise Refusal(f"has {place.name} as its default-runtime: Docker could not start without it; change that first")
    return remove_member(text, "runtimes", place.name)


def _is_in_docker(text: str, place: Place) -> bool:
    runtimes = read_json(text).get("runtimes", {})
    if not isinstance(runtimes, dict):
        raise Refusal("has runtimes that are not an object")
    entry = runtimes.get(place.name, {"path": place.script})
    if not isinstance(entry, dict) or entry.get("path") != place.script:
        raise Refusal(f"has another runtime of the name {place.name} already: take another --name")
    return place.name in runtimes


def _add_podman(text: str, place: Place) -> str:
    meaning = {"engine": {"runtimes": {place.name: [place.script]}}}
    return add_block(text, place.name, "engine.runtimes", f"{place.name} = [{quoted(place.script)}]\n", meaning)


def _add_containerd(text: str, place: Place) -> str:
    text = text if text.strip() else FRESH
    version = read_toml(remove_block(text, place.name)).get("version", 1)
    if version not in _CRI:
        raise Refusal(f"is of version {version}, not 2 or 3: see `containerd config migrate`")
    plugin, kind = _CRI[version], "io.containerd.runsc.v1"
    table = f'plugins."{plugin}".containerd.runtimes.{place.name}'
    entry = {"runtime_type": kind, "options": {"TypeUrl": f"{kind}.options", "ConfigPath": _shim_config(place)}}
    lines = f'  runtime_type = "{kind}"\n[{table}.options]\n'
    lines += f'  TypeUrl = "{kind}.options"\n  ConfigPath = {quoted(_shim_config(place))}\n'
    meaning = {"plugins": {plugin: {"containerd": {"runtimes": {place.name: entry}}}}}
    return add_block(text, place.name, table, lines, meaning)


def _read(path: str) -> str | None:
    """None where there is none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise Refusal(f"{path} is not UTF-8; nothing was changed") from None


def _read_script(place: Place) -> str | None:
    text = _read(place.script)
    if text is not None and not text.startswith(f"#!/bin/sh\n{WRITTEN}"):
        raise Refusal(f"{place.script} was not written by `gofer runsc install`: take another --script, or remove it")
    return text


@contextmanager
def _about(path: str) -> Iterator[None]:
    """Whatever is refused in here is so because of that file."""
    try:
        yield
    except Refusal as why:
        raise Refusal(f"{path} {why}; nothing was changed") from None


def _difference(change: Change) -> str:
    old, new = ((text or "").splitlines(keepends=True) for text in (change.old, change.new))
    was, is_now = ("/dev/null" if text is None else change.path for text in (change.old, change.new))
    lines = unified_diff(old, new, was, is_now)
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def _write(changes: list[Change]) -> None:
    """All; none, where one cannot be written."""
    ready = []
    try:
        for change in changes:
            if change.new is not None:
                path = os.path.realpath(change.path)
                ready.append((f"{path}.{os.getpid()}.new", path))
                _write_beside(*ready[-1], change)
        for temporary, path in ready:
            os.replace(temporary, path)
    finally:
        for temporary, _ in ready:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    for change in changes:
        if change.new is None:
            os.unlink(change.path)


def _write_beside(temporary: str, path: str, change: Change) -> None:
    """The new text, safe on the disk, with the owner and mode of what is at that path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="utf-8", newline="") as file:
        file.write(change.new or "")
        file.flush()
        mode = change.mode
        if change.old is not None:
            there = os.stat(path)
            os.fchown(fd, there.st_uid, there.st_gid)
            mode = stat.S_IMODE(there.st_mode)
        os.fchmod(fd, mode)
        os.fsync(fd)


def _next(place: Place, action: str) -> str:
    restart = {
        "docker": "systemctl reload docker (or send dockerd a SIGHUP)",
        "podman": "",
        "containerd": "systemctl restart containerd (its containers go on running)",
    }[place.engine]
    use = {
        "docker": f"docker run --runtime={place.name} ...",
        "podman": f"podman --runtime={place.name} run ...",
        "containerd": f"a RuntimeClass with the handler {place.name}, with containerd-shim-runsc-v1 in containerd's $PATH; "
        f"or: ctr run --runtime io.containerd.runc.v2 --runc-binary {place.script} ...",
    }[place.engine]
    lines = [f"to do: {restart}"] if restart else []
    return "\n".join([*lines, *([f"then:  {use}"] if action == "install" else [])]) or "done"
