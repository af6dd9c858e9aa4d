"""Who owns each byte, at each instant: a ledger over everything torch allocates while it is open.

It watches torch's dispatcher, so it works on meta tensors (no memory at all) as on real ones, and follows storages,
not tensors: views and ties count once. What no dispatcher sees, it cannot book: workspaces inside a kernel
(cuBLAS, LAPACK), `resize_` of a storage it knows, `torch.frombuffer`, and whatever another thread does: a mode is
of the thread that opened it, and of the backward that this thread starts. And while any dispatch mode is open, autograd
adds two gradients of one tensor out of place, where it else may do so in place.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.errors import MemprofError
from memprof.remember import MetaKernels
from memprof.timeline import BACKWARD, FORWARD, GRAD, OPTIMIZER, OPTIMIZER_STATE, OUTSIDE, PARAM, Peak, Timeline

_LEAVES = (str, bytes, int, float, type, types.ModuleType, types.FunctionType, nn.Module)


_ON_DEVICE = {torch.ops.aten._scaled_dot_product_efficient_attention.default: 2}
"""How many of an operator's outputs lie on the device. CUDA makes this one's random seed and offset on the host
(attention.cu, _efficient_attention_forward without dropout); on meta tensors they look like the device's."""


def tensors_in(root: object) -> Iterator[Tensor]:
    """Every tensor that hangs on an object: through containers, attributes, slots and tensor subclasses.

    An optimizer keeps state in odd places (projectors, quantised pairs, attributes of parameters).
    """
    seen: set[int] = set()
    stack = [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, _LEAVES):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield from plain_parts(item)
            stack.extend(_attributes(item))
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        else:
            stack.extend(_attributes(item))


def plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or the plain tensors inside a wrapper subclass (codes, scales, maps)."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from plain_parts(getattr(tensor, name))
    else:
        yield tensor


