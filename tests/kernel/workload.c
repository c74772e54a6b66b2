// SPDX-License-Identifier: Apache-2.0
/*
 * Does a known number of things and says on its output what they were: the truth that tests compare with.
 *
 * Usage: workload COMM TASK [ARGUMENT...]; tasks:
 *   opens DIRECTORY N M      N opens that succeed and M that fail (ENOENT, EISDIR), by all four system calls
 *   reads FILE BYTES         reads so many bytes, in odd pieces, by the five calls in turn; then once at the end
 *   writes FILE BYTES        the same for writes
 *   pipe BYTES               writes and reads so many bytes through a pipe
 *   renames FILE N           opens FILE N times, each time under another name of the process
 *   renames-fail PATH N      the same with a PATH that can't be opened
 *   storm PATH N             opens PATH N times, as fast as it goes, whether it is there or not
 *   bad-calls FILE           reads and writes that fail
 *   readaheads FILE N WIDTH DRIFT SIZES
 *                            N readaheads on no file, after each of which the u64 in FILE is one more; the i-th (from 0)
 *                            has the offset i and the size (i / DRIFT + i % WIDTH) % SIZES: those in use change slowly
 *   locks FILE N             locks FILE (fcntl), has N processes wait for that at once, lets them, unlocks it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE 8192

static char buffer[PIECE];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int open_by(int way, const char *path)
{
    struct open_how how = {.flags = O_RDONLY};

    switch (way % 4) {
#ifdef SYS_open
    case 0:
        return syscall(SYS_open, path, O_RDONLY);
#endif
    case 1:
        return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
#ifdef SYS_creat
    case 2:
        return syscall(SYS_creat, path, 0600);
#endif
    default:
        return syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    }
}

static void opens(const char *directory, int good, int bad)
{
    char path[PATH_MAX];
    int failed[ERANGE + 1] = {0};

    for (int i = 0; i < good; i++) {
        snprintf(path, sizeof(path), "%s/file", directory);
        int fd = open_by(i, path);
        if (fd < 0)
            die("open");
        close(fd);
    }
    for (int i = 0; i < bad; i++) {
        /* a directory can't be created: EISDIR; all others don't exist: ENOENT */
        snprintf(path, sizeof(path), i % 4 == 2 ? "%s" : "%s/missing/file", directory);
        int fd = open_by(i, path);
        if (fd >= 0)
            die("open of what is not there");
        failed[errno]++;
    }
    printf("ok=%d ENOENT=%d EISDIR=%d\n", good, failed[ENOENT], failed[EISDIR]);
}

static ssize_t transfer(int fd, int way, int reading, size_t size, off_t at)
{
    struct iovec parts[3] = {
        {buffer, size / 3}, {buffer + size / 3, size / 3}, {buffer + size / 3 * 2, size - size / 3 * 2}};

    switch (way % 5) {
    case 0:
        return reading ? read(fd, buffer, size) : write(fd, buffer, size);
    case 1:
        return reading ? readv(fd, parts, 3) : writev(fd, parts, 3);
    case 2:
        return reading ? pread(fd, buffer, size, at) : pwrite(fd, buffer, size, at);
    case 3:
        return reading ? preadv(fd, parts, 3, at) : pwritev(fd, parts, 3, at);
    default:
        return reading ? preadv2(fd, parts, 3, at, 0) : pwritev2(fd, parts, 3, at, 0);
    }
}

static void transfers(const char *path, long bytes, int reading)
{
    int fd = open(path, reading ? O_RDONLY : O_WRONLY | O_CREAT, 0600), calls = 0;
    long done = 0;

    if (fd < 0)
        die(path);
    for (size_t size = 1; done < bytes; size = size * 7 % PIECE + 1, calls++) {
        size_t wanted = size;
        if (done + (long)wanted > bytes && !reading)
            wanted = bytes - done; /* a read may ask for more than there is */
        if (lseek(fd, done, SEEK_SET) < 0)
            die("lseek");
        ssize_t now = transfer(fd, calls, reading, wanted, done);
        if (now <= 0)
            die("transfer");
        done += now;
    }
    if (reading) { /* at the end of the file a read succeeds and returns nothing */
        if (lseek(fd, done, SEEK_SET) < 0 || read(fd, buffer, PIECE) != 0)
            die("end of file");
        calls++;
    }
    printf("bytes=%ld calls=%d\n", done, calls);
}

