"""How compiled rules receive the state: as one pointer to a table of its arrays; and functions: as their addresses.

numba passes a tuple of arrays as all their pointers, shapes and strides, more than two hundred numbers per call. A
rule's `state` is the address of a table that holds them instead; `state.replicas` reads the entry. A function that is
passed as an object is looked up anew in every call, which takes tens of microseconds; its address is not. Without
compilation (NUMBA_DISABLE_JIT) rules get the tuple and the functions themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Layout:
    """What a table holds: the names of its arrays, and how to make an example of them."""

    fields: tuple[str, ...]
    example: Callable[[], Any]


_LAYOUTS: dict[str, _Layout] = {}


class TableType(types.Type):  # type: ignore[misc]
    """numba's type of a tuple of arrays in a rule."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.bitwidth = 8 * _WORD_BYTES


register_model(TableType)(models.IntegerModel)


def table_type(name: str, tuple_class: Any, example: Callable[[], Any]) -> TableType:
    """The type by which rules know a NamedTuple of arrays. example: makes one with arrays of the right kinds."""
    _LAYOUTS[name] = _Layout(tuple_class._fields, example)
    return TableType(name)


STATE = table_type("pecgym.State", State, lambda: allocate(1, 1, 1))


@cache
def _array_types(name: str) -> dict[str, Any]:
    """numba's type of each array of a table."""
    example = _LAYOUTS[name].example()
    return {field: numba.typeof(getattr(example, field)) for field in _LAYOUTS[name].fields}


@infer_getattr
class _TableAttributes(AttributeTemplate):  # type: ignore[misc]
    key = TableType

    def generic_resolve(self, typ: Any, attr: str) -> Any:
        return _array_types(typ.name).get(attr)


@lower_getattr_generic(TableType)  # type: ignore[untyped-decorator]
def _read_entry(context: Any, builder: Any, typ: Any, value: Any, attr: str) -> Any:
    """An array of the table. The table does not change while compiled code runs, and the compiler is told so."""
    array_type = _array_types(typ.name)[attr]
    word = ir.IntType(64)
    first = _LAYOUTS[typ.name].fields.index(attr) * _WORDS
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


_OBJECTS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class _Held:
    """An object that stands for an address where nothing is compiled."""

    def __init__(self, held: Any) -> None:
        self.held = held


def held_address(found: Any) -> tuple[int, Any]:
    """An address that can be kept in an array, and what keeps it valid; found: an address already or, without
    compilation, the tuple of arrays or function itself, for which a number stands."""
    if isinstance(found, int):
        return found, None
    holder = _Held(found)
    _OBJECTS[id(holder)] = holder
    return id(holder), holder


def _same(found: Any) -> Any:
    return _OBJECTS[int(found)].held if isinstance(found, int | np.integer) else found


def table_reader(table: TableType) -> Any:
    """A function for compiled code: the tuple of arrays whose table is at an address."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tuple_at(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return args[0]

        return table(types.int64), codegen

    return _same if numba.config.DISABLE_JIT else tuple_at


state_at = table_reader(STATE)
"""The state whose table is at an address."""


def function_reader(signature: Any) -> Any:
    """A function for compiled code: the function of that signature at an address (`address_of`)."""
    function_type = types.FunctionType(signature)

    @intrinsic  # type: ignore[untyped-decorator]
    def function_at(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = cgutils.create_struct_proxy(function_type)(context, builder)
            function.jit_addr = builder.inttoptr(args[0], function.jit_addr.type)
            return function._getvalue()

        return function_type(types.int64), codegen

    return _same if numba.config.DISABLE_JIT else function_at


def address_of(compiled: Any, signature: Any) -> Any:
    """The address of a compiled function, valid as long as it lives."""
    if numba.config.DISABLE_JIT:
        return compiled
    result = compiled.get_compile_result(signature)
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def table_of(arrays: Any) -> Any:
    """int64[arrays * 4]: the table of a tuple of arrays; valid as long as they are."""
    table = np.zeros(len(arrays) * _WORDS, np.int64)
    for i, array in enumerate(arrays):
        assert array.flags.c_contiguous
        assert array.flags.writeable
        table[i * _WORDS] = array.ctypes.data
        table[i * _WORDS + 1 : i * _WORDS + 1 + array.ndim] = array.shape
    return table


def reference_to(arrays: Any, table: Any) -> Any:
    """What compiled code takes for a tuple of arrays: the address of its table; without compilation, the tuple."""
    return arrays if numba.config.DISABLE_JIT else int(table.ctypes.data)
