// SPDX-License-Identifier: GPL-2.0
/*
 * What the config's rules say of a packet.
 *
 * RULES_KEY is the key of the metric that counts rules, RULES_ADD(key, 1) counts, RULES_LABEL is the field that has the
 * rule's number; all three are made from the probe's YAML.
 */

#define RULES_PASS 0
#define RULES_DROP 1

/* of a container, as it sees it */
#define RULES_INGRESS 0
#define RULES_EGRESS 1

/*
 * Returns RULES_PASS or RULES_DROP, and counts the packet for each rule that it met. key has all but the rule.
 * interface and direction say where the packet is; they are for rules that ask for directions or containers.
 */
static __always_inline int rules_verdict(const struct packet *packet, u32 interface, u32 direction,
                                         struct RULES_KEY *key)
{
    return RULES_PASS;
}
