/* A disk that forgets: preloaded into the server, it keeps beside each file below one directory a shadow that holds only
 * what was synced. After the server was killed, the directory is put together from the shadows, as a machine finds it
 * whose power was cut. It can also make writes and syncs fail.
 *
 * What it knows of a file system:
 * - A write reaches the shadow when its file is synced. With POWERCUT_EARLY_PERMILLE some writes reach it at once, since
 *   a kernel writes back when it likes, in any order.
 * - A name reaches the shadow when its directory is synced, for each directory by itself: a synced file in a directory
 *   that was never synced is lost, and so is a directory whose parent was not.
 * - A sync that fails forgets the writes that it was to make durable: the kernel holds them for written, a later sync
 *   does not try them again.
 * What it does not know: writes through shared mappings (SQLite makes them to its -shm file only, which it rebuilds after a
 * crash, and which is left out here), copy_file_range, sendfile, fallocate, and io_uring. Real syncs are left out: the
 * machine itself keeps running.
 *
 * A shadow is named after the number and the time of birth of its file, so that a number that is used again means another
 * file. The directory `files` has the contents; `dirs/ID` has an entry for each durable name: a hard link to the content, or
 * a symbolic link with the ID of a directory. `pending/ID` lists what is unsynced, since it outlives a process that is killed:
 * the next one that syncs the file makes it durable, unless a sync that failed has forgotten it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* What the test's driver says and hears, in a file that both have mapped. */
struct control {
    uint32_t fault;
    uint32_t permille;
    uint64_t faults_made;
    uint64_t syncs;
    uint64_t unsynced_bytes;
};

enum { FAULT_NONE, FAULT_WRITE_EIO, FAULT_DISK_FULL, FAULT_SHORT_WRITE, FAULT_SYNC_EIO, FAULT_SYNC_EIO_REVERT };

struct range {
    off_t from, to;
    struct range *next;
};

/* A file with something unsynced. */
struct file {
    char id[64];
    struct range *ranges, *last;
    /* The smallest size that the file had since it was synced; -1 if it was not cut. */
    off_t cut_to;
    int fail_next_write;
    /* `pending/ID`. */
    int list;
    struct file *next;
};

#define FILES 4096
static struct file *files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], shadow[PATH_MAX];
static size_t root_length;
static struct control *control;
static unsigned early_permille, choices;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        static const char why[] = "powercut: this system lacks a function that is to be replaced\n";
        (void)!write(2, why, sizeof why - 1);
        abort();
    }
    return found;
}

__attribute__((constructor)) static void begin(void) {
    if (real_open) return;
    real_openat = real("openat");
    real_write = real("write");
    real_pwrite = real("pwrite");
    real_writev = real("writev");
    real_pwritev = real("pwritev");
    real_ftruncate = real("ftruncate");
    real_fsync = real("fsync");
    real_fdatasync = real("fdatasync");
    real_open = real("open");
    const char *dir = getenv("POWERCUT_DIR"), *beside = getenv("POWERCUT_SHADOW"), *early = getenv("POWERCUT_EARLY_PERMILLE");
    if (!dir || !beside || !realpath(beside, shadow)) return;
    early_permille = early ? (unsigned)atoi(early) : 0;
    choices = (unsigned)getpid();
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/control", shadow);
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED || !realpath(dir, root)) return;
    root_length = strlen(root);
    control = mapped;
}

static int choose(unsigned permille) {
    return permille && (unsigned)rand_r(&choices) % 1000 < permille;
}

/* The name of a file's shadow, and what it is. */
static int identify(int dir, const char *name, int flags, char id[64], mode_t *mode, off_t *size) {
    struct statx st;
    if (statx(dir, name, flags | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &st)) return -1;
    long long born = st.stx_mask & STATX_BTIME ? (long long)st.stx_btime.tv_sec * 1000000000LL + st.stx_btime.tv_nsec : 0;
    snprintf(id, 64, "%llu-%lld", (unsigned long long)st.stx_ino, born);
    *mode = st.stx_mode;
    *size = (off_t)st.stx_size;
    return 0;
}

/* Whether an open file is one of those that are looked after. */
static int ours(int fd, char id[64], mode_t *mode, off_t *size) {
    if (!control || fd < 0) return 0;
    int before = errno;
    int found = 0;
    char link[64], path[PATH_MAX];
    if (!identify(fd, "", AT_EMPTY_PATH, id, mode, size) && (S_ISREG(*mode) || S_ISDIR(*mode))) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            size_t all = (size_t)length;
            int below = !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
            int rebuilt = all > 4 && !strcmp(path + all - 4, "-shm");
            found = below && !rebuilt;
        }
    }
    errno = before;
    return found;
}

