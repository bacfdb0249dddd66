/* A disk that fails and a clock that jumps, for a process that knows nothing of it: a library for LD_PRELOAD.
 *
 * Every call of the whole process, whichever thread makes it, that reads, writes, syncs, opens, lists, names or locks a file
 * under $SHIM_UNDER has a number. The tester maps the file $SHIM_CONTROL, and says there which number fails, and how: once,
 * or all calls for a while from it on. A sync that fails loses what was written since the one before. Calls that std makes through libc are seen; a raw system call is not.
 * CLOCK_REALTIME is what the kernel says, plus an offset that the tester may change at any time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
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

/* What `error` may be beside an errno: reads and writes do half, the rest is interrupted. */
#define SHORT -1

/* Shared with the tester; shim.py has the same fields in the same order. */
struct control {
    _Atomic uint64_t calls;      /* how many there were */
    _Atomic uint64_t first;      /* the number of the call that fails; 0: none */
    _Atomic uint64_t for_ms;     /* for so long all later ones fail too */
    _Atomic uint64_t fired;      /* how many failed */
    _Atomic int64_t error;       /* an errno, or SHORT */
    _Atomic int64_t clock_ns;    /* added to CLOCK_REALTIME */
    _Atomic uint64_t began_ns;   /* when the first failed */
    _Atomic uint64_t clock_read; /* how often CLOCK_REALTIME was read */
    char what[64];               /* the call that failed first */
    char path[192];              /* and its file */
};

/* What can be done by half, or interrupted; LOOKS and CHANGES cannot. */
enum kind { READS, WRITES, SYNCS, OPENS, LOOKS, CHANGES };

static struct control *control;
static char under[PATH_MAX];
static size_t under_len;

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("SHIM_UNDER"), *file = getenv("SHIM_CONTROL");
    if (!dir || !file || strlen(dir) >= sizeof under) return;
    under_len = strlen(strcpy(under, dir));
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC, 0);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fputs("shim: no control file\n", stderr);
        abort();
    }
    syscall(SYS_close, fd);
    control = map;
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool is_ours(const char *path) {
    return strncmp(path, under, under_len) == 0 && (path[under_len] == '/' || path[under_len] == 0);
}

/* Counts a call on a file of ours; says whether it fails. */
static bool fails(const char *what, enum kind kind, const char *path) {
    if (!control || !path || !is_ours(path)) return false;
    uint64_t number = atomic_fetch_add(&control->calls, 1) + 1;
    uint64_t first = atomic_load(&control->first);
    if (first == 0 || number < first) return false;
    int64_t error = atomic_load(&control->error);
    if (error == SHORT && kind >= LOOKS) return false;
    if (number == first) {
        atomic_store(&control->began_ns, monotonic_ns());
        snprintf(control->what, sizeof control->what, "%s", what);
        snprintf(control->path, sizeof control->path, "%.190s", path + under_len);
    } else {
        uint64_t began = atomic_load(&control->began_ns);
        if (began == 0 || monotonic_ns() - began >= atomic_load(&control->for_ms) * 1000000u) return false;
    }
    atomic_fetch_add(&control->fired, 1);
    errno = error == SHORT ? EINTR : (int)error;
    /* Only what grows needs room. */
    if ((kind == READS || kind == LOOKS) && (error == ENOSPC || error == EDQUOT)) errno = EIO;
    return true;
}

static bool fails_fd(const char *what, enum kind kind, int fd) {
    if (!control) return false;
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (len < 0) return false;
    path[len] = 0;
    return fails(what, kind, path);
}

/* What was written to files at places and not synced yet, newest first: what was there before. A sync that
 * fails puts it back, as a kernel does that drops the pages which it could not write. */
struct unsynced {
    struct unsynced *older;
    uint64_t number;
    dev_t dev;
    ino_t ino;
    off64_t at;
    size_t old, len; /* octets before, and now */
    char octets[];
};

