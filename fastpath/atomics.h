/* The few atomic operations that image and journal are made of, and a CRC-32.
 *
 * Slot lock: writer stores lock | 1, a release fence, the fields, then lock + 1 with release.
 * Reader loads the lock with acquire, copies, an acquire fence, and compares the lock.
 */
#ifndef SITEWARDEN_ATOMICS_H
#define SITEWARDEN_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

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

/* Keeps the compiler from merging or reordering the stores of two copies of a latch. */
static inline void sw_compiler_barrier(void)
{
    __asm__ __volatile__("" ::: "memory");
}

#endif
