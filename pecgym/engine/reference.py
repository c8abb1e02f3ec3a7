"""How compiled rules receive the state: as one pointer to a table of its arrays.

numba passes a tuple of arrays as all their pointers, shapes and strides, more than two hundred numbers per call. A
rule's `state` is the address of a table that holds them instead; `state.replicas` reads the entry. Without
compilation (NUMBA_DISABLE_JIT) rules get the tuple itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, register_model
from numba.np import arrayobj

from pecgym.engine.state import State, allocate

_WORDS = 4  # of an array in the table: address of its data, then up to three dimensions
_WORD_BYTES = 8


class StateType(types.Type):  # type: ignore[misc]
    """numba's type of `state` in a rule."""

    def __init__(self) -> None:
        super().__init__(name="pecgym.State")
        self.bitwidth = 8 * _WORD_BYTES


STATE = StateType()
register_model(StateType)(models.IntegerModel)


@cache
def _array_types() -> dict[str, Any]:
    """numba's type of each array of a State."""
    empty = allocate(1, 1, 1)
    return {name: numba.typeof(getattr(empty, name)) for name in State._fields}


@infer_getattr
class _StateAttributes(AttributeTemplate):  # type: ignore[misc]
    key = StateType

    def generic_resolve(self, typ: Any, attr: str) -> Any:
        return _array_types().get(attr)


@lower_getattr_generic(StateType)  # type: ignore[untyped-decorator]
def _read_entry(context: Any, builder: Any, typ: Any, value: Any, attr: str) -> Any:
    """An array of the table. The table does not change while compiled code runs, and the compiler is told so."""
    array_type = _array_types()[attr]
    word = ir.IntType(64)
    first = State._fields.index(attr) * _WORDS
    table = builder.inttoptr(value, word.as_pointer())
    invariant = builder.module.add_metadata([])

    def entry(i: int) -> Any:
        loaded = builder.load(builder.gep(table, [ir.Constant(word, first + i)]))
        loaded.set_metadata("invariant.load", invariant)
        return loaded

    shape = [entry(1 + i) for i in range(array_type.ndim)]
    item_bytes = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    strides = [ir.Constant(word, item_bytes)]
    for extent in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], extent))
    array = arrayobj.make_array(array_type)(context, builder)
    arrayobj.populate_array(
        array,
        data=builder.inttoptr(entry(0), array.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=ir.Constant(word, item_bytes),
        meminfo=None,
    )
    return array._getvalue()


@intrinsic  # type: ignore[untyped-decorator]
def _state_at(typing_context: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    return STATE(types.int64), codegen


def _same(state: Any) -> Any:
    return state


state_at = _same if numba.config.DISABLE_JIT else _state_at
"""The state whose table is at an address."""


def table_of(state: State) -> Any:
    """int64[arrays * 4]: the table of a state; valid as long as its arrays are."""
    table = np.zeros(len(state) * _WORDS, np.int64)
    for i, array in enumerate(state):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        table[i * _WORDS] = array.ctypes.data
        table[i * _WORDS + 1 : i * _WORDS + 1 + array.ndim] = array.shape
    return table
