/*
 * Simulates a file system that lacks operations. It is preloaded into a program, and affects all of its files:
 * LACKS_SYNC is the errno of syncing a directory; LACKS_MODES gives every new file this octal mode, and refuses to change modes;
 * LACKS_LINKS refuses hard links.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int fd) {
    const char *error = getenv("LACKS_SYNC");
    struct stat file;
    if (error && fstat(fd, &file) == 0 && S_ISDIR(file.st_mode)) {
        errno = atoi(error);
        return -1;
    }
    return syscall(SYS_fsync, fd);
}

static int refused(const char *what) {
    if (!getenv(what)) return 0;
    errno = EPERM;
    return 1;
}

int fchmod(int fd, mode_t mode) {
    return refused("LACKS_MODES") ? -1 : syscall(SYS_fchmod, fd, mode);
}

int chmod(const char *path, mode_t mode) {
    return refused("LACKS_MODES") ? -1 : syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

int linkat(int from, const char *path, int to, const char *name, int flags) {
    return refused("LACKS_LINKS") ? -1 : syscall(SYS_linkat, from, path, to, name, flags);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    int is_new = (flags & O_CREAT) && access(path, F_OK) != 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, (flags & O_CREAT) ? mode : 0);
    const char *given = getenv("LACKS_MODES");
    if (fd >= 0 && is_new && given) syscall(SYS_fchmod, fd, strtol(given, NULL, 8));
    return fd;
}
