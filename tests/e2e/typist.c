// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into bash, has its readline() return what is in the file $TYPED, lines that end with a NUL, as if each had
 * been typed; then ends bash. So any bytes may be in a line, as they may in that of a user who has a bash of their own.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char *readline(const char *prompt);
extern int rl_insert_text(const char *text);
extern int (*rl_startup_hook)(void);
extern int (*rl_getc_function)(FILE *from);
extern int rl_catch_signals;
extern FILE *rl_instream, *rl_outstream;

static const char *line;

static int put(void)
{
    rl_insert_text(line);
    return 0;
}

static int enter(FILE *from)
{
    (void)from;
    return '\n';
}

__attribute__((constructor)) static void type(void)
{
    static char typed[1 << 20];
    int fd = open(getenv("TYPED"), O_RDONLY);
    ssize_t size = read(fd, typed, sizeof(typed));

    rl_instream = fopen("/dev/null", "r");
    rl_outstream = fopen("/dev/null", "w");
    rl_catch_signals = 0;
    rl_startup_hook = put;
    rl_getc_function = enter;
    for (line = typed; line < typed + size; line += strlen(line) + 1) {
        char *returned = readline("$ ");
        if (!returned || strcmp(returned, line))
            _exit(1);
        free(returned);
    }
    _exit(size > 0 ? 0 : 2);
}
