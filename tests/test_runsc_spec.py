"""The OCI spec as the stand-in for runsc's gofer reads it, and the mount list it makes of it."""

import json
import os
import tempfile
from typing import Any, Optional

import pytest

from gofer.jail import kernel
from gofer.runsc.errors import Fault
from gofer.runsc.flags import parse_globals, parse_gofer
from gofer.runsc.spec import Mount, Spec, clean, mount_list, read_spec

Json = dict[str, Any]


def spec_with(*mounts: Json, **changes: Any) -> Json:
    spec: Json = {"process": {"args": ["true"], "cwd": "/"}, "root": {"path": "rootfs"}, "mounts": list(mounts)}
    spec.update(changes)
    return spec


def bind(destination: str, *options: str, source: str = "/src", kind: str = "bind") -> Json:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def read(raw: object, flags: str = "", gofer: str = "", bundle: str = "b", io_fds: Optional[int] = None) -> Spec:
    """Through a real fd, with as many io-fds as the spec asks for, unless told otherwise."""
    words = gofer.split()
    if io_fds is None and isinstance(raw, dict):
        io_fds = 1 + sum(1 for m in raw.get("mounts") or [] if isinstance(m, dict) and m.get("source") != "proc")
    parsed = parse_gofer([*words, "--io-fds=" + ",".join(str(100 + i) for i in range(io_fds or 1))])
    with tempfile.TemporaryFile() as file:
        file.write(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
        file.flush()
        spec, _ = read_spec(file.fileno(), bundle, parse_globals(flags.split())[0], parsed)
    return spec


def refused(raw: object, **how: Any) -> str:
    with pytest.raises(Fault) as caught:
        read(raw, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_relative_paths_are_joined_to_the_bundle_and_cleaned_as_go_does() -> None:
    mounts = bind("/a", source="src/../x"), bind("/c", source="/y/../z"), {"destination": "/p", "source": "proc"}
    spec = read(spec_with(*mounts), bundle="./b")
    assert spec.root == "b/rootfs"
    assert [mount.source for mount in spec.mounts] == ["b/x", "/y/../z", "b/proc"]


def test_the_fd_is_read_from_its_beginning_wherever_it_stands() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(spec_with()).encode())
        file.flush()
        flags, gofer = parse_globals([])[0], parse_gofer(["--io-fds=9"])
        assert read_spec(file.fileno(), "/b", flags, gofer)[0].root == "/b/rootfs"
        assert read_spec(file.fileno(), "/b", flags, gofer)[0].root == "/b/rootfs"


def test_a_gofer_mount_is_one_of_type_bind_or_with_such_an_option_and_with_a_source() -> None:
    spec = read(
        spec_with(
            bind("/1"),
            bind("/2", "rbind", kind="none"),
            bind("/3", "bind", kind="ext4"),
            {"destination": "/4", "type": "bind"},
            {"destination": "/5", "type": "tmpfs", "source": "tmpfs"},
        ),
        io_fds=4,
    )
    assert [mount.served for mount in spec.mounts] == [True, True, True, False, False]


@pytest.mark.parametrize(
    "raw,says",
    [
        (spec_with(process={"cwd": "/"}), "process.args"),
        (spec_with(process=None), "process.args"),
        (spec_with(process={"args": []}), "process.args"),
        (spec_with(process={"args": "true"}), "process.args must be an array"),
        (spec_with(process={"args": [1]}), "process.args must be an array of strings"),
        (spec_with(root=None), "root.path"),
        (spec_with(root={"path": ""}), "root.path"),
        (spec_with(root={"path": 5}), "root.path must be a string"),
        (spec_with(root={"path": "r", "readonly": "yes"}), "root.readonly must be true or false"),
        (spec_with(bind("relative")), "absolute path: 'relative'"),
        (spec_with(bind("/a", source="x\0y")), "NUL"),
        (spec_with(bind("/a", "shared")), "'shared' is not supported"),
        (spec_with(bind("/a", "rw", "rshared")), "'rshared' is not supported"),
        (spec_with(bind("/a", "nonsense")), "unknown option 'nonsense'"),
        (spec_with(mounts={"a": 1}), "mounts must be an array"),
        (spec_with(mounts=["a"]), r"mounts\[0\] must be an object"),
        (spec_with(linux={"rootfsPropagation": "shared"}), "private or slave, not 'shared'"),
        (spec_with(linux={"rootfsPropagation": "unbindable"}), "private or slave"),
        (spec_with(windows={}), "windows is not supported"),
        (spec_with(process={"args": ["x"], "selinuxLabel": "l"}), "selinuxLabel"),
        ([], "must be an object"),
        (b"", "not JSON"),
        (b'{"process":', "not JSON"),
        (b"{} x", "not JSON"),
        (b"[" * 100000, "nested too deep"),
    ],
)
def test_a_spec_that_no_container_can_be_made_of_is_refused_in_one_line(raw: object, says: str) -> None:
    with pytest.raises(Fault, match=says):
        read(raw)


def test_unknown_bind_options_pass_where_the_runsc_of_2026_lets_them_pass() -> None:
    raw = spec_with(bind("/a", "ridmap", "nonsense"))
    assert read(raw, gofer="--gofer-mount-confs=lisafs:none,lisafs:none").mounts[0].options == ["ridmap", "nonsense"]
    assert "'shared'" in refused(spec_with(bind("/a", "shared")), gofer="--gofer-mount-confs=lisafs:none,lisafs:none")


def test_options_of_other_mounts_are_not_looked_at() -> None:
    assert read(spec_with({"destination": "/t", "type": "tmpfs", "options": ["size=1m"]}), io_fds=1).mounts


@pytest.mark.parametrize("count,word", [(1, "few"), (3, "many")])
def test_the_io_fds_must_be_as_many_as_the_served_mounts(count: int, word: str) -> None:
    assert f"too {word}" in refused(spec_with(bind("/a")), io_fds=count)


def test_mount_confs_count_binds_and_erofs_mounts_but_only_lisafs_takes_an_io_fd() -> None:
    raw = spec_with(
        bind("/a"),
        {"destination": "/e", "type": "erofs", "source": "/i"},
        {"destination": "/p", "source": "proc"},
        bind("/b"),
    )
    confs = "--gofer-mount-confs=erofs:memory,lisafs:none,erofs:none,none:memory"
    assert [mount.served for mount in read(raw, gofer=confs, io_fds=1).mounts] == [True, False, False, False]
    before_2026 = "--gofer-mount-confs=erofs:memory,lisafs:none,none:memory"
    assert [mount.served for mount in read(raw, gofer=before_2026, io_fds=1).mounts] == [True, False, False, False]
    assert "2 given, 3 needed" in refused(raw, gofer="--gofer-mount-confs=lisafs:none,lisafs:none")
    assert "--overlay-mediums: 1 given, 3 needed" in refused(raw, gofer="--overlay-mediums=0")
    assert "5 given, 4 needed" in refused(raw, gofer="--gofer-mount-confs=" + ",".join(["lisafs:none"] * 5))


@pytest.mark.parametrize("flags,overlay", [("--overlay2=root:memory", False), ("--overlay=true", True), ("", False)])
def test_in_2022_the_overlay_flags_say_what_is_read_only(flags: str, overlay: bool) -> None:
    mount = read(spec_with(bind("/a")), flags=flags).mounts[0]
    assert mount.conf is not None and mount.conf.overlay == overlay


def test_later_options_win_over_earlier_ones() -> None:
    def flags(*options: str) -> int:
        return Mount(bind("/a", *options), "m").flags()

    assert flags("ro", "rw") == 0
    assert flags("rw", "ro") == kernel.MS_RDONLY
    assert flags("rw") == 0, "the gofer of 2022 turned this into read-only"
    assert flags("rbind", "nosuid", "nodev", "suid") == kernel.MS_BIND | kernel.MS_REC | kernel.MS_NODEV
    assert flags("remount", "defaults", "rprivate") == 0
    assert Mount(bind("/a", "rprivate", "ro"), "m").propagation() == kernel.MS_PRIVATE | kernel.MS_REC


def test_the_mount_list_has_gos_order_and_leaves_out_what_is_empty() -> None:
    """The example of the contract, byte for byte as Debian's runsc gofer wrote it."""
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"options": ["nosuid", "noexec", "nodev", "ro"], "source": "sysfs", "type": "sysfs", "destination": "/sys"},
        {"destination": "/real/sub", "type": "bind", "source": "src", "options": ["rbind", "rw"]},
        {"destination": "/none", "options": []},
    ]
    assert mount_list(read(spec_with(*mounts), io_fds=2).mounts) == (
        b'[{"destination":"/proc","type":"proc","source":"b/proc"},'
        b'{"destination":"/sys","type":"sysfs","source":"b/sysfs","options":["nosuid","noexec","nodev","ro"]},'
        b'{"destination":"/real/sub","type":"bind","source":"b/src","options":["rbind","rw"]},'
        b'{"destination":"/none"}]'
    )