static struct file **place(const char *id) {
    unsigned hash = 5381;
    for (const char *c = id; *c; c++) hash = hash * 33 + (unsigned char)*c;
    struct file **at = &files[hash % FILES];
    while (*at && strcmp((*at)->id, id)) at = &(*at)->next;
    return at;
}

static void pending_path(const char *id, char path[PATH_MAX + 80]) {
    snprintf(path, PATH_MAX + 80, "%s/pending/%s", shadow, id);
}

static void note_range(struct file *file, off_t from, off_t to) {
    __atomic_add_fetch(&control->unsynced_bytes, (uint64_t)(to - from), __ATOMIC_RELAXED);
    if (file->ranges && file->last->to == from) {
        file->last->to = to;
        return;
    }
    struct range *range = calloc(1, sizeof *range);
    if (!range) abort();
    range->from = from;
    range->to = to;
    if (file->ranges) file->last->next = range; else file->ranges = range;
    file->last = range;
}

static void note_cut(struct file *file, off_t size) {
    if (file->cut_to < 0 || size < file->cut_to) file->cut_to = size;
}

/* What is known of a file, the list of a process before this one included. A line of a list is a range, or -1 and a size. */
static struct file *known(const char *id) {
    struct file **at = place(id);
    if (*at) return *at;
    char path[PATH_MAX + 80];
    struct file *file = *at = calloc(1, sizeof **at);
    if (!file) abort();
    snprintf(file->id, sizeof file->id, "%s", id);
    file->cut_to = -1;
    pending_path(id, path);
    file->list = real_open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file->list < 0) abort();
    int64_t line[2];
    for (off_t offset = 0; pread(file->list, line, sizeof line, offset) == sizeof line; offset += sizeof line) {
        if (line[0] < 0) note_cut(file, line[1]); else note_range(file, line[0], line[1]);
    }
    return file;
}

static void list(struct file *file, int64_t from, int64_t to) {
    int64_t line[2] = {from, to};
    if (real_write(file->list, line, sizeof line) != sizeof line) abort();
}

/* Nothing of the file is unsynced any more. */
static void settled(const char *id) {
    struct file **at = place(id), *file = known(id);
    while (file->ranges) {
        struct range *range = file->ranges;
        __atomic_sub_fetch(&control->unsynced_bytes, (uint64_t)(range->to - range->from), __ATOMIC_RELAXED);
        file->ranges = range->next;
        free(range);
    }
    char path[PATH_MAX + 80];
    pending_path(id, path);
    unlink(path);
    close(file->list);
    *at = file->next;
    free(file);
}

static int shadow_file(const char *id, mode_t mode) {
    char path[PATH_MAX + 80];
    snprintf(path, sizeof path, "%s/files/%s", shadow, id);
    return real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, mode & 0777);
}

/* Copies a part of one file to the same place in the other; what `from` does not have are zeros. */
static void copy(int from, int to, off_t at, off_t end, int zeros) {
    char buffer[65536];
    while (at < end) {
        size_t want = (size_t)(end - at) < sizeof buffer ? (size_t)(end - at) : sizeof buffer;
        ssize_t got = pread(from, buffer, want, at);
        if (got <= 0) {
            if (!zeros) return;
            memset(buffer, 0, want);
            got = (ssize_t)want;
        }
        for (ssize_t done = 0; done < got;) {
            ssize_t put = real_pwrite(to, buffer + done, (size_t)(got - done), at + done);
            if (put <= 0) abort();
            done += put;
        }
        at += got;
    }
}

/* The file, open for what its own descriptor may not allow. Not opened anew where it does: closing another descriptor of a
 * file lets go of the locks that SQLite has on it. */
static int open_for(int fd, int unfit, int how) {
    int now = fcntl(fd, F_GETFL);
    if (now >= 0 && (now & O_ACCMODE) != unfit) return fd;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return real_open(link, how | O_CLOEXEC);
}

static int readable(int fd) {
    return open_for(fd, O_WRONLY, O_RDONLY);
}

static void written(int fd, const char *id, mode_t mode, off_t from, off_t to) {
    if (to <= from) return;
    struct file *file = known(id);
    list(file, from, to);
    note_range(file, from, to);
    if (choose(early_permille)) {
        int live = readable(fd), kept = shadow_file(id, mode);
        /* Perhaps not all of it. */
        off_t end = choose(500) ? to : from + (to - from) / 2;
        if (live >= 0 && kept >= 0) copy(live, kept, from, end, 0);
        if (live >= 0 && live != fd) close(live);
        if (kept >= 0) close(kept);
    }
}

