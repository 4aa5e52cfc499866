/*
 * A LISAFS client for measuring servers: it does as little as a client can, so that its own cost does not flatter
 * anyone. It speaks both transports and runs one named operation at a time, on command.
 *
 * usage: client FD...               mounts over each connected socket; operations use the first, the others stay idle
 *        client --exec N CMD...     starts CMD with a connected socket as fd N, and times exec to the first Mount reply
 *
 * Commands on stdin, one answer line each on stdout, "ok ..." or "error ...":
 *   run TRANSPORT OP COUNT       -> ok NANOSECONDS_PER_OPERATION FAILED ERRNO     (TRANSPORT: socket, channel, channel:1...)
 *   during TRANSPORT OP SECONDS  -> ok OPERATIONS_PER_SECOND FAILED ERRNO
 *   hold PREFIX FIRST COUNT      -> ok HELD ERRNO      keeps one control FD each of the files many/PREFIX<number>
 *   channels COUNT               -> ok OPEN ERRNO
 *   pause MICROSECONDS           -> ok                 before every request over a channel: the server is asleep by then
 * An operation's time excludes the Close of what Walk left behind: clients close in batches, later (see "Close").
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ERROR, MOUNT, CHANNEL, FSTAT, SETSTAT, WALK, WALKSTAT, OPENAT, OPENCREATEAT, CLOSE, FSYNC, PWRITE, PREAD, MKDIRAT,
       FSTATFS = 17, READLINKAT = 19, UNLINKAT = 22, RENAMEAT, GETDENTS64, FGETXATTR };
enum { MAX_MESSAGE = 2 << 20, MAX_FDS = 16, BATCH = 100, MANY = 1000, INODE = 152 };
typedef uint64_t fdid;

struct channel { uint32_t *state, *length; uint8_t *data; int fds; };

static int sock;                      /* the connection in use */
static struct channel channels[32], *via;   /* via NULL: the socket */
static int open_channels;
static uint8_t socket_message[8 + MAX_MESSAGE];
static uint8_t *message, *cursor;     /* the payload of the request, then of the reply; where the next field goes */
static int received[MAX_FDS], num_received;
static long failed, last_errno, pause_us;

static void die(const char *what) { printf("error %s: %s\n", what, strerror(errno)); exit(1); }

static void put(const void *field, size_t size) { memcpy(cursor, field, size); cursor += size; }
static void put16(uint16_t v) { put(&v, 2); }
static void put32(uint32_t v) { put(&v, 4); }
static void put64(uint64_t v) { put(&v, 8); }
static void puts16(const char *s) { put16(strlen(s)); put(s, strlen(s)); }
static uint64_t get64(size_t at) { uint64_t v; memcpy(&v, message + at, 8); return v; }
static uint16_t get16(size_t at) { uint16_t v; memcpy(&v, message + at, 2); return v; }

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- transports: send `length` bytes of payload, return the reply's length ---- */

static ssize_t receive(int from, void *buffer, size_t size, int flags) {
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof received)]; } control;
    struct iovec iov = { buffer, size };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = recvmsg(from, &m, flags | MSG_CMSG_CLOEXEC);
    if (n < 0) die("recvmsg");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (c->cmsg_type != SCM_RIGHTS || num_received + count > MAX_FDS) continue;
        memcpy(received + num_received, CMSG_DATA(c), count * sizeof(int));
        num_received += count;
    }
    return n;
}

static size_t over_socket(uint16_t *mid, size_t length) {
    uint32_t size = length;
    memcpy(socket_message, &size, 4);
    memcpy(socket_message + 4, mid, 2);
    for (size_t sent = 0; sent < length + 8;) {
        ssize_t n = write(sock, socket_message + sent, length + 8 - sent);
        if (n < 0) die("write");
        sent += n;
    }
    size_t have = 0;
    size = 0;
    while (have < 8 || have < 8 + (size_t)size) {
        ssize_t n = receive(sock, socket_message + have, sizeof socket_message - have, 0);
        if (n == 0) { errno = EPIPE; die("the server closed the connection"); }
        if ((have += n) >= 8) memcpy(&size, socket_message, 4);
    }
    memcpy(mid, socket_message + 4, 2);
    return size;
}

