// SPDX-License-Identifier: GPL-2.0
/*
 * What the config's rules say of a packet.
 *
 * The rules are data. Each thing that they ask for (a source, a port, ...) leads to a set: the rules whose condition of
 * it is met, a bit for each in their order, those without such a condition among them. What is in all sets are the rules
 * that a packet meets. The first of them that drops or passes decides; those ahead of it only count.
 *
 * RULES_SOURCE and its like say what is asked for; RULES_WORDS has 64 rules each, 0: there are none. RULES_KEY is the key
 * of the metric that counts rules, RULES_LABEL its field for the rule, RULES_ADD() counts. All of that is generated.
 *
 * Limits: for one packet 64 rules that only count are counted by name (RULES_NAMES), further ones under (other).
 */

#define RULES_PASS 0
#define RULES_DROP 1

/* of a container, as it sees it */
#define RULES_INGRESS 0
#define RULES_EGRESS 1

#if RULES_WORDS

#define RULES_OTHER 0         /* the number of no rule */
#define RULES_NONE 0xffffffff /* the place of no rule */
#define RULES_STEPS (RULES_WORDS == 1 ? RULES_NAMES + 1 : 2 * RULES_WORDS + RULES_NAMES + 1)
#define RULES_NAMES 64
#define RULES_LENGTHS 65536 /* packets that are longer are taken to be of the last */
#define RULES_BUCKETS 65536 /* of addresses: by their first 16 bits */
#define RULES_HALVINGS 22   /* to find one of four million ranges */

/* Rules, by their places in the order. A bit of the summary is for so many words: whether there is a rule in them. Of a
 * single word it is that word. */
#if RULES_WORDS > 1
#define RULES_GROUP ((RULES_WORDS + 63) / 64)
struct rules_set {
    u64 summary;
    u64 words[RULES_WORDS];
};
#else
struct rules_set {
    u64 summary;
};
#endif

/* sets, by their numbers */
BPF_ARRAY(rules_sets, struct rules_set, 1);

/* Ranges of addresses in ascending order: where each begins, and the number of its set. First those of sources, then those
 * of destinations; each is all there is. */
struct rules_v4 {
    u32 start;
    u32 set;
};
struct rules_v6 {
    u64 high;
    u64 low;
    u64 set;
};
#if RULES_SOURCE || RULES_DESTINATION
BPF_ARRAY(rules_ranges_v4, struct rules_v4, 1);
BPF_ARRAY(rules_ranges_v6, struct rules_v6, 1);
#endif

/* What leads to sets, by what a packet has: the number of a set; of an address's first bits, the ranges to look in. */
struct rules_cell {
    u32 first;
    u32 last;
};
#define RULES_AT_PROTOCOL 0
#define RULES_AT_SOURCE_PORT (RULES_AT_PROTOCOL + RULES_PROTOCOL * (PROTOCOL_TRUNCATED + 1))
#define RULES_AT_DESTINATION_PORT (RULES_AT_SOURCE_PORT + RULES_SOURCE_PORT * 65536)
#define RULES_AT_TCP_FLAGS (RULES_AT_DESTINATION_PORT + RULES_DESTINATION_PORT * 65536)
#define RULES_AT_LENGTH (RULES_AT_TCP_FLAGS + RULES_TCP_FLAGS * 256)
#define RULES_AT_SOURCE_V4 (RULES_AT_LENGTH + RULES_LENGTH * RULES_LENGTHS)
#define RULES_AT_SOURCE_V6 (RULES_AT_SOURCE_V4 + RULES_SOURCE * RULES_BUCKETS)
#define RULES_AT_DESTINATION_V4 (RULES_AT_SOURCE_V6 + RULES_SOURCE * RULES_BUCKETS)
#define RULES_AT_DESTINATION_V6 (RULES_AT_DESTINATION_V4 + RULES_DESTINATION * RULES_BUCKETS)
BPF_ARRAY(rules_cells, struct rules_cell, 1);

/* numbers of sets of what a packet does not have; and two that the verifier is not to know, or it tries every step anew */
struct rules_start {
    u64 none; /* RULES_NONE */
    u64 zero;
    u32 no_source;
    u32 no_destination;
    u32 no_source_port;
    u32 no_destination_port;
    u32 no_tcp_flags;
    u32 padding;
};
BPF_ARRAY(rules_start, struct rules_start, 1);

/* 64 rules, by their places in the order */
struct rules_word {
    u64 all;
    u64 deciding; /* those that pass or drop */
    u64 dropping;
    u16 numbers[64]; /* what their names are in the kernel */
};
BPF_ARRAY(rules_words, struct rules_word, 1);

/* rules that a packet met, ahead of the one that decides: their numbers */
struct rules_met {
    u16 numbers[RULES_NAMES];
};
BPF_PERCPU_ARRAY(rules_met, struct rules_met, 1);

