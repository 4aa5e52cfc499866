"""runsc's command line, read as Go's `flag` package reads it.

argparse cannot do this syntax (`-name` and `--name` are the same flag; booleans take a value only after `=`;
`--flag value` and `--flag=value`; the first other word ends the flags; numbers may be 0x10), and importing it
alone takes half as long as the Go gofer's whole start. Facts: https://pkg.go.dev/flag#hdr-Command_line_flag_syntax,
gVisor's runsc/config/flags.go and runsc/cmd/gofer.go, of all releases from 2022-12 to 2026-08.

Flags before the word `gofer` are runsc's own: the few that concern a gofer are taken, the others ignored, also
those that a later runsc may invent. Flags after it are the gofer's: an unknown one is an error, because it
may well be something to wait for. What differs between releases and has no flag: features.py.
"""

from __future__ import annotations

from gofer.runsc.errors import UsageFault

# runsc's own flags, by whether they take a value: needed only where one is written without "=".
BOOLEANS = frozenset(
    """EXPERIMENTAL-afxdp EXPERIMENTAL-xdp-need-wakeup TESTONLY-afs-syscall-panic
    TESTONLY-allow-packet-endpoint-write TESTONLY-autosave-resume TESTONLY-nftables TESTONLY-unsafe-nonroot
    allow-connected-on-save allow-flag-override allow-live-tcp-migration allow-packet-socket-write
    allow-rootfs-tar-annotation allow-suid alsologtostderr app-huge-pages buffer-pooling cgroupfs
    cpu-num-from-quota debug debug-to-user-log directfs enable-core-tags fsgofer-host-uds fuse gso
    gvisor-marker-file h help ignore-cgroups iouring kvm-use-cpu-nums lisafs log-packets mount-cgroup-v2
    net-disconnect-ok net-raw nvproxy nvproxy-allow-unsupported-driver nvproxy-docker oci-seccomp overlay
    pause-external-networking profile rdmaproxy reproduce-nat reproduce-nftables rootless rx-checksum-offload
    save-restore-netstack software-gso strace strace-event systemd-cgroup systrap-disable-fast-path
    systrap-disable-syscall-patching tpuproxy tx-checksum-offload version vfs2""".split()
)
VALUED = frozenset(
    """EXPERIMENTAL-xdp TESTONLY-autosave-image-path TESTONLY-test-name-env character-device-policy
    control-rpc-stop-timeout coverage-fd coverage-report dcache debug-command debug-log debug-log-fd
    debug-log-format fdlimit file-access file-access-mounts final-metrics-log gofer-network-namespace
    gvisor-gro host-fifo host-settings host-uds log log-fd log-format metric-server network
    network-processors-per-channel num-network-channels nvproxy-allowed-driver-capabilities
    nvproxy-driver-version overlay2 override-procs panic-log panic-log-fd panic-signal pcap-log platform
    platform_device_path pod-init-config profile-block profile-cpu profile-gc-interval profile-heap
    profile-mutex profiling-metrics profiling-metrics-log profiling-metrics-rate-us qdisc qdisc-tbf-burst
    qdisc-tbf-rate ref-leak-mode restore-spec-validation root shared-root sidecar-release-enforcement-policy
    strace-log-size strace-syscalls trace traceback watchdog-action""".split()
)

CHOICES = {
    "host-uds": ("none", "open", "create", "all"),
    "host-fifo": ("none", "open"),
    "character-device-policy": ("emulated-only", "prefer-emulated", "passthrough"),
    "debug-log-format": ("text", "json", "json-k8s"),
}

# The gofer's flags: how each is read, and its first and last release ("": before 2022-12; still there).
GOFER_FLAGS = {
    "apply-caps": ("bool", "", ""),
    "bundle": ("bundle", "", ""),
    "dev-io-fd": ("int", "20231113", ""),
    "gid": ("int", "20250915", ""),
    "gofer-mount-confs": ("confs", "20231016", ""),  # in numbers until 20231106; with a size from 20250611 on
    "io-fds": ("fds", "", ""),
    "mounts-fd": ("int", "", ""),
    "overlay-mediums": ("confs", "20230508", "20231009"),
    "pin-ring-fd": ("int", "2026-08-20", ""),
    "proc-mount-sync-fd": ("ignored", "20230306", ""),  # of the own gofer to its second start: runsc passes none
    "profile-block-fd": ("ignored", "", ""),  # Go's profiler
    "profile-cpu-fd": ("ignored", "", ""),
    "profile-heap-fd": ("ignored", "", ""),
    "profile-mutex-fd": ("ignored", "", ""),
    "rpc-fd": ("int", "20241118", ""),
    "setup-root": ("bool", "", ""),
    "spec-fd": ("int", "", ""),
    "sync-chroot-fd": ("int", "20241217", ""),
    "sync-nvproxy-fd": ("int", "20230724", "20241210"),  # to be waited for as --sync-chroot-fd is
    "sync-sentry-exit-fd": ("int", "2026-08-20", ""),
    "sync-userns-fd": ("int", "", ""),
    "trace-fd": ("ignored", "", ""),  # Go's execution trace: `runsc --profile --trace=FILE`
    "uid": ("int", "20250915", ""),
}

