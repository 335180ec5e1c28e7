import shutil
import subprocess
from pathlib import Path

import pytest

from fvc.errors import FvcError
from fvc.protocol import folds_sha256
from fvc.records import FOLDS
from fvc.stages import export_folds

TABLE = FOLDS.frame(
    [
        {
            **{"video_id": f"youtube_{number}", "group": f"g{number}", "label": "fake"},
            **{"part": "fold", "fold": number % 2, "validates": [1 - number % 2]},
        }
        for number in range(6)
    ]
)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    FOLDS.write(tmp_path / "folds.parquet", TABLE)
    flags = {"--folds": "folds.parquet", "--csv": "out/folds.csv", "--digest": "out/folds.sha256"}
    export_folds.main(
        [word for flag, name in flags.items() for word in (flag, str(tmp_path / name))]
    )
    return tmp_path / "out"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not here")
def test_sha256sum_agrees_with_the_tag_of_a_run(exported: Path) -> None:
    command = ("sha256sum", "--check", "--strict", "folds.sha256")
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "folds.csv: OK\n"), done.stderr
    assert (exported / "folds.sha256").read_text().split()[0] == folds_sha256(TABLE)
    (exported / "folds.csv").write_bytes((exported / "folds.csv").read_bytes() + b"\n")
    done = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=False)
    assert done.returncode == 1, "a changed file passes for the protocol"


def test_nothing_but_the_two_files_is_left(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"folds.csv", "folds.sha256"}


def test_without_folds_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"Run 'dvc repro split'"):
        export_folds.run(folds=tmp_path / "f", csv=tmp_path / "c", digest=tmp_path / "d")
    assert not list(tmp_path.iterdir())
