/* The few atomic operations that image and journal are made of, and a CRC-32.
 *
 * Slot lock: writer stores lock | 1, a release fence, the fields, then lock + 1 with release.
 * Reader loads the lock with acquire, copies, an acquire fence, and compares the lock.
 */
#ifndef SITEWARDEN_ATOMICS_H
#define SITEWARDEN_ATOMICS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t sw_load_acquire(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static inline uint64_t sw_load_relaxed(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static inline void sw_store_relaxed(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

static inline void sw_store_release(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static inline uint32_t sw_load32_acquire(const uint32_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static inline void sw_store32_release(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static inline void sw_fence_acquire(void)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

static inline void sw_fence_release(void)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Failpoints, in the checked build alone: the process is killed at the n-th boundary between two
 * stores after sw_failpoints_begin(), n in SITEWARDEN_FAIL_AT. A test greps releases for the name.
 */
#ifdef SITEWARDEN_FAILPOINTS
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static int64_t sitewarden_failpoints_left = -1;

static inline int sw_failpoints_wanted(void) { return getenv("SITEWARDEN_FAIL_AT") != NULL; }

static inline void sw_failpoints_begin(void)
{
    const char *wanted = getenv("SITEWARDEN_FAIL_AT");
    if (sitewarden_failpoints_left < 0)
        sitewarden_failpoints_left = wanted ? strtoll(wanted, NULL, 10) : 0;
}

static inline void sw_boundary(void)
{
    if (sitewarden_failpoints_left > 0 && --sitewarden_failpoints_left == 0)
        kill(getpid(), SIGKILL);
}
#else
static inline int sw_failpoints_wanted(void) { return 0; }
static inline void sw_failpoints_begin(void) {}
static inline void sw_boundary(void) {}
#endif

/* Keeps the compiler from merging or reordering the stores of two copies of a latch. */
static inline void sw_compiler_barrier(void)
{
    __asm__ __volatile__("" ::: "memory");
    sw_boundary();
}

/* Stores a record that others may find half done: piece by piece where that is to be tested. */
static inline void sw_store_record(void *to, const void *from, size_t bytes)
{
#ifdef SITEWARDEN_FAILPOINTS
    for (size_t i = 0; i < bytes; i += 32) {
        memcpy((char *)to + i, (const char *)from + i, bytes - i < 32 ? bytes - i : 32);
        sw_boundary();
    }
#else
    memcpy(to, from, bytes);
#endif
}

#endif
