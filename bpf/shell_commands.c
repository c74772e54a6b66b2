// SPDX-License-Identifier: GPL-2.0
/*
 * Commands typed into an interactive bash, by user and first word.
 *
 * Hooks: the entry and the return of readline(), in bash or in the library; read_builtin(), bash's `read`.
 * Cost: a few breakpoints for each line typed.
 * Limits: only the first word leaves the kernel. It ends at a blank, at a quote, a $, and what ends a command
 *         (;|&<>()`), and after the = of an assignment: what follows may be a secret. What `read -e` reads, and the
 *         further lines of a command or of a here-document, which have the prompt "> ", are no commands; with another
 *         PS2 they are taken for some. Empty lines are none either. A word of over 63 bytes is cut.
 * Loops are unrolled: kernels before 6.4 refuse one that the compiler enters in its middle ("back-edge").
 */

#define WORD 64
#define BLANKS 32 /* that a line may begin with */

BPF_HASH(asides, u64, u8); /* thread -> it reads a line that goes on with a command */
BPF_HASH(reads, u64, u8);  /* thread -> it is in the builtin `read` */

int on_prompt(struct pt_regs *ctx)
{
    u64 thread = bpf_get_current_pid_tgid();
    char prompt[4] = {};
    u8 yes = 1;

    bpf_probe_read_user_str(prompt, sizeof(prompt), (void *)PT_REGS_PARM1(ctx));
    if (prompt[0] == '>' && prompt[1] == ' ' && prompt[2] == 0)
        asides.update(&thread, &yes);
    else
        asides.delete(&thread);
    return 0;
}

int on_read(struct pt_regs *ctx)
{
    u64 thread = bpf_get_current_pid_tgid();
    u8 yes = 1;

    reads.update(&thread, &yes);
    return 0;
}

int on_read_done(struct pt_regs *ctx)
{
    u64 thread = bpf_get_current_pid_tgid();

    reads.delete(&thread);
    return 0;
}

static __always_inline int ends_word(char c)
{
    return c == 0 || c == ' ' || c == '\t' || c == '\n' || c == ';' || c == '|' || c == '&' || c == '<' || c == '>' ||
           c == '(' || c == ')' || c == '\'' || c == '"' || c == '`' || c == '$' || c == '=';
}

int on_readline(struct pt_regs *ctx)
{
    struct shell_commands_key key = {};
    char word[WORD] = {};
    const char *line = (const char *)PT_REGS_RC(ctx);
    u64 thread = bpf_get_current_pid_tgid();
    int blanks = 0, ended = 0;

    if (!line || asides.lookup(&thread) || reads.lookup(&thread))
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
    __builtin_memcpy(key.command, word, sizeof(key.command));
#endif
    shell_commands_add(&key, 1);
    return 0;
}
