"""The house keeps its order: what is packaged, who imports whom, who may print. Read from the source, not run."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "memprof"

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors spelling",
        "units text lock interrupt durable setting schema evidence reading record difference explanation prediction "
        "method timeline history walk",
        "shapes",
        "counting command scenario model_config learning",
        "optimizer",
        "methods",
        "catalogue",
        "kernels",
        "chunked_loss llama",
        "remember ledger device batches allocator",
        "step",
        "sizes instants formula trace bounds measure",
        "oom child guard request headroom race runner field worker",
        "explain papers",
        "report run_file runs resume store diff pytest_plugin",
        "api doctor",
        "budget reproduce",
        "memprof",  # memprof/__init__.py, the public API
        "cli __main__",
    )
)
"""Low to high. A module imports from lower layers, or from its own without a circle; never from a higher one."""
HEIGHT = {name: level for level, layer in enumerate(LAYERS) for name in layer}

WITHOUT_TORCH = (
    "errors",
    "units",
    "setting",
    "schema",
    "record",
    "method",
    "timeline",
    "walk",
    "shapes",
    "counting",
    "scenario",
    "model_config",
    "command",
    "papers.source",
)
REPORT_READS = {
    "errors",
    "units",
    "durable",
    "record",
    "difference",
    "explanation",
    "prediction",
    "spelling",
    "counting",
    "papers",
    "timeline",
    "report",
}  # timeline for the names of categories
READ_TOO = {"memprof.explain.waterfall"}
"""reads records only, as report/ does"""


def modules() -> dict[str, Path]:
    """Dotted name to file, of everything that is installed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "methods").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[:2] == ("memprof", "methods"):
            continue  # the same files, through the symlink
        parts = ("memprof", *parts) if parts[0] == "methods" else parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def group(module: str) -> str:
    """The part of the house that a module belongs to: memprof.report.table is in `report`."""
    return module.split(".")[1] if "." in module else module


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function; `from x import y` may mean x or x.y."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if dotted in MODULES else str(node.module)


def own_imports(module: str) -> set[str]:
    return {name for name in imports(TREES[module]) if name.split(".")[0] == "memprof"}


def tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def attributes(tree: ast.AST) -> set[str]:
    """Every dotted expression in a file, such as torch.cuda."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_pyproject_lists_every_folder_of_the_package() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name if path.stem == "__init__" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert set(tool["packages"]) == folders
    assert tool["package-dir"] == {"memprof.methods": "methods"}
    initialised = {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert folders == initialised, "a folder without __init__.py"


def test_the_symlink_and_the_folder_are_one() -> None:
    assert (PACKAGE / "methods").resolve() == ROOT / "methods"


def test_the_readme_names_every_method_and_how_many() -> None:
    from memprof.catalogue import METHODS

    text = (ROOT / "README.md").read_text()
    missing = [name for name in METHODS if f"`{name}`" not in text]
    assert not missing and f"for {len(METHODS)} methods" in text


def test_methods_is_never_imported_by_its_folder_name() -> None:
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")}
    everywhere = [*TREES.items(), *trees.items()]
    wrong = [str(where) for where, tree in everywhere if "methods" in tops(imports(tree))]
    assert not wrong, "import memprof.methods"


def test_every_module_has_its_place() -> None:
    assert {group(module) for module in MODULES} <= HEIGHT.keys(), "a new module enters LAYERS"


def test_imports_point_down() -> None:
    pairs = [(module, name) for module in MODULES for name in own_imports(module)]
    upward = [(module, name) for module, name in pairs if HEIGHT[group(name)] > HEIGHT[group(module)]]
    assert not upward


def test_parts_import_no_method() -> None:
    """What methods share lies below them; not even a type is taken from a method file."""
    parts = [module for module in MODULES if module.startswith("memprof.methods.parts")]
    assert parts
    wrong = {module: {name for name in own_imports(module) if is_method_file(name)} for module in parts}
    assert not any(wrong.values()), {module: names for module, names in wrong.items() if names}


def is_method_file(module: str) -> bool:
    return module.startswith("memprof.methods.") and not module.startswith("memprof.methods.parts")


def test_imports_have_no_circle() -> None:
    order = list(graphlib.TopologicalSorter({name: own_imports(name) for name in MODULES}).static_order())
    assert set(MODULES) <= set(order)


def test_report_reads_records_only() -> None:
    reports = [module for module in MODULES if group(module) == "report"]
    read = {module: own_imports(module) - READ_TOO for module in reports}
    wrong = {module: {name for name in names if group(name) not in REPORT_READS} for module, names in read.items()}
    assert not any(wrong.values()), wrong
    assert not any({"torch", "pynvml", "psutil"} & tops(imports(TREES[module])) for module in reports)


def test_only_the_command_line_writes_to_a_terminal() -> None:
    """report/ may build what rich shows, but does not show it."""
    for module, tree in TREES.items():
        if group(module) in ("cli", "__main__"):
            continue
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not {"print", "input"} & names, module
        assert not {"sys.stdout", "sys.stderr"} & attributes(tree), module
        terminal = {"typer", "click"} if group(module) == "report" else {"typer", "click", "rich"}
        assert not terminal & tops(imports(tree)), module


def test_only_device_knows_cuda_and_nvml() -> None:
    for module, tree in TREES.items():
        if group(module) != "device":
            assert "torch.cuda" not in attributes(tree) | set(imports(tree)), module
            assert "pynvml" not in tops(imports(tree)), module


def test_the_low_layers_do_not_import_torch() -> None:
    """`memprof --help` and `memprof models` answer at once because of this."""
    names = ", ".join(f"memprof.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_do_not_depend_on_the_order_of_their_first_use() -> None:
    """A name loads its module on first use; a module named like a public function would take that name's place."""
    code = "import memprof; assert all(callable(getattr(memprof, name)) for name in reversed(memprof.__all__))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