static void sync_file(int fd, const char *id, mode_t mode, off_t size) {
    struct file *file = known(id);
    int kept = shadow_file(id, mode);
    if (kept < 0) abort();
    if (file->ranges || file->cut_to >= 0) {
        if (file->cut_to >= 0 && real_ftruncate(kept, file->cut_to)) abort();
        int live = readable(fd);
        if (live < 0) abort();
        for (struct range *range = file->ranges; range; range = range->next) copy(live, kept, range->from, range->to, 0);
        if (live != fd) close(live);
    }
    if (real_ftruncate(kept, size)) abort();
    close(kept);
    settled(id);
}

/* Gives the file the bytes back that the disk has. */
static void revert(int fd, const char *id, mode_t mode) {
    struct file *file = known(id);
    int kept = shadow_file(id, mode), live = open_for(fd, O_RDONLY, O_WRONLY);
    if (kept < 0 || live < 0) abort();
    for (struct range *range = file->ranges; range; range = range->next) copy(kept, live, range->from, range->to, 1);
    if (live != fd) close(live);
    close(kept);
}

/* Makes the names in a directory durable as they are. */
static void sync_dir(int fd, const char *id) {
    char where[64], path[PATH_MAX], kept[PATH_MAX + 80], entry[PATH_MAX + 512], content[PATH_MAX + 160], arriving[PATH_MAX + 160];
    snprintf(kept, sizeof kept, "%s/dirs/%s", shadow, id);
    mkdir(kept, 0700);
    snprintf(arriving, sizeof arriving, "%s/arriving", shadow);
    snprintf(where, sizeof where, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(where, path, sizeof path - 1);
    if (length <= 0) return;
    path[length] = 0;
    DIR *names = opendir(path);
    if (!names) return;
    for (struct dirent *name; (name = readdir(names));) {
        char other[64], there[64];
        mode_t mode;
        off_t size;
        if (!strcmp(name->d_name, ".") || !strcmp(name->d_name, "..")) continue;
        if (identify(dirfd(names), name->d_name, AT_SYMLINK_NOFOLLOW, other, &mode, &size)) continue;
        snprintf(entry, sizeof entry, "%s/%s", kept, name->d_name);
        unlink(arriving);
        if (S_ISDIR(mode)) {
            ssize_t was = readlink(entry, there, sizeof there - 1);
            if (was > 0 && (there[was] = 0, !strcmp(there, other))) continue;
            if (symlink(other, arriving)) continue;
        } else if (S_ISREG(mode)) {
            size_t letters = strlen(name->d_name);
            if (letters > 4 && !strcmp(name->d_name + letters - 4, "-shm")) continue;
            int made = shadow_file(other, mode);
            if (made >= 0) close(made);
            snprintf(content, sizeof content, "%s/files/%s", shadow, other);
            struct stat now, was;
            if (!stat(content, &now) && !lstat(entry, &was) && now.st_ino == was.st_ino) continue;
            if (link(content, arriving)) continue;
        } else {
            continue;
        }
        rename(arriving, entry);
    }
    closedir(names);
    /* Names that are gone. */
    names = opendir(kept);
    for (struct dirent *name; names && (name = readdir(names));) {
        if (!strcmp(name->d_name, ".") || !strcmp(name->d_name, "..")) continue;
        struct stat now;
        if (snprintf(entry, sizeof entry, "%s/%s", path, name->d_name) > 0 && lstat(entry, &now) && errno == ENOENT) {
            snprintf(entry, sizeof entry, "%s/%s", kept, name->d_name);
            unlink(entry);
        }
    }
    if (names) closedir(names);
}

static int faulty(uint32_t fault) {
    uint32_t permille = __atomic_load_n(&control->permille, __ATOMIC_RELAXED);
    if (__atomic_load_n(&control->fault, __ATOMIC_RELAXED) != fault || !choose(permille)) return 0;
    __atomic_add_fetch(&control->faults_made, 1, __ATOMIC_RELAXED);
    return 1;
}

static int synced(int fd, int (*real_sync)(int)) {
    begin();
    char id[64];
    mode_t mode;
    off_t size;
    if (!ours(fd, id, &mode, &size)) return real_sync(fd);
    pthread_mutex_lock(&lock);
    int failed = 0;
    if (faulty(FAULT_SYNC_EIO)) {
        failed = 1;
    } else if (faulty(FAULT_SYNC_EIO_REVERT)) {
        failed = 1;
        if (S_ISREG(mode)) revert(fd, id, mode);
    } else if (S_ISDIR(mode)) {
        sync_dir(fd, id);
    } else {
        /* Another thread may have written since the size was asked for. */
        ours(fd, id, &mode, &size);
        sync_file(fd, id, mode, size);
    }
    if (failed && S_ISREG(mode)) settled(id);
    __atomic_add_fetch(&control->syncs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
    if (failed) errno = EIO;
    return failed ? -1 : 0;
}

int fsync(int fd) {
    begin();
    return synced(fd, real_fsync);
}

int fdatasync(int fd) {
    begin();
    return synced(fd, real_fdatasync);
}

/* A write of any form: `at` is -1 where the file's own place counts. */
static ssize_t put(int fd, const struct iovec *parts, int count, off_t at) {
    char id[64];
    mode_t mode;
    off_t size;
    if (!ours(fd, id, &mode, &size) || !S_ISREG(mode))
        return at < 0 ? real_writev(fd, parts, count) : real_pwritev(fd, parts, count, at);
    pthread_mutex_lock(&lock);
    struct file *file = known(id);
    int error = 0;
    struct iovec half;
    if (file->fail_next_write) {
        file->fail_next_write = 0;
        error = ENOSPC;
    } else if (faulty(FAULT_WRITE_EIO)) {
        error = EIO;
    } else if (faulty(FAULT_DISK_FULL)) {
        error = ENOSPC;
    } else if (count > 0 && parts->iov_len > 1 && faulty(FAULT_SHORT_WRITE)) {
        half.iov_base = parts->iov_base;
        half.iov_len = parts->iov_len / 2;
        parts = &half;
        count = 1;
        file->fail_next_write = 1;
    }
    ssize_t done = -1;
    if (!error) {
        done = at < 0 ? real_writev(fd, parts, count) : real_pwritev(fd, parts, count, at);
        error = errno;
        if (done > 0) {
            off_t end = at < 0 ? lseek(fd, 0, SEEK_CUR) : at + done;
            written(fd, id, mode, end - done, end);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    begin();
    struct iovec all = {(void *)bytes, length};
    return control ? put(fd, &all, 1, -1) : real_write(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    begin();
    struct iovec all = {(void *)bytes, length};
    return control && at >= 0 ? put(fd, &all, 1, at) : real_pwrite(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    return pwrite(fd, bytes, length, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    begin();
    return control ? put(fd, parts, count, -1) : real_writev(fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    begin();
    return control && at >= 0 ? put(fd, parts, count, at) : real_pwritev(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    return pwritev(fd, parts, count, at);
}

int ftruncate(int fd, off_t length) {
    begin();
    char id[64];
    mode_t mode;
    off_t size;
    if (!ours(fd, id, &mode, &size)) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int done = -1, error = EIO;
    if (!faulty(FAULT_WRITE_EIO)) {
        done = real_ftruncate(fd, length);
        error = errno;
        if (!done) {
            struct file *file = known(id);
            list(file, -1, length);
            note_cut(file, length);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int ftruncate64(int fd, off_t length) {
    return ftruncate(fd, length);
}

/* A file that was emptied as it was opened, or one that is surely new. */
static int opened(int fd, int flags) {
    char id[64];
    mode_t mode;
    off_t size;
    if (fd < 0 || !(flags & (O_TRUNC | O_EXCL)) || !ours(fd, id, &mode, &size) || !S_ISREG(mode)) return fd;
    int before = errno;
    pthread_mutex_lock(&lock);
    if (flags & O_CREAT && flags & O_EXCL) {
        settled(id);
        char path[PATH_MAX + 80];
        snprintf(path, sizeof path, "%s/files/%s", shadow, id);
        unlink(path);
    } else if (flags & O_TRUNC) {
        struct file *file = known(id);
        list(file, -1, 0);
        note_cut(file, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = before;
    return fd;
}

static int open_any(int dir, const char *path, int flags, mode_t mode) {
    begin();
    return opened(real_openat(dir, path, flags, mode), flags);
}

#define MODE(flags)                              \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | __O_TMPFILE)) {       \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode = va_arg(rest, mode_t);             \
        va_end(rest);                            \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_any(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE(flags)
    return open_any(dir, path, flags, mode);
}

int creat(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode) {
    return creat(path, mode);
}
