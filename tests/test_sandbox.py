"""The real peer: programs in a gVisor sandbox whose files come from `gofer serve`, against the same on the host's kernel."""

import os
from pathlib import Path

import pytest
from sandbox import describe, make_root, run_native, run_sandboxed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces and chroot")]

SCRIPT = """
set -eu
B=/bin/busybox
cd /work
echo one > a; echo two >> a; $B cat a
$B mv a b; $B ln b c; $B ln -s b d; $B cat c d
$B mkdir -p dir/sub; $B mv b dir/b; $B mv dir renamed
$B chmod 4755 renamed/b; $B chmod 1777 renamed/sub; $B chown 1000:1001 c
echo owned > e; $B chown 1000:1001 e; $B chmod 2640 e
$B touch -d '2001-02-03 04:05:06' e; $B stat -c '%Y %a %u %g %s %h' e
$B mkfifo fifo; $B rm fifo
i=0; $B mkdir many
while [ $i -lt 5000 ]; do : > many/name-$i; i=$((i + 1)); done
$B ls many | $B wc -l; $B ls many | $B sort | $B md5sum
$B find . -name 'name-49*' | $B sort | $B md5sum
$B rm -r many/name-1*; $B ls many | $B wc -l
$B dd if=/big bs=1M 2>/dev/null | $B md5sum
$B dd if=/dev/zero of=holes bs=1 count=1 seek=1000000 2>/dev/null; $B truncate -s 12345 holes
$B cp /big copy; $B truncate -s 1M copy; $B md5sum copy
exec 3<> open; echo kept >&3; $B rm open; echo more >&3; exec 3>&-
if $B mkdir renamed 2>/dev/null; then exit 1; fi
if $B rmdir renamed 2>/dev/null; then exit 1; fi
if $B cat missing 2>/dev/null; then exit 1; fi
if $B ln -s x d 2>/dev/null; then exit 1; fi
echo done
"""


@pytest.mark.parametrize("options", [(), ("--donate", "no")], ids=["with donated fds", "without donated fds"])
def test_a_script_in_the_sandbox_leaves_what_it_leaves_on_the_host(spot: Path, options: tuple[str, ...]) -> None:
    native, served = spot / "native", spot / "served"
    for root in (native, served):
        make_root(root, SCRIPT)
        (root / "big").write_bytes(
            os.urandom(1 << 10) * (64 << 10) if root is native else (native / "big").read_bytes()
        )
    os.mknod(native / "dev/zero", 0o20666, os.makedev(1, 5))
    os.mknod(native / "dev/null", 0o20666, os.makedev(1, 3))
    expected = run_native(native)
    printed, said, status = run_sandboxed(served, spot, *options)
    assert printed == expected
    assert status == 0
    assert f"serves the directory {served}" in said and "fault" not in said and "Traceback" not in said
    for root in (native, served):
        (root / "dev/zero").unlink(missing_ok=True), (root / "dev/null").unlink(missing_ok=True)
    left, meant = describe(served), describe(native)
    assert sorted(left) == sorted(meant)
    assert [name for name in left if left[name] != meant[name]] == []
    assert (served / "work/e").stat().st_mtime == (native / "work/e").stat().st_mtime == 981173106


def test_a_read_only_export_refuses_changes_and_serves_the_rest(spot: Path) -> None:
    served = spot / "served"
    make_root(served, "/bin/busybox cat /kept; echo no > /work/new || echo refused; exit 0")
    (served / "kept").write_text("as it was\n")
    before = describe(served)
    printed, said, status = run_sandboxed(served, spot, "--read-only")
    assert printed == "as it was\nrefused\n"
    assert "read-only" in said and status == 0
    assert describe(served) == before