def _attributes(item: object) -> list[object]:
    slots = [name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    own = list(getattr(item, "__dict__", {}).values())
    return own + [getattr(item, name) for name in slots if name != "__weakref__" and hasattr(item, name)]


def param_tensors(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        yield from plain_parts(tensor)


def grad_tensors(model: nn.Module) -> Iterator[Tensor]:
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield from plain_parts(parameter.grad)


def state_tensors(optimizer: torch.optim.Optimizer | None) -> Iterator[Tensor]:
    """All that an optimizer keeps; its parameters are among them and are told apart by the stronger label."""
    return tensors_in(vars(optimizer)) if optimizer is not None else iter(())


def _device_type(model: nn.Module) -> str:
    """Where the parameters lie. Bytes of two kinds of device make no sum, and one kind alone would hide the other."""
    found = list(dict.fromkeys(parameter.device.type for parameter in model.parameters()))
    if len(found) != 1:
        where = f"on {' and '.join(found)}" if found else "nowhere: there are none"
        raise MemprofError(f"the model's parameters lie {where}; a ledger needs a model on one kind of device")
    return found[0]


class Recorder(TorchDispatchMode):
    """Books every storage that torch allocates on one kind of device while it is open, and when it is freed.

    Open it before a model exists and hand it to the `Ledger` of a later step: that one goes on in the same books, so
    that their timeline holds the run from its first byte. `kernels` spares meta kernels that were asked before.
    """

    def __init__(self, device: str, kernels: MetaKernels | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.kernels = kernels
        self.timeline = Timeline()
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Never compiled, so torch need not wrap each call in a guard against that."""
        return False

    def __torch_dispatch__(
        self, func: Any, kinds: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = (
            () if func is torch.ops.aten.lift_fresh.default else (*args, *kwargs.values())
        )  # torch.tensor() is unseen
        for arg in given:
            for part in arg if isinstance(arg, list | tuple) else (arg,):
                if isinstance(part, Tensor):
                    self._meet(part)
        out = func(*args, **kwargs) if self.kernels is None else self.kernels.run(func, args, kwargs)
        for part in out[: _ON_DEVICE.get(func)] if isinstance(out, list | tuple) else (out,):
            if isinstance(part, Tensor):
                self._book(part, func)
        return out

    def close(self) -> None:
        """No longer follow what was booked: frees from here on are not noted."""
        self._live.clear()

    def mark(self, phase: str) -> None:
        """A phase begins with the next event."""
        self.timeline.mark(phase)

    def _book(self, tensor: Tensor, func: Any) -> None:
        """Book the tensor's storage as allocated by `func`, unless it is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._live and tensor.device.type == self.device:
            self._remember(storage, self.timeline.allocate(storage.nbytes(), func._schema.name))

    def _meet(self, tensor: Tensor) -> None:
        """An operation's input that nobody has seen was there before: outside the books."""
        self._enter_as(tensor, OUTSIDE)

    def _enter_as(self, tensor: Tensor, category: str) -> None:
        """Book a storage that is there already, with its owner, unless it is known."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._live and tensor.device.type == self.device:
            block = self.timeline.allocate(storage.nbytes(), category)
            self.timeline.label([block], category)
            self._remember(storage, block)

    def _remember(self, storage: Any, block: int) -> None:
        key = storage._cdata
        live, timeline = self._live, self.timeline

        def forget(_: object) -> None:
            live.pop(key, None)
            timeline.free(block)

        live[key] = (block, weakref.ref(storage, forget))


class Ledger(Recorder):
    """`with Ledger(model, optimizer) as ledger: step()`, then `ledger.peak`, `ledger.at_peak`, `ledger.timeline`.

    Unless `mark` names the phases, they come from the run itself: backward is when autograd runs, optimizer when
    the optimizer's step does, forward everything else. `step_phase` renames the optimizer's phase, so that a step
    with periodic work can be told apart. With `before`, the books of a recorder are gone on with: `start` and `end` are
    the events between which this ledger was open.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        step_phase: str = OPTIMIZER,
        kernels: MetaKernels | None = None,
        before: Recorder | None = None,
    ) -> None:
        super().__init__(_device_type(model), kernels)
        if before is not None:
            self.timeline, self._live = before.timeline, before._live
        self.goes_on = before is not None
        self.step_phase = step_phase
        self.model = model
        self.optimizer = optimizer
        self.end: int | None = None
        """None while it is open"""
        self.grad_bytes = 0
        """bytes of gradients alive when the optimizer's step began (where there was none: at the end; where no
        optimizer was given: at most)"""
        self._phase = FORWARD
        self._stepping = ""
        self._marked = False
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._seed(param_tensors(self.model), PARAM)
        self._seed(state_tensors(self.optimizer), OPTIMIZER_STATE)
        self._seed(grad_tensors(self.model), GRAD)
        self.start = len(self.timeline.events)
        self.timeline.mark(FORWARD)
        if self.optimizer is not None:
            self._hooks = [
                self.optimizer.register_step_pre_hook(lambda *_: self._step_begins()),
                self.optimizer.register_step_post_hook(lambda *_: self._step_ends()),
            ]
        else:
            weights = [each for each in self.model.parameters() if each.requires_grad]
            self._hooks = [each.register_post_accumulate_grad_hook(self._grad_is_there) for each in weights]
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._label(state_tensors(self.optimizer), OPTIMIZER_STATE)
        self._label(param_tensors(self.model), PARAM)
        if not self.grad_bytes:
            self._label_grads()
        if self.optimizer is None:
            self.grad_bytes = self.timeline.most(GRAD)
        self.timeline.label_activations()
        self.end = len(self.timeline.events)
        if not self.goes_on:
            self.close()

    def __torch_dispatch__(
        self, func: Any, kinds: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._marked:
            self._notice_phase()
        return super().__torch_dispatch__(func, kinds, args, kwargs)

    def mark(self, phase: str) -> None:
        """A phase begins here; from the first mark on, phases are no longer guessed."""
        self._marked = True
        self._begin(self.step_phase if phase == OPTIMIZER else phase)

    def _notice_phase(self) -> None:
        in_backward = torch._C._current_graph_task_id() != -1
        self._begin(self._stepping or (BACKWARD if in_backward else FORWARD))

    def _begin(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self.timeline.mark(phase)

    @property
    def saw_any(self) -> bool:
        """Whether anything was allocated or met since it was opened: an operation on this kind of device."""
        return any(event >= 0 for event in self.timeline.events[self.start : self.end])

    @property
    def peak(self) -> int:
        """Bytes alive at the worst instant."""
        return self.peak_instant.nbytes

    @property
    def at_peak(self) -> dict[str, int]:
        """Category to bytes at the worst instant; sums to `peak`."""
        return self.peak_instant.by_category

    @property
    def phase_peaks(self) -> dict[str, int]:
        """The most bytes alive within each phase that there was."""
        return self.timeline.phase_peaks(self.start, self.end)

    @property
    def peak_instant(self) -> Peak:
        return self.timeline.peak(self.start, self.end)

    def _seed(self, tensors: Iterable[Tensor], category: str) -> None:
        """Book what is there with its owner; what a recorder only met as an input has one now."""
        for tensor in tensors:
            self._enter_as(tensor, category)
            known = self._live.get(tensor.untyped_storage()._cdata)
            if known is not None:
                self.timeline.claim(known[0], category)

    def _label(self, tensors: Iterable[Tensor], category: str) -> list[int]:
        blocks = {self._live[key][0] for t in tensors if (key := t.untyped_storage()._cdata) in self._live}
        self.timeline.label(blocks, category)
        return list(blocks)

    def _label_grads(self) -> None:
        blocks = self._label(grad_tensors(self.model), GRAD)
        self.grad_bytes = sum(self.timeline.nbytes[block] for block in blocks)

    def _grad_is_there(self, parameter: Tensor) -> None:
        """Without an optimizer nothing says when a step begins, and by its end the gradients may be gone."""
        if parameter.grad is not None:
            self._label(plain_parts(parameter.grad), GRAD)

    def _step_begins(self) -> None:
        self._label_grads()
        self._stepping = self.step_phase
        self._begin(self.step_phase)

    def _step_ends(self) -> None:
        self._stepping = ""
