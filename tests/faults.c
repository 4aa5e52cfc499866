/* faults LOG PROCESS NUMBER CALL ERRNO MARK PROGRAM ARGS...: runs PROGRAM and lets one system call fail.
 *
 * Processes are numbered as they are made, from 0, and so are the system calls of each: those of process 0 from the first
 * whose path (first or second argument) ends in MARK, those of the others from their first. Counting ends where a process waits for
 * clients or signals, and where it becomes another program. The first CALL of PROCESS that has this NUMBER or a higher one (processes
 * race, so that it may be another call's) is not made and fails with ERRNO; PROCESS -1: none does, and LOG gets a line "process
 * number call" for each. The exit status is PROGRAM's; 128 and more for a signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 4096
enum { GETPID = 39, EPOLL_WAIT = 232, EPOLL_PWAIT = 281, SIGTIMEDWAIT = 128, PPOLL = 271, OPENAT = 257, FSTATAT = 262, STAT = 4, OPEN = 2 };

static struct process { pid_t pid; int number, counting, calls, inside, fails; } all[MOST];
static int known, target, at, error;
static long wanted;
static const char *mark;
static FILE *list;

/* Threads come when there are clients: the start is over. */
static int is_thread(pid_t pid)
{
    char path[64], line[128];
    int group = pid;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    while (status && fgets(line, sizeof line, status) && sscanf(line, "Tgid: %d", &group) != 1)
        ;
    if (status)
        fclose(status);
    return group != pid;
}

static struct process *find(pid_t pid)
{
    for (int i = known - 1; i >= 0; i--)
        if (all[i].pid == pid)
            return &all[i];
    if (known == MOST)
        abort();
    all[known] = (struct process){.pid = pid, .number = known, .counting = known > 0 && !is_thread(pid)};
    return &all[known++];
}

static int marked(pid_t pid, unsigned long address)
{
    char path[512];
    size_t length = 0;
    for (; length + sizeof(long) < sizeof path; length += sizeof(long)) {
        errno = 0;
        long word = ptrace(PTRACE_PEEKDATA, pid, address + length, 0);
        if (errno)
            return 0;
        memcpy(path + length, &word, sizeof word);
        if (memchr(&word, 0, sizeof word))
            break;
    }
    path[sizeof path - 1] = 0;
    size_t has = strlen(path), wants = strlen(mark);
    return has >= wants && !strcmp(path + has - wants, mark);
}

static void at_call(struct process *p, struct user_regs_struct *regs)
{
    long call = (long)regs->orig_rax;
    if (!p->inside) {
        p->inside = 1;
        if (!p->counting && !p->number && !p->calls && (call == OPENAT || call == FSTATAT || call == STAT || call == OPEN))
            p->counting = marked(p->pid, call == STAT || call == OPEN ? regs->rdi : regs->rsi);
        if (call == EPOLL_WAIT || call == EPOLL_PWAIT || call == SIGTIMEDWAIT)
            p->counting = 0;
        if (!p->counting)
            return;
        int number = p->calls++;
        if (target < 0)
            fprintf(list, "%d %d %ld\n", p->number, number, call);
        else if (p->number == target && number >= at && call == wanted) {
            wanted = -1;
            fprintf(list, "%d %d %ld\n", p->number, number, call);
            p->fails = 1;
            regs->orig_rax = GETPID; /* harmless, and let pass by every filter */
            ptrace(PTRACE_SETREGS, p->pid, 0, regs);
        }
        return;
    }
    p->inside = 0;
    if (p->fails) {
        p->fails = 0;
        regs->rax = (unsigned long)-error;
        ptrace(PTRACE_SETREGS, p->pid, 0, regs);
    }
}

int main(int argc, char **argv)
{
    if (argc < 8)
        return 2;
    int log = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    list = fdopen(log, "w");
    target = atoi(argv[2]), at = atoi(argv[3]), wanted = atol(argv[4]), error = atoi(argv[5]), mark = argv[6];
    pid_t first = fork();
    if (!first) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[7], argv + 7);
        _exit(127);
    }
    int status, result = 1;
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE
                                            | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    find(first);
    ptrace(PTRACE_SYSCALL, first, 0, 0);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
        struct process *p = find(pid);
        int deliver = 0;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            p->pid = -1;
            continue;
        }
        int number = WSTOPSIG(status), event = status >> 16;
        if (number == (SIGTRAP | 0x80)) {
            struct user_regs_struct regs;
            if (!ptrace(PTRACE_GETREGS, pid, 0, &regs))
                at_call(p, &regs);
        } else if (event == PTRACE_EVENT_EXEC) {
            if (p->number)
                p->counting = 0;
        } else if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
            unsigned long child;
            if (!ptrace(PTRACE_GETEVENTMSG, pid, 0, &child))
                find((pid_t)child);
        } else if (!event && number != SIGSTOP)
            deliver = number;
        ptrace(PTRACE_SYSCALL, pid, 0, deliver);
    }
    fclose(list);
    return result;
}
