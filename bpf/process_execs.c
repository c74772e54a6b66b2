// SPDX-License-Identifier: GPL-2.0
/*
 * Programs executed, by user and by the name of the new program.
 *
 * Hook: sched_process_exec, which the kernel passes once a new program has taken the process over: a failed execve
 *       is not counted, and comm is the new program's. user is who ran it, also where it is set-uid.
 * What it costs and does not see is in its YAML.
 */

int on_exec(void *args)
{
    struct process_execs_key key = {};
    process_execs_add(&key, 1);
    return 0;
}
