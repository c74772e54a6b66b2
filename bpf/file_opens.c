// SPDX-License-Identifier: GPL-2.0
/*
 * Files opened, by process and result.
 *
 * Hooks: the exits of the system calls that open a file; with the label file their entries too. At their tracepoints, or
 *        by kprobe and kretprobe of their own functions, which get the registers of their caller.
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

static __always_inline int remember_at(void *address)
{
    u64 path = 0;

    bpf_probe_read_kernel(&path, sizeof(path), address);
    return remember(path);
}

int call_at(struct pt_regs *ctx)
{
    struct pt_regs *caller = (struct pt_regs *)PT_REGS_PARM1(ctx);

    return remember_at((void *)&PT_REGS_PARM2(caller));
}

int call(struct pt_regs *ctx)
{
    struct pt_regs *caller = (struct pt_regs *)PT_REGS_PARM1(ctx);

    return remember_at((void *)&PT_REGS_PARM1(caller));
}
#endif

static __always_inline int opened(s64 returned)
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
    key.result = returned < 0 ? -returned : 0;
    file_opens_add(&key, 1);
    return 0;
}

int leave(struct sys_exit *args)
{
    return opened(args->ret);
}

int returned(struct pt_regs *ctx)
{
    return opened(PT_REGS_RC(ctx));
}
