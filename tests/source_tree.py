"""What imports what in our package, read from the source without running it."""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def source_of(module: str) -> Path | None:
    """The file of one of our modules; None for a name inside a module."""
    path = ROOT / Path(*module.split("."))
    if path.is_dir():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def imports_of(source: Path, *, lazily: bool = True) -> set[Path]:
    """Our own files that a file imports, at the top or, `lazily`, inside its functions."""
    modules = []
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    found = {source_of(module) for module in modules if module.split(".")[0] == "fvc"}
    # Empty package files run nothing.
    return {path for path in found if path and "import" in path.read_text(encoding="utf-8")}


def reach_of(source: Path, *, lazily: bool = True) -> set[Path]:
    """A file and our own files behind all its imports."""
    reached, waiting = set(), {source}
    while waiting:
        current = waiting.pop()
        reached.add(current)
        waiting |= imports_of(current, lazily=lazily) - reached
    return reached


def as_folders(names: Iterable[str], folder: str) -> set[str]:
    """Names of files, where those in one folder are the folder itself."""
    return {folder if name.startswith(f"{folder}/") else name for name in names}
