"""One optimizer step of ours and of each public implementation, side by side: how many times faster.

`python benchmarks/steps.py` (after `make reference`, which installs the peers) updates the weights of a whole model
from gradients that are there already. Both sides have the same weights, gradients and hyperparameters, and run in one
process, in turns that change order every round, after warm-up steps that make the state and are not counted. Half of
the rounds have ours made first, half the peer: who comes first gets the better memory. What is printed is the median
over rounds of peer's seconds / ours, with the quartiles: above 1, ours is faster. The last rows refresh in every step,
in a third of the rounds. On a GPU the device is waited for before and after each step.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from memprof.catalogue import get_method
from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import named_weights
from memprof.shapes import get_shape
from memprof.step import TORCH_DTYPE

RANK = 128
NEVER = 10**6
Make = Callable[[LlamaForCausalLM], torch.optim.Optimizer]


def low_rank_groups(model: nn.Module, **options: object) -> list[dict[str, object]]:
    """The parameter groups that galore_torch and apollo_torch ask for."""
    pairs = named_weights(model)
    matrices = [p for weight, p in pairs if weight.is_matrix]
    others = [p for weight, p in pairs if not weight.is_matrix]
    return [{"params": others}, {"params": matrices, "rank": RANK, "proj_type": "std", **options}]


def torch_adamw(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def torch_adafactor(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(model.parameters(), lr=1e-2)


def galore_torch(model: LlamaForCausalLM, gap: int = NEVER) -> torch.optim.Optimizer:
    from galore_torch import GaLoreAdamW

    groups = low_rank_groups(model, update_proj_gap=gap, scale=0.25)
    return GaLoreAdamW(groups, lr=0.01, no_deprecation_warning=True)  # type: ignore[no-any-return]


def refreshing_galore_torch(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    return galore_torch(model, gap=1)


def apollo_torch(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    from apollo_torch import APOLLOAdamW

    options = {"update_proj_gap": NEVER, "scale": 1.0, "proj": "random", "scale_type": "channel"}
    return APOLLOAdamW(low_rank_groups(model, **options), lr=0.01)  # type: ignore[no-any-return]


def came_pytorch(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    from came_pytorch import CAME

    return CAME(model.parameters(), lr=2e-4)  # type: ignore[no-any-return]


def adam_mini(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    from adam_mini import Adam_mini

    config = model.config
    return Adam_mini(  # type: ignore[no-any-return]
        model.named_parameters(),
        lr=1e-3,
        dim=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        verbose=False,
    )


@dataclass(frozen=True, slots=True)
class Pair:
    """A method of ours, its peer, and how many times faster ours shall be."""

    method: str
    peer: Make
    fp32: float
    bf16: float
    slow: bool = False
    """refreshes in every step, which takes the peer seconds"""


PAIRS = (
    Pair("adamw", torch_adamw, 1.0, 1.0),
    Pair("adafactor", torch_adafactor, 2.0, 1.3),
    Pair("came", came_pytorch, 2.0, 1.3),
    Pair("adam-mini", adam_mini, 1.3, 1.3),
    Pair(f"galore:rank={RANK},update_gap={NEVER}", galore_torch, 2.0, 1.3),
    Pair(f"apollo:rank={RANK},update_gap={NEVER}", apollo_torch, 2.0, 1.3),
    Pair(f"galore:rank={RANK},update_gap=1", refreshing_galore_torch, 4.0, 4.0, slow=True),
)


@dataclass(slots=True)
class Side:
    """A model with its gradients, and the optimizer that is timed on it."""

    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, name: str, dtype: str, device: str, make: Make) -> Side:
        torch.manual_seed(0)
        model = build_model(name, dtype=TORCH_DTYPE[dtype], device=device)
        for p in model.parameters():
            p.grad = torch.randn_like(p).mul_(1e-3)
        return cls(model, make(model))

    def seconds(self) -> float:
        synchronize(self.model)
        start = time.perf_counter()
        self.optimizer.step()
        synchronize(self.model)
        return time.perf_counter() - start


def synchronize(model: nn.Module) -> None:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()


def measure(pair: Pair, name: str, dtype: str, device: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of ours and of the peer, round by round."""
    mine: list[float] = []
    peers: list[float] = []
    for ours_first in (True, False):
        half = _measure(pair, name, dtype, device, max(2, rounds // 6 if pair.slow else rounds // 2), ours_first)
        mine += half[0]
        peers += half[1]
    return mine, peers


def _measure(
    pair: Pair, name: str, dtype: str, device: str, rounds: int, ours_first: bool
) -> tuple[list[float], list[float]]:
    makes: list[Make] = [lambda model: get_method(pair.method).prepare(model), pair.peer]
    made = [Side.of(name, dtype, device, make) for make in (makes if ours_first else makes[::-1])]
    ours, theirs = made if ours_first else made[::-1]
    for side in (ours, theirs) * (1 if pair.slow else 2):
        side.seconds()
    gc.collect()
    mine: list[float] = []
    peers: list[float] = []
    for number in range(rounds):
        order = ((ours, mine), (theirs, peers)) if number % 2 else ((theirs, peers), (ours, mine))
        for side, kept in order:
            kept.append(side.seconds())
    return mine, peers


def line(pair: Pair, dtype: str, mine: list[float], peers: list[float]) -> str:
    ratios = [theirs / ours for ours, theirs in zip(mine, peers, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    target = pair.fp32 if dtype == "fp32" else pair.bf16
    verdict = "met" if median >= target else "even" if low <= target <= high else "MISSED"
    times = f"{1e3 * statistics.median(mine):8.1f} ms {1e3 * statistics.median(peers):9.1f} ms"
    ratio = f"{median:5.2f}x ({low:.2f} to {high:.2f})"
    return f"{pair.method:36} {pair.peer.__name__:24} {dtype} {times}  {ratio:26} at least {target:.1f}x {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="60m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="only pairs whose method or peer holds this text")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    count = sum(weight.numel for weight in get_shape(arguments.model).weights(2)) / 1e6
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {threads} threads"
    print(f"torch {torch.__version__}, {where}; {arguments.model}, {count:.0f}M weights; {arguments.rounds} rounds")
    print(f"{'ours':36} {'peer':24} type {'ours':>9} {'peer':>12}  peer / ours (quartiles)")
    for dtype in ("fp32", "bf16"):
        for pair in PAIRS:
            if arguments.only not in f"{pair.method} {pair.peer.__name__}":
                continue
            try:
                figures = measure(pair, arguments.model, dtype, arguments.device, arguments.rounds)
            except ImportError as error:
                print(f"{pair.method}: {error}; `make reference` installs the peers", file=sys.stderr)
                continue
            print(line(pair, dtype, *figures), flush=True)


if __name__ == "__main__":
    main()
