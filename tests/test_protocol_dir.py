"""Getdents64 where a directory is very large, or has mounts in it; the rest is in gofer/conform/cases/directory.py."""

import os
from pathlib import Path

import pytest
from conftest import Start
from hosts import Server


def fill(tree: Path, count: int) -> set[bytes]:
    for number in range(count):
        (tree / f"{number}").touch()
    return {f"{number}".encode() for number in range(count)}


@pytest.mark.slow
def test_a_directory_of_more_entries_than_a_u16_counts(server: Server) -> None:
    names = fill(server.tree, 70000)
    with server.peer("channel") as peer:
        seen = [entry.name for entry in peer.listdir(peer.openat(peer.root).fd, 2**31 - 1)]
    assert len(seen) == len(names) and set(seen) == names


def test_mount_points_in_the_listing_have_the_device_and_inode_a_stat_reports(start: Start) -> None:
    """`/` has mount points below it (proc, dev, sys) wherever this runs."""
    server = start("--read-only", tree=Path("/"))
    with server.peer() as peer:
        mounted = 0
        for entry in peer.listdir(peer.openat(peer.root).fd):
            try:
                (stat,) = peer.walkstat(peer.root, entry.name)
            except PermissionError:
                continue  # a block device
            assert (entry.dev, entry.ino) == (stat.dev, stat.ino) or os.path.ismount(b"/" + entry.name), entry.name
            assert entry.dev == stat.dev, entry.name
            mounted += stat.dev != peer.fstat(peer.root).dev
        assert mounted