static void hand_over(struct channel *ch) {
    __atomic_store_n(ch->state, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, ch->state, FUTEX_WAKE, 1, NULL, NULL, 0);
    uint32_t state;
    while ((state = __atomic_load_n(ch->state, __ATOMIC_SEQ_CST)) == 1)
        syscall(SYS_futex, ch->state, FUTEX_WAIT, 1, NULL, NULL, 0);
    if (state) { errno = EPIPE; die("the server shut the channel down"); }
}

static size_t over_channel(uint16_t *mid, size_t length) {
    memcpy(via->data, mid, 2);
    via->data[2] = via->data[3] = 0;
    *via->length = length + 4;
    if (pause_us) usleep(pause_us);
    hand_over(via);
    memcpy(mid, via->data, 2);
    for (int donated = via->data[2]; donated > 0; donated--) {
        char nothing;
        receive(via->fds, &nothing, 1, MSG_DONTWAIT);
    }
    return *via->length - 4;
}

static void drop_received(void) { while (num_received) close(received[--num_received]); }

/* One RPC with the payload message..cursor; returns the reply's length, or -1 and last_errno after an Error reply. */
static ssize_t rpc(uint16_t mid) {
    drop_received();
    size_t length = cursor - message;
    cursor = message;
    length = via ? over_channel(&mid, length) : over_socket(&mid, length);
    if (mid != ERROR) return length;
    failed++;
    last_errno = get16(0);
    return -1;
}

static void use(struct channel *ch) {
    via = ch;
    cursor = message = ch ? ch->data + 4 : socket_message + 8;
}

static fdid mount(void) { use(NULL); return rpc(MOUNT) < 0 ? 0 : get64(0); }

static int open_channel(void) {
    use(NULL);
    if (rpc(CHANNEL) < 0) return -1;
    if (num_received != 2) { errno = EPROTO; die("a channel came without its two fds"); }
    char *window = mmap(NULL, get64(8), PROT_READ | PROT_WRITE, MAP_SHARED, received[0], get64(0));
    if (window == MAP_FAILED) die("mmap");
    close(received[0]);
    struct channel *ch = &channels[open_channels++];
    *ch = (struct channel){ (uint32_t *)window, (uint32_t *)(window + 4), (uint8_t *)window + 16, received[1] };
    num_received = 0;
    memcpy(ch->data, "{}\n", *ch->length = 3);
    hand_over(ch);
    return 0;
}

/* ---- operations: prepare once per run, then step; `tidy` runs outside the clock, after at most BATCH steps ---- */

static fdid root, target, work, opened;   /* control FDs of the mount, of the operation's file and "work"; an open FD */
static fdid left[2 * MANY];
static int num_left;
static long parameter, turn;
static char mine[16], mine_too[16];         /* names no other client uses */

static void close_fds(const fdid *ids, int count) {
    put16(count);
    put(ids, count * sizeof *ids);
    rpc(CLOSE);
}
static void tidy(void) { if (num_left) close_fds(left, num_left); num_left = 0; }

static fdid walk(fdid from, const char *name, int times) {
    put64(from), put16(times);
    for (int i = 0; i < times; i++) puts16(name);
    return rpc(WALK) < INODE ? 0 : get64(3 + (get16(1) - 1) * INODE);
}
static void open_at(int flags) { put64(target), put32(flags), put32(0); opened = rpc(OPENAT) < 0 ? 0 : get64(0); }
static void create_header(fdid dir, int mode) {
    put64(dir), put32(-1), put32(-1), put16(mode), put32(0), put16(0);
}
static void unlink_at(const char *name, int flags) { put64(work), put32(flags), puts16(name); rpc(UNLINKAT); }

static void want_file(void) { target = walk(root, "file", 1); }
static void want_open(void) { want_file(); open_at(O_RDWR); }
static void want_link(void) { target = walk(root, "link", 1); }
static void want_work(void) { work = walk(root, "work", 1); }
static void want_names(void) {
    char name[32];
    snprintf(name, sizeof name, "names%ld", parameter);
    target = walk(root, name, 1);
    open_at(O_RDONLY);
}

