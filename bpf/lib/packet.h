// SPDX-License-Identifier: GPL-2.0
/*
 * What is in the headers of a packet: from Ethernet on, over VLAN tags and IPv6 extension headers, up to TCP's flags.
 *
 * Limits: two VLAN tags; six IPv6 extension headers. What is cut off, or is not in a packet's first fragment, it does
 * not have. A protocol that is behind that, or behind more, is PROTOCOL_TRUNCATED; it is never an extension header. The
 * compiler leaves out what a program does not ask for.
 */

/* values of a protocol that are no number of an IP protocol */
#define PROTOCOL_ARP 256
#define PROTOCOL_NON_IP 257
#define PROTOCOL_TRUNCATED 258

#define ETHERNET_HEADER 14
#define VLAN_TAG 4
#define VLAN_TAGS 2
#define IPV4_HEADER 20
#define IPV4_FRAGMENT 0x1fff /* the place of a fragment, in units of 8 bytes: 0 is the first */
#define IPV6_HEADER 40
#define IPV6_EXTENSIONS 6
#define IPV6_FRAGMENT 0xfff8

#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_VLAN 0x8100
#define TYPE_IPV6 0x86dd
#define TYPE_QINQ 0x88a8

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define from_network32(number) __builtin_bswap32(number)
#define from_network64(number) __builtin_bswap64(number)
#else
#define from_network32(number) (number)
#define from_network64(number) (number)
#endif

/* numbers are in this machine's byte order; an address of IPv4 is in low alone */
struct packet {
    u64 source_high;
    u64 source_low;
    u64 destination_high;
    u64 destination_low;
    u32 length;   /* bytes, from the Ethernet header on */
    u16 protocol; /* the number of the IP protocol, or one of the above */
    u16 source_port;
    u16 destination_port;
    u8 version;   /* 4 or 6; 0: there are no addresses */
    u8 has_ports; /* of TCP, UDP, DCCP, SCTP and UDP-Lite */
    u8 has_flags; /* of TCP */
    u8 flags;     /* FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 */
};

/* one byte of the packet, or -1 beyond its end */
static __always_inline int byte_at(void *data, void *end, u32 offset)
{
    u8 *at = data + offset;

    return (void *)(at + 1) > end ? -1 : *at;
}

/* two bytes of the packet in network order, or -1 beyond its end */
static __always_inline int word_at(void *data, void *end, u32 offset)
{
    u8 *at = data + offset;

    return (void *)(at + 2) > end ? -1 : at[0] << 8 | at[1];
}

static __always_inline int is_extension(int header)
{
    return header == 0 || header == 43 || header == 60 || header == 135 || header == 44; /* 44: fragment */
}

/* what TCP and its like begin with, at an offset */
static __always_inline void parse_transport(struct packet *packet, void *data, void *end, u32 offset)
{
    u16 protocol = packet->protocol;
    u8 *at = data + offset;

    if (protocol != 6 && protocol != 17 && protocol != 33 && protocol != 132 && protocol != 136)
        return;
    if ((void *)(at + 4) > end)
        return;
    packet->has_ports = 1;
    packet->source_port = at[0] << 8 | at[1];
    packet->destination_port = at[2] << 8 | at[3];
    if (protocol != 6 || (void *)(at + 14) > end)
        return;
    packet->has_flags = 1;
    packet->flags = at[13];
}

static __always_inline void parse_ipv4(struct packet *packet, void *data, void *end, u32 offset)
{
    u8 *at = data + offset;
    u32 words;

    if ((void *)(at + 10) > end)
        return;
    packet->protocol = at[9];
    if ((void *)(at + IPV4_HEADER) > end)
        return;
    packet->version = 4;
    packet->source_low = from_network32(*(u32 *)(at + 12));
    packet->destination_low = from_network32(*(u32 *)(at + 16));
    words = at[0] & 15;
    if (words * 4 >= IPV4_HEADER && !((at[6] << 8 | at[7]) & IPV4_FRAGMENT))
        parse_transport(packet, data, end, offset + words * 4);
}

static __always_inline void parse_ipv6(struct packet *packet, void *data, void *end, u32 offset)
{
    int header = byte_at(data, end, offset + 6);
    u8 *at = data + offset;

    if ((void *)(at + IPV6_HEADER) <= end) {
        packet->version = 6;
        packet->source_high = from_network64(*(u64 *)(at + 8));
        packet->source_low = from_network64(*(u64 *)(at + 16));
        packet->destination_high = from_network64(*(u64 *)(at + 24));
        packet->destination_low = from_network64(*(u64 *)(at + 32));
    }
    offset += IPV6_HEADER;
#pragma unroll
    for (int i = 0; i < IPV6_EXTENSIONS; i++) {
        int next, words = 0, later = 0;

        if (header < 0 || !is_extension(header))
            break;
        next = byte_at(data, end, offset);
        if (header == 44)
            later = word_at(data, end, offset + 2);
        else
            words = byte_at(data, end, offset + 1); /* in units of 8 bytes, the first not counted */
        if (next < 0 || words < 0 || later < 0)
            return;
        if (later & IPV6_FRAGMENT) {
            if (!is_extension(next))
                packet->protocol = next;
            return;
        }
        offset += ((words & 0xff) + 1) * 8;
        header = next;
    }
    if (header < 0 || is_extension(header))
        return;
    packet->protocol = header;
    parse_transport(packet, data, end, offset);
}

/* reads the headers of a packet of so many bytes, of which those from data to end are at hand */
static __always_inline void packet_parse(struct packet *packet, void *data, void *end, u32 length)
{
    u32 offset = ETHERNET_HEADER;
    int type = word_at(data, end, offset - 2);

    *packet = (struct packet){.length = length, .protocol = PROTOCOL_TRUNCATED};
#pragma unroll
    for (int i = 0; i < VLAN_TAGS; i++) {
        if (type != TYPE_VLAN && type != TYPE_QINQ)
            break;
        type = word_at(data, end, offset + 2);
        offset += VLAN_TAG;
    }
    if (type == TYPE_IPV4)
        parse_ipv4(packet, data, end, offset);
    else if (type == TYPE_IPV6)
        parse_ipv6(packet, data, end, offset);
    else if (type >= 0)
        packet->protocol = type == TYPE_ARP ? PROTOCOL_ARP : PROTOCOL_NON_IP;
}
