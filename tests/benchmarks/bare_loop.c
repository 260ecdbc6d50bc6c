/* The bare-C loop that Sitewarden is measured against: read, compare, write, at a fixed period.
 *
 * bare_loop PORT PERIOD_US ADDRESS REGISTERS LIMIT COIL FIFO
 * One connection reads REGISTERS input registers, whose first two are a float32; a second one
 * writes the coil: 0 while the value is at or above LIMIT, 1 below it. FIFO is a SCHED_FIFO
 * priority, 0 for none. Prints "fifo" or "other", then works until it is ended.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int open_connection(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void request(uint8_t *out, uint16_t transaction, uint8_t fc, int address, int value)
{
    const uint8_t frame[12] = {
        (uint8_t)(transaction >> 8), (uint8_t)transaction, 0, 0, 0, 6, 1, fc,
        (uint8_t)(address >> 8), (uint8_t)address, (uint8_t)(value >> 8), (uint8_t)value,
    };
    memcpy(out, frame, sizeof frame);
}

static void exchange(int fd, const uint8_t *out, uint8_t *in, int expected)
{
    int have = 0;
    if (send(fd, out, 12, MSG_NOSIGNAL) != 12)
        exit(0); /* the server is gone: the measurement is over */
    while (have < expected) {
        ssize_t got = recv(fd, in + have, (size_t)(expected - have), 0);
        if (got <= 0)
            exit(0);
        have += (int)got;
    }
}

static float float_at(const uint8_t *bytes)
{
    uint32_t bits = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | bytes[2] << 8 | bytes[3];
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    int port = atoi(argv[1]), address = atoi(argv[3]), registers = atoi(argv[4]);
    long period_ns = atol(argv[2]) * 1000;
    float limit = strtof(argv[5], NULL);
    int coil = atoi(argv[6]);
    struct sched_param param = {.sched_priority = atoi(argv[7])};
    bool fifo = param.sched_priority && sched_setscheduler(0, SCHED_FIFO, &param) == 0 &&
                mlockall(MCL_CURRENT | MCL_FUTURE) == 0;
    int reader = open_connection(port), writer = open_connection(port);
    uint8_t out[12], in[260];
    uint16_t transaction = 0;
    bool tripped = false;
    struct timespec due;

    printf("%s\n", fifo ? "fifo" : "other");
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (;;) {
        request(out, ++transaction, 4, address, registers);
        exchange(reader, out, in, 9 + 2 * registers);
        bool trip = float_at(in + 9) >= limit;
        if (trip != tripped) {
            request(out, ++transaction, 5, coil, trip ? 0 : 0xFF00);
            exchange(writer, out, in, 12);
            tripped = trip;
        }
        due.tv_nsec += period_ns;
        while (due.tv_nsec >= 1000000000) {
            due.tv_nsec -= 1000000000;
            due.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
}
