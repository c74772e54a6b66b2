// SPDX-License-Identifier: GPL-2.0
/*
 * Files opened, by process and result.
 *
 * Hooks: the exits of the system calls that open a file; with the label file their entries too.
 * What it costs and does not see is in its YAML.
 */

/* the fields that all sys_enter_… and all sys_exit_… tracepoints begin with */
struct sys_enter {
    u64 common;
    long id;
    u64 args[6];
};
struct sys_exit {
    u64 common;
    long id;
    long ret;
};

#if WITH_file
BPF_HASH(paths, u64, u64); /* thread -> address of the path that it is opening */

static __always_inline int remember(u64 path)
{
    u64 thread = bpf_get_current_pid_tgid();
    paths.update(&thread, &path);
    return 0;
}

int enter_at(struct sys_enter *args)
{
    return remember(args->args[1]);
}

int enter(struct sys_enter *args)
{
    return remember(args->args[0]);
}
#endif

int leave(struct sys_exit *args)
{
    struct file_opens_key key = {};
#if WITH_file
    u64 thread = bpf_get_current_pid_tgid();
    u64 *path = paths.lookup(&thread);
    if (path) {
        bpf_probe_read_user_str(key.file, sizeof(key.file), (void *)*path);
        paths.delete(&thread);
    }
#endif
    key.result = args->ret < 0 ? -args->ret : 0;
    file_opens_add(&key, 1);
    return 0;
}
