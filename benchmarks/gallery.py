"""The charts of reports/gallery, each made by a command of the program: `make gallery`.

python -m benchmarks.gallery -o reports/gallery [--small]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import memprof.cli.main

MEASURED = Path("reports/60m-cpu")
KEPT = {
    "methods": ("memory", "timeline", "waterfall"),
    "ranks": ("sweep",),
    "measured": ("tradeoff", "agreement"),
    "explained": ("modules",),
}
"""what is taken from each command's folder"""


def commands(small: bool) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the command that fills it; `small` for a test, which looks at no figure."""
    tiny = ["--model", "9m", "--num-layers", "1", "--vocab-size", "64", "--batch", "1", "--seq", "16"]
    scenario = [*(tiny if small else ["--model", "1b"]), "--rank", "16" if small else "256"]
    ranks = "8,16" if small else "32,64,128,256,512"
    swept = [word for name in ("adamw", "galore", "lora", "apollo") for word in ("--method", name)]
    yield "methods", ["compare", *scenario, "--no-measure"]
    yield "ranks", ["compare", *scenario[:-1], ranks, *swept, "--no-measure"]
    yield "measured", ["report", str(MEASURED)]
    yield "explained", ["explain", "galore", *scenario]


def make(folder: Path, small: bool) -> Iterator[str]:
    """Every chart as a PNG, and the page of the first comparison; says which command made which."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, arguments in commands(small):
            place = Path(scratch) / name
            run([*arguments, "-o", str(place)])
            yield f"`memprof {' '.join(arguments)} -o DIR`\n"
            for chart in KEPT[name]:
                shutil.copyfile(place / f"{chart}.png", folder / f"{chart}.png")
                yield f"![{chart}]({chart}.png)\n"
        run(["report", str(Path(scratch) / "methods"), "--html", str(folder / "report.html"), "--force"])


def run(arguments: Sequence[str]) -> None:
    """`memprof` with these arguments; what it shows goes nowhere, what it refuses ends this."""
    sys.argv = ["memprof", *arguments]
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        memprof.cli.main.main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.stdout = kept


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all of it runs")
    options = parser.parse_args(arguments)
    lines = list(make(options.output, options.small))
    (options.output / "README.md").write_text("\n".join([HEAD, *lines, FOOT]) + "\n", encoding="utf-8")


HEAD = """# Gallery

Every chart that memprof draws, made by memprof. `make gallery` makes all of them again.
"""
FOOT = """\
[report.html](report.html) is the page that `memprof report` writes for the first of these runs. It is one file: save it
and open it in a browser."""

if __name__ == "__main__":
    main()
