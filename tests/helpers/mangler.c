/* Two ptys and what a bad cable, a slow device and a repeater do between them.
 *
 * Prints "NEAR FAR", the ttys for the guard and for the device. Standard input carries one
 * command per line, each is answered by "ok"; its end ends the program.
 *   errors PPM          each byte, both ways, is replaced by another with this likelihood
 *   late PPM MIN MAX    each reply is kept for MIN to MAX us after its request
 *   twice PPM           each reply comes once more, right behind the first
 *   count               -> "count BYTES_DAMAGED REPLIES_LATE REPLIES_TWICE"
 *
 * Frames are what one read gives: the device writes its reply at once. Replies keep their order.
 * On a busy machine a reply may miss its moment: one that would come over 5 ms after MAX is lost, also
 * where it is the device that was late. It answers requests in their order; only where bytes are
 * damaged does it leave some unanswered, and its replies count from the newest request.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define QUEUE 64
#define FRAME 512
#define OVERDUE_US 5000
#define FORGOTTEN_NS 1000000000

struct held {
    int64_t due_ns;
    int64_t lost_ns; /* 0: never */
    int length;
    uint8_t bytes[FRAME];
};

static struct held queue[QUEUE];
static int queue_first, queue_count;
static uint64_t state = 88172645463325252u;
static unsigned errors_ppm, late_ppm, late_min_us, late_max_us, twice_ppm;
static unsigned long damaged, late, twice;
static int64_t asked_ns;         /* of the reply at hand */
static int64_t waiting[QUEUE]; /* when the requests came that the device has not answered */
static int waiting_first, waiting_count;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 11) % (n ? n : 1));
}

static void damage(uint8_t *bytes, ssize_t length)
{
    for (ssize_t i = 0; i < length; i++) {
        if (below(1000000) < errors_ppm) {
            bytes[i] ^= (uint8_t)(1 + below(255));
            damaged++;
        }
    }
}

static int open_pair(int *slave)
{
    struct termios raw;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
        exit(1);
    /* Held open, so that the far end never hangs up. */
    *slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    tcgetattr(*slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(*slave, TCSANOW, &raw);
    return master;
}

static void put(int fd, const uint8_t *bytes, int length)
{
    if (write(fd, bytes, (size_t)length) != length)
        exit(1);
}

static void hold(const uint8_t *bytes, int length, int64_t due_ns)
{
    struct held *h = &queue[(queue_first + queue_count) % QUEUE];
    if (queue_count == QUEUE)
        return;
    memcpy(h->bytes, bytes, (size_t)length);
    h->length = length;
    h->due_ns = due_ns;
    h->lost_ns = late_max_us ? asked_ns + 1000 * (int64_t)(late_max_us + OVERDUE_US) : 0;
    queue_count++;
}

/* All that is due in one write: a reply's double follows it without a gap, whoever is scheduled. */
static void release(int near)
{
    uint8_t bytes[QUEUE * FRAME];
    int length = 0;
    while (queue_count && queue[queue_first].due_ns <= now_ns()) {
        struct held *h = &queue[queue_first];
        if (!h->lost_ns || now_ns() < h->lost_ns) {
            memcpy(bytes + length, h->bytes, (size_t)h->length);
            length += h->length;
        }
        queue_first = (queue_first + 1) % QUEUE;
        queue_count--;
    }
    if (length)
        put(near, bytes, length);
}

static void asked(void)
{
    int64_t now = now_ns();
    if (errors_ppm || waiting_count == QUEUE)
        waiting_count = 0;
    while (waiting_count && now - waiting[waiting_first] > FORGOTTEN_NS) { /* two replies at once */
        waiting_first = (waiting_first + 1) % QUEUE;
        waiting_count--;
    }
    waiting[(waiting_first + waiting_count++) % QUEUE] = now;
}

static void answered(void)
{
    if (!waiting_count)
        return;
    asked_ns = waiting[waiting_first];
    waiting_first = (waiting_first + 1) % QUEUE;
    waiting_count--;
}

static void replied(uint8_t *bytes, ssize_t length)
{
    int64_t due_ns = 0;
    uint8_t copy[FRAME];
    memcpy(copy, bytes, (size_t)length);
    damage(bytes, length);
    if (below(1000000) < late_ppm) {
        late++;
        due_ns = asked_ns + 1000 * (int64_t)(late_min_us + below(late_max_us - late_min_us + 1));
    }
    hold(bytes, (int)length, due_ns);
    if (below(1000000) < twice_ppm) {
        twice++;
        hold(copy, (int)length, due_ns);
    }
}

static void command(const char *line)
{
    if (sscanf(line, "errors %u", &errors_ppm) == 1 || sscanf(line, "twice %u", &twice_ppm) == 1 ||
        sscanf(line, "late %u %u %u", &late_ppm, &late_min_us, &late_max_us) == 3)
        printf("ok\n");
    else if (strcmp(line, "count") == 0)
        printf("count %lu %lu %lu\n", damaged, late, twice);
    else
        printf("error %s\n", line);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[256];
    uint8_t bytes[FRAME];
    int near_slave, far_slave;
    struct sched_param first = {.sched_priority = 1};
    sched_setscheduler(0, SCHED_FIFO, &first); /* where it may: then a cable has no delay */
    int near = open_pair(&near_slave), far = open_pair(&far_slave);
    if (argc > 1)
        state ^= strtoull(argv[1], NULL, 0) * 2654435761u;
    printf("%s", ptsname(near));
    printf(" %s\n", ptsname(far));
    fflush(stdout);
    setvbuf(stdin, NULL, _IONBF, 0);
    struct pollfd fds[3] = {{STDIN_FILENO, POLLIN, 0}, {near, POLLIN, 0}, {far, POLLIN, 0}};
    for (;;) {
        struct timespec wait = {1, 0};
        if (queue_count) {
            int64_t left = queue[queue_first].due_ns - now_ns();
            left = left < 0 ? 0 : left > 1000000000 ? 1000000000 : left;
            wait.tv_sec = 0;
            wait.tv_nsec = left == 1000000000 ? 999999999 : left;
        }
        ppoll(fds, 3, &wait, NULL);
        release(near);
        if (fds[0].revents) {
            if (fgets(line, sizeof line, stdin) == NULL)
                return 0;
            line[strcspn(line, "\n")] = 0;
            command(line);
        }
        if (fds[1].revents & POLLIN) {
            ssize_t got = read(near, bytes, sizeof bytes);
            if (got > 0) {
                asked();
                damage(bytes, got);
                put(far, bytes, (int)got);
            }
        }
        if (fds[2].revents & POLLIN) {
            ssize_t got = read(far, bytes, sizeof bytes);
            if (got > 0) {
                answered();
                replied(bytes, got);
            }
            release(near);
        }
    }
}
