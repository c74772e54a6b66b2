// SPDX-License-Identifier: GPL-2.0
/*
 * Packets and bytes of containers, by container, interface, direction and action; packets by rule.
 *
 * Hooks: TC at the ingress and the egress of the host's end of a container's pair of interfaces: what is ingress
 *   there, the container sent. Directions are named as the container sees them.
 * Bytes are a frame's, with its VLAN tag wherever the kernel keeps that; an interface does not count a tag that is kept
 *   beside the frame.
 * What it costs and does not see is in its YAML.
 */

#if RULES_WORDS

/* what lib/packet.h may look at: of each IPv6 extension header up to 2 KB, and the flags of TCP behind them */
#define MOST_HEADERS (ETHERNET_HEADER + VLAN_TAGS * VLAN_TAG + IPV6_HEADER + IPV6_EXTENSIONS * 2048 + 14)

/* whether headers may lie where the program could not look yet */
static __always_inline int is_cut_off(const struct packet *packet)
{
    u16 protocol = packet->protocol;

    if (!packet->version || protocol == PROTOCOL_TRUNCATED || (protocol == 6 && !packet->has_flags))
        return 1;
    return !packet->has_ports && (protocol == 17 || protocol == 33 || protocol == 132 || protocol == 136);
}

/* what the rules say of a packet, of which only the first bytes may lie in one piece */
static __always_inline int is_dropped(struct __sk_buff *skb, u32 length, u32 direction)
{
    struct container_network_rule_packets_key rule = {};
    struct packet packet;

    packet_parse(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end, length);
    if (skb->data_end - skb->data < skb->len && is_cut_off(&packet)) {
        bpf_skb_pull_data(skb, skb->len < MOST_HEADERS ? skb->len : MOST_HEADERS);
        packet_parse(&packet, (void *)(long)skb->data, (void *)(long)skb->data_end, length);
    }
    rule.container = skb->ifindex;
    rule.interface = skb->ifindex;
    rule.direction = direction;
    return rules_verdict(&packet, skb->ifindex, direction, &rule) == RULES_DROP;
}

#else
#define is_dropped(skb, length, direction) 0
#endif

static __always_inline int on_packet(struct __sk_buff *skb, u8 direction, u32 rules_direction)
{
    struct container_network_packets_key key = {};
    u32 length = skb->len + (skb->vlan_present ? VLAN_TAG : 0);
    int dropped = is_dropped(skb, length, rules_direction);

    key.container = skb->ifindex;
    key.interface = skb->ifindex;
    key.direction = direction;
    key.action = dropped ? CONTAINER_NET_ACTION_DROP : CONTAINER_NET_ACTION_PASS;
    container_network_packets_add(&key, 1, length);
    return dropped ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int on_sent(struct __sk_buff *skb)
{
    return on_packet(skb, CONTAINER_NET_DIRECTION_EGRESS, RULES_EGRESS);
}

int on_received(struct __sk_buff *skb)
{
    return on_packet(skb, CONTAINER_NET_DIRECTION_INGRESS, RULES_INGRESS);
}
