"""Where the inputs and outputs of stage index lie in tests."""

from pathlib import Path

OUTPUTS = {
    "index": "index.parquet",
    "rejected": "rejected.csv",
    "near_duplicates": "near_duplicates.csv",
    "summary": "index.json",
    "csv": "index.csv",
    "json": "index_rows.json",
}


def places(corpus: Path, out: Path) -> dict[str, Path]:
    """The arguments of `index.run` for the videos and annotations in `corpus`."""
    inputs = {name: corpus / name for name in ("videos", "annotations")}
    return inputs | {"probes": out / "probes"} | {key: out / name for key, name in OUTPUTS.items()}


def flags(corpus: Path, out: Path) -> list[str]:
    """The same as the flags of the command."""
    pairs = places(corpus, out).items()
    return [part for key, path in pairs for part in (f"--{key.replace('_', '-')}", str(path))]
