"""A small C program in place of runsc, which starts "its own gofer" as runsc does; and our launcher before it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hosts import CALM, ended, wait_until
from runsc import one_file_gofer

from gofer import __version__

NOBODY = 65534
OURS = f"gofer {__version__}\n"
LOOKALIKE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static int become(const char *path, char **argv) { execve(path, argv, environ); perror(path); _exit(99); }
static int wait_for(pid_t child) {
    int status;
    if (child < 0) { perror("fork"); return 98; }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static int spawn(const char *path, char **argv) {
    pid_t child = fork();
    return child == 0 ? become(path, argv) : wait_for(child);
}
static pid_t fork_in_namespace(const char *how) {
    unsigned long flags = CLONE_NEWPID | (geteuid() ? CLONE_NEWUSER : 0), args[8] = {flags, 0, 0, 0, SIGCHLD};
    if (strcmp(how, "clone") == 0) return syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (strcmp(how, "clone3") == 0) return syscall(SYS_clone3, args, sizeof args);
    return unshare(flags) ? -1 : fork();
}
static void *idle(void *unused) { for (;;) pause(); }
int main(int argc, char **argv) {
    char *gofer[] = {"runsc-gofer", "--version", NULL}, *self = "/proc/self/exe", *word = argc > 1 ? argv[1] : "run";
    pthread_t thread;
    setvbuf(stdout, NULL, _IONBF, 0);
    if (strcmp(argv[0], "runsc-gofer") == 0) return puts("its own gofer") < 0;
    pthread_create(&thread, NULL, idle, NULL);
    if (strcmp(word, "again") == 0) { argv[1] = "exe"; return spawn(self, argv + 1); }
    if (strcmp(word, "hold") == 0) { puts("waiting"); getchar(); }
    if (strcmp(word, "other") == 0) return spawn(argv[2], argv + 3);
    if (strcmp(word, "twice") == 0) { spawn(self, gofer); spawn(argv[2], argv + 3); puts("waiting"); getchar(); }
    if (strcmp(word, "list") == 0) {
        pid_t child = fork_in_namespace(argv[2]);
        return child == 0 ? become(self, gofer) : wait_for(child);
    }
    return spawn(self, gofer);
}
"""


def make_lookalike() -> Path:
    """Where every user can execute it; gone with the one file."""
    path = one_file_gofer().with_name("lookalike")
    if not path.exists():
        subprocess.run(["gcc", "-pthread", "-o", path, "-x", "c", "-"], input=LOOKALIKE, text=True, check=True)
    return path


def argv(one_file: Path, lookalike: Path, *words: str) -> "list[str]":
    return [str(one_file), "runsc", "--runsc", str(lookalike), "--", *words]


def run(command: Sequence[Any], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM, **options)


class Waiting:
    """The lookalike, traced, in front of the fork that makes its gofer."""

    def __init__(self, command: Sequence[str], first: str = "") -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None
        assert not first or self.process.stdout.readline() == first
        assert self.process.stdout.readline() == "waiting\n"
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.tracer = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))
        assert self.tracer > 1

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: ended(self.tracer), "the tracer ends")
