/* Preloaded into a guard: counts the allocations of every thread but the first.
 *
 * The count is a uint64_t in the file that SITEWARDEN_COUNT names, so that a test can read it while
 * the guard runs.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static uint64_t none;
static uint64_t *calls = &none;
static __thread int thread __attribute__((tls_model("initial-exec"))); /* 1: the first, 2: another */

__attribute__((constructor)) static void open_count(void)
{
    const char *path = getenv("SITEWARDEN_COUNT");
    int fd = path ? open(path, O_RDWR) : -1;
    void *at;
    if (fd < 0)
        return;
    at = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        calls = at;
}

static void count(void)
{
    if (thread == 0)
        thread = syscall(SYS_gettid) == getpid() ? 1 : 2;
    if (thread == 2)
        __atomic_fetch_add(calls, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size)
{
    count();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *at, size_t size)
{
    count();
    return __libc_realloc(at, size);
}

void *memalign(size_t alignment, size_t size)
{
    count();
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **at, size_t alignment, size_t size)
{
    *at = memalign(alignment, size);
    return *at == NULL ? 12 : 0;
}

void free(void *at)
{
    count();
    __libc_free(at);
}