static struct unsynced *newest;
static uint64_t writes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Writes, and remembers what was there. */
static ssize_t write_at(int fd, const void *buf, size_t len, off64_t at) {
    struct stat file;
    struct unsynced *one = control && len > 0 && fstat(fd, &file) == 0 ? malloc(sizeof *one + len) : NULL;
    if (!one) return syscall(SYS_pwrite64, fd, buf, len, at);
    pthread_mutex_lock(&lock);
    long old = syscall(SYS_pread64, fd, one->octets, len, at);
    ssize_t done = syscall(SYS_pwrite64, fd, buf, len, at);
    if (done > 0 && old >= 0) {
        *one = (struct unsynced){newest, ++writes, file.st_dev, file.st_ino, at, (size_t)old, (size_t)done};
        newest = one;
    } else {
        free(one);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

static void put_back(int fd, const struct unsynced *one) {
    static const char zeros[4096];
    size_t done = one->old < one->len ? one->old : one->len;
    syscall(SYS_pwrite64, fd, one->octets, done, one->at);
    while (done < one->len) {
        size_t some = one->len - done < sizeof zeros ? one->len - done : sizeof zeros;
        syscall(SYS_pwrite64, fd, zeros, some, one->at + (off64_t)done);
        done += some;
    }
}

/* The file's writes up to this number are on the disk, or never will be. */
static void settle(int fd, uint64_t until, bool lost) {
    struct stat file;
    if (!control || fstat(fd, &file) != 0) return;
    pthread_mutex_lock(&lock);
    for (struct unsynced **at = &newest; *at;) {
        struct unsynced *one = *at;
        if (one->number > until || one->dev != file.st_dev || one->ino != file.st_ino) {
            at = &one->older;
            continue;
        }
        if (lost) put_back(fd, one);
        *at = one->older;
        free(one);
    }
    pthread_mutex_unlock(&lock);
}

static int sync_with(const char *what, long call, int fd) {
    pthread_mutex_lock(&lock);
    uint64_t until = writes;
    pthread_mutex_unlock(&lock);
    if (fails_fd(what, SYNCS, fd)) {
        int why = errno;
        if (why != EINTR) settle(fd, until, true);
        errno = why;
        return -1;
    }
    int failed = (int)syscall(call, fd);
    if (!failed) settle(fd, until, false);
    return failed;
}

/* A failing read or write: with SHORT it does a part, of at least one octet. */
static bool is_short(size_t len) {
    return atomic_load(&control->error) == SHORT && len > 1;
}

ssize_t read(int fd, void *buf, size_t len) {
    if (fails_fd("read", READS, fd)) {
        if (!is_short(len)) return -1;
        len /= 2;
    }
    return syscall(SYS_read, fd, buf, len);
}

ssize_t pread64(int fd, void *buf, size_t len, off64_t at) {
    if (fails_fd("pread", READS, fd)) {
        if (!is_short(len)) return -1;
        len /= 2;
    }
    return syscall(SYS_pread64, fd, buf, len, at);
}

ssize_t write(int fd, const void *buf, size_t len) {
    if (fails_fd("write", WRITES, fd)) {
        if (!is_short(len)) return -1;
        len /= 2;
    }
    return syscall(SYS_write, fd, buf, len);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at) {
    if (fails_fd("pwrite", WRITES, fd)) {
        if (!is_short(len)) return -1;
        len /= 2;
    }
    return write_at(fd, buf, len, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (count > 0 && fails_fd("writev", WRITES, fd)) {
        if (!is_short(parts[0].iov_len)) return -1;
        return syscall(SYS_write, fd, parts[0].iov_base, parts[0].iov_len / 2);
    }
    return syscall(SYS_writev, fd, parts, count);
}

int fsync(int fd) { return sync_with("fsync", SYS_fsync, fd); }

int fdatasync(int fd) { return sync_with("fdatasync", SYS_fdatasync, fd); }

int ftruncate64(int fd, off64_t len) {
    return fails_fd("ftruncate", CHANGES, fd) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int flock(int fd, int how) { return fails_fd("flock", LOOKS, fd) ? -1 : (int)syscall(SYS_flock, fd, how); }

static int open_at(int dir, const char *path, int flags, va_list rest) {
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    if (fails(flags & O_CREAT ? "create" : "open", OPENS, path)) return -1;
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...) {          \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        int fd = open_at(AT_FDCWD, path, flags, rest);    \
        va_end(rest);                                     \
        return fd;                                        \
    }
OPEN(open)
OPEN(open64)

/* Only std's walk of directories opens beside a descriptor; an absolute path is all that is looked at. */
int openat64(int dir, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = open_at(dir, path, flags, rest);
    va_end(rest);
    return fd;
}

int rename(const char *from, const char *to) {
    return fails("rename", CHANGES, to) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    return fails("unlink", CHANGES, path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode) {
    return fails("mkdir", CHANGES, path) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int chmod(const char *path, mode_t mode) {
    return fails("chmod", CHANGES, path) ? -1 : (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict into) {
    if (*path ? fails("stat", LOOKS, path) : fails_fd("stat", LOOKS, dir)) return -1;
    return (int)syscall(SYS_statx, dir, path, flags, mask, into);
}

DIR *opendir(const char *path) {
    if (fails("opendir", LOOKS, path)) return NULL;
    DIR *(*next)(const char *) = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    return next(path);
}

struct dirent64 *readdir64(DIR *dir) {
    if (fails_fd("readdir", LOOKS, dirfd(dir))) return NULL;
    struct dirent64 *(*next)(DIR *) = (struct dirent64 * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir64");
    return next(dir);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = next(clock, now);
    if (failed || clock != CLOCK_REALTIME || !control) return failed;
    atomic_fetch_add(&control->clock_read, 1);
    int64_t ns = now->tv_sec * 1000000000 + now->tv_nsec + atomic_load(&control->clock_ns);
    now->tv_sec = ns / 1000000000;
    now->tv_nsec = ns % 1000000000;
    return 0;
}
