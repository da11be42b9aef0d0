"""Machine code written out instruction by instruction: what `netwright.children.steps` is run by.

A module of LLVM is compiled as it stands, without the passes that a compiler for people's code
needs, so it takes milliseconds and can be made for one cell of one width. Vectors are of 64 bytes;
where the processor's are shorter, each is some of them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from netwright.children.lanes import Lanes, narrowed, widened

WORD, HALF = ir.IntType(64), ir.IntType(16)
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
BYTES = 64
_BIT = ir.IntType(1)


def size_of(kind: Any) -> int:
    """Return the bytes of a number as an array holds it."""
    return {FLOAT: 4, DOUBLE: 8, HALF: 2}[kind]


class Native:
    """A module's machine code, in memory as long as this object."""

    def __init__(self, module: Any) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        parsed = binding.parse_assembly(str(module))
        parsed.verify()
        features = binding.get_host_cpu_features()
        wide = ",-prefer-256-bit" if features.get("avx512f") else ""
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=features.flatten() + wide, opt=2
        )
        self._engine = binding.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def function(self, name: str) -> int:
        """Return the address of a function."""
        return int(self._engine.get_function_address(name))


def call(function: int, numbers: Sequence[int]) -> None:
    """Call the C function at an address with the address of int64 numbers."""
    _KIND(function)(struct.pack(f"={len(numbers)}q", *numbers))


_KIND = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


