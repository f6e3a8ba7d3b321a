// batchload: a very cheap closed-loop RESP load generator for bench/run.py.
//
// It plays batches that were encoded before and waits for an exact number of reply bytes, so it needs no parser and
// costs a fraction of the usual generators. On two cores, where load and stores share one, that is what lets the
// proxy's core be the one that is full.
//
// usage: batchload HOST PORT CONNECTIONS SECONDS BATCHFILE [PROCESSES]
// BATCHFILE: repeated { u32 request_len, u32 reply_len, u32 ops, request bytes } in host byte order.
// Each connection holds one batch in flight: writes it, waits for the whole reply, takes the next batch. A reply that
// is an error, too long, not ended by a line feed or does not come for 5 s ends the run with a fault. The connections
// are dealt to the processes, and each prints one line of JSON: `ops` counts all requests, `rate` (in ops per second)
// those that were answered in time.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct { const char *req; uint32_t req_len, reply_len, ops; } batch_t;
typedef struct { int fd; const batch_t *b; uint32_t sent, got; uint64_t t0; int want_out, fresh; } conn_t;

static batch_t *batches; static size_t nbatches, next_batch;
static uint64_t done_ops, timed_ops, errors, open_batches;
static int epfd;
static char rbuf[1 << 18];

// Log-linear histogram of nanoseconds: 64 exponents x 64 steps.
static uint64_t hist[64 * 64], hist_n;
static void hist_add(uint64_t ns) {
    int e = ns ? 63 - __builtin_clzll(ns) : 0;
    int s = e >= 6 ? (int)((ns >> (e - 6)) & 63) : (int)(ns & 63);
    hist[e * 64 + s]++; hist_n++;
}
static double hist_pct(double p) {
    uint64_t want = (uint64_t)(p / 100.0 * hist_n), seen = 0;
    for (int i = 0; i < 64 * 64; i++) {
        seen += hist[i];
        if (seen > want) {
            int e = i / 64, s = i % 64;
            double ns = e >= 6 ? (double)((64ull + s) << (e - 6)) : (double)s;
            return ns / 1000.0;
        }
    }
    return 0;
}
static uint64_t now_ns(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}
static void die(const char *m) { perror(m); exit(2); }

static void watch(conn_t *c, int out) {
    if (c->want_out == out) return;
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &e)) die("epoll_ctl");
    c->want_out = out;
}
static void push(conn_t *c) {
    while (c->sent < c->b->req_len) {
        ssize_t n = send(c->fd, c->b->req + c->sent, c->b->req_len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) { watch(c, 1); return; }
            die("send");
        }
        c->sent += n;
    }
    watch(c, 0);
}
static void start(conn_t *c) {
    c->b = &batches[next_batch++ % nbatches];
    c->sent = c->got = 0; c->fresh = 1; c->t0 = now_ns(); open_batches++;
    push(c);
}
int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) {
        fprintf(stderr, "usage: batchload HOST PORT CONNECTIONS SECONDS BATCHFILE [PROCESSES]\n"); return 2;
    }
    int nconn = atoi(argv[3]); double secs = atof(argv[4]);
    int f = open(argv[5], O_RDONLY); struct stat st;
    if (f < 0 || fstat(f, &st)) die("batch file");
    const char *p = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE, f, 0), *end = p + st.st_size;
    if (p == MAP_FAILED) die("mmap");
    while (p < end) {
        uint32_t h[3]; memcpy(h, p, 12); p += 12;
        batches = realloc(batches, (nbatches + 1) * sizeof *batches);
        batches[nbatches++] = (batch_t){p, h[0], h[1], h[2]};
        p += h[0];
    }
    if (!nbatches) { fprintf(stderr, "empty batch file\n"); return 2; }
    int nproc = argc == 7 ? atoi(argv[6]) : 1;
    if (nproc < 1 || nconn < nproc) { fprintf(stderr, "a connection a process at least\n"); return 2; }
    if (nproc > 1) {
        int me = 0, bad = 0, status;
        while (me < nproc) {
            pid_t child = fork();
            if (child < 0) die("fork");
            if (child == 0) break;
            me++;
        }
        if (me == nproc) {
            while (wait(&status) > 0) bad |= status != 0;
            return bad ? 3 : 0;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        nconn = nconn / nproc + (me < nconn % nproc);
        next_batch = nbatches * me / nproc;
    }
    epfd = epoll_create1(0);
    conn_t *cs = calloc(nconn, sizeof *cs);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &a.sin_addr) != 1) { fprintf(stderr, "bad host\n"); return 2; }
    if ((ntohl(a.sin_addr.s_addr) >> 24) != 127) { fprintf(stderr, "loopback only\n"); return 2; }
    for (int i = 0; i < nconn; i++) {
        cs[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(cs[i].fd, (void *)&a, sizeof a)) die("connect");
        int one = 1; setsockopt(cs[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(cs[i].fd, F_SETFL, O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &cs[i]};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, cs[i].fd, &e)) die("epoll_ctl");
    }
    uint64_t t0 = now_ns(), stop = t0 + (uint64_t)(secs * 1e9), t = t0;
    for (int i = 0; i < nconn; i++) start(&cs[i]);
    struct epoll_event ev[512];
    uint64_t last_progress = t0;
    // When the time is over no batch is begun, but those under way are awaited and counted: the proxy spends CPU on
    // them, and a reply that never comes must not pass for a slow one.
    while ((t = now_ns()) < stop || open_batches) {
        int n = epoll_wait(epfd, ev, 512, 100);
        if (n > 0) last_progress = t;
        if (t - last_progress > 5000000000ull) {
            fprintf(stderr, "no reply for 5 s, %llu batches open\n", (unsigned long long)open_batches); errors++; break;
        }
        for (int i = 0; i < n; i++) {
            conn_t *c = ev[i].data.ptr;
            if (ev[i].events & EPOLLOUT) push(c);
            if (!(ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t r = recv(c->fd, rbuf, sizeof rbuf, 0);
            if (r == 0) { fprintf(stderr, "closed by peer\n"); errors++; goto out; }
            if (r < 0) { if (errno == EAGAIN) continue; die("recv"); }
            if (c->fresh && rbuf[0] == '-') {
                fprintf(stderr, "error reply: %.*s\n", (int)(r > 120 ? 120 : r), rbuf); errors++; goto out;
            }
            c->fresh = 0; c->got += r;
            if (c->got > c->b->reply_len) {
                fprintf(stderr, "reply too long: %u of %u\n", c->got, c->b->reply_len); errors++; goto out;
            }
            if (c->got == c->b->reply_len) {
                if (rbuf[r - 1] != '\n') { fprintf(stderr, "reply does not end a line\n"); errors++; goto out; }
                uint64_t end = now_ns();
                hist_add(end - c->t0); done_ops += c->b->ops; open_batches--;
                if (end < stop) { timed_ops = done_ops; start(c); }
            }
        }
    }
out:;
    printf("{\"ops\":%llu,\"rate\":%.1f,\"errors\":%llu,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f}\n",
           (unsigned long long)done_ops, timed_ops / secs, (unsigned long long)errors, hist_pct(50), hist_pct(99),
           hist_pct(99.9));
    return errors ? 3 : 0;
}