static void do_fstat(void) { put64(target); rpc(FSTAT); }
static void do_walk(void) {
    put64(root), put16(parameter);
    for (int i = 0; i < parameter; i++) puts16("d");
    if (rpc(WALK) < 0) return;
    for (int i = 0, n = get16(1); i < n; i++) left[num_left++] = get64(3 + i * INODE);
}
static void do_walk_missing(void) { put64(root), put16(1), puts16("missing"); rpc(WALK); }
static void do_walk_stat(void) {
    put64(root), put16(parameter);
    for (int i = 0; i < parameter; i++) puts16("d");
    rpc(WALKSTAT);
}
static void do_open(void) { open_at(O_RDONLY); close_fds(&opened, 1); }
static int create(const char *name) {
    create_header(work, 0644), put32(O_RDWR), puts16(name);
    if (rpc(OPENCREATEAT) < 0) return -1;
    left[0] = get64(0), left[1] = get64(INODE);
    return 0;
}
static void do_create(void) {
    if (create(mine) < 0) return;
    unlink_at(mine, 0);
    close_fds(left, 2);
}
static void do_mkdir(void) {
    create_header(work, 0755), puts16(mine);
    if (rpc(MKDIRAT) < 0) return;
    fdid made = get64(0);
    unlink_at(mine, AT_REMOVEDIR);
    close_fds(&made, 1);
}
static void do_pread(void) { put64(0), put64(opened), put32(parameter), put32(0); rpc(PREAD); }
static void do_pwrite(void) {         /* the data is whatever the buffer holds: a client's own copy is not the question */
    put64(0), put64(opened), put32(parameter);
    cursor += parameter;
    rpc(PWRITE);
}
static void do_set_stat(void) {       /* mode and mtime, both changing */
    enum { MODE = 2, MTIME = 0x40 };
    put64(target), put32(MODE | MTIME), put32(0600 | (++turn & 077)), put32(-1), put32(-1), put64(0);
    put64(0), put64(0), put64(1600000000 + turn), put64(turn);
    if (rpc(SETSTAT) == 8 && get16(0)) failed++, last_errno = get16(4);
}
static void do_read_link(void) { put64(target); rpc(READLINKAT); }
static void do_get_xattr(void) { put64(target), put32(64), puts16("user.bench"); rpc(FGETXATTR); }
static void do_getdents(void) {       /* the whole directory, as a sandbox reads it: rewind, then until nothing comes */
    int32_t count = 65536;
    put64(opened), put32(-count), put32(0);
    while (rpc(GETDENTS64) > 2 && get16(0)) put64(opened), put32(count), put32(0);
}
static void want_renamed(void) { want_work(); if (create(mine) == 0) close_fds(left, 2); }
static void do_rename(void) {
    int there = ++turn & 1;
    put64(work), put64(work), puts16(there ? mine : mine_too), puts16(there ? mine_too : mine);
    rpc(RENAMEAT);
}
static void unlink_renamed(void) { unlink_at(turn & 1 ? mine_too : mine, 0); }
static void do_stat_fs(void) { put64(root); rpc(FSTATFS); }
static void do_close(void) { fdid id = walk(root, "file", 1); close_fds(&id, 1); }
static void nothing(void) {}

static const struct operation { const char *name; void (*prepare)(void), (*step)(void), (*finish)(void); } operations[] = {
    { "FStat", want_file, do_fstat, nothing },
    { "Walk", nothing, do_walk, nothing },                          /* :components */
    { "WalkMissing", nothing, do_walk_missing, nothing },
    { "WalkStat", nothing, do_walk_stat, nothing },                 /* :components */
    { "OpenAt+Close", want_file, do_open, nothing },
    { "OpenCreateAt+Unlink+Close", want_work, do_create, nothing },
    { "Mkdir+Rmdir+Close", want_work, do_mkdir, nothing },
    { "PRead", want_open, do_pread, nothing },                      /* :bytes */
    { "PWrite", want_open, do_pwrite, nothing },                    /* :bytes */
    { "SetStat", want_file, do_set_stat, nothing },
    { "ReadLinkAt", want_link, do_read_link, nothing },
    { "FGetXattr", want_file, do_get_xattr, nothing },
    { "Getdents64", want_names, do_getdents, nothing },             /* :names, of the directory names<names> */
    { "RenameAt", want_renamed, do_rename, unlink_renamed },
    { "FStatFS", nothing, do_stat_fs, nothing },
    { "Walk+Close", nothing, do_close, nothing },
};

/* ---- commands ---- */