/* the rules that are for a place, among those that ask for directions and containers; interface 0 stands for the rest */
#if RULES_PLACE
struct rules_place {
    u32 interface;
    u32 direction;
};
BPF_F_TABLE("hash", struct rules_place, struct rules_set, rules_places, 65536, BPF_F_NO_PREALLOC);
#endif

static __always_inline struct rules_set *rules_set(u32 number)
{
    return rules_sets.lookup(&number);
}

static __always_inline struct rules_word *rules_word(u32 at)
{
    return rules_words.lookup(&at);
}

/* the set of what is in a cell */
static __always_inline struct rules_set *rules_set_at(u32 at)
{
    struct rules_cell *cell = rules_cells.lookup(&at);

    return cell ? rules_set(cell->first) : 0;
}

#if RULES_SOURCE || RULES_DESTINATION
static __always_inline u32 rules_of_v4(u32 at, u64 address)
{
    u32 bucket = at + ((u32)address >> 16), low, high, middle;
    struct rules_cell *cell = rules_cells.lookup(&bucket);
    struct rules_v4 *range;

    if (!cell)
        return RULES_NONE;
    low = cell->first;
    high = cell->last + 1;
    for (int i = 0; i < RULES_HALVINGS && high - low > 1; i++) {
        middle = low + (high - low) / 2;
        range = rules_ranges_v4.lookup(&middle);
        if (!range)
            break;
        if (range->start <= address)
            low = middle;
        else
            high = middle;
    }
    range = rules_ranges_v4.lookup(&low);
    return range ? range->set : RULES_NONE;
}

static __always_inline u32 rules_of_v6(u32 at, u64 address_high, u64 address_low)
{
    u32 bucket = at + (address_high >> 48), low, high, middle;
    struct rules_cell *cell = rules_cells.lookup(&bucket);
    struct rules_v6 *range;

    if (!cell)
        return RULES_NONE;
    low = cell->first;
    high = cell->last + 1;
    for (int i = 0; i < RULES_HALVINGS && high - low > 1; i++) {
        middle = low + (high - low) / 2;
        range = rules_ranges_v6.lookup(&middle);
        if (!range)
            break;
        if (range->high < address_high || (range->high == address_high && range->low <= address_low))
            low = middle;
        else
            high = middle;
    }
    range = rules_ranges_v6.lookup(&low);
    return range ? range->set : RULES_NONE;
}
#endif

