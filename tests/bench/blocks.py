# SPDX-License-Identifier: Apache-2.0
"""The parts of a document that a measurement writes: each between two comments that have its name."""


def between(name: str, block: str) -> str:
    """Returns a block with its comments."""
    return f"<!-- {name} -->\n{block}<!-- end of {name} -->\n"


def found(document: str, name: str) -> str:
    """Returns what is in a document's block; nothing where it has none of this name."""
    start, end = between(name, "\0").split("\0")
    return document.partition(start)[2].partition(end)[0]


def replaced(document: str, name: str, block: str) -> str:
    """Returns a document with another block, or with a new one at its end."""
    start, end = between(name, "\0").split("\0")
    before, there, rest = document.partition(start)
    if not there:
        return f"{document}\n## {name}\n\n{between(name, block)}"
    return before + between(name, block) + rest.partition(end)[2]
