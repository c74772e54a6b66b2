# SPDX-License-Identifier: Apache-2.0
"""The types of what a hook gives to a program, as far as an expression or a list needs them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Type:
    """A C type. name as C spells it (``struct sock *``, ``char[16]``); size in bytes, 0 where it has none.

    kind is integer (also bool and enum), pointer, struct (also union), array or other. An array has its element; a
    ``char`` array that ends with a NUL is an array as well. id is the type's number in btf, for pointers and structs; 0
    where it was read elsewhere. It is of one ``Btf`` object only.
    """

    name: str
    kind: str
    size: int
    signed: bool = False
    element: "Type | None" = None
    id: int = 0


@dataclass(frozen=True)
class Member:
    """A member of a struct: where it is, in bits from the start. bits is the width of a bit field, 0 for others."""

    name: str
    type: Type
    offset: int
    bits: int = 0


@dataclass(frozen=True)
class Field:
    """A field of a tracepoint's record, as its format file has it; offset and size in bytes.

    A dynamic field (``__data_loc``) holds where in the record a string or an array is: length << 16 | offset;
    relative (``__rel_loc``, 5.18) counts that offset from the field's own end.
    """

    name: str
    type: Type
    offset: int
    size: int
    dynamic: bool = False
    relative: bool = False


@dataclass(frozen=True)
class Function:
    """A kernel function by BTF. parameters are names with types, in their order; module is "" in the kernel itself.

    A parameter may have no name: "". Those behind ``...`` are not among them.
    """

    name: str
    parameters: tuple[tuple[str, Type], ...]
    returns: Type
    module: str = ""
