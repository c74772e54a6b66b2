# SPDX-License-Identifier: Apache-2.0
"""hooks/names.py"""

from exporter.hooks.names import did_you_mean, nearest


def test_the_nearest_comes_first() -> None:
    """Only what is really like it, and no more than asked for."""
    names = ["tcp_recvmsg", "tcp_sendmsg", "udp_sendmsg", "tcp_sendmsgs", "vfs_read", "tcp_sendmsg_locked"]
    assert nearest("tcp_sendmgs", names) == ("tcp_sendmsgs", "tcp_sendmsg")
    assert nearest("tcp_sendmgs", names, 1) == ("tcp_sendmsgs",)
    assert nearest("something_else", names) == ()


def test_a_message_ends_with_what_could_be_meant() -> None:
    """Nothing where nothing is near."""
    assert did_you_mean(("a", "b")) == "; did you mean a or b?"
    assert did_you_mean(()) == ""
