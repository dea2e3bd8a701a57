/*
 * Simulates a failing disk. It is preloaded into a program, and affects files with a path prefix: writes, syncs and truncations
 * fail with EIO, and reads hang, while a flag file of that name ("write", "sync", "cut", "read") exists in a directory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd, const char *what) {
    const char *prefix = getenv("EIO_PREFIX"), *flags = getenv("EIO_FLAGS");
    char name[PATH_MAX], link[64];
    int before = errno;
    if (!prefix || !flags) return 0;
    snprintf(name, sizeof name, "%s/%s", flags, what);
    int is_on = access(name, F_OK) == 0;
    errno = before;
    if (!is_on) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    errno = before;
    if (length < 0) return 0;
    name[length] = 0;
    if (strncmp(name, prefix, strlen(prefix)) != 0) return 0;
    errno = EIO;
    return 1;
}

static void hang(int fd) {
    while (fails(fd, "read")) usleep(10000);
}

ssize_t read(int fd, void *bytes, size_t length) {
    hang(fd);
    return syscall(SYS_read, fd, bytes, length);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t at) {
    hang(fd);
    return syscall(SYS_pread64, fd, bytes, length, at);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    return fails(fd, "write") ? -1 : syscall(SYS_write, fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fails(fd, "write") ? -1 : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    return fails(fd, "write") ? -1 : syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite64(fd, bytes, length, at);
}

int fsync(int fd) {
    return fails(fd, "sync") ? -1 : syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    return fails(fd, "sync") ? -1 : syscall(SYS_fdatasync, fd);
}

int ftruncate64(int fd, off64_t length) {
    return fails(fd, "cut") ? -1 : syscall(SYS_ftruncate, fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}

/* With the flag "own", kills the program, once, when it is about to set the owner of such a file. */
int fchown(int fd, uid_t owner, gid_t group) {
    if (fails(fd, "own")) {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s/own", getenv("EIO_FLAGS"));
        unlink(name);
        kill(getpid(), SIGKILL);
    }
    return syscall(SYS_fchown, fd, owner, group);
}
