// SPDX-License-Identifier: GPL-2.0
/*
 * Packets and bytes of containers, by container, interface, direction and action.
 *
 * Hooks: TC at the ingress and the egress of the host's end of a container's pair of interfaces: what is ingress
 *   there, the container sent. Directions are named as the container sees them.
 * Cost: one map update for each packet.
 * Limits: a packet is what the kernel handles as one, as for the interface's own counters: with segmentation offload up
 *   to 64 KB. Bytes are a frame's, with its VLAN tag wherever the kernel keeps that; an interface does not count a tag
 *   that is kept beside the frame. What goes from veth to veth without the host (bpf_redirect_peer), or is dropped ahead
 *   of TC, is not seen.
 */

#define VLAN_TAG 4

/* what is to be done with a packet: rules will be asked here */
static __always_inline int verdict(struct __sk_buff *skb)
{
    return TC_ACT_UNSPEC;
}

static __always_inline int on_packet(struct __sk_buff *skb, u8 direction)
{
    struct container_network_packets_key key = {};
    int action = verdict(skb);

    key.container = skb->ifindex;
    key.interface = skb->ifindex;
    key.direction = direction;
    key.action = action == TC_ACT_SHOT ? CONTAINER_NET_ACTION_DROP : CONTAINER_NET_ACTION_PASS;
    container_network_packets_add(&key, 1, skb->len + (skb->vlan_present ? VLAN_TAG : 0));
    return action;
}

int on_sent(struct __sk_buff *skb)
{
    return on_packet(skb, CONTAINER_NET_DIRECTION_EGRESS);
}

int on_received(struct __sk_buff *skb)
{
    return on_packet(skb, CONTAINER_NET_DIRECTION_INGRESS);
}