static void through_pipe(long bytes)
{
    int ends[2];
    long done = 0;

    if (pipe(ends))
        die("pipe");
    while (done < bytes) {
        size_t size = bytes - done < 4093 ? bytes - done : 4093;
        if (write(ends[1], buffer, size) != (ssize_t)size || read(ends[0], buffer, size) != (ssize_t)size)
            die("pipe");
        done += size;
    }
    printf("bytes=%ld\n", done);
}

static void renames(const char *path, int times, int good)
{
    char name[16];

    for (int i = 0; i < times; i++) {
        snprintf(name, sizeof(name), "r%d", i);
        prctl(PR_SET_NAME, name);
        int fd = open(path, O_RDONLY);
        if ((fd >= 0) != good)
            die(path);
        if (good)
            close(fd);
    }
    printf("%s=%d\n", good ? "ok" : "failed", times);
}

static void storm(const char *path, int times)
{
    int good = 0;

    for (int i = 0; i < times; i++) {
        int fd = open(path, O_RDONLY);
        if (fd >= 0) {
            good++;
            close(fd);
        }
    }
    printf("ok=%d failed=%d\n", good, times - good);
}

static void bad_calls(const char *path)
{
    int fd = open(path, O_RDONLY);

    if (fd < 0)
        die(path);
    if (write(fd, buffer, 1) >= 0 || read(-1, buffer, 1) >= 0 || read(fd, (void *)1, 1) >= 0)
        die("a bad call that succeeds");
    printf("failed=3\n");
}

static void readaheads(const char *path, long times, long width, long drift, long sizes)
{
    int fd = open(path, O_RDWR);
    volatile uint64_t *done = mmap(NULL, sizeof(*done), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (done == MAP_FAILED)
        die(path);
    for (long i = 0; i < times; i++) {
        if (readahead(-1, i, (i / drift + i % width) % sizes) != -1)
            die("a readahead on no file that succeeds");
        *done += 1;
    }
    printf("calls=%ld\n", times);
}

static void lock(int fd, int type)
{
    struct flock all = {.l_type = type, .l_whence = SEEK_SET};

    if (fcntl(fd, F_SETLKW, &all))
        die("lock");
}

/* How many processes wait for a lock of a file: "7: -> POSIX  ADVISORY  WRITE 4711 fe:00:131 0 EOF" */
static int waiting(int fd)
{
    char line[256], inode[32];
    struct stat about;
    int found = 0;
    FILE *locks = fopen("/proc/locks", "r");

    if (!locks || fstat(fd, &about))
        die("/proc/locks");
    snprintf(inode, sizeof(inode), ":%lu ", (unsigned long)about.st_ino);
    while (fgets(line, sizeof(line), locks))
        found += strstr(line, "-> POSIX") && strstr(line, inode);
    fclose(locks);
    return found;
}

static void locks(const char *path, int others)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600), status;

    if (fd < 0)
        die(path);
    lock(fd, F_WRLCK);
    for (int i = 0; i < others; i++) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (!child) {
            lock(fd, F_WRLCK); /* its end is what lets the next one have it */
            _exit(0);
        }
    }
    while (waiting(fd) < others)
        usleep(1000);
    lock(fd, F_UNLCK);
    for (int i = 0; i < others; i++)
        if (wait(&status) < 0 || status)
            die("wait");
    printf("calls=%d\n", 1 + others + 1);
}

int main(int count, char **words)
{
    if (count < 3)
        return 2;
    prctl(PR_SET_NAME, words[1]);
    if (!strcmp(words[2], "opens") && count == 6)
        opens(words[3], atoi(words[4]), atoi(words[5]));
    else if (!strcmp(words[2], "reads") && count == 5)
        transfers(words[3], atol(words[4]), 1);
    else if (!strcmp(words[2], "writes") && count == 5)
        transfers(words[3], atol(words[4]), 0);
    else if (!strcmp(words[2], "pipe") && count == 4)
        through_pipe(atol(words[3]));
    else if (!strcmp(words[2], "renames") && count == 5)
        renames(words[3], atoi(words[4]), 1);
    else if (!strcmp(words[2], "renames-fail") && count == 5)
        renames(words[3], atoi(words[4]), 0);
    else if (!strcmp(words[2], "storm") && count == 5)
        storm(words[3], atoi(words[4]));
    else if (!strcmp(words[2], "bad-calls") && count == 4)
        bad_calls(words[3]);
    else if (!strcmp(words[2], "readaheads") && count == 8)
        readaheads(words[3], atol(words[4]), atol(words[5]), atol(words[6]), atol(words[7]));
    else if (!strcmp(words[2], "locks") && count == 5)
        locks(words[3], atoi(words[4]));
    else
        return 2;
    return 0;
}
