// SPDX-License-Identifier: Apache-2.0
/*
 * Small programs to measure with and against.
 *
 *   peers numbers FROM TO    calls getpgid with each number
 *   peers batch N            makes a hash map of N keys {u32, char[16]}, reads it in batches; prints the milliseconds of CPU
 *   peers opens N            opens and closes a file N times; prints the nanoseconds of each
 *   peers reads N            reads 4 KiB of a file N times; prints the nanoseconds of each
 *   peers execs N            executes /bin/true N times; prints the nanoseconds of each
 */
#include <bpf/bpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct key {
    unsigned number;
    char comm[16];
};

static double seconds(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void batch(unsigned count)
{
    int map = bpf_map_create(BPF_MAP_TYPE_HASH, "bench", sizeof(struct key), 8, count, NULL);
    struct key *keys = calloc(count, sizeof(*keys));
    unsigned long long *values = calloc(count, sizeof(*values)), sum = 0;
    unsigned got = count, all = 0;
    unsigned long long cursor;
    void *in = NULL;

    for (unsigned i = 0; i < count; i++) {
        struct key key = {.number = i, .comm = "numbers"};
        unsigned long long value = i;
        bpf_map_update_elem(map, &key, &value, 0);
    }
    double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (;;) {
        got = count - all;
        int result = bpf_map_lookup_batch(map, in, &cursor, keys + all, values + all, &got, NULL);
        all += got;
        in = &cursor;
        if (result || all >= count)
            break;
    }
    for (unsigned i = 0; i < all; i++)
        sum += values[i];
    printf("%.3f %u %llu\n", (seconds(CLOCK_PROCESS_CPUTIME_ID) - before) * 1e3, all, sum);
}

static void loop(const char *what, long count)
{
    static char buffer[4096];
    int fd = open("/proc/self/exe", O_RDONLY);
    double before = seconds(CLOCK_MONOTONIC);

    for (long i = 0; i < count; i++) {
        if (!strcmp(what, "opens")) {
            close(open("/etc/hostname", O_RDONLY));
        } else if (!strcmp(what, "reads")) {
            if (pread(fd, buffer, sizeof(buffer), 0) < 0)
                exit(1);
        } else if (vfork() == 0) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        } else {
            wait(NULL);
        }
    }
    printf("%.1f\n", (seconds(CLOCK_MONOTONIC) - before) / count * 1e9);
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "numbers")) {
        prctl(PR_SET_NAME, "numbers");
        for (long i = atol(words[2]); i < atol(words[3]); i++)
            syscall(SYS_getpgid, i);
    } else if (count == 3 && !strcmp(words[1], "batch")) {
        batch(atoi(words[2]));
    } else if (count == 3) {
        loop(words[1], atol(words[2]));
    } else {
        return 2;
    }
    return 0;
}