class Writer:
    """Writes a function: whole numbers are int64, memory is an address and a number of bytes."""

    def __init__(self, function: Any, kind: Any) -> None:
        """kind: of what is worked out, float or double."""
        self.function, self.kind = function, kind
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.lanes = BYTES // size_of(kind)
        self.vector = ir.VectorType(kind, self.lanes)

    # --- whole numbers ---

    def word(self, x: Any) -> Any:
        """Return a whole number as a value."""
        return WORD(x) if isinstance(x, int) else x

    def add(self, *terms: Any) -> Any:
        """Return the sum."""
        total = self.word(terms[0])
        for term in terms[1:]:
            total = self.builder.add(total, self.word(term))
        return total

    def times(self, a: Any, b: int) -> Any:
        """Return a * b."""
        return self.builder.mul(self.word(a), WORD(b))

    def number(self, address: Any, place: Any = 0) -> Any:
        """Return the whole number at a place of an array of them."""
        at = self.builder.inttoptr(self.add(address, self.times(place, 8)), WORD.as_pointer())
        return self.builder.load(at)

    def less(self, a: Any, b: Any) -> Any:
        """Return a < b."""
        return self.builder.icmp_signed("<", self.word(a), self.word(b))

    # --- loops ---

    def loop(
        self,
        first: Any,
        end: Any,
        body: Callable[..., Sequence[Any] | None],
        carried: Sequence[Any] = (),
    ) -> list[Any]:
        """Write `body(k, *carried)` for k from `first` below `end`; it returns what it carries on.

        Returns what is carried after the last.
        """
        builder = self.builder
        before = builder.block
        test, inside, after = (self.function.append_basic_block() for _ in range(3))
        builder.branch(test)
        builder.position_at_end(test)
        first, end = self.word(first), self.word(end)
        at = builder.phi(WORD)
        at.add_incoming(first, before)
        held = [builder.phi(value.type) for value in carried]
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(self.less(at, end), inside, after)
        builder.position_at_end(inside)
        found = body(at, *held) or ()
        at.add_incoming(self.add(at, 1), builder.block)
        for phi, value in zip(held, found, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(test)
        builder.position_at_end(after)
        return held

    # --- vectors ---

    def lanes_of(self, value: Any) -> Lanes:
        """Return a vector as what can be calculated with."""
        return Lanes(self.builder, value, self.lanes)

    def constant(self, x: float) -> Lanes:
        """Return x in all lanes."""
        return self.lanes_of(ir.Constant(self.vector, [x] * self.lanes))

    def spread(self, one: Any) -> Any:
        """Return a value in all lanes."""
        kind = ir.VectorType(one.type, self.lanes)
        held = self.builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.IntType(32)(0))
        picks = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(held, ir.Constant(kind, ir.Undefined), picks)

    def below(self, count: Any) -> Any:
        """Return a mask of the first `count` lanes."""
        places = ir.Constant(ir.VectorType(WORD, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", places, self.spread(count))

    def where(self, yes: Any, mask: Any) -> Any:
        """Return the mask, or one of no lanes unless `yes`."""
        none = ir.Constant(ir.VectorType(_BIT, self.lanes), [0] * self.lanes)
        return self.builder.select(yes, mask, none)

    def _masked(self, name: str, result: Any, place: Any, takes: list[Any]) -> Any:
        """Return LLVM's function of masked memory for vectors of what `place` points to."""
        letter = {FLOAT: "f32", DOUBLE: "f64", HALF: "i16"}[place.type.pointee.element]
        vector = f"v{self.lanes}{letter}"
        pointer = "p0" if str(place.type) == "ptr" else f"p0{vector}"
        name = f"llvm.masked.{name}.{vector}.{pointer}"
        found = self.function.module.globals.get(name)
        if found is None:
            kind = ir.FunctionType(result, takes)
            found = ir.Function(self.function.module, kind, name)
        return found

    def _place(self, address: Any, kind: Any) -> Any:
        return self.builder.inttoptr(address, ir.VectorType(kind, self.lanes).as_pointer())

    def read(self, address: Any, kind: Any, mask: Any = None) -> Lanes:
        """Return the numbers at an address as `self.kind`, zeros outside the mask."""
        value = self.raw(address, kind, mask)
        return self.lanes_of(widened(self.builder, value, self.lanes) if kind == HALF else value)

    def raw(self, address: Any, kind: Any, mask: Any = None) -> Any:
        """Return the numbers at an address as they are, zeros outside the mask."""
        place, vector = self._place(address, kind), ir.VectorType(kind, self.lanes)
        if mask is None:
            value = self.builder.load(place)
            value.align = size_of(kind)
        else:
            takes = [place.type, ir.IntType(32), mask.type, vector]
            load = self._masked("load", vector, place, takes)
            zero = ir.Constant(vector, None)
            value = self.builder.call(load, [place, ir.IntType(32)(size_of(kind)), mask, zero])
        return value

    def halves(self, address: Any, kind: Any, mask: Any) -> Any:
        """Return the numbers at an address as the bits of bfloat16, zeros outside the mask."""
        value = self.raw(address, kind, mask)
        return value if kind == HALF else narrowed(self.builder, value, self.lanes)

    def write(self, found: Lanes, address: Any, kind: Any, mask: Any = None) -> None:
        """Write numbers as `kind` to an address, those of the mask."""
        value = found.value
        if kind == HALF:
            value = narrowed(self.builder, value, self.lanes)
        place = self._place(address, kind)
        if mask is None:
            self.builder.store(value, place).align = size_of(kind)
            return
        takes = [value.type, place.type, ir.IntType(32), mask.type]
        store = self._masked("store", ir.VoidType(), place, takes)
        self.builder.call(store, [value, place, ir.IntType(32)(size_of(kind)), mask])

    def above(self, a: Lanes, b: Lanes, yes: Lanes, no: Lanes) -> Lanes:
        """Return `yes` where a > b, else `no`, also where one is NaN."""
        higher = self.builder.fcmp_ordered(">", a.value, b.value)
        return self.lanes_of(self.builder.select(higher, yes.value, no.value))

    def about_one_over(self, x: Lanes) -> Lanes:
        """Return 1 / x of 16 float32 numbers to 2^-14, as a processor with AVX-512 estimates it."""
        name, kind = "llvm.x86.avx512.rcp14.ps.512", self.vector
        function = self.function.module.globals.get(name)
        if function is None:
            takes = ir.FunctionType(kind, [kind, kind, HALF])
            function = ir.Function(self.function.module, takes, name)
        found = self.builder.call(function, [x.value, ir.Constant(kind, None), HALF(-1)])
        return self.lanes_of(found)

    def each(self, name: str, x: Lanes) -> Lanes:
        """Return a function of C's library of every lane."""
        suffix = "f" if self.kind == FLOAT else ""
        function = self.function.module.globals.get(name + suffix)
        if function is None:
            kind = ir.FunctionType(self.kind, [self.kind])
            function = ir.Function(self.function.module, kind, name + suffix)
        value = x.value
        for k in range(self.lanes):
            place = ir.IntType(32)(k)
            one = self.builder.call(function, [self.builder.extract_element(x.value, place)])
            value = self.builder.insert_element(value, one, place)
        return self.lanes_of(value)
