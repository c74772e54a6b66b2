// SPDX-License-Identifier: GPL-2.0
/*
 * Calls of readahead on no file, by their arguments: half is whether the offset is even or odd, size is the count.
 *
 * Hook: the entry of the system call. Nobody but a test calls it with the descriptor -1, which fails.
 * Cost: a map update for each call and chosen table.
 */

int on_call(struct tracepoint__syscalls__sys_enter_readahead *args)
{
    struct readaheads_key calls = {};
    struct readahead_bytes_key bytes = {};
    struct readahead_sectors_bytes_key sectors = {};
    struct readahead_seconds_key seconds = {};
    u64 size = args->count;
    u8 half = args->offset & 1 ? READAHEADS_HALF_ODD : READAHEADS_HALF_EVEN;

    if ((int)args->fd != -1)
        return 0;
    calls.size = bytes.size = sectors.size = seconds.size = size;
    calls.half = bytes.half = sectors.half = seconds.half = half;
    readaheads_add(&calls, 1, size);
    readahead_bytes_observe(&bytes, size);
    readahead_sectors_bytes_observe(&sectors, size);
    readahead_seconds_observe(&seconds, size);
    return 0;
}
