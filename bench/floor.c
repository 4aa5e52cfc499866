/*
 * The physical floor: FStat, PRead and PWrite answered with a bare statx, pread and pwrite, over both transports, and
 * nothing else: no checks, no FD table, no locks. What a server takes above this is its own.
 *
 * usage: floor FD FILE     serves the one file FILE on the connected socket FD; every Walk finds it
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOUNT = 1, CHANNEL, FSTAT, WALK = 5, OPENAT = 7, CLOSE = 9, PWRITE = 11, PREAD = 12 };
enum { WINDOW = 2 << 20, STATX = 144, EOPNOTSUPP_WIRE = 95 };

static int file, donated[2], num_donated;
static size_t add_channel(uint8_t *reply);

static void put(uint8_t *at, uint64_t v, size_t size) { memcpy(at, &v, size); }
static uint64_t get(const uint8_t *at, size_t size) { uint64_t v = 0; memcpy(&v, at, size); return v; }

/* Answers the request in `p` in place; returns the reply's length. */
static size_t answer(uint16_t *mid, uint8_t *p) {
    ssize_t n;
    switch (*mid) {
    case FSTAT:
        statx(file, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, (struct statx *)p);
        return STATX;
    case PREAD:
        n = pread(file, p + 8, get(p + 16, 4), get(p, 8));
        put(p, n, 8);
        return 8 + n;
    case PWRITE:
        put(p, pwrite(file, p + 20, get(p + 16, 4), get(p, 8)), 8);
        return 8;
    case MOUNT:
        put(p, 1, 8), put(p + 8 + STATX, WINDOW - 4096, 4), put(p + 12 + STATX, 0, 2);
        return 14 + STATX;
    case WALK:
        put(p, 1 << 8, 3), put(p + 3, 1, 8);
        return 11 + STATX;
    case CHANNEL: return add_channel(p);
    case OPENAT: put(p, 1, 8); return 8;
    case CLOSE: return 0;
    }
    *mid = 0;
    put(p, EOPNOTSUPP_WIRE, 4);
    return 4;
}

static void *serve_channel(void *window) {
    uint32_t *state = window, *length = state + 1;
    uint8_t *data = (uint8_t *)window + 16;
    for (int connected = 0;; connected = 1) {
        while (__atomic_load_n(state, __ATOMIC_SEQ_CST) == 0) syscall(SYS_futex, state, FUTEX_WAIT, 0, NULL, NULL, 0);
        if (*state == 2) return NULL;
        if (connected) {                                            /* else: the handshake's {} goes back as it came */
            uint16_t mid = get(data, 2);
            *length = 4 + answer(&mid, data + 4);
            put(data, mid, 4);
        }
        __atomic_store_n(state, 0, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, state, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
}

static size_t add_channel(uint8_t *reply) {
    pthread_t thread;
    int pair[2], memfd = memfd_create("window", 0);
    if (memfd < 0 || ftruncate(memfd, WINDOW) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) exit(1);
    void *window = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (window == MAP_FAILED || pthread_create(&thread, NULL, serve_channel, window)) exit(1);
    donated[0] = memfd, donated[1] = pair[1], num_donated = 2;
    put(reply, 0, 8), put(reply + 8, WINDOW, 8);
    return 16;
}

static void reply(int sock, uint8_t *message, size_t size) {
    union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof donated)]; } control;
    struct iovec iov = { message, size };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (num_donated) {
        m.msg_control = &control, m.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){ CMSG_LEN(sizeof donated), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), donated, sizeof donated);
        num_donated = 0;
    }
    for (ssize_t n; size; size -= n, iov.iov_base = message += n, iov.iov_len = size, m.msg_controllen = 0)
        if ((n = sendmsg(sock, &m, 0)) < 0) exit(1);
}

int main(int argc, char **argv) {
    static uint8_t message[8 + WINDOW];
    int sock = argc == 3 ? atoi(argv[1]) : -1;
    if (sock < 0 || (file = open(argv[2], O_RDWR)) < 0) return 2;
    for (size_t have = 0;;) {                                       /* a client sends one request and waits */
        ssize_t n = read(sock, message + have, sizeof message - have);
        if (n <= 0) return n < 0;
        have += n;
        if (have < 8 || have < 8 + get(message, 4)) continue;
        uint16_t mid = get(message + 4, 2);
        size_t length = answer(&mid, message + 8);
        put(message, length, 4), put(message + 4, mid, 4);
        reply(sock, message, 8 + length);
        have = 0;
    }
}
