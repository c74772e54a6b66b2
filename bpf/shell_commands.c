// SPDX-License-Identifier: GPL-2.0
/*
 * Commands typed into an interactive bash, by user and first word.
 *
 * Hook: the return of readline(), in bash or in the library.
 * Cost: a breakpoint for each line typed.
 * Loops are unrolled: kernels before 6.4 refuse one that the compiler enters in its middle ("back-edge").
 * Limits: only the first word leaves the kernel. It ends at a blank, at what ends a command (;|&<>()), and after the
 *         = of an assignment, as what follows may be a secret. Empty lines are no commands. A word of over 63 bytes
 *         is cut.
 */

#define WORD 64
#define BLANKS 32 /* that a line may begin with */

static __always_inline int ends_word(char c)
{
    return c == 0 || c == ' ' || c == '\t' || c == '\n' || c == ';' || c == '|' || c == '&' || c == '<' || c == '>' ||
           c == '(' || c == ')';
}

int on_readline(struct pt_regs *ctx)
{
    struct shell_commands_key key = {};
    char word[WORD] = {};
    const char *line = (const char *)PT_REGS_RC(ctx);
    int blanks = 0, ended = 0;

    if (!line)
        return 0; /* end of input */
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
        if (i > 0 && ends_word(word[i]))
            ended = 1;
        if (ended)
            word[i] = 0;
        else if (word[i] == '=')
            ended = 1;
    }
#if WITH_command
    __builtin_memcpy(key.command, word, sizeof(key.command));
#endif
    shell_commands_add(&key, 1);
    return 0;
}