LOWER = ("none", "lisafs", "erofs")
UPPER = ("none", "memory", "self", "anon")
NUMBERS = 5  # 0: no overlay; 1 to 3: an overlay in memory, in the mount, elsewhere; 4 (20231023): a tmpfs instead of it
TOO_NEW = "this runsc is newer than this gofer: try --directfs=false, or use runsc's own gofer"


class Globals:
    """What runsc's own flags say that concerns a gofer. Fds are -1, limits None where not given."""

    def __init__(self) -> None:
        self.log = ""
        self.log_fd = self.debug_log_fd = -1
        self.debug = False
        self.debug_log_format = "text"
        self.host_uds = self.host_fifo = "none"
        self.char_devices = "emulated-only"
        self.fd_limit: int | None = None
        self.directfs: bool | None = None  # as the release has it: see features.py
        self.lisafs: bool | None = None  # of 2021-09 to 2022-08, where it is off by default; ignored later
        self.vfs2 = True
        self.overlay_root = self.overlay_mounts = False
        self.unsafe_nonroot = False


class MountConf:
    """One entry of --gofer-mount-confs: `lower:upper[:size=S]`, or a number. 2022 has none and means lisafs everywhere."""

    __slots__ = ("lisafs", "overlay")

    def __init__(self, lisafs: bool, overlay: bool) -> None:
        self.lisafs = lisafs  # served by this gofer, over one of the io-fds
        self.overlay = overlay  # writes stay in the sandbox: serve it read-only


class GoferFlags:
    """What stands after the word `gofer`. Fds are -1 where not given."""

    def __init__(self) -> None:
        self.bundle = ""
        self.apply_caps = self.setup_root = True
        self.io_fds: list[int] = []
        self.mount_confs: list[MountConf] = []
        self.confs_flag, self.numbered_confs = "", False  # which flag they came by, and in which form
        self.dev_io_fd = self.spec_fd = self.mounts_fd = self.rpc_fd = -1
        self.pin_ring_fd = self.sync_sentry_exit_fd = -1
        self.sync_chroot_fd = self.sync_nvproxy_fd = self.sync_userns_fd = -1
        self.uid = self.gid = 0
        self.container_id = ""


def is_gofer_invocation(argv: list[str]) -> bool:
    """Whether argv (without the program's name) is `[runsc's flags] gofer ...`."""
    return command_of(argv) == "gofer"


def command_of(argv: list[str]) -> str:
    """The first word of argv (without the program's name) that is neither one of runsc's flags nor a flag's value, or ""."""
    try:
        return "".join(argv[_split_globals(argv)[1] :][:1])
    except UsageFault:
        return ""


def parse_globals(argv: list[str]) -> tuple[Globals, list[str]]:
    """Reads runsc's flags; returns them and the words after `gofer`. UsageFault carries the Globals read so far."""
    out = Globals()
    pairs, end = _split_globals(argv)
    for name, value in pairs:
        try:
            _set_global(out, name, value)
        except ValueError as error:
            fault = UsageFault(f"invalid value {value!r} for flag -{name}: {error}")
            fault.so_far = out
            raise fault from None
    return out, argv[end + 1 :]


def _split_globals(argv: list[str]) -> tuple[list[tuple[str, str | None]], int]:
    """runsc's flags with their values, and the index of the first word that is neither."""
    pairs: list[tuple[str, str | None]] = []
    i = 0
    while i < len(argv):
        name, value = split_flag(argv[i])
        if name is None:
            return pairs, i + (argv[i] == "--")
        i += 1
        if value is None and name not in BOOLEANS and i < len(argv):
            # A flag nobody knows yet, and no "=": only what cannot be its value is not taken for it.
            if name in VALUED or not (argv[i] == "gofer" or argv[i].startswith("-")):
                value = argv[i]
                i += 1
        pairs.append((name, value))
    return pairs, i


def parse_gofer(words: list[str]) -> GoferFlags:
    """Reads the words after `gofer`. UsageFault: an unknown flag, a bad or missing value."""
    out = GoferFlags()
    i = 0
    while i < len(words):
        name, value = split_flag(words[i])
        if name is None:
            i += words[i] == "--"
            break
        i += 1
        if name not in GOFER_FLAGS:
            raise UsageFault(f"flag provided but not defined: -{name}: {TOO_NEW}")
        kind = GOFER_FLAGS[name][0]
        if value is None and kind != "bool":
            if i == len(words):
                raise UsageFault(f"flag needs an argument: -{name}")
            value = words[i]
            i += 1
        try:
            _set_gofer(out, name, kind, value)
        except ValueError as error:
            advice = f": {TOO_NEW}" if kind == "confs" else ""  # nobody but a runsc writes these
            raise UsageFault(f"invalid value {value!r} for flag -{name}: {error}{advice}") from None
    rest = words[i:]
    if len(rest) > 1:
        raise UsageFault(f"one container ID expected, not {rest}")
    out.container_id = rest[0] if rest else ""
    return out