/* how many bits are set */
static __always_inline u64 rules_bits(u64 word)
{
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    return ((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56;
}

/* the number of the lowest bit that is set */
static __always_inline u64 rules_lowest(u64 word)
{
    u64 lowest = word & -word;

    asm volatile("" : "+r"(lowest)); /* else newer LLVMs make it a table in .rodata, which BCC does not load */
    return rules_bits(lowest - 1);
}

/* the place of the first rule of a word that decides, of those that are here, where there is one; keeps those ahead */
static __always_inline u64 rules_decide(const struct rules_word *rules, u64 word, u64 *here, u64 otherwise)
{
    u64 first = *here & rules->deciding;

    first &= -first;
    *here &= first - 1;
    return first ? word * 64 + rules_lowest(first) : otherwise;
}

/* keeps what is in a set as well; a packet that meets no rule any more passes */
#define RULES_KEEP(set)    \
    if (!set)              \
        return RULES_PASS; \
    left &= set->summary;  \
    if (!left)             \
        return RULES_PASS;

#endif

/*
 * Returns RULES_PASS or RULES_DROP, and counts the packet for each rule that it met. key has all but the rule.
 * interface and direction say where the packet is; they are for rules that ask for directions or containers.
 */
static __always_inline int rules_verdict(const struct packet *packet, u32 interface, u32 direction,
                                         struct RULES_KEY *key)
{
#if RULES_WORDS
    int first = 0;
    u64 left, here = 0, word = 0, end = 0, decided, count, beyond, last, drops;
    struct rules_start *start = rules_start.lookup(&first);
    struct rules_word *rules;
    struct rules_met *met;

    if (!start)
        return RULES_PASS;
    decided = start->none;
    count = beyond = last = drops = start->zero;
    left = ~count;
#if RULES_PLACE
    struct rules_place at = {interface, direction}, elsewhere = {0, direction};
    struct rules_set *place = rules_places.lookup(&at);
    if (!place)
        place = rules_places.lookup(&elsewhere);
    RULES_KEEP(place)
#endif
#if RULES_PROTOCOL
    struct rules_set *protocol = rules_set_at(RULES_AT_PROTOCOL + packet->protocol);
    RULES_KEEP(protocol)
#endif
#if RULES_DESTINATION_PORT
    struct rules_set *destination_port = packet->has_ports
                                             ? rules_set_at(RULES_AT_DESTINATION_PORT + packet->destination_port)
                                             : rules_set(start->no_destination_port);
    RULES_KEEP(destination_port)
#endif
#if RULES_SOURCE_PORT
    struct rules_set *source_port =
        packet->has_ports ? rules_set_at(RULES_AT_SOURCE_PORT + packet->source_port) : rules_set(start->no_source_port);
    RULES_KEEP(source_port)
#endif
#if RULES_TCP_FLAGS
    struct rules_set *tcp_flags =
        packet->has_flags ? rules_set_at(RULES_AT_TCP_FLAGS + packet->flags) : rules_set(start->no_tcp_flags);
    RULES_KEEP(tcp_flags)
#endif
#if RULES_LENGTH
    u32 longest = RULES_LENGTHS - 1;
    struct rules_set *length = rules_set_at(RULES_AT_LENGTH + (packet->length < longest ? packet->length : longest));
    RULES_KEEP(length)
#endif
#if RULES_SOURCE
    struct rules_set *source =
        rules_set(packet->version == 4   ? rules_of_v4(RULES_AT_SOURCE_V4, packet->source_low)
                  : packet->version == 6 ? rules_of_v6(RULES_AT_SOURCE_V6, packet->source_high, packet->source_low)
                                         : start->no_source);
    RULES_KEEP(source)
#endif
#if RULES_DESTINATION
    struct rules_set *destination = rules_set(
        packet->version == 4   ? rules_of_v4(RULES_AT_DESTINATION_V4, packet->destination_low)
        : packet->version == 6 ? rules_of_v6(RULES_AT_DESTINATION_V6, packet->destination_high, packet->destination_low)
                               : start->no_destination);
    RULES_KEEP(destination)
#endif

    met = rules_met.lookup(&first);
    if (!met)
        return RULES_PASS;
#if RULES_WORDS == 1
    rules = rules_word(word);
    if (!rules)
        return RULES_PASS;
    here = left & rules->all;
    decided = rules_decide(rules, word, &here, decided);
#endif
    /* a step takes a rule of this word down, or all that are left of it where there is no room, or goes to the next */
    for (int step = 0; step < RULES_STEPS; step++) {
        if (here && count < RULES_NAMES) {
            rules = rules_word(word);
            met->numbers[count] = rules ? rules->numbers[rules_lowest(here) & 63] : RULES_OTHER;
            here &= here - 1;
            count++;
        } else if (here) {
            beyond += rules_bits(here);
            here = 0;
        } else if (RULES_WORDS == 1 || decided != RULES_NONE) {
            break;
        } else {
#if RULES_WORDS > 1
            word++;
            if (word >= end) {
                if (!left)
                    break;
                word = rules_lowest(left) * RULES_GROUP;
                end = word + RULES_GROUP;
                left &= left - 1;
            }
            rules = rules_word(word);
            if (!rules || word >= RULES_WORDS)
                break;
            here = rules->all;
#if RULES_PLACE
            here &= place->words[word];
#endif
#if RULES_PROTOCOL
            here &= protocol->words[word];
#endif
#if RULES_DESTINATION_PORT
            here &= destination_port->words[word];
#endif
#if RULES_SOURCE_PORT
            here &= source_port->words[word];
#endif
#if RULES_TCP_FLAGS
            here &= tcp_flags->words[word];
#endif
#if RULES_LENGTH
            here &= length->words[word];
#endif
#if RULES_SOURCE
            here &= source->words[word];
#endif
#if RULES_DESTINATION
            here &= destination->words[word];
#endif
            decided = rules_decide(rules, word, &here, decided);
#endif
        }
        here ^= start->zero; /* to the verifier all steps begin alike */
        count ^= start->zero;
        beyond ^= start->zero;
        decided ^= start->zero;
#if RULES_WORDS > 1
        word ^= start->zero;
        end ^= start->zero;
        left ^= start->zero;
#endif
    }
    rules = rules_word(decided / 64); /* of RULES_NONE there is none */
    if (rules) {
        last = rules->numbers[decided % 64];
        drops = rules->dropping >> decided % 64 & 1;
    }
    for (int step = 0; step < RULES_NAMES + 2; step++) {
        u64 packets = 1, ahead = count ^ start->zero;

        count ^= start->zero;
        beyond ^= start->zero;
        last ^= start->zero;
        if (step < ahead) {
            key->RULES_LABEL = met->numbers[step % RULES_NAMES];
        } else if (beyond) {
            key->RULES_LABEL = RULES_OTHER;
            packets = beyond;
            beyond = 0;
        } else if (last) {
            key->RULES_LABEL = last;
            last = 0;
        } else {
            break;
        }
        RULES_ADD(key, packets);
    }
    return drops ? RULES_DROP : RULES_PASS;
#else
    return RULES_PASS;
#endif
}
