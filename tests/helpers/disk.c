/* Preloaded into a gateway: writes down whatever it does to the files below one directory, and
 * makes the disk fail on request.
 *
 * SITEWARDEN_DISK_ROOT     the directory, absolute
 * SITEWARDEN_DISK_LOG      what was done, in order; tests/helpers/disk.py reads it
 * SITEWARDEN_DISK_CONTROL  struct control, mapped: a test sets it while the gateway runs
 *
 * A sync is not carried out: the log says what a disk would have had to keep from then on, and what
 * it was free to forget. Everything else is done for real.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, SIZE, SYNC, RENAME, UNLINK, LINK, MKDIR };
enum { FDS = 4096 };

struct record {
    uint64_t ns; /* CLOCK_MONOTONIC */
    uint64_t inode;
    uint64_t a; /* WRITE: offset. SIZE: bytes. SYNC: 1 kept, 0 failed */
    uint64_t b; /* SYNC: bytes of the log when it began; a count could be lost in a kill */
    uint32_t op;
    uint32_t data_bytes;
    uint32_t path_bytes;
    uint32_t to_bytes;
};

struct control {
    char match[48]; /* faults are for paths that contain this */
    uint32_t sync_errno;
    uint32_t sync_ms;
    uint32_t write_errno; /* write, truncate, allocate */
    uint32_t open_errno;  /* of what is opened to be written or made */
    uint32_t end_at;      /* after so many records the process ends by SIGKILL; 0: never */
    uint32_t records;
    uint32_t syncs_failed;
    uint32_t writes_failed;
    uint32_t opens_failed;
    uint32_t syncs_slow;
};

static struct file {
    dev_t device;
    ino_t inode;
    char name[64]; /* the end of its path */
} files[FDS];

static struct control none;
static struct control *control = &none;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_bytes;
static int out = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("SITEWARDEN_DISK_LOG"), *page = getenv("SITEWARDEN_DISK_CONTROL");
    root = getenv("SITEWARDEN_DISK_ROOT");
    if (!root || !log)
        return;
    root_bytes = strlen(root);
    out = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (page) {
        int fd = syscall(SYS_openat, AT_FDCWD, page, O_RDWR | O_CLOEXEC);
        void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
        if (at != MAP_FAILED)
            control = at;
    }
}

static int below(const char *path)
{
    return out >= 0 && path && strncmp(path, root, root_bytes) == 0 &&
           (path[root_bytes] == '/' || path[root_bytes] == 0);
}

static int matches(const char *path)
{
    return control->match[0] && strstr(path, control->match) != NULL;
}

static void note(uint32_t op, uint64_t inode, uint64_t a, uint64_t b, const char *path,
                 const char *to, const void *data, size_t bytes)
{
    struct timespec now;
    struct record record = {.inode = inode, .a = a, .b = b, .op = op, .data_bytes = bytes};
    clock_gettime(CLOCK_MONOTONIC, &now);
    record.ns = now.tv_sec * 1000000000ull + now.tv_nsec;
    record.path_bytes = path ? strlen(path) : 0;
    record.to_bytes = to ? strlen(to) : 0;
    struct iovec parts[] = {
        {&record, sizeof record},
        {(void *)path, record.path_bytes},
        {(void *)to, record.to_bytes},
        {(void *)data, bytes},
    };
    if (syscall(SYS_writev, out, parts, 4) < 0)
        abort();
    if (__atomic_add_fetch(&control->records, 1, __ATOMIC_SEQ_CST) == control->end_at)
        raise(SIGKILL);
}

/* The entry of a descriptor that was opened below the root, else NULL. */
static struct file *file_of(int fd)
{
    struct stat is;
    if (out < 0 || fd < 0 || fd >= FDS || !files[fd].inode)
        return NULL;
    if (fstat(fd, &is) || is.st_ino != files[fd].inode || is.st_dev != files[fd].device)
        return NULL;
    return &files[fd];
}

static int fails(const struct file *file)
{
    if (!control->write_errno || !matches(file->name))
        return 0;
    __atomic_add_fetch(&control->writes_failed, 1, __ATOMIC_SEQ_CST);
    errno = control->write_errno;
    return 1;
}

