"""An objective's operations, recorded once from torch and repeated by the kernel.

An objective is some eighty elementwise operations and sums over small arrays, forwards and backwards;
in torch each costs microseconds of dispatch for nanoseconds of arithmetic. They are recorded while
torch and autograd carry them out on a first batch. What is recorded is a straight line, so an objective
is repeated only if no operation depends on a value or on chance: one that reads a number out of a
tensor, draws random numbers, sorts, or reads whole distributions goes by torch, as everything can.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from erc_bench.training.native.library import Kernel, TapeStruct, padded

__all__ = ["Tape", "UnrecordableError", "record"]

#: The kernel's operations, in its order, and how many registers each reads.
OPERATIONS = {
    **{"load": 0, "load_bool": 0, "spread": 1, "sum": 1, "add": 2, "sub": 2, "mul": 2, "div": 2},
    **{"maximum": 2, "minimum": 2, "less": 2, "less_equal": 2, "equal": 2, "choose": 3},
    **{"exp": 1, "sigmoid": 1, "absolute": 1, "sign": 1},
}

Objective = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


class UnrecordableError(Exception):
    """The objective does something that cannot be repeated; the message names it."""


class Tape:
    """Recorded operations, for batches of one shape.

    Attributes:
        reads: names of the fields that are its inputs.
        writes: names of its outputs: ``loss``, ``by_logp`` and ``by_entropy`` (the gradients, where there
            are any), and metrics.
    """

    def __init__(
        self,
        kernel: Kernel,
        code: Sequence[Sequence[int]],
        registers: Tensor,
        reads: Sequence[str],
        constants: Sequence[Tensor],
        writes: Mapping[str, tuple[int, int]],
    ) -> None:
        self._kernel, self.reads, self.writes = kernel, list(reads), list(writes)
        self._constants = list(constants)
        self._struct = TapeStruct(len(code), registers.shape[1])
        self._struct.outputs = len(writes)
        self._struct.set(
            code=torch.tensor(code, dtype=torch.int32),
            registers=registers,
            output=torch.tensor([register for register, _ in writes.values()], dtype=torch.int32),
            counts=torch.tensor([count for _, count in writes.values()]),
        )

    def __call__(self, fields: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        """Repeat the operations for every run.

        Args:
            fields: of a batch, ``(R, B, T)`` or ``(R, B)``, each run's numbers side by side.
            out: for every name in ``writes`` where it goes, ``(R, B, T)`` or ``(R,)``, contiguous.
        """
        inputs = [*(fields[name] for name in self.reads), *self._constants]
        told = (ctypes.c_int64 * (2 * len(inputs)))()
        told[::2] = [x.data_ptr() for x in inputs]
        told[1::2] = [x.stride(0) * x.element_size() for x in inputs]
        to = (ctypes.c_void_p * len(self.writes))(*(out[n].data_ptr() for n in self.writes))
        self._kernel.play(ctypes.byref(self._struct), len(inputs[0]), told, to)


def record(
    kernel: Kernel,
    objective: Objective,
    build: Callable[[dict[str, Tensor]], Any],
    fields: Mapping[str, Tensor],
) -> Tape:
    """Record an objective and its gradients by ``logp`` and ``entropy``.

    Args:
        kernel: which will repeat it.
        objective: maps a batch to losses ``(R,)`` and metrics, each ``(R,)``.
        build: makes the batch from its fields.
        fields: of a batch with the shapes of those to come, ``(R, B, T)`` or ``(R, B)``.

    Raises:
        UnrecordableError: what it does cannot be repeated.
    """
    held = {n: x.detach().clone(memory_format=torch.contiguous_format) for n, x in fields.items()}
    leaves = [held[name].requires_grad_() for name in ("logp", "entropy")]
    writer = _Writer(held)
    with writer:
        loss, metrics = objective(build(held))
    total = loss.sum()
    with writer:
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    named = zip(("by_logp", "by_entropy"), gradients, strict=True)
    found = {"loss": loss, **{n: x for n, x in named if x is not None}, **metrics}
    return writer.finish(kernel, {name: x.detach() for name, x in found.items()})


@dataclass
class _Step:
    """``out = operation(*of)`` on n numbers; ``wide``: see SPREAD and SUM; ``input``: see LOAD."""

    operation: str
    out: int
    of: tuple[int, ...]
    n: int
    wide: int = 1
    input: int = 0


class _Writer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets torch work, and writes its operations down as the kernel's, on registers.

    A register holds the numbers of one run: B T, B, or one. A value is known by its storage: views that
    only add axes, or spread the value over them, show the same register.
    """

    def __init__(self, fields: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.runs, self.responses, self.horizon = fields["logp"].shape
        self.fields = {_storage(x): (name, x) for name, x in fields.items()}
        self.steps: list[_Step] = []
        self.known: dict[int, tuple[int, int]] = {}  # storage: register, numbers (0: any number)
        self.spread: dict[tuple[int, int], int] = {}  # register, numbers: register
        self.constants: dict[float, int] = {}  # value: register
        self.inputs: list[tuple[str, Tensor]] = []
        self.alive: list[Any] = []  # so that no storage's address is used twice
        self.registers = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's hook: if this says True, torch's compiler is imported, for seconds, to skip the method."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One of torch's operations: carried out and written down."""
        kwargs, name = kwargs or {}, str(func).removeprefix("aten.")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UnrecordableError(f"{name}: drawn at random")
        base = name.partition(".")[0]
        in_place = base.endswith("_") and not base.endswith("__")
        derived = any(self._is_known(x) for x in _tensors(args) + _tensors(list(kwargs.values())))
        if in_place and derived:  # its first operand is about to change
            written = self._write(base[:-1], args[0], args, kwargs)
        out = func(*args, **kwargs)
        self.alive.append((args, out))
        if not derived:  # a constant, whose value is read when it is needed
            return out
        if not isinstance(out, Tensor):
            raise UnrecordableError(f"{name}: no tensor comes out")
        if not in_place:
            written = self._write(base, out, args, kwargs)
        self.known[_storage(out)] = written
        return out

    # -- values ---------------------------------------------------------------------------------

    def _is_known(self, x: Tensor) -> bool:
        return _storage(x) in self.known or _storage(x) in self.fields

    def size(self, x: Tensor) -> int:
        """Numbers of one run in a tensor of this shape."""
        shape = (*x.shape, 1, 1)[:3]
        run, response = (self.runs, 1, 1), (self.runs, self.responses, 1)
        known = (run, response, (self.runs, self.responses, self.horizon))
        if not 1 <= x.ndim <= 3 or shape not in known:
            raise UnrecordableError(f"an array of shape {tuple(x.shape)}")
        return shape[1] * shape[2]

    def emit(self, operation: str, n: int, *of: int, wide: int = 1, number: int = 0) -> int:
        """Write one of the kernel's operations; its register."""
        self.registers += 1
        self.steps.append(_Step(operation, self.registers, of, n, wide, number))
        return self.registers

    def constant(self, value: float) -> int:
        """A register that holds a number everywhere."""
        if math.isnan(value):
            raise UnrecordableError("the constant NaN")
        if value not in self.constants:
            self.registers += 1
            self.constants[value] = self.registers
        return self.constants[value]

    def read(self, x: Any, n: int) -> int:
        """The register of an operand, spread to ``n`` numbers."""
        if not isinstance(x, Tensor):
            return self.constant(float(x))
        register, has = self.value(x)
        if has in (0, n):
            return register
        if n % has:
            raise UnrecordableError("an array among smaller ones")
        if (register, n) not in self.spread:
            self.spread[register, n] = self.emit("spread", n, register, wide=n // has)
        return self.spread[register, n]

    def value(self, x: Tensor) -> tuple[int, int]:
        """The register that a tensor shows, and its numbers; 0: as many as wanted, all the same."""
        key = _storage(x)
        if key in self.fields and key not in self.known:
            name, field = self.fields[key]
            kinds = {torch.float32: "load", torch.bool: "load_bool"}
            if field.dtype not in kinds:
                raise UnrecordableError(f"{name} of dtype {field.dtype}")
            self.inputs.append((name, field))
            n = self.size(field)
            loaded = self.emit(kinds[field.dtype], n, number=len(self.inputs) - 1)
            self.known[key] = loaded, n
        if key not in self.known:
            if x.numel() == 1 or bool((x == x.flatten()[0]).all()):
                return self.constant(float(x.flatten()[0])), 0
            if self.size(x) != 1:
                raise UnrecordableError(f"a constant array of shape {tuple(x.shape)}")
            self.inputs.append(("", x.detach().float().reshape(self.runs, 1).contiguous()))
            return self.emit("load", 1, number=len(self.inputs) - 1), 1
        register, has = self.known[key]
        shown = [n for n, stride in zip(x.shape, x.stride(), strict=True) if stride]
        if has and math.prod(shown) != self.runs * has:
            raise UnrecordableError("a part of an array")
        return register, has

    # -- operations -----------------------------------------------------------------------------

    def _write(
        self, name: str, out: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, int]:
        """The register of a result, and its numbers."""
        if name in SAME:
            return self.value(args[0])
        if name in FILLED:
            return self.constant(FILLED[name]), 0
        n = self.size(out)
        if out.dtype not in (torch.float32, torch.bool, torch.int64) and n > 1:
            raise UnrecordableError(f"{name} in {out.dtype}")
        if name in ("sum", "any"):
            given = args[1] if len(args) > 1 else range(args[0].ndim)
            over = {axis % args[0].ndim for axis in ([given] if isinstance(given, int) else given)}
            if over != set(range(args[0].ndim)[-len(over) :]) or 0 in over:
                raise UnrecordableError(f"{name} over other axes than the last ones, or over runs")
            has = self.size(args[0])
            total = self.emit("sum", n, self.read(args[0], has), wide=has // n)
            return (total if name == "sum" else self.emit("less", n, self.constant(0.0), total)), n
        if name not in LOWERED or (name.startswith("bitwise") and out.dtype is not torch.bool):
            raise UnrecordableError(f"the operation {name}")
        if any(0 < x.ndim < out.ndim for x in _tensors(args)):
            raise UnrecordableError(f"{name} of arrays with different axes")
        if kwargs.keys() - {"dtype", "min", "max"} or kwargs.get("alpha", 1) != 1:
            raise UnrecordableError(f"{name} with {', '.join(kwargs)}")
        return LOWERED[name](self, n, *args, **kwargs), n

    # -- the result -----------------------------------------------------------------------------

    def finish(self, kernel: Kernel, found: Mapping[str, Tensor]) -> Tape:
        """The operations that these results need, on as few registers as they get by with."""
        counts = {name: self.size(x) for name, x in found.items()}
        outputs = {name: self.read(x, counts[name]) for name, x in found.items()}
        needed, kept = set(outputs.values()), []
        for step in reversed(self.steps):
            if step.out in needed:
                kept.append(step)
                needed.update(step.of)
        kept.reverse()
        place = {x: i for i, x in enumerate(x for x in self.constants.values() if x in needed)}
        last = {register: k for k, step in enumerate(kept) for register in step.of}
        last |= dict.fromkeys((*outputs.values(), *place), len(kept))
        code, free, total = [], list[int](), len(place)
        for k, step in enumerate(kept):
            ended = [place[x] for x in set(step.of) if last[x] == k]
            apart = step.operation in ("sum", "spread")  # they read on after they began to write
            free += [] if apart else ended
            if not free:
                free, total = [total], total + 1
            place[step.out] = free.pop()
            free += ended if apart else []
            number = list(OPERATIONS).index(step.operation)
            of = [place[x] for x in step.of] if step.of else [step.input]
            of += [0] * (3 - len(of))
            code.append([number, place[step.out], *of, step.n, step.wide, 0])
        registers = torch.zeros(total, padded(self.responses * self.horizon))
        for value, register in self.constants.items():
            if register in place:
                registers[place[register]] = value
        return Tape(
            kernel,
            code,
            registers,
            [name for name, _ in self.inputs if name],
            [x for name, x in self.inputs if not name],
            {name: (place[x], counts[name]) for name, x in outputs.items()},
        )


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [x for x in values if isinstance(x, Tensor)]


def _operation(name: str, *, turned: bool = False) -> Callable[..., int]:
    """One of torch's that is one of the kernel's; with its operands turned round, or not."""

    def lower(w: _Writer, n: int, *args: Any, **_: Any) -> int:
        return w.emit(name, n, *[w.read(x, n) for x in args][:: -1 if turned else 1])

    return lower


def _not(lower: Callable[..., int]) -> Callable[..., int]:
    return lambda w, n, *args, **_: w.emit("sub", n, w.constant(1.0), lower(w, n, *args))


def _clamp(w: _Writer, n: int, x: Any, min: Any = None, max: Any = None) -> int:
    register = w.read(x, n)
    if min is not None:
        register = w.emit("maximum", n, register, w.read(min, n))
    return register if max is None else w.emit("minimum", n, register, w.read(max, n))


def _masked_fill(w: _Writer, n: int, x: Any, mask: Any, value: Any) -> int:
    return w.emit("choose", n, w.read(mask, n), w.read(value, n), w.read(x, n))


def _sigmoid_backward(w: _Writer, n: int, gradient: Any, y: Any) -> int:
    rest = w.emit("sub", n, w.constant(1.0), w.read(y, n))
    slope = w.emit("mul", n, w.read(y, n), rest)
    return w.emit("mul", n, w.read(gradient, n), slope)


#: Operations whose result is their first operand; of another dtype, perhaps, or with further axes.
SAME = frozenset(
    {"detach", "alias", "expand", "unsqueeze", "squeeze", "view", "slice", "_to_copy", "clone"}
)
#: Operations whose result is a number.
FILLED = {"zeros_like": 0.0, "ones_like": 1.0}
LOWERED: dict[str, Callable[..., int]] = {
    **{name: _operation(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    **{name: _operation(name) for name in ("exp", "sigmoid")},
    "lt": _operation("less"),
    "le": _operation("less_equal"),
    "gt": _operation("less", turned=True),
    "ge": _operation("less_equal", turned=True),
    "eq": _operation("equal"),
    "ne": _not(_operation("equal")),
    "where": _operation("choose"),
    "abs": _operation("absolute"),
    "sgn": _operation("sign"),
    "bitwise_and": _operation("mul"),
    "logical_and": _operation("mul"),
    "bitwise_or": _operation("maximum"),
    "logical_or": _operation("maximum"),
    "bitwise_not": _not(lambda w, n, x: w.read(x, n)),
    "logical_not": _not(lambda w, n, x: w.read(x, n)),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "masked_fill": _masked_fill,
    "neg": lambda w, n, x: w.emit("sub", n, w.constant(0.0), w.read(x, n)),
    "reciprocal": lambda w, n, x: w.emit("div", n, w.constant(1.0), w.read(x, n)),
    "sigmoid_backward": _sigmoid_backward,
}
