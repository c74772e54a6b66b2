// SPDX-License-Identifier: Apache-2.0
/*
 * bomb FILE MOST: forks and executes itself, each of those does the same, and so on, as far as the limit of processes
 * allows, until it has been executed MOST times. The u64 in FILE is one more for each.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words)
{
    int fd = count == 3 ? open(words[1], O_RDWR) : -1;
    uint64_t *done = mmap(NULL, sizeof(*done), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (done == MAP_FAILED)
        return 1;
    if (__atomic_add_fetch(done, 1, __ATOMIC_SEQ_CST) >= strtoull(words[2], NULL, 10))
        return 0;
    signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
    close(fd);
    (void)!fork(); /* where it is refused, one goes on */
    execv(words[0], words);
    return 1;
}
