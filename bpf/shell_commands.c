// SPDX-License-Identifier: GPL-2.0
/*
 * Commands typed into an interactive bash, by user and first word.
 *
 * Hooks: the entry and the return of readline(), in bash or in the library; read_builtin(), bash's `read`.
 * A word ends at a blank, at a quote, a $, and what ends a command (;|&<>()`), and after the = of an assignment. What
 *   `read -e` reads, and the further lines of a command or of a here-document, which have the prompt "> ", are no
 *   commands. Empty lines are none either.
 * What it costs and does not see is in its YAML.
 * Loops are unrolled: kernels before 6.4 refuse one that the compiler enters in its middle ("back-edge").
 */

#define WORD 64
#define BLANKS 32 /* that a line may begin with */

#define THREADS 10240 /* that read lines at once */

/* what a thread is at; one that was killed there leaves it, so born tells it from the next one of the same number */
struct shell_state {
    u64 born;
    u64 at;
};
#define AT_PROMPT 1
#define AT_ASIDE 2 /* it reads a line that goes on with a command */
#define AT_READ 3  /* it is in the builtin `read` */

/* the least recently used one gives way: who fills it makes words of others (other), never a secret a word */
BPF_TABLE("lru_hash", u64, struct shell_state, threads, THREADS);

static __always_inline u64 born(void)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    u64 time = 0;

    bpf_probe_read_kernel(&time, sizeof(time), &task->start_time);
    return time;
}

static __always_inline void set(u64 at)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct shell_state now = {.born = born(), .at = at};

    threads.update(&thread, &now);
}

static __always_inline u64 known(void)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct shell_state *found = threads.lookup(&thread);

    return found && found->born == born() ? found->at : 0;
}

static __always_inline void forget(void)
{
    u64 thread = bpf_get_current_pid_tgid();

    threads.delete(&thread);
}

int on_prompt(struct pt_regs *ctx)
{
    char prompt[4] = {};

    if (known() == AT_READ)
        return 0;
    bpf_probe_read_user_str(prompt, sizeof(prompt), (void *)PT_REGS_PARM1(ctx));
    set(prompt[0] == '>' && prompt[1] == ' ' && prompt[2] == 0 ? AT_ASIDE : AT_PROMPT);
    return 0;
}

int on_read(struct pt_regs *ctx)
{
    set(AT_READ);
    return 0;
}

int on_read_done(struct pt_regs *ctx)
{
    forget();
    return 0;
}

static __always_inline int ends_word(char c)
{
    return c == 0 || c == ' ' || c == '\t' || c == '\n' || c == ';' || c == '|' || c == '&' || c == '<' || c == '>' ||
           c == '(' || c == ')' || c == '\'' || c == '"' || c == '`' || c == '$' || c == '=';
}

static __always_inline int count(struct pt_regs *ctx, int tells_prompts)
{
    struct shell_commands_key key = {};
    char word[WORD] = {};
    const char *line = (const char *)PT_REGS_RC(ctx);
    u64 at = known();
    int blanks = 0, ended = 0;

    if (at == AT_PROMPT)
        forget();
    if (!line || at == AT_ASIDE || at == AT_READ)
        return 0; /* end of input, or no command */
#pragma unroll
    for (int i = 0; i < BLANKS; i++) {
        char c = 0;
        if (bpf_probe_read_user(&c, 1, line + i) < 0)
            return 0;
        if (c != ' ' && c != '\t')
            break;
        blanks++;
    }
    if (bpf_probe_read_user_str(word, WORD, line + blanks) <= 1)
        return 0; /* nothing typed */
#pragma unroll
    for (int i = 0; i < WORD; i++) {
        char c = word[i];
        /* what ends a word is not of it, but for a first character, and the = that tells an assignment */
        if (ended || (i > 0 && c != '=' && ends_word(c)))
            word[i] = 0;
        if (ends_word(c))
            ended = 1;
    }
#if WITH_command
    if (tells_prompts && !at)
        __builtin_memcpy(key.command, "(other)", sizeof("(other)"));
    else
        __builtin_memcpy(key.command, word, sizeof(key.command));
#endif
    shell_commands_add(&key, 1);
    return 0;
}

int on_readline(struct pt_regs *ctx)
{
    return count(ctx, 1);
}

int on_line(struct pt_regs *ctx)
{
    return count(ctx, 0);
}
