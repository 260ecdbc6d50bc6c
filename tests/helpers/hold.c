/* Called through ctypes.PyDLL, which keeps the interpreter's lock for the whole call. */

#include <stdint.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Burns at least so many nanoseconds; returns how many it were. */
int64_t hold(int64_t ns)
{
    int64_t begin = now_ns(), now;
    do {
        now = now_ns();
    } while (now - begin < ns);
    return now - begin;
}
