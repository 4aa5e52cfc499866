"""The OCI runtime spec (config.json) as far as a gofer needs it: reading, checking, and the mount list made from it.

https://github.com/opencontainers/runtime-spec/blob/main/config.md; the checks are those of gVisor's
runsc/specutils (2022-12, and what has changed until 2026-08). Paths stay str: JSON has no other; they go to
the kernel as UTF-8.
"""

from __future__ import annotations

import os.path

from gofer.jail.kernel import (
    MS_BIND,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_POSIXACL,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)
from gofer.runsc.errors import Fault
from gofer.runsc.features import Features
from gofer.runsc.flags import Globals, GoferFlags, MountConf
from gofer.runsc.gojson import decode, encode_string, go_string

TYPE_CHECKING = False  # importing `typing` costs start-up time: only the type checker does
if TYPE_CHECKING:
    from typing import Any

MAX_SPEC = 64 << 20  # a runaway file must not fill the memory of the host; real specs have some 10 to 100 KiB

# option: (flags it sets, flags it clears). "remount" is known and does nothing here: these are new mounts.
OPTIONS: dict[str, tuple[int, int]] = {
    "acl": (MS_POSIXACL, 0),
    "async": (0, MS_SYNCHRONOUS),
    "atime": (0, MS_NOATIME),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, MS_NODEV),
    "diratime": (0, MS_NODIRATIME),
    "dirsync": (MS_DIRSYNC, 0),
    "exec": (0, MS_NOEXEC),
    "iversion": (MS_I_VERSION, 0),
    "loud": (0, MS_SILENT),
    "mand": (MS_MANDLOCK, 0),
    "noacl": (0, MS_POSIXACL),
    "noatime": (MS_NOATIME, 0),
    "nodev": (MS_NODEV, 0),
    "nodiratime": (MS_NODIRATIME, 0),
    "noexec": (MS_NOEXEC, 0),
    "noiversion": (0, MS_I_VERSION),
    "nomand": (0, MS_MANDLOCK),
    "norelatime": (0, MS_RELATIME),
    "nostrictatime": (0, MS_STRICTATIME),
    "nosuid": (MS_NOSUID, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (MS_RELATIME, 0),
    "remount": (0, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "silent": (MS_SILENT, 0),
    "strictatime": (MS_STRICTATIME, 0),
    "suid": (0, MS_NOSUID),
    "sync": (MS_SYNCHRONOUS, 0),
}
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
_DEVICES, _NUMBERED_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm"), ("/dev/nvidia", "/dev/accel")
REFUSED = ("shared", "rshared")  # what the container mounts must not appear on the host


class Mount:
    """One entry of the spec's mounts. conf: how it is served; None where no gofer is concerned."""

    __slots__ = ("destination", "type", "source", "options", "uid_mappings", "gid_mappings", "conf")

    def __init__(self, raw: dict[str, Any], where: str) -> None:
        self.destination: str = _get(raw, "destination", str, where)
        self.type: str = _get(raw, "type", str, where)
        self.source: str = _get(raw, "source", str, where)
        self.options = _strings(raw, "options", where)
        self.uid_mappings = _mappings(raw, "uidMappings", where)
        self.gid_mappings = _mappings(raw, "gidMappings", where)
        self.conf: MountConf | None = None

    @property
    def is_bind(self) -> bool:
        """OCI: with option bind or rbind the type is a dummy. Without a source there is nothing to bind."""
        return bool(self.source) and (self.type == "bind" or "bind" in self.options or "rbind" in self.options)

    @property
    def id_mapped(self) -> bool:
        return bool(self.uid_mappings and self.gid_mappings)

    @property
    def served(self) -> bool:
        return self.conf is not None and self.conf.lisafs

    @property
    def read_only(self) -> bool:
        """Whether it is served so: where the options say "ro", wherever, or an overlay keeps the writes."""
        return "ro" in self.options or (self.conf is not None and self.conf.overlay)

    def flags(self) -> int:
        """mount(2) flags of the options, later ones winning; propagation apart."""
        flags = 0
        for option in self.options:
            on, off = OPTIONS.get(option, (0, 0))
            flags = (flags | on) & ~off
        return flags

    def propagation(self) -> int:
        """Flags of the propagation options, 0 where there are none."""
        flags = 0
        for option in self.options:
            flags |= PROPAGATION.get(option, 0)
        return flags

    def as_json(self) -> str:
        """As Go's encoding/json writes specs.Mount: this order, empty members left out but for the destination."""
        members = ['"destination":' + encode_string(self.destination)]
        for name, text in (("type", self.type), ("source", self.source)):
            if text:
                members.append(f'"{name}":{encode_string(text)}')
        if self.options:
            members.append('"options":[' + ",".join(map(encode_string, self.options)) + "]")
        for name, maps in (("uidMappings", self.uid_mappings), ("gidMappings", self.gid_mappings)):
            if maps:
                triples = [f'{{"containerID":{inside},"hostID":{host},"size":{size}}}' for inside, host, size in maps]
                members.append(f'"{name}":[{",".join(triples)}]')
        return "{" + ",".join(members) + "}"


class Spec:
    """The checked spec. Relative paths are joined to the bundle, which may itself be relative to the cwd."""

    def __init__(self, raw: dict[str, Any], bundle: str) -> None:
        root = _get(raw, "root", dict, "")
        process = _get(raw, "process", dict, "")
        linux = _get(raw, "linux", dict, "")
        if not _strings(process, "args", "process"):
            raise Fault("spec: process.args must be given")
        root_path = _get(root, "path", str, "root")
        if not root_path or "\0" in root_path:
            raise Fault("spec: root.path must be given")
        self.oci_version: str = _get(raw, "ociVersion", str, "")
        self.root = _join(bundle, root_path)
        self.read_only: bool = _get(root, "readonly", bool, "root")
        self.cwd: str = _get(process, "cwd", str, "process")
        self.propagation = _root_propagation(_get(linux, "rootfsPropagation", str, "linux"))
        mounts = _get(raw, "mounts", list, "")
        self.mounts = [Mount(_dict(entry, f"mounts[{i}]"), f"mounts[{i}]") for i, entry in enumerate(mounts)]
        devices = _get(linux, "devices", list, "linux")
        self.devices: list[str] = [_get(_dict(d, "linux.devices[]"), "path", str, "linux.devices[]") for d in devices]
        self.annotations: dict[str, Any] = _get(raw, "annotations", dict, "")
        self.hooks: list[Any] = _get(_get(raw, "hooks", dict, ""), "createContainer", list, "hooks")
        for name in ("solaris", "windows"):
            if raw.get(name) is not None:
                raise Fault(f"spec: {name} is not supported")
        if _get(process, "selinuxLabel", str, "process"):
            raise Fault("spec: process.selinuxLabel is not supported")
        for mount in self.mounts:
            if mount.source:
                mount.source = _join(bundle, mount.source)


def read_spec(fd: int, bundle: str, flags: Globals, gofer: GoferFlags) -> tuple[Spec, MountConf]:
    """Read the spec from fd, check it, and settle how each mount is served; returns it and the root's MountConf.

    Fault: anything that makes it unusable, in one line. The fd's offset is not relied upon; it stays open.
    """
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        chunks, total = [], 0
        while chunk := os.read(fd, 1 << 20):
            chunks.append(chunk)
            total += len(chunk)
            if total > MAX_SPEC:
                raise Fault(f"spec: larger than {MAX_SPEC} bytes")
    except OSError as error:
        raise Fault(f"spec: cannot be read: {error.strerror}") from None
    raw = decode(b"".join(chunks), "spec")
    spec = Spec(_dict(raw, "spec"), bundle)
    features = Features(flags, gofer)
    root_conf = _settle(spec, flags, gofer, features)
    for mount in spec.mounts:
        _check(mount, features)
    wanted = root_conf.lisafs + sum(mount.served for mount in spec.mounts)
    if wanted != len(gofer.io_fds):
        few = "few" if len(gofer.io_fds) < wanted else "many"
        raise Fault(f"--io-fds: too {few} for the mounts served: {len(gofer.io_fds)} given, {wanted} needed")
    return spec, root_conf


def mount_list(mounts: list[Mount]) -> bytes:
    """What goes to --mounts-fd."""
    return ("[" + ",".join(mount.as_json() for mount in mounts) + "]").encode()


def proxied(path: str) -> bool:
    """Whether a device of the spec is one that a sandbox opens through --dev-io-fd, for the drivers it has proxies for."""
    if clean(path) != path:
        return False
    numbered = any(path.startswith(stem) and path[len(stem) :].isdecimal() for stem in _NUMBERED_DEVICES)
    return numbered or path in _DEVICES or path.startswith(("/dev/vfio/", "/dev/infiniband/uverbs"))


def clean(path: str) -> str:
    """Go's path.Clean: normpath, but for the two leading slashes that POSIX lets mean something else."""
    path = os.path.normpath(path)
    return path[1:] if path.startswith("//") else path


def _settle(spec: Spec, flags: Globals, gofer: GoferFlags, features: Features) -> MountConf:
    confs = gofer.mount_confs
    if features.overlay_by_flags:  # everything over lisafs
        for mount in spec.mounts:
            if mount.is_bind:
                mount.conf = MountConf(lisafs=True, overlay=flags.overlay_mounts)
        return MountConf(lisafs=True, overlay=flags.overlay_root)
    concerned = [mount for mount in spec.mounts if mount.is_bind]
    if len(confs) > 1 + len(concerned):  # 20260126: one for each erofs mount too
        concerned = [mount for mount in spec.mounts if mount.is_bind or mount.type == "erofs"]
    if len(confs) != 1 + len(concerned):
        raise Fault(
            f"--{gofer.confs_flag}: {len(confs)} given, {1 + len(concerned)} needed: the root and {len(concerned)} mounts"
        )
    for mount, conf in zip(concerned, confs[1:]):
        mount.conf = conf
    return confs[0]


def _check(mount: Mount, features: Features) -> None:
    if not mount.destination.startswith("/"):
        raise Fault(f"spec: mount destination must be an absolute path: {mount.destination!r}")
    for name, text in (("destination", mount.destination), ("source", mount.source)):
        if "\0" in text:
            raise Fault(f"spec: mount {name} with a NUL byte: {text!r}")
    if not mount.is_bind:
        return
    for option in mount.options:
        if option in REFUSED:
            raise Fault(f"spec: mount {mount.destination}: option {option!r} is not supported")
        # Later releases let unknown ones pass: they may be idmap, or some other program's.
        if features.checks_options and option not in OPTIONS and option not in PROPAGATION:
            raise Fault(f"spec: mount {mount.destination}: unknown option {option!r}")


def _root_propagation(option: str) -> int:
    if not option:
        return MS_SLAVE | MS_REC
    flags = PROPAGATION.get(option, 0)
    if not flags & (MS_SLAVE | MS_PRIVATE):
        raise Fault(f"spec: linux.rootfsPropagation must be private or slave, not {option!r}")
    return flags


def _join(bundle: str, path: str) -> str:
    return path if path.startswith("/") else clean(os.path.join(bundle, path))


_EMPTY: dict[type, Any] = {str: "", bool: False, list: [], dict: {}}
_NAMES = {str: "a string", bool: "true or false", list: "an array", dict: "an object"}


def _get(raw: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """raw[name], which must be of that kind; the empty value where it is missing or null, as in Go."""
    value = raw.get(name)
    if value is None:
        return _EMPTY[kind]
    if not isinstance(value, kind):
        raise Fault(f"spec: {where + '.' if where else ''}{name} must be {_NAMES[kind]}")
    return go_string(value) if isinstance(value, str) else value


def _dict(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Fault(f"spec: {where} must be an object")
    return value


def _strings(raw: dict[str, Any], name: str, where: str) -> list[str]:
    values = _get(raw, name, list, where)
    if not all(isinstance(value, str) for value in values):
        raise Fault(f"spec: {where}.{name} must be an array of strings")
    return [go_string(value) for value in values]


def _mappings(raw: dict[str, Any], name: str, where: str) -> list[tuple[int, int, int]]:
    out = []
    for entry in _get(raw, name, list, where):
        triple = tuple(_dict(entry, f"{where}.{name}[]").get(key, 0) for key in ("containerID", "hostID", "size"))
        if not all(type(number) is int and 0 <= number < 1 << 32 for number in triple):
            raise Fault(f"spec: {where}.{name} must hold containerID, hostID and size, each of 32 bits")
        out.append((triple[0], triple[1], triple[2]))
    return out
