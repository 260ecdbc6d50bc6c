/* Preloaded into a guard: ends it by SIGKILL right behind the send that carries a coil (FC5). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <sys/types.h>

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    ssize_t (*real)(int, const void *, size_t, int) =
        (ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    ssize_t sent = real(fd, data, length, flags);
    if (length == 12 && ((const unsigned char *)data)[7] == 5)
        raise(SIGKILL);
    return sent;
}
