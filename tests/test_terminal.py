"""Commands at a terminal: what asks, what goes on until Ctrl-C, and the line that tells how far a copy is."""

import os
import sys
import tarfile
import time
from pathlib import Path

import pytest
from hosts import GOFER, Server, wait_until
from terminal import Terminal

# Stands for ssh: lets the first MiB pass, and the rest when it is told to.
SLOW = """#!{python}
import os, subprocess, sys, threading, time
process = subprocess.Popen(sys.argv[-1], shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def back():
    while data := os.read(process.stdout.fileno(), 1 << 20):
        os.write(1, data)
    os._exit(process.wait())
threading.Thread(target=back).start()
passed = 0
while data := os.read(0, 1 << 16):
    process.stdin.write(data)
    process.stdin.flush()
    passed += len(data)
    if passed > 1 << 20:
        open({place!r} + "/waits", "w").close()
        while not os.path.exists({place!r} + "/go"):
            time.sleep(0.01)
process.stdin.close()
"""


def answered(server: Server, answer: str, *words: str) -> "tuple[str, int]":
    """The question, and the exit status."""
    with Terminal(*GOFER, *words, GOFER_SOCKET=str(server.path)) as shown:
        question = shown.wait_for(r"\? ")
        shown.type(answer)
    return question, shown.close()


def test_rm_and_mv_ask_before_each_and_ctrl_c_is_no_yes(server: Server) -> None:
    kept, other = server.tree / "kept", server.tree / "other"
    for path in (kept, other):
        path.write_text(path.name)
    for answer, status in (("n\n", 0), ("\n", 0), ("\x04", 0), ("\x03", 130)):
        assert answered(server, answer, "rm", "-i", ":kept") == ("gofer: rm: remove regular file 'kept'? ", status)
        assert answered(server, answer, "mv", "-i", ":other", ":kept") == ("gofer: mv: overwrite 'kept'? ", status)
        assert (kept.read_text(), other.read_text()) == ("kept", "other")
    assert answered(server, "y\n", "mv", "-i", ":other", ":kept")[1] == 0 and kept.read_text() == "other"
    assert answered(server, "yes\n", "rm", "-i", ":kept")[1] == 0 and not kept.exists()


def test_find_asks_before_each_command(server: Server) -> None:
    (server.tree / "file").touch()
    for answer, status in (("y\n", 0), ("n\n", 0), ("\x03", 130)):
        words = ["find", ":file", "-ok", "sh", "-c", "echo ran >$0", str(server.tree / "ran"), "{}", ";"]
        question, ended = answered(server, answer, *words)
        assert question.startswith("< sh -c echo ran >$0 ") and question.endswith(" file > ? ") and ended == status
        assert (server.tree / "ran").exists() == (answer == "y\n")
        (server.tree / "ran").unlink(missing_ok=True)


def test_tail_follows_until_ctrl_c(server: Server) -> None:
    log = server.tree / "log"
    log.write_text("one\n")
    with Terminal(*GOFER, "tail", "-f", "-s0.01", f"{server.path}:log") as shown:
        shown.wait_for("one\r\n")
        with open(log, "a") as file:
            file.write("two\n")
        shown.wait_for("two\r\n")
        shown.type("\x03")
    assert shown.close() == 130


@pytest.mark.slow
@pytest.mark.parametrize(("command", "columns"), [("put", 80), ("put", 20), ("tar", 80), ("cp", 80)])
def test_a_line_tells_how_far_a_copy_is_and_is_gone_at_the_end(spot: Path, place: Path, command: str, columns: int) -> None:
    (spot / "from").mkdir()
    for name in ("one", "two"):
        (spot / "from" / name).write_bytes(b"x" * (4 << 20))
    with tarfile.open(spot / "archive", "w") as archive:
        archive.add(spot / "from", "to")
    ssh = place / "ssh"
    ssh.write_text(SLOW.format(python=sys.executable, place=str(place)))
    ssh.chmod(0o755)
    words = {
        "put": f"-r {spot}/from far:{spot}/to",
        "tar": f"-x far:{spot} <{spot}/archive",
        "cp": f"-r far:{spot}/from far:{spot}/to",
    }
    far = f"--ssh {ssh} --remote-gofer never --remote-command '{' '.join(GOFER)}'"
    with Terminal("sh", "-c", f"exec {' '.join(GOFER)} {command} {far} {words[command]}", size=(25, columns)) as shown:
        wait_until((place / "waits").exists, "it is under way")
        time.sleep(0.25)  # the line is drawn five times a second at most
        (place / "go").touch()
        line = shown.wait_for("\r\x1b\\[K[^\r]*").rpartition("\r\x1b[K")[2]
        said = line + shown.wait_for(r"gofer: 2 files, 8\.0 MiB in [\d.]+ s\r\n")
    assert shown.close() == 0
    lines = [part for part in said.split("\r\x1b[K") if part and not part.startswith("gofer: ")]
    assert lines and all(("files, " in part or "file, " in part) and len(part) < columns for part in lines), said
    assert "\r\x1b[Kgofer: 2 files" in said and sorted(os.listdir(spot / "to")) == ["one", "two"]
