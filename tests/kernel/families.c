// SPDX-License-Identifier: Apache-2.0
/*
 * Does known things for a probe of each family to count: calls of its own functions, system calls, page faults.
 *
 * Usage: families COMM TASK; tasks:
 *   calls     its own functions, a prime number of times each
 *   kernel    system calls
 *   faults    touches PAGES pages under the name COMM; before and after that it has another
 *   busy      until the end of its input
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGES 4099
#define OPAQUE __attribute__((noipa))

static volatile int sink;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

OPAQUE long typed(int a, long b, unsigned char c, const char *text)
{
    sink = text[0] + c;
    return a < 0 ? -b : a;
}

OPAQUE int negative(int n)
{
    return -n;
}

OPAQUE int nested(int depth)
{
    return depth ? nested(depth - 1) + 1 : 0;
}

OPAQUE void level(long n)
{
    sink = n;
}

OPAQUE void begin(int n)
{
    sink = n;
}

OPAQUE void end(int n)
{
    sink = n;
}

static void calls(void)
{
    static const long levels[] = {40, -5, 2, 1, 3, 100, 101, -100, 0, 7, -6};

    for (int i = 0; i < 101; i++)
        typed(-3, 1L << 40, 200, "first");
    for (int i = 0; i < 103; i++)
        typed(7, -11, 255, "second");
    for (int i = 0; i < 107; i++)
        negative(9);
    for (int i = 0; i < 109; i++)
        nested(3);
    for (unsigned i = 0; i < sizeof(levels) / sizeof(*levels); i++)
        level(levels[i]);
    for (int i = 0; i < 13; i++)
        end(0); /* which nothing began */
    for (int i = 0; i < 113; i++) {
        begin(-1); /* which nothing ends */
        begin(-2);
        end(-3);
    }
}

static void locks(const char *path, int flags, int times)
{
    struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, flags, 0600);

    if (fd < 0)
        die(path);
    for (int i = 0; i < times; i++)
        fcntl(fd, F_SETLK, &wanted);
    close(fd);
}

static int listens(int option, int times)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, option, &on, sizeof(on)))
        die("socket");
    for (int i = 0; i < times; i++)
        if (listen(fd, 7))
            die("listen");
    return fd;
}

static void connected(int to, int times)
{
    struct sockaddr_in address;
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (getsockname(to, (struct sockaddr *)&address, &size) || connect(fd, (struct sockaddr *)&address, size))
        die("connect");
    for (int i = 0; i < times; i++)
        if (!listen(fd, 5))
            die("listen");
}

static void kernel(void)
{
    char path[] = "/tmp/families-XXXXXX";
    int fd = mkstemp(path), listener;

    if (fd < 0)
        die(path);
    close(fd);
    for (int i = 0; i < 101; i++)
        getpgid(-7); /* ESRCH */
    for (int i = 0; i < 103; i++)
        getpgid(-2147483647);
    locks(path, O_RDONLY, 107); /* EBADF */
    locks(path, O_RDWR | O_APPEND, 109);
    unlink(path);
    listener = listens(SO_REUSEADDR, 113);
    listens(SO_REUSEPORT, 127);
    connected(listener, 131); /* EINVAL */
}

static void touch(int pages)
{
    long size = sysconf(_SC_PAGESIZE);
    volatile char *memory = mmap(NULL, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || madvise((void *)memory, pages * size, MADV_NOHUGEPAGE))
        die("mmap");
    for (int i = 0; i < pages; i++)
        memory[i * size] = 1;
    munmap((void *)memory, pages * size);
}

static void faults(const char *comm)
{
    prctl(PR_SET_NAME, "other");
    touch(7); /* all that this needs is in memory now */
    prctl(PR_SET_NAME, comm);
    touch(PAGES);
    prctl(PR_SET_NAME, "other");
    touch(11);
}

int main(int count, char **words)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};

    if (count != 3)
        return 2;
    prctl(PR_SET_NAME, strcmp(words[2], "faults") ? words[1] : "other");
    if (!strcmp(words[2], "calls"))
        calls();
    else if (!strcmp(words[2], "kernel"))
        kernel();
    else if (!strcmp(words[2], "faults"))
        faults(words[1]);
    else if (!strcmp(words[2], "busy"))
        while (!poll(&input, 1, 0))
            sink++;
    else
        return 2;
    return 0;
}
