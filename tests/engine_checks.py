"""What Docker and podman do with a container; one check a function, each in a Box of engines.py."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from engines import SOON, Box
from hosts import wait_until
from terminal import Terminal

UP = "touch /out/up; "
FOREVER = "while :; do sleep 0.1; done"


def its_exit_status_and_stdin(box: Box) -> None:
    done = box.run("sh", "-c", "tr a-z A-Z; echo to stderr >&2; exit 7", options=["--interactive"], stdin="hello")
    assert (done.status, done.out) == (7, "HELLO") and "to stderr" in done.err, done
    assert box.run("/bin/nothing").status in (126, 127)  # not found; podman cannot tell it from not executable


def what_is_bound_is_the_hosts(box: Box) -> None:
    """Read-write, read-only, and a file; looked at from the host. Also the files that the engine binds itself."""
    for name in ("rw", "ro"):
        (box.folder / name).mkdir()
        (box.folder / name / "given").write_text(name)
    (box.folder / "rw").chmod(0o777)
    (box.folder / "file").write_text("of the host")
    (box.folder / "file").chmod(0o666)
    binds = [f"{box.folder}/rw:/rw", f"{box.folder}/ro:/ro:ro", f"{box.folder}/file:/etc/file", "/dev/null:/etc/ro:ro"]
    script = """
        cat /rw/given /ro/given /etc/file; ls /rw /ro; echo made > /rw/made; mkdir /rw/d; ln -s x /rw/d/link
        echo no > /ro/given || echo refused; echo no > /ro/new || echo refused; rm /ro/given || echo refused
        printf changed > /etc/file; cat /etc/file; rm /rw/given; cat /etc/hosts /etc/hostname > /rw/engine"""
    done = box.run("sh", "-c", script, options=[f"--volume={bind}" for bind in binds])
    assert done.status == 0, done
    assert done.out.split("\n") == ["rwroof the host/ro:", "given", "", "/rw:", "given", *["refused"] * 3, "changed"], done
    assert sorted(os.listdir(box.folder / "rw")) == ["d", "engine", "made"]
    assert (box.folder / "rw/made").read_text() == "made\n" and os.readlink(box.folder / "rw/d/link") == "x"
    assert "localhost" in (box.folder / "rw/engine").read_text()
    assert (box.folder / "file").read_text() == "changed" and (box.folder / "ro/given").read_text() == "ro"
    assert os.listdir(box.folder / "ro") == ["given"]


def a_tmpfs_is_its_own(box: Box) -> None:
    done = box.run("sh", "-c", "echo x > /t/x; cat /t/x; grep -c ' /t tmpfs' /proc/mounts", options=["--tmpfs=/t"])
    assert (done.status, done.out) == (0, "x\n1\n"), done


def a_read_only_root_takes_no_writes(box: Box) -> None:
    script = "echo x > /made || echo refused; mkdir /etc/d || echo refused; echo x > /t/x; cat /t/x"
    done = box.run("sh", "-c", script, options=["--read-only", "--tmpfs=/t"])
    assert (done.status, done.out) == (0, "refused\nrefused\nx\n"), done


def another_user_owns_what_it_makes(box: Box) -> None:
    script = "id -u; id -g; echo x > /out/made; cat /root-only || echo refused; id -G"
    out = box.folder / "out"
    out.mkdir()
    out.chmod(0o777)
    done = box.run("sh", "-c", script, options=["--user=1234:55", f"--volume={out}:/out"])
    assert (done.status, done.out.split()) == (0, ["1234", "55", "refused", "55"]), done
    about = (out / "made").stat()
    assert (about.st_uid, about.st_gid) == box.engine.on_host(1234, 55)


def it_is_run_in_the_background_and_ends_when_told(box: Box) -> None:
    """Logs, exec, stop with its grace, restart, rm."""
    name = box.start("sh", "-c", f'trap "echo stopped; exit 3" TERM; echo up; echo err >&2; {UP}{FOREVER}')
    assert box.engine.call("exec", name, "sh", "-c", "id -u; exit 5")[:2] == (5, "0\n")
    assert box.call("exec", "--interactive", name, "tr", "a", "b", stdin="abba") == "bbbb"
    box.call("exec", name, "sh", "-c", "echo kept > /kept")
    assert box.call("exec", name, "cat", "/kept") == "kept\n"
    box.call("stop", "--time=60", name)
    box.wait_for(name, 3)
    assert box.call("logs", name) == "up\nstopped\n"
    box.restart(name, "--time=60")
    assert box.call("logs", name) == "up\nstopped\nup\n"
    assert box.state(name)["Running"]
    box.call("kill", name)
    box.wait_for(name, 137)
    box.call("rm", name)
    assert box.engine.call("inspect", name).status != 0


def what_it_wrote_is_there_after_a_restart(box: Box) -> None:
    name = box.start("sh", "-c", f"cat /count; echo x >> /count; {UP}{FOREVER}")
    box.restart(name, "--time=0")
    assert box.call("logs", name) == "x\n"


def signals_reach_it(box: Box) -> None:
    name = box.start("sh", "-c", f'trap "echo USR1" USR1; trap "exit 9" HUP; {UP}{FOREVER}')
    box.call("kill", "--signal=USR1", name)
    wait_until(lambda: box.call("logs", name) == "USR1\n", "the signal arrives", patience=SOON)
    box.call("kill", "--signal=HUP", name)
    box.wait_for(name, 9)


def a_volume_is_shared_by_two(box: Box) -> None:
    volume = f"--volume={box.name()}:/shared"
    script = f"until [ -s /shared/asked ]; do {UP}sleep 0.1; done; echo answer > /shared/answer"
    name = box.start("sh", "-c", script, options=[volume])
    script = "echo question > /shared/asked; until [ -s /shared/answer ]; do sleep 0.1; done; cat /shared/answer"
    done = box.run("sh", "-c", script, options=[volume])
    assert (done.status, done.out) == (0, "answer\n"), done
    box.wait_for(name, 0)


def files_are_copied_out_and_in(box: Box) -> None:
    """Of a container that has ended."""
    (box.folder / "in").write_text("from the host")
    name = box.start("sh", "-c", f"echo made > /made; {UP}until [ -e /out/stop ]; do sleep 0.1; done; cat /in")
    box.call("stop", "--time=0", name)
    box.call("cp", f"{name}:/made", f"{box.folder}/made")
    assert (box.folder / "made").read_text() == "made\n"
    box.call("cp", f"{box.folder}/in", f"{name}:/in")
    box.call("cp", f"{name}:/in", f"{box.folder}/back")
    assert (box.folder / "back").read_text() == "from the host"


def files_are_copied_out_of_a_running_one(box: Box) -> None:
    name = box.start("sh", "-c", f"echo made > /made; {UP}{FOREVER}")
    box.call("cp", f"{name}:/made", f"{box.folder}/made")
    assert (box.folder / "made").read_text() == "made\n"


def its_changes_are_told(box: Box) -> None:
    name = box.start("sh", "-c", f"echo made > /made; {UP}{FOREVER}")
    assert "A /made" in box.call("diff", name)


def a_terminal_has_its_size_and_its_ctrl_c(box: Box) -> None:
    script = 'trap "echo interrupted; exit 9" INT; until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; echo sized; ' + FOREVER
    line = box.line("sh", "-c", script, options=["--rm", "--interactive", "--tty"])
    with Terminal(*box.engine.command(*line), size=(33, 77), env=box.engine.env()) as terminal:
        terminal.wait_for("sized", SOON)
        terminal.type("\x03")
        terminal.wait_for("interrupted", SOON)
    assert terminal.close() == 9


def a_second_command_at_a_terminal(box: Box) -> None:
    name = box.start("sh", "-c", f"{UP}{FOREVER}")
    words = box.engine.command("exec", "-it", name, "sh", "-c", "[ -t 1 ] && echo tty; read line; echo got $line; exit 4")
    with Terminal(*words, env=box.engine.env()) as terminal:
        terminal.wait_for("tty", SOON)
        terminal.type("typed\r")
        terminal.wait_for("got typed", SOON)
    assert terminal.close() == 4


def its_processes_are_listed(box: Box) -> None:
    name = box.start("sh", "-c", f"{UP}{FOREVER}")
    assert "sleep" in box.call("top", name) or "sh" in box.call("top", name)


def twenty_starts_four_at_a_time(box: Box) -> None:
    (box.folder / "file").write_text("of the host\n")
    options = [f"--volume={box.folder}/file:/etc/file:ro"]

    def start(number: int) -> "tuple[int, str]":
        return box.run("sh", "-c", f"cat /etc/file; exit {number}", options=options)[:2]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(20))) == [(number, "of the host\n") for number in range(20)]
    assert box.call("ps", "--all", "--quiet") == ""


CHECKS: "list[Callable[[Box], None]]" = [
    its_exit_status_and_stdin,
    what_is_bound_is_the_hosts,
    a_tmpfs_is_its_own,
    a_read_only_root_takes_no_writes,
    another_user_owns_what_it_makes,
    it_is_run_in_the_background_and_ends_when_told,
    what_it_wrote_is_there_after_a_restart,
    signals_reach_it,
    a_volume_is_shared_by_two,
    files_are_copied_out_and_in,
    files_are_copied_out_of_a_running_one,
    its_changes_are_told,
    a_terminal_has_its_size_and_its_ctrl_c,
    a_second_command_at_a_terminal,
    its_processes_are_listed,
    twenty_starts_four_at_a_time,
]
