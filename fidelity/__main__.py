"""Run every comparison whose oracle is installed and write the table: `python -m fidelity -o reports/fidelity`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from fidelity.compare import Comparison, comparisons, run

COLUMNS = ("Method", "Oracle", "Weights", "Type", "Steps", "Refreshes", "Largest drift", "Limit", "Verdict", "Note")


def row(comparison: Comparison) -> tuple[str, ...]:
    version = comparison.version
    oracle = f"{comparison.oracle} {version}".strip()
    if version is None:
        verdict, drift, shapes = "not installed", "", ""
    else:
        result = run(comparison)
        verdict = _verdict(comparison, result.agrees(comparison))
        where = f" ({result.weight}, step {result.step})" if result.weight else ""
        drift, shapes = f"{result.relative:.1e}{where}", result.shapes
    note = comparison.note
    if version is not None and comparison.without_sign_rule is not None:
        own = run(comparison, comparison.without_sign_rule)
        note += f" ({own.relative:.1e} with its own signs)"
    numbers = (comparison.dtype, str(comparison.steps), str(comparison.refreshes))
    return (comparison.method, oracle, shapes, *numbers, drift, f"{comparison.limit:.0e}", verdict, note)


def _verdict(comparison: Comparison, as_said: bool) -> str:
    if not as_said:
        return "DRIFTED" if comparison.agrees else "AGREES, AGAINST THE NOTE"
    return "agreed" if comparison.agrees else "differs, see note"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fidelity", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="folder for README.md; without it the table goes to stdout")
    parser.add_argument("--only", default="", help="only comparisons whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [comparison for comparison in comparisons() if arguments.only in comparison.name]
    if not chosen:
        print(f"fidelity: no comparison has {arguments.only!r} in its name", file=sys.stderr)
        return 2
    rows = []
    for comparison in chosen:
        print(comparison.name, file=sys.stderr)
        rows.append(row(comparison))
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows))
    if arguments.out is None:
        print(table)
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "README.md").write_text(f"{HEADER}\n{table}\n")
    return 1 if any("DRIFTED" in cells[-2] or "AGAINST" in cells[-2] for cells in rows) else 0


HEADER = f"""# Is each method the method of its paper?

Made by `make fidelity` (torch {torch.__version__}). Each row trains the same small LLaMA twice from the same weights on
the same gradients, or the same batches: once by memprof, once by the oracle. A twin is the paper's equations written
plainly, in fp64; any other oracle is the public implementation of that name. Drift is the distance between the two
weights relative to how far the oracle's had moved from the start, the largest of all weights and steps.
"""

if __name__ == "__main__":
    sys.exit(main())
