// SPDX-License-Identifier: GPL-2.0
/* Sends UDP packets of 64 bytes from many sources through an interface, as fast as it takes them. Prints the nanoseconds
 * of each: packets INTERFACE COUNT */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SIZE 64
#define BATCH 64
#define FRAMES 4096 /* different ones */

static unsigned char frames[FRAMES][SIZE];

static void build(unsigned char *frame, unsigned number)
{
    static const unsigned char head[] = {2, 0, 0,    0, 0, 9,         2, 0, 0, 0, 0,  1,
                                         8, 0, 0x45, 0, 0, SIZE - 14, 0, 0, 0, 0, 64, 17};
    unsigned source = htonl(10u << 24 | (number * 2654435761u >> 8)), destination = htonl(0xc0000201), sum = 0;

    memcpy(frame, head, sizeof(head));
    memcpy(frame + 26, &source, 4);
    memcpy(frame + 30, &destination, 4);
    for (int i = 14; i < 34; i += 2)
        sum += frame[i] << 8 | frame[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16));
    frame[24] = sum >> 8;
    frame[25] = sum;
    frame[34] = 0x30, frame[35] = number, frame[36] = 0x40, frame[37] = 1, frame[39] = SIZE - 34;
}

int main(int count, char **words)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET};
    struct mmsghdr messages[BATCH] = {};
    struct iovec pieces[BATCH];
    struct timespec began, ended;
    int bypass = 1, out = socket(AF_PACKET, SOCK_RAW, 0);
    long wanted = count == 3 ? atol(words[2]) : 0, sent = 0;

    to.sll_ifindex = count == 3 ? (int)if_nametoindex(words[1]) : 0;
    if (wanted <= 0 || bind(out, (void *)&to, sizeof(to)) ||
        setsockopt(out, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof(bypass))) {
        perror("packets INTERFACE COUNT");
        return 1;
    }
    for (unsigned i = 0; i < FRAMES; i++)
        build(frames[i], i);
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (sent < wanted) {
        int batch = wanted - sent < BATCH ? (int)(wanted - sent) : BATCH, done;

        for (int i = 0; i < batch; i++) {
            pieces[i] = (struct iovec){frames[(sent + i) % FRAMES], SIZE};
            messages[i].msg_hdr.msg_iov = &pieces[i];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        done = sendmmsg(out, messages, batch, 0);
        if (done < 0 && errno != ENOBUFS) {
            perror("sendmmsg");
            return 1;
        }
        sent += done < 0 ? 0 : done;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%.1f\n", ((ended.tv_sec - began.tv_sec) * 1e9 + (ended.tv_nsec - began.tv_nsec)) / wanted);
    return 0;
}
