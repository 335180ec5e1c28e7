from pathlib import Path

import pytest
import torch

from fvc import caching
from fvc.caching import GIB, SHARE, hold_on
from fvc.errors import FvcError

CPU = torch.device("cpu")


def test_clips_are_copied_into_one_tensor() -> None:
    shapes = [(2, 4, 3, 5, 6), (1, 4, 3, 6, 2), (3, 4, 3, 1, 6)]
    clips = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]
    held = hold_on(clips, CPU)
    assert all(torch.equal(*pair) for pair in zip(held, clips, strict=True))
    assert len({each.untyped_storage().data_ptr() for each in held}) == 1
    clips[0].fill_(0)
    assert held[0].any(), "the cache refers to what it was filled from"


@pytest.mark.parametrize(
    ("device", "remedy"),
    [("cpu", "Set loader.cache to none."), ("cuda", "Set loader.cache to none or ram.")],
)
def test_a_cache_that_does_not_fit_is_refused_before_it_is_filled(
    device: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "free_bytes", lambda _: 4 * GIB)
    # Nothing is behind these sizes.
    clips = [torch.zeros(1, dtype=torch.uint8).expand(2 * GIB) for _ in range(2)]
    with pytest.raises(FvcError) as raised:
        hold_on(clips, torch.device(device))
    said = f"the clips are 4.0 GiB, more than 80% of the 4.0 GiB that are free on {device}. "
    assert str(raised.value) == f"loader.cache: {said}{remedy}"


def test_what_just_fits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [torch.zeros(800, dtype=torch.uint8)]
    monkeypatch.setattr(caching, "free_bytes", lambda _: 1000)
    assert round(SHARE * 1000) == 800
    assert len(hold_on(clips, CPU)) == 1
    monkeypatch.setattr(caching, "free_bytes", lambda _: 999)
    with pytest.raises(FvcError):
        hold_on(clips, CPU)


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="there is no /proc/meminfo")
def test_free_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "OWN_GROUP", Path("in no group"))
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable"))
    assert caching.free_bytes(CPU) == pytest.approx(1024 * int(available.split()[1]), rel=0.2)


def test_the_limit_of_a_job_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "slurm" / "job_1"
    job.mkdir(parents=True)
    content = {"max": "9000\n", "current": "5000\n"}
    content["stat"] = "anon 3000\ninactive_file 1500\nactive_file 400\n"
    for name, text in content.items():
        (job / f"memory.{name}").write_text(text)
        (job.parent / f"memory.{name}").write_text("max\n" if name == "max" else text)
    (tmp_path / "cgroup").write_text("1:name=systemd:/\n0::/slurm/job_1\n")
    monkeypatch.setattr(caching, "GROUPS", tmp_path)
    monkeypatch.setattr(caching, "OWN_GROUP", tmp_path / "cgroup")
    # What files take is given back when memory is asked for.
    assert caching.free_bytes(CPU) == 9000 - (5000 - 1500 - 400)
    (job / "memory.max").write_text("max\n")
    assert caching.free_bytes(CPU) > 2**20
