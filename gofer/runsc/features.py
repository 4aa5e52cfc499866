"""Which runsc started us, feature by feature. None tells its date or version: each is known by what it passes, or leaves out.

A feature that came with a flag of its own is told by that flag (flags.GOFER_FLAGS has them all, with their releases). Those here
change what is to be done without one, or before one. Releases are named by their day; where the sign is younger or older
than the feature, the line says why that does no harm. Facts: gVisor's release tags from 20221205 to 20260817, and its
history up to 2026-08-21, runsc/cmd/gofer.go and what reads its results in runsc/boot.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.runsc.flags import Globals, GoferFlags

# Name: (first release, last release or "" where it is still so, how it is told).
TABLE = {
    "speaks_2021": ("2021-09-20", "2022-01-28", "--lisafs: off by default until 2022-08. Mount then carries a path, and "
        "nothing else is done otherwise. --lisafs=false and --vfs2=false are 9P, which is not spoken here"),
    "overlay_by_flags": ("", "20230501", "neither --overlay-mediums nor --gofer-mount-confs: --overlay and --overlay2 say "
        "what is only read. From 20230320 on the root is, without a flag: it cannot be told, and is served read-write"),
    "directfs": ("20230306", "", "--directfs=true, or (20230522) no --directfs=false where there are mount confs. Two "
        "releases with --overlay-mediums, 20230508 and 20230517, have it off by default: they close what they did not ask for"),
    "makes_cwd": ("", "20250625", "neither a container ID (20260520), --uid nor --gid (20250915): between, the sandbox "
        "makes process.cwd, and finds it made"),
    "checks_options": ("", "20240429", "no mount confs. From 20231016 on runsc alone refuses the options that it does not "
        "know: it reads the spec before us"),
    "told_of_remote_files": ("20231120", "", "mount confs in words: numbers ended with 20231106. For FUSE the own gofer "
        "tells it from 20240820 on; the sandbox knows the word before"),
    "runs_hooks": ("20260520", "", "a container ID: earlier releases run createContainer hooks themselves"),
}  # fmt: skip


class Features:
    """Whether the runsc that gave these flags has each feature of TABLE."""

    __slots__ = tuple(TABLE)

    def __init__(self, flags: Globals, gofer: GoferFlags) -> None:
        confs = bool(gofer.mount_confs)
        self.speaks_2021 = bool(flags.lisafs)
        self.overlay_by_flags = not confs
        self.directfs = confs if flags.directfs is None else flags.directfs
        self.makes_cwd = not (gofer.container_id or gofer.uid or gofer.gid)
        self.checks_options = not confs
        self.told_of_remote_files = confs and not gofer.numbered_confs
        self.runs_hooks = bool(gofer.container_id)
