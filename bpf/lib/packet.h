// SPDX-License-Identifier: GPL-2.0
/*
 * What is in the headers of a packet: from Ethernet on, over VLAN tags and IPv6 extension headers, up to TCP's flags.
 *
 * Limits: two VLAN tags; six IPv6 extension headers. What is cut off, or is not in a packet's first fragment, it does not
 * have. The compiler leaves out what a program does not ask for.
 */

/* values of a protocol that are no number of an IP protocol */
#define PROTOCOL_ARP 256
#define PROTOCOL_NON_IP 257
#define PROTOCOL_TRUNCATED 258

struct packet {
    u32 length;           /* bytes, from the Ethernet header on */
    u16 protocol;         /* the number of the IP protocol, or one of the above */
    u8 version;           /* 4 or 6; 0: there are no addresses */
    u8 has_ports;         /* of TCP, UDP, UDP-Lite, SCTP or DCCP */
    u8 has_flags;         /* of TCP */
    u8 flags;             /* FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 */
    u16 source_port;      /* of this machine's byte order */
    u16 destination_port; /* of this machine's byte order */
    u8 source[16];        /* as in the packet; of IPv4 the first four bytes */
    u8 destination[16];
};
