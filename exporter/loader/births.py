# SPDX-License-Identifier: Apache-2.0
"""Births of cgroups: a second program in the C of a probe whose labels name cgroups.

It keeps the id and the path of each cgroup that is made, until the worker's next read: one that is made, acts and ends
between two reads is known by its name all the same. It runs when a cgroup is made, and costs nothing else.
"""

import os

from exporter.cgroups import BORN, BORN_ENTRIES, BORN_PATH
from exporter.errors import ProbeError
from exporter.kinds import OF_CGROUPS
from exporter.loader import attach
from exporter.loader.bytecode import Bytecode, relocate
from exporter.probe import Hook, Probe

PROGRAM = "cgroup_born"
HOOK = Hook("rawtracepoint", "cgroup_mkdir")

# Hierarchy 0 is that of version 2. A text that was cut has, with its NUL, as many bytes as there was room for.
SOURCE = f"""
/* cgroups that were made since the last read: their paths by their ids */
#ifdef __VMLINUX_H__
struct cgroup_path {{ char path[{BORN_PATH}]; }};
BPF_TABLE("hash", u64, struct cgroup_path, {BORN}, {BORN_ENTRIES});
BPF_PERCPU_ARRAY(cgroup_paths, struct cgroup_path, 1);

int {PROGRAM}(struct bpf_raw_tracepoint_args *ctx)
{{
    struct cgroup *cgroup = (struct cgroup *)ctx->args[0];
    struct cgroup_root *root = 0;
    struct kernfs_node *node = 0;
    int hierarchy = -1, first = 0;
    u64 id = 0;
    struct cgroup_path *path = cgroup_paths.lookup(&first);

    bpf_probe_read_kernel(&root, sizeof(root), &cgroup->root);
    bpf_probe_read_kernel(&hierarchy, sizeof(hierarchy), &root->hierarchy_id);
    bpf_probe_read_kernel(&node, sizeof(node), &cgroup->kn);
    bpf_probe_read_kernel(&id, sizeof(id), &node->id);
    if (!path || hierarchy)
        return 0;
    int length = bpf_probe_read_kernel_str(path->path, sizeof(path->path), (void *)ctx->args[1]);
    if (length > 1 && length < sizeof(path->path))
        {BORN}.update(&id, path);
    return 0;
}}
#endif
"""


def wanted(probe: Probe) -> bool:
    """Whether a probe has a label that names cgroups."""
    return not probe.chosen_kinds.isdisjoint(OF_CGROUPS)


def watch(bytecode: Bytecode, maps: list[int]) -> list[int]:
    """Attaches the program. Returns the descriptors that hold it; raises ProbeError where this kernel can't have it."""
    if PROGRAM not in bytecode.programs:
        raise ProbeError("cgroups that end before they are seen have no name: this kernel has no BTF")
    program = attach.load_for(HOOK, PROGRAM, relocate(bytecode.programs[PROGRAM], maps.__getitem__))
    try:
        return attach.attach(HOOK, program)
    finally:
        os.close(program)  # the link has it