static int opened(int (*call)(int, const char *, int, ...), int at, const char *path, int flags,
                  mode_t mode)
{
    struct stat is;
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    if (!below(path))
        return call(at, path, flags, mode);
    if (writes && matches(path) && control->open_errno) {
        __atomic_add_fetch(&control->opens_failed, 1, __ATOMIC_SEQ_CST);
        errno = control->open_errno;
        return -1;
    }
    pthread_mutex_lock(&lock);
    int there = lstat(path, &is) == 0;
    int fd = call(at, path, flags, mode);
    if (fd >= 0 && fd < FDS && fstat(fd, &is) == 0) {
        files[fd].device = is.st_dev;
        files[fd].inode = is.st_ino;
        if (!there)
            note(CREATE, is.st_ino, 0, 0, path, NULL, NULL, 0);
        else if (flags & O_TRUNC)
            note(SIZE, is.st_ino, 0, 0, NULL, NULL, NULL, 0);
        size_t bytes = strlen(path), room = sizeof files[fd].name - 1;
        strcpy(files[fd].name, path + (bytes > room ? bytes - room : 0));
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

static int plain(int at, const char *path, int flags, ...)
{
    MODE
    return syscall(SYS_openat, at, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    MODE
    return opened(plain, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE
    return opened(plain, AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE
    return opened(plain, at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE
    return opened(plain, at, path, flags, mode);
}

int __open_2(const char *path, int flags)
{
    return opened(plain, AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
    return opened(plain, AT_FDCWD, path, flags, 0);
}

/* What was written, after it was: by reading it back where the caller's own bytes are not at hand. */
static void note_written(const struct file *file, int fd, const void *data, ssize_t bytes, off_t at)
{
    char *copy = NULL;
    if (!data) {
        copy = malloc(bytes);
        int again = syscall(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_CLOEXEC);
        char name[16];
        snprintf(name, sizeof name, "%d", fd);
        int reader = syscall(SYS_openat, again, name, O_RDONLY | O_CLOEXEC);
        bytes = copy && reader >= 0 ? syscall(SYS_pread64, reader, copy, bytes, at) : -1;
        syscall(SYS_close, reader);
        syscall(SYS_close, again);
        data = copy;
    }
    if (bytes < 0)
        abort();
    note(WRITE, file->inode, at, 0, NULL, NULL, data, bytes);
    free(copy);
}

#define WRITES(fd, data, at, call) \
    struct file *file = file_of(fd); \
    if (!file) \
        return call; \
    if (fails(file)) \
        return -1; \
    pthread_mutex_lock(&lock); \
    ssize_t done = call; \
    if (done > 0) \
        note_written(file, fd, data, done, at); \
    pthread_mutex_unlock(&lock); \
    return done;

ssize_t write(int fd, const void *data, size_t bytes)
{
    WRITES(fd, data, lseek(fd, 0, SEEK_CUR) - done, syscall(SYS_write, fd, data, bytes))
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    WRITES(fd, NULL, lseek(fd, 0, SEEK_CUR) - done, syscall(SYS_writev, fd, parts, count))
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    WRITES(fd, data, at, syscall(SYS_pwrite64, fd, data, bytes, at))
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at)
{
    WRITES(fd, data, at, syscall(SYS_pwrite64, fd, data, bytes, at))
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    WRITES(fd, NULL, at, REAL(pwritev)(fd, parts, count, at))
}

ssize_t sendfile(int fd, int in, off_t *from, size_t bytes)
{
    WRITES(fd, NULL, lseek(fd, 0, SEEK_CUR) - done, syscall(SYS_sendfile, fd, in, from, bytes))
}

ssize_t sendfile64(int fd, int in, off64_t *from, size_t bytes)
{
    WRITES(fd, NULL, lseek(fd, 0, SEEK_CUR) - done, syscall(SYS_sendfile, fd, in, from, bytes))
}

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t bytes, unsigned flags)
{
    WRITES(fd, NULL, (to ? *to : lseek(fd, 0, SEEK_CUR)) - done,
           syscall(SYS_copy_file_range, in, from, fd, to, bytes, flags))
}

static int sized(int fd, const struct file *file, int result)
{
    struct stat is;
    if (result == 0 && fstat(fd, &is) == 0)
        note(SIZE, file->inode, is.st_size, 0, NULL, NULL, NULL, 0);
    return result;
}

#define SIZES(fd, failed, call) \
    struct file *file = file_of(fd); \
    if (!file) \
        return call; \
    if (fails(file)) \
        return failed; \
    pthread_mutex_lock(&lock); \
    int result = sized(fd, file, call); \
    pthread_mutex_unlock(&lock); \
    return result;

int ftruncate(int fd, off_t bytes)
{
    SIZES(fd, -1, syscall(SYS_ftruncate, fd, bytes))
}

int ftruncate64(int fd, off64_t bytes)
{
    SIZES(fd, -1, syscall(SYS_ftruncate, fd, bytes))
}

int fallocate(int fd, int mode, off_t at, off_t bytes)
{
    SIZES(fd, -1, syscall(SYS_fallocate, fd, mode, at, bytes))
}

int fallocate64(int fd, int mode, off64_t at, off64_t bytes)
{
    SIZES(fd, -1, syscall(SYS_fallocate, fd, mode, at, bytes))
}

int posix_fallocate(int fd, off_t at, off_t bytes)
{
    SIZES(fd, (int)control->write_errno, REAL(posix_fallocate)(fd, at, bytes))
}

int posix_fallocate64(int fd, off64_t at, off64_t bytes)
{
    SIZES(fd, (int)control->write_errno, REAL(posix_fallocate64)(fd, at, bytes))
}

static int synced(int fd, long call)
{
    struct file *file = file_of(fd);
    if (!file)
        return syscall(call, fd);
    int chosen = matches(file->name);
    uint64_t began = syscall(SYS_lseek, out, 0, SEEK_END);
    uint32_t failed = chosen ? control->sync_errno : 0;
    if (chosen && control->sync_ms) {
        struct timespec span = {control->sync_ms / 1000, control->sync_ms % 1000 * 1000000L};
        __atomic_add_fetch(&control->syncs_slow, 1, __ATOMIC_SEQ_CST);
        nanosleep(&span, NULL);
    }
    pthread_mutex_lock(&lock);
    note(SYNC, file->inode, !failed, began, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (!failed)
        return 0;
    __atomic_add_fetch(&control->syncs_failed, 1, __ATOMIC_SEQ_CST);
    errno = failed;
    return -1;
}

int fsync(int fd)
{
    return synced(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return synced(fd, SYS_fdatasync);
}

/* No promise: it writes no size and flushes no cache of the drive. */
int sync_file_range(int fd, off64_t at, off64_t bytes, unsigned flags)
{
    return file_of(fd) ? 0 : syscall(SYS_sync_file_range, fd, at, bytes, flags);
}

static uint64_t inode_of(const char *path)
{
    struct stat is;
    return lstat(path, &is) ? 0 : is.st_ino;
}

#define NAMES(op, path, to, call) \
    if (!below(path)) \
        return call; \
    if (matches(path) && control->open_errno) { \
        __atomic_add_fetch(&control->opens_failed, 1, __ATOMIC_SEQ_CST); \
        errno = control->open_errno; \
        return -1; \
    } \
    pthread_mutex_lock(&lock); \
    uint64_t inode = inode_of(path); \
    int result = call; \
    if (result == 0) \
        note(op, inode ? inode : inode_of(path), 0, 0, path, to, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    return result;

int rename(const char *path, const char *to)
{
    NAMES(RENAME, path, to, syscall(SYS_rename, path, to))
}

int renameat(int at, const char *path, int to_at, const char *to)
{
    NAMES(RENAME, path, to, syscall(SYS_renameat, at, path, to_at, to))
}

int unlink(const char *path)
{
    NAMES(UNLINK, path, NULL, syscall(SYS_unlink, path))
}

int unlinkat(int at, const char *path, int flags)
{
    NAMES(UNLINK, path, NULL, syscall(SYS_unlinkat, at, path, flags))
}

int rmdir(const char *path)
{
    NAMES(UNLINK, path, NULL, syscall(SYS_rmdir, path))
}

int link(const char *path, const char *to)
{
    NAMES(LINK, path, to, syscall(SYS_link, path, to))
}

int mkdir(const char *path, mode_t mode)
{
    NAMES(MKDIR, path, NULL, syscall(SYS_mkdir, path, mode))
}
