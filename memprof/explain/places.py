"""A ledger that also knows for whom each block was made: the module, the weight, the optimizer's tensor.

Modules are known by hooks while they run. In backward it is the autograd node that tells: nodes are numbered as forward
makes them, so that a node's number says which module was running then. Neither allocates anything nor keeps anything
alive, so that the books are those of a plain ledger, to the byte.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from memprof.explanation import BATCH, LOSS, UPDATE
from memprof.ledger import Ledger, grad_tensors, plain_parts, tensors_in
from memprof.timeline import REFRESH

SHARED = "optimizer"
"""the name of what an optimizer keeps for no weight in particular"""


class PlacedLedger(Ledger):
    """`place[block]`: a module's or a weight's name. `tensor[block]`: what an optimizer calls its own, else empty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place: dict[int, str] = {}
        self.tensor: dict[int, str] = {}
        self.doing: dict[int, str] = {}
        """what allocated a block inside backward that is no part of it: a weight's update, or its refresh"""
        self.grad_blocks: list[int] = []
        """gradients alive when the optimizer's step began"""
        self.name_of: dict[Tensor, str] = {weight: name for name, weight in self.model.named_parameters()}
        self.module_of = {name: name.rpartition(".")[0] for name in self.name_of.values()}
        self._owned: set[int] = set()
        self._running: list[str] = []
        self._numbers: list[int] = []
        self._modules: list[str] = []
        """the module running from the autograd node of the number beside it on"""

    def __enter__(self) -> Self:
        entered = super().__enter__()
        for name, module in self.model.named_modules():
            self._hooks += [
                module.register_forward_pre_hook(partial(self._module_begins, name or LOSS)),
                module.register_forward_hook(self._module_ends, always_call=True),
            ]
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._name_params()
        self._name_state()
        super().__exit__(kind, error, trace)

    def _module_begins(self, name: str, *_: object) -> None:
        self._running.append(name)
        self._note_number()

    def _module_ends(self, *_: object) -> None:
        self._running.pop()
        self._note_number()

    def _note_number(self) -> None:
        self._numbers.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._modules.append(self._running[-1] if self._running else BATCH)

    def _book(self, tensor: Tensor, func: Any) -> None:
        block = len(self.timeline.nbytes)
        super()._book(tensor, func)
        if len(self.timeline.nbytes) > block:
            self.place[block] = self._here()
            if self._updates_a_weight():
                self.doing[block] = REFRESH if self.step_phase == REFRESH else UPDATE

    def _here(self) -> str:
        """Where the step is: in a module, in the backward of one, in a weight's gradient, or outside the model."""
        if self._running:
            return self._running[-1]
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return UPDATE if self._stepping else BATCH
        if hasattr(node, "variable"):
            return self.name_of.get(node.variable, UPDATE)
        found = bisect_right(self._numbers, node._sequence_nr()) - 1
        return self._modules[found] if found >= 0 else BATCH

    def _updates_a_weight(self) -> bool:
        """Whether a weight that has its gradient is in the hands of a hook, where a method updates inside backward."""
        weight: Tensor | None = getattr(torch._C._current_autograd_node(), "variable", None)
        return weight is not None and weight.grad is not None and bool(weight._post_accumulate_grad_hooks)

    def _label_grads(self) -> None:
        super()._label_grads()
        self.grad_blocks = list(self._blocks(grad_tensors(self.model)))
        for parameter, name in self.name_of.items():
            if parameter.grad is not None:
                self._name(plain_parts(parameter.grad), name)

    def _name_params(self) -> None:
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            self._name(plain_parts(tensor), name)

    def _name_state(self) -> None:
        """By weight and key where the optimizer's `state` says so, else by the attribute that a tensor hangs on."""
        if self.optimizer is None:
            return
        for parameter, state in self.optimizer.state.items():
            for key, value in _items(state):
                self._name(tensors_in(value), self.name_of.get(parameter, SHARED), str(key))
        for attribute, value in vars(self.optimizer).items():
            for key, inner in _items(value):
                name = self.name_of.get(key, SHARED) if isinstance(key, Tensor) else SHARED
                self._name(tensors_in(inner), name, attribute.strip("_"))

    def _name(self, tensors: Iterable[Tensor], name: str, tensor: str = "") -> None:
        """The first owner stays: what an optimizer reaches besides its own belongs to a weight already."""
        for block in self._blocks(tensors):
            if block not in self._owned:
                self._owned.add(block)
                self.place[block], self.tensor[block] = name, tensor

    def _blocks(self, tensors: Iterable[Tensor]) -> Iterator[int]:
        found = (self._live.get(tensor.untyped_storage()._cdata) for tensor in tensors)
        yield from dict.fromkeys(each[0] for each in found if each is not None)


def _items(state: Any) -> Iterable[tuple[Any, Any]]:
    return state.items() if isinstance(state, Mapping) else [("", state)]