def split_flag(word: str) -> tuple[str | None, str | None]:
    """("name", "value" or None) of a flag; (None, None) where the word ends the flags ("--" included)."""
    if len(word) < 2 or word[0] != "-" or word == "--":
        return None, None
    name, equals, value = word[1 + (word[1] == "-") :].partition("=")
    if not name or name[0] == "-":
        raise UsageFault(f"bad flag syntax: {word}")
    return name, value if equals else None


def go_bool(value: str | None) -> bool:
    """strconv.ParseBool; a bare flag is true."""
    if value in (None, "1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError("not a boolean")


def go_int(value: str | None) -> int:
    """strconv.ParseInt(value, 0, 64): decimal, 0x10, 0b10, 0o17 and 017."""
    digits = (value or "").lstrip("+-")
    if not digits.isalnum() or not digits.isascii():
        raise ValueError("not a number")
    old_octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    number = int(digits, 8 if old_octal else 0)
    if (value or "")[: -len(digits)] not in ("", "+", "-") or number >= 1 << 63:
        raise ValueError("not a number that fits 64 bits")
    return -number if (value or "").startswith("-") else number


def _set_global(out: Globals, name: str, value: str | None) -> None:
    if name in CHOICES:
        # Go: the empty string is the default, none or its like
        chosen = value or CHOICES[name][0]
        if chosen not in CHOICES[name]:
            raise ValueError(f"one of {', '.join(CHOICES[name])} expected")
        attribute = "char_devices" if name == "character-device-policy" else name.replace("-", "_")
        setattr(out, attribute, chosen)
    elif name in ("debug", "directfs", "lisafs", "vfs2"):
        setattr(out, name, go_bool(value))
    elif name in ("log-fd", "debug-log-fd"):
        setattr(out, name.replace("-", "_"), go_int(value))
    elif name == "log":
        out.log = value or ""
    elif name == "fdlimit":
        limit = go_int(value)
        out.fd_limit = limit if limit > -1 else None
    elif name == "fsgofer-host-uds":  # the old name of host-uds=open
        if go_bool(value):
            out.host_uds = "open"
    elif name == "overlay":  # the old name of overlay2=all:memory
        if go_bool(value):
            out.overlay_root = out.overlay_mounts = True
    elif name == "overlay2":
        mount, colon, _ = (value or "none").partition(":")
        if mount not in ("none", "root", "all") or (mount == "none") == bool(colon):
            raise ValueError("{root|all}:{medium} or none expected")
        out.overlay_root, out.overlay_mounts = mount != "none", mount == "all"
    elif name == "TESTONLY-unsafe-nonroot":
        out.unsafe_nonroot = go_bool(value)


def _set_gofer(out: GoferFlags, name: str, kind: str, value: str | None) -> None:
    attribute = name.replace("-", "_")
    if kind == "bool":
        setattr(out, attribute, go_bool(value))
    elif kind == "int":
        setattr(out, attribute, go_int(value))
    elif kind == "bundle":
        out.bundle = value or ""
    elif kind == "fds":
        out.io_fds.extend(_fd(word) for word in (value or "").split(","))
    elif kind == "confs":
        words = (value or "").split(",")
        out.confs_flag, out.numbered_confs = name, words[0].isdigit()
        out.mount_confs.extend(_numbered_conf(word) if out.numbered_confs else _mount_conf(word) for word in words)
    elif kind == "ignored":
        go_int(value)


def _fd(word: str) -> int:
    if not word.isdigit() or not word.isascii():
        raise ValueError("file descriptor numbers expected")
    return int(word)


def _mount_conf(word: str) -> MountConf:
    lower, _, rest = word.partition(":")
    upper, colon, size = rest.partition(":")
    if lower not in LOWER or upper not in UPPER or (colon and not size.startswith("size=")):
        raise ValueError(f"{word!r}: lower:upper[:size=S] expected, of {'|'.join(LOWER)} and {'|'.join(UPPER)}")
    if lower == upper == "none":
        raise ValueError(f"{word!r}: neither a lower nor an upper layer")
    return MountConf(lisafs=lower == "lisafs", overlay=lower != "none" and upper != "none")


def _numbered_conf(word: str) -> MountConf:
    """Of 2023-05 to 2023-11."""
    number = _fd(word) if word.isdigit() else NUMBERS
    if number >= NUMBERS:
        raise ValueError(f"{word!r}: a number below {NUMBERS} expected")
    return MountConf(lisafs=number < 4, overlay=0 < number < 4)
