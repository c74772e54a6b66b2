# SPDX-License-Identifier: Apache-2.0
"""Who executes which programs, and types which commands; what is new among them."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.source.panels import course, number, page, rows
from grafana.source.queries import OTHER, ROWS, counted, new, select, total, trend

UID = "ebpf-commands"
EXECS, TYPED = "ebpf_process_execs_total", "ebpf_shell_commands_total"
NEW = "Seen in the last hour, and not in the day before it; with how often it has been counted."


def _most(metric: str, by: list[str], wide: str) -> str:
    own, other = f'{wide}!="{OTHER}"', f'{wide}="{OTHER}"'
    return f"topk({ROWS}, {counted(metric, by, own)}) or {counted(metric, by, other)}"


def _users(metric: str) -> str:
    known = select(metric, f'user!="{OTHER}"')
    return f"count({total(known, ['user'])})"


def build() -> Dashboard:
    return page(
        UID,
        "eBPF / Commands",
        "Programs executed and commands typed, by user. From the probes process_execs and shell_commands.",
        {
            "": [
                number("Programs executed", "short", "In the time shown.", counted(EXECS), width=6),
                number("Users who execute", "short", "Users who have executed a program.", _users(EXECS), width=6),
                number("Commands typed", "short", "In the time shown.", counted(TYPED), width=6),
                number("Users who type", "short", "Users who have typed a command.", _users(TYPED), width=6),
            ],
            "Execution": [
                course(
                    "Programs by user",
                    "ops",
                    "Programs executed by the users who do so the most now.",
                    {"{{user}}": trend(EXECS, ["user"], "user")},
                    stacked=True,
                ),
                course(
                    "Programs by name",
                    "ops",
                    "The programs that are executed the most now.",
                    {"{{comm}}": trend(EXECS, ["comm"], "comm")},
                    stacked=True,
                ),
                rows(
                    "Programs in the time shown",
                    "short",
                    "Programs executed, by node and user.",
                    _most(EXECS, ["instance", "user", "comm"], "comm"),
                    ["instance", "user", "comm"],
                    "Times",
                ),
                rows(
                    "New programs in the last hour",
                    "short",
                    NEW,
                    new(EXECS, ["instance", "user", "comm"], "comm"),
                    ["instance", "user", "comm"],
                    "Times",
                ),
            ],
            "Shells": [
                course(
                    "Commands by user",
                    "ops",
                    "Commands typed by the users who do so the most now.",
                    {"{{user}}": trend(TYPED, ["user"], "user")},
                    stacked=True,
                ),
                course(
                    "Commands by first word",
                    "ops",
                    "The commands that are typed the most now.",
                    {"{{command}}": trend(TYPED, ["command"], "command")},
                    stacked=True,
                ),
                rows(
                    "Commands in the time shown",
                    "short",
                    "Commands typed, by node and user.",
                    _most(TYPED, ["instance", "user", "command"], "command"),
                    ["instance", "user", "command"],
                    "Times",
                ),
                rows(
                    "New commands in the last hour",
                    "short",
                    NEW,
                    new(TYPED, ["instance", "user", "command"], "command"),
                    ["instance", "user", "command"],
                    "Times",
                ),
            ],
        },
    )
