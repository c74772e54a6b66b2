// SPDX-License-Identifier: GPL-2.0
/*
 * Bytes and operations of reads and writes, by process and file, and how long they take.
 *
 * Hooks: the exits of vfs_read, vfs_write, vfs_readv and vfs_writev (fexit), else their entries and returns (kprobe,
 *        kretprobe), else the system calls that end there, with the file found in the task's table of descriptors.
 * What it costs and does not see is in its YAML.
 */

#define READ(pointer)                                                                \
    ({                                                                               \
        typeof((pointer) + 0) _value = 0; /* + 0: a const one could not be filled */ \
        bpf_probe_read_kernel(&_value, sizeof(_value), (void *)&(pointer));          \
        _value;                                                                      \
    })

struct call {
    u64 began;
    struct file *file;
};

BPF_HASH(calls, u64, struct call); /* thread -> the call that it is in */

/* whether a file is one of those that are counted */
static __always_inline int wanted(struct file *file)
{
#if OPTION_all_files
    return file != NULL;
#else
    struct inode *inode;
    umode_t mode = 0;

    if (!file)
        return 0;
    inode = READ(file->f_inode);
    bpf_probe_read_kernel(&mode, sizeof(mode), &inode->i_mode);
    return S_ISREG(mode);
#endif
}

static __always_inline const unsigned char *name_of(struct file *file)
{
#if WITH_file
    struct dentry *dentry = READ(file->f_path.dentry);
    return READ(dentry->d_name.name);
#else
    return NULL;
#endif
}

static __always_inline void count(const unsigned char *name, u8 op, s64 returned)
{
    struct file_io_bytes_key key = {};

    key.op = op;
#if WITH_file
    bpf_probe_read_kernel_str(key.file, sizeof(key.file), name);
#endif
    file_io_bytes_add(&key, returned, 1);
}

static __always_inline void time(u64 began, u8 op)
{
    struct file_io_latency_seconds_key key = {};

    key.op = op;
    file_io_latency_seconds_observe(&key, bpf_ktime_get_ns() - began);
}

static __always_inline int enter(struct file *file)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call call = {.file = file};

    if (!wanted(file)) {
        calls.delete(&thread); /* of a call whose return was missed */
        return 0;
    }
    call.began = bpf_ktime_get_ns();
    calls.update(&thread, &call);
    return 0;
}

static __always_inline int leave(u8 op, s64 returned)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct call *found = calls.lookup(&thread), call;

    if (!found)
        return 0;
    call = *found;
    calls.delete(&thread);
    if (returned < 0)
        return 0;
    count(name_of(call.file), op, returned);
    time(call.began, op);
    return 0;
}

/*
 * fentry and fexit: arguments, then what was returned, as u64. The kernel knows the arguments' types and lets them be
 * followed without a helper.
 */

static __always_inline int typed_wanted(struct file *file)
{
#if OPTION_all_files
    return 1;
#else
    return S_ISREG(file->f_inode->i_mode);
#endif
}

static __always_inline int done(struct file *file, u8 op, s64 returned)
{
#if WITH_ebpf_file_io_latency_seconds
    u64 thread = bpf_get_current_pid_tgid(), began;
    struct call *call = calls.lookup(&thread);

    if (!call)
        return 0;
    began = call->began;
    calls.delete(&thread);
    if (returned < 0)
        return 0;
    time(began, op);
#else
    if (returned < 0 || !typed_wanted(file))
        return 0;
#endif
    count(file->f_path.dentry->d_name.name, op, returned);
    return 0;
}

int enter_file(u64 *ctx)
{
    return enter((struct file *)ctx[0]);
}

int read_done(u64 *ctx)
{
    return done((struct file *)ctx[0], FILE_IO_OP_READ, ctx[4]);
}

int write_done(u64 *ctx)
{
    return done((struct file *)ctx[0], FILE_IO_OP_WRITE, ctx[4]);
}

int readv_done(u64 *ctx)
{
    return done((struct file *)ctx[0], FILE_IO_OP_READ, ctx[5]);
}

int writev_done(u64 *ctx)
{
    return done((struct file *)ctx[0], FILE_IO_OP_WRITE, ctx[5]);
}

/* kprobe and kretprobe */

int enter_function(struct pt_regs *ctx)
{
    return enter((struct file *)PT_REGS_PARM1(ctx));
}

int read_return(struct pt_regs *ctx)
{
    return leave(FILE_IO_OP_READ, PT_REGS_RC(ctx));
}

int write_return(struct pt_regs *ctx)
{
    return leave(FILE_IO_OP_WRITE, PT_REGS_RC(ctx));
}

/* system calls: all of these have the descriptor as their first argument */

struct sys_enter {
    u64 common;
    long id;
    u64 fd;
};
struct sys_exit {
    u64 common;
    long id;
    s64 ret;
};

/* the file behind a descriptor of the running task, or NULL */
static __always_inline struct file *file_of(u32 fd)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    struct files_struct *files = READ(task->files);
    struct fdtable *table = READ(files->fdt);
    struct file **all = READ(table->fd);

    if (fd >= READ(table->max_fds))
        return NULL;
    return READ(all[fd]);
}

#ifdef __TARGET_ARCH_arm64
#define FIRST_ARGUMENT(regs) READ(regs->orig_x0)
#else
#define FIRST_ARGUMENT(regs) READ(regs->di)
#endif

static __always_inline int exited(u8 op, s64 returned)
{
#if WITH_ebpf_file_io_latency_seconds
    return leave(op, returned);
#else
    struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
    struct file *file = file_of(FIRST_ARGUMENT(regs));

    if (returned >= 0 && wanted(file))
        count(name_of(file), op, returned);
    return 0;
#endif
}

int enter_call(struct sys_enter *args)
{
    return enter(file_of(args->fd));
}

int read_exit(struct sys_exit *args)
{
    return exited(FILE_IO_OP_READ, args->ret);
}

int write_exit(struct sys_exit *args)
{
    return exited(FILE_IO_OP_WRITE, args->ret);
}

int read_leave(struct sys_exit *args)
{
    return leave(FILE_IO_OP_READ, args->ret);
}

int write_leave(struct sys_exit *args)
{
    return leave(FILE_IO_OP_WRITE, args->ret);
}
