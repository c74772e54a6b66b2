// SPDX-License-Identifier: GPL-2.0
/*
 * Packets and bytes received, by interface, action and protocol.
 *
 * Hook: XDP, ahead of the network stack: in the driver where it can (native), else on the way to the stack (generic).
 * Cost: one map update for each packet.
 * Limits: at most two VLAN tags and six IPv6 extension headers are passed over to find the protocol.
 */

#define ETHERNET_HEADER 14
#define VLAN_TAG 4
#define VLAN_TAGS 2
#define IPV6_HEADER 40
#define IPV6_EXTENSIONS 6

#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_VLAN 0x8100
#define TYPE_IPV6 0x86dd
#define TYPE_QINQ 0x88a8

/* values of the label protocol that are no number of an IP protocol */
#define PROTOCOL_ARP 256
#define PROTOCOL_NON_IP 257
#define PROTOCOL_TRUNCATED 258

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

/* the protocol behind an IPv6 header at an offset */
static __always_inline int ipv6_protocol(void *data, void *end, u32 offset)
{
    int header = byte_at(data, end, offset + 6);

    offset += IPV6_HEADER;
#pragma unroll
    for (int i = 0; i < IPV6_EXTENSIONS; i++) {
        int next, words;

        if (header < 0 || !is_extension(header))
            break;
        next = byte_at(data, end, offset);
        words = header == 44 ? 0 : byte_at(data, end, offset + 1); /* in units of 8 bytes, the first not counted */
        if (next < 0 || words < 0)
            return PROTOCOL_TRUNCATED;
        offset += ((words & 0xff) + 1) * 8;
        header = next;
    }
    return header < 0 ? PROTOCOL_TRUNCATED : header;
}

static __always_inline int protocol_of(void *data, void *end)
{
    u32 offset = ETHERNET_HEADER;
    int type = word_at(data, end, offset - 2), protocol;

#pragma unroll
    for (int i = 0; i < VLAN_TAGS; i++) {
        if (type != TYPE_VLAN && type != TYPE_QINQ)
            break;
        type = word_at(data, end, offset + 2);
        offset += VLAN_TAG;
    }
    if (type < 0)
        return PROTOCOL_TRUNCATED;
    if (type == TYPE_ARP)
        return PROTOCOL_ARP;
    if (type == TYPE_IPV6)
        return ipv6_protocol(data, end, offset);
    if (type != TYPE_IPV4)
        return PROTOCOL_NON_IP;
    protocol = byte_at(data, end, offset + 9);
    return protocol < 0 ? PROTOCOL_TRUNCATED : protocol;
}

/* what is to be done with a packet: rules will be asked here */
static __always_inline int verdict(struct xdp_md *ctx)
{
    return XDP_PASS;
}

int on_packet(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct xdp_packets_key key = {};
    int action = verdict(ctx);

    key.interface = ctx->ingress_ifindex;
    key.action = action == XDP_DROP ? XDP_ACTION_DROP : XDP_ACTION_PASS;
    key.protocol = protocol_of(data, end);
    xdp_packets_add(&key, 1, end - data);
    return action;
}
