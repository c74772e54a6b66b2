// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of getpgid by their argument.
 *
 * Hook: the entry of the system call.
 * Cost: one map update for each call.
 */

int on_call(struct tracepoint__syscalls__sys_enter_getpgid *args)
{
    struct numbers_key key = {};

    key.number = args->pid;
    numbers_add(&key, 1);
    return 0;
}