static const struct operation *begin(const char *transport, char *op) {
    char *colon = strchr(op, ':');
    parameter = colon ? atol(colon + 1) : 1;
    if (colon) *colon = 0;
    int wanted = strncmp(transport, "channel:", 8) ? 0 : atoi(transport + 8);
    while (strcmp(transport, "socket") && open_channels <= wanted)
        if (open_channel() < 0) return NULL;
    use(strcmp(transport, "socket") ? &channels[wanted] : NULL);
    failed = last_errno = turn = target = opened = work = 0;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (strcmp(operations[i].name, op) == 0) { operations[i].prepare(); return &operations[i]; }
    return NULL;
}

static void end(const struct operation *op) {
    op->finish();
    fdid used[] = { target, opened, work };
    close_fds(used, 3);                                             /* unknown ids (0) are ignored */
    drop_received();
}

/* Steps until `count` are done or `deadline` ns are over; returns steps, and the time they took without tidying. */
static long steps(const struct operation *op, long count, int64_t deadline, int64_t *elapsed) {
    long done = 0;
    for (*elapsed = 0; done < count && *elapsed < deadline; tidy()) {
        int64_t start = now();
        for (int i = 0; i < BATCH && done < count && num_left < MANY; i++, done++) op->step();
        *elapsed += now() - start;
    }
    return done;
}

static void hold(const char *prefix, long first, long count) {
    long held = 0;
    use(NULL);
    failed = last_errno = 0;
    fdid many = walk(root, "many", 1);
    for (char name[96]; held < count && !failed; held += !failed) {
        snprintf(name, sizeof name, "%s%ld", prefix, first + held);
        if (!walk(many, name, 1) && !failed) break;
    }
    printf("ok %ld %ld\n", held, last_errno);
}

static void command(char *line) {
    char transport[32], name[64];
    double amount = 0, first = 0;
    int64_t elapsed;
    const struct operation *op;
    if (sscanf(line, "run %31s %63s %lf", transport, name, &amount) == 3 && (op = begin(transport, name))) {
        long done = steps(op, amount, INT64_MAX, &elapsed);
        end(op);
        printf("ok %.1f %ld %ld\n", (double)elapsed / done, failed, last_errno);
    } else if (sscanf(line, "during %31s %63s %lf", transport, name, &amount) == 3 && (op = begin(transport, name))) {
        long done = steps(op, INT64_MAX, amount * 1e9, &elapsed);
        end(op);
        printf("ok %.1f %ld %ld\n", done / (elapsed / 1e9), failed, last_errno);
    } else if (sscanf(line, "hold %63s %lf %lf", name, &first, &amount) == 3) {
        hold(name, first, amount);
    } else if (sscanf(line, "channels %lf", &amount) == 1) {
        last_errno = 0;
        while (open_channels < amount && open_channel() == 0) {}
        printf("ok %d %ld\n", open_channels, last_errno);
    } else if (sscanf(line, "pause %lf", &amount) == 1) {
        pause_us = amount;
        puts("ok");
    } else {
        printf("error cannot do: %s (errno %ld)\n", line, last_errno);
    }
}

static int start(int as, char **argv) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) die("socketpair");
    int64_t began = now();
    pid_t child = fork();
    if (child == 0) {
        dup2(pair[1], as);                                          /* clears CLOEXEC */
        execvp(argv[0], argv);
        die(argv[0]);
    }
    close(pair[1]);
    sock = pair[0];
    root = mount();
    printf("ok %.1f %d\n", (double)(now() - began), child);
    fflush(stdout);
    while (getchar() != EOF) {}                                     /* the caller looks at the server's memory now */
    close(sock);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc > 3 && strcmp(argv[1], "--exec") == 0) return start(atoi(argv[2]), argv + 3);
    snprintf(mine, sizeof mine, "a%d", getpid());
    snprintf(mine_too, sizeof mine_too, "b%d", getpid());
    for (int i = argc - 1; i > 0; i--) {
        sock = atoi(argv[i]);
        if (!(root = mount())) { errno = last_errno; die("Mount"); }
    }
    puts("ok mounted");
    for (char line[256]; fflush(stdout), fgets(line, sizeof line, stdin);) {
        line[strcspn(line, "\n")] = 0;
        command(line);
    }
    return 0;
}