def test_without_mounts_the_list_is_an_empty_array() -> None:
    assert mount_list(read(spec_with(mounts=None)).mounts) == b"[]"


def test_id_mappings_follow_the_options() -> None:
    mount = {**bind("/a", "bind"), "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 2}], "gidMappings": []}
    assert mount_list([Mount(mount, "m")]).endswith(
        b'"options":["bind"],"uidMappings":[{"containerID":0,"hostID":1000,"size":2}]}]'
    )
    assert "32 bits" in refused(spec_with({**mount, "gidMappings": [{"size": -1}]}))


def test_strings_are_escaped_as_go_escapes_them() -> None:
    raw = b'{"process":{"args":["x"]},"root":{"path":"r"},"mounts":'
    raw += b'[{"destination":"/<a>&\\u2028\\"\\\\\\u0001\xc3\xa9\xff\\ud800"}]}'
    assert mount_list(read(raw).mounts) == (
        b'[{"destination":"/\\u003ca\\u003e\\u0026\\u2028\\"\\\\\\u0001\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd"}]'
    )


@pytest.mark.parametrize(
    "path,cleaned", [("//a//b/", "/a/b"), ("/../a", "/a"), ("a/./b/..", "a"), ("/", "/"), ("//", "/")]
)
def test_paths_are_cleaned_as_go_cleans_them(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


def test_an_unreadable_spec_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(Fault, match="cannot be read"):
            read_spec(reader, "b", parse_globals([])[0], parse_gofer(["--io-fds=9"]))
    finally:
        os.close(reader)
        os.close(writer)
