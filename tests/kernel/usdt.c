// SPDX-License-Identifier: Apache-2.0
/*
 * A program with USDT probes: one in many places, with its arguments somewhere else at each.
 *
 * Usage: usdt COMM [wait]     wait: for a byte on its input, before it does anything
 * Its output says how often it asked for a probe's semaphore and was told that somebody looks; without -DGUARDED it has
 * no semaphores and always is.
 */
#ifdef GUARDED
#define _SDT_HAS_SEMAPHORES 1
#endif
#include <sys/sdt.h>

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define OPAQUE __attribute__((noipa))

static int wanted;
static volatile char touched;

#ifdef GUARDED
#define SEMAPHORE(name) __extension__ volatile unsigned short name __attribute__((section(".probes")))
SEMAPHORE(made_place_semaphore);
SEMAPHORE(made_variable_semaphore);
SEMAPHORE(made_small_semaphore);
SEMAPHORE(made_begin_semaphore);
SEMAPHORE(made_end_semaphore);
#define WANTED(name) (made_##name##_semaphore && ++wanted)
#else
#define WANTED(name) ++wanted
#endif

struct row {
    int number;
    unsigned long big;
    const char *text;
};

int at_rest = -5;
static struct row rows[] = {{1, 1, "first"}, {-2, ~0UL - 19, "row"}, {3, 3, "third"}};

OPAQUE static void in_registers(int number, unsigned long big, const char *text)
{
    if (WANTED(place))
        STAP_PROBE3(made, place, number, big, text);
}

OPAQUE static void on_the_stack(int number, unsigned long big, const char *text)
{
    volatile int here = number;
    volatile unsigned long there = big;
    const char *volatile where = text;

    if (WANTED(place))
        STAP_PROBE3(made, place, here, there, where);
}

OPAQUE static void in_an_array(struct row *all, long which)
{
    if (WANTED(place))
        STAP_PROBE3(made, place, all[which].number, all[which].big, all[which].text);
}

OPAQUE static void constant(void)
{
    if (WANTED(place))
        STAP_PROBE3(made, place, -7, 77UL, "constant");
}

OPAQUE static void variable(void)
{
    if (WANTED(variable))
        STAP_PROBE2(made, variable, at_rest, rows[2].number);
}

/* what is above a small number in its register means nothing */
OPAQUE static void small(signed char a, unsigned char b, short c, unsigned short d)
{
    if (WANTED(small))
        STAP_PROBE4(made, small, a, b, c, d);
}

/* begins by two ways and ends by two */
OPAQUE static void work(int number, int odd)
{
    volatile int here = number;

    if (odd) {
        if (WANTED(begin))
            STAP_PROBE1(made, begin, here);
    } else if (WANTED(begin)) {
        STAP_PROBE1(made, begin, number);
    }
    if (odd) {
        if (WANTED(end))
            STAP_PROBE2(made, end, -number, 1);
    } else if (WANTED(end)) {
        here = -number;
        STAP_PROBE2(made, end, here, 0);
    }
}

int main(int count, char **words)
{
    char byte;

    if (count > 2 && !strcmp(words[2], "wait") && read(0, &byte, 1) != 1)
        return 1;
    prctl(PR_SET_NAME, words[1]);
    touched = rows[1].text[0]; /* a text that the program itself has not read yet may not be in memory */
    for (int i = 0; i < 101; i++)
        in_registers(-3, 33, "register");
    for (int i = 0; i < 103; i++)
        on_the_stack(-4, 44, "stack");
    for (int i = 0; i < 107; i++)
        in_an_array(rows, 1);
    for (int i = 0; i < 109; i++)
        constant();
    for (int i = 0; i < 113; i++)
        variable();
    for (int i = 0; i < 127; i++)
        small(-1, 255, -300, 65535);
    for (int i = 0; i < 131; i++)
        work(i % 2 ? 1000 : 2000, i % 2);
    printf("wanted=%d\n", wanted);
    return 0;
}
