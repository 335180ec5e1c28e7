"""Index, clips and augment of a corpus, in the working directory."""

import sys
from pathlib import Path

from indexing import flags

from fvc.files import write_json
from fvc.records import FOLDS, INDEX
from fvc.stages import augment, clips, index


def main(corpus: Path, params: Path) -> None:
    given = ["--params", str(params)]
    videos = ["--videos", str(corpus / "videos")]
    index.main([*given, *flags(corpus, Path())])
    rows = INDEX.read(Path("index.parquet")).select("video_id", "label").sort("video_id").rows()
    folds = [
        {
            "video_id": video_id,
            "label": label,
            "group": f"g{number}",
            "part": "fold",
            "fold": number % 2,
            "validates": [],
        }
        for number, (video_id, label) in enumerate(rows)
    ]
    FOLDS.write(Path("folds.parquet"), FOLDS.frame(folds))
    written = ["--clips", "clips", "--summary", "clips.json"]
    clips.main([*given, *videos, "--index", "index.parquet", *written])
    augment.main(
        [*given, "--clips", "clips", "--folds", "folds.parquet", "--augmented", "augmented"]
    )
    write_json(Path("ended.json"), len(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
