// SPDX-License-Identifier: GPL-2.0
/*
 * Packets and bytes received, by interface, action and protocol; packets by rule.
 *
 * Hook: XDP, ahead of the network stack: in the driver where it can (native), else on the way to the stack (generic).
 * What it costs and does not see is in its YAML.
 */

int on_packet(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct xdp_packets_key key = {};
    struct xdp_rule_packets_key rule = {};
    struct packet packet;
    int dropped;

    packet_parse(&packet, data, end, end - data);
    rule.interface = ctx->ingress_ifindex;
    dropped = rules_verdict(&packet, ctx->ingress_ifindex, RULES_INGRESS, &rule) == RULES_DROP;
    key.interface = ctx->ingress_ifindex;
    key.action = dropped ? XDP_ACTION_DROP : XDP_ACTION_PASS;
    key.protocol = packet.protocol;
    xdp_packets_add(&key, 1, packet.length);
    return dropped ? XDP_DROP : XDP_PASS;
}
