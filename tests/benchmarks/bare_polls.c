/* The bare-C poller that the guard's is measured against: read and decode, as fast as it goes.
 *
 * bare_polls PORT CONNECTIONS REGISTERS FLOATS SECONDS FIFO
 * One epoll set; each connection has one request outstanding and decodes FLOATS float32 of its
 * reply into a table. Prints "READS CPU_NS" at the end.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256

static struct {
    int fd, have;
    uint16_t transaction;
    uint8_t in[260];
} peer[CONNECTIONS_MAX];
static double table[CONNECTIONS_MAX][64];

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void ask(int i, int registers)
{
    uint16_t t = ++peer[i].transaction;
    const uint8_t out[12] = {(uint8_t)(t >> 8), (uint8_t)t, 0, 0, 0, 6, 1, 4, 0, 0,
                             (uint8_t)(registers >> 8), (uint8_t)registers};
    if (send(peer[i].fd, out, sizeof out, MSG_NOSIGNAL) != sizeof out)
        exit(1);
}

static void decode(int i, int floats)
{
    for (int k = 0; k < floats; k++) {
        const uint8_t *b = peer[i].in + 9 + 4 * k;
        uint32_t bits = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | b[2] << 8 | b[3];
        float value;
        memcpy(&value, &bits, sizeof value);
        table[i][k] = value;
    }
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    int port = atoi(argv[1]), count = atoi(argv[2]), registers = atoi(argv[3]);
    int floats = atoi(argv[4]), whole = 9 + 2 * registers, poller = epoll_create1(0), one = 1;
    struct sched_param param = {.sched_priority = atoi(argv[6])};
    struct epoll_event events[64];
    int64_t reads = 0;

    if (count > CONNECTIONS_MAX || floats > 64 || registers > 125)
        return 2;
    if (param.sched_priority)
        sched_setscheduler(0, SCHED_FIFO, &param);
    for (int i = 0; i < count; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        peer[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer[i].fd, (struct sockaddr *)&to, sizeof to) < 0)
            return 1;
        setsockopt(peer[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(poller, EPOLL_CTL_ADD, peer[i].fd, &event);
    }
    int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    int64_t end = clock_ns(CLOCK_MONOTONIC) + (int64_t)(atof(argv[5]) * 1e9);
    for (int i = 0; i < count; i++)
        ask(i, registers);
    while (clock_ns(CLOCK_MONOTONIC) < end) {
        int ready = epoll_wait(poller, events, 64, 100);
        for (int k = 0; k < ready; k++) {
            int i = (int)events[k].data.u32;
            ssize_t got = recv(peer[i].fd, peer[i].in + peer[i].have,
                               sizeof peer[i].in - (size_t)peer[i].have, 0);
            if (got <= 0)
                return 1;
            peer[i].have += (int)got;
            if (peer[i].have < whole)
                continue;
            if (peer[i].in[0] != peer[i].transaction >> 8 || peer[i].in[7] != 4)
                return 1;
            peer[i].have = 0;
            decode(i, floats);
            reads++;
            ask(i, registers);
        }
    }
    printf("%lld %lld\n", (long long)reads,
           (long long)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    return 0;
}
