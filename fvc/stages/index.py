"""Describe every video of the corpus: one row in the index, or one among the rejected."""

import sys
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fvc import publishing
from fvc.annotations import (
    AnnotatedVideo,
    Annotations,
    count,
    label_problem,
    read_annotations,
    ties,
)
from fvc.config import IndexConfig, Params, load_params
from fvc.errors import FvcError
from fvc.files import write_json
from fvc.groups import connected, shared
from fvc.matching import Rejection, list_files, match_files
from fvc.near_duplicates import KEPT_MATCHES, Match
from fvc.near_duplicates import near_duplicates as find_near_duplicates
from fvc.pool import Failure, run_isolated
from fvc.probing import Findings, examine, keep, lost, recall, sight
from fvc.records import INDEX, NEAR_DUPLICATES, REJECTED

MAX_SHOWN = 3
"""Of the rows without a title, on standard error; the summary counts them."""


def probe_all(
    usable: Mapping[str, str], videos: Path, config: IndexConfig, probes: Path
) -> tuple[dict[str, Findings], list[Rejection]]:
    """Examine the files in isolated workers, but those that are as an earlier run saw them.

    Findings are kept as they come, so that a killed run has not worked in vain.
    """
    known = recall(config=config, probes=probes)
    sightings = {video_id: sight(videos, path) for video_id, path in usable.items()}
    findings = {
        video_id: known[sighting] for video_id, sighting in sightings.items() if sighting in known
    }
    waiting = {videos / usable[video_id]: video_id for video_id in usable.keys() - findings.keys()}
    results = run_isolated(
        partial(examine, config=config, probes=probes),
        sorted(waiting),
        timeout_s=config.timeout_s,
        max_memory_mib=config.max_memory_mib,
        description="index",
    )
    for file, result in results:
        if isinstance(result, Failure):
            found = lost(file, result.reason, result.detail)
        elif isinstance(result, Findings):
            found = result
        else:
            raise result
        keep(found, sightings[waiting[file]], config=config, probes=probes)
        findings[waiting[file]] = found
    refusals = {video_id: refusal_of(found, config) for video_id, found in findings.items()}
    rejections = [
        Rejection(video_id, usable[video_id], *refusal)
        for video_id, refusal in refusals.items()
        if refusal is not None
    ]
    accepted = sorted(video_id for video_id, refusal in refusals.items() if refusal is None)
    return {video_id: findings[video_id] for video_id in accepted}, rejections


def refusal_of(findings: Findings, config: IndexConfig) -> tuple[str, str] | None:
    """Reason and detail, if a file that could be examined cannot be used."""
    if findings.info is None:
        return findings.refusal
    if findings.info.frames < config.min_frames:
        return "too_short", f"has {findings.info.frames} of at least {config.min_frames} frames"
    return None


def name_groups(
    findings: Mapping[str, Findings], annotations: Annotations, matches: Iterable[Match]
) -> dict[str, str]:
    """Map each video to its group, named after the smallest cascade in it.

    Videos that are annotated and cannot be used still tie cascades together.

    Args:
        findings: Of all usable videos.
        annotations: All of them.
        matches: The near-duplicates, as positions in `findings`.
    """
    order = list(findings)
    links = [(video_id, video_id) for video_id in order]
    links += ties(annotations)
    links += shared({video_id: [found.sha256] for video_id, found in findings.items()})
    links += [(order[match.one], order[match.other]) for match in matches]
    names = connected(links)
    return {video_id: names[video_id] for video_id in order}


def rows_across(
    matches: Iterable[Match], order: Sequence[str], videos: Mapping[str, AnnotatedVideo]
) -> list[dict[str, object]]:
    """List the near-duplicates that no cascade has together: what only their look says.

    Args:
        matches: As positions in `order`.
        order: Video ids.
        videos: The annotations of at least these.
    """
    rows: list[dict[str, object]] = []
    for match in matches:
        pair = sorted((order[match.one], order[match.other]))
        one, other = (videos[video_id].cascades for video_id in pair)
        if not one & other:
            rows.append(
                {
                    "video_id": pair[0],
                    "other_video_id": pair[1],
                    "cascade_ids": " ".join(sorted(one)),
                    "other_cascade_ids": " ".join(sorted(other)),
                    "share": match.share,
                    "distance": match.distance,
                }
            )
    return rows


def index_rows(
    findings: Mapping[str, Findings],
    usable: Mapping[str, str],
    videos: Mapping[str, AnnotatedVideo],
    groups: Mapping[str, str],
) -> list[dict[str, object]]:
    """Put together the rows of the index."""
    rows: list[dict[str, object]] = []
    for video_id, found in findings.items():
        video, path = videos[video_id], usable[video_id]
        if found.info is None:
            raise ValueError(f"{video_id} is refused and cannot be in the index")
        (label,) = video.labels
        rows.append(
            {
                "video_id": video_id,
                "subset": path.split("/")[0],
                "platform": video.platform,
                "source_id": video.source_id,
                "path": path,
                "label": label,
                "raw_label": "/".join(sorted(video.raw_labels)),
                "cascade_ids": sorted(video.cascades),
                "group": groups[video_id],
                **asdict(found.info),
                "size_bytes": found.size_bytes,
                "sha256": found.sha256,
                "fingerprint": found.fingerprint,
            }
        )
    return rows


def summarise(
    annotations: Annotations,
    on_disk: Iterable[str],
    groups: Mapping[str, str],
    rejections: Sequence[Rejection],
) -> dict[str, Any]:
    """Count what is annotated, on disk and usable by platform and label, and what is not."""
    availability: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    present = set(on_disk)
    for video_id, video in annotations.videos.items():
        unknown = label_problem(video.labels) == "unknown_label"
        label = "unknown" if unknown else "/".join(sorted(video.labels))
        empty = {"annotated": 0, "on_disk": 0, "usable": 0}
        counts = availability[video.platform].setdefault(label, empty)
        counts["annotated"] += 1
        counts["on_disk"] += video_id in present
        counts["usable"] += video_id in groups
    return {
        "annotations": count(annotations),
        "availability": dict(availability),
        "groups": len(set(groups.values())),
        "rejected": dict(Counter(rejection.reason for rejection in rejections)),
        "videos": len(groups),
    }


def say(annotations: Annotations, counts: Mapping[str, Any]) -> None:
    """Tell on standard error what came out."""
    for row in annotations.untitled[:MAX_SHOWN]:
        sys.stderr.write(f"index: {row}\n")
    refused_for = ", ".join(f"{reason} {number}" for reason, number in counts["rejected"].items())
    sys.stderr.write(
        f"index: {counts['videos']} usable videos in {counts['groups']} groups; "
        f"rejected: {refused_for or 'nothing'}\n"
    )


def run(
    params: Params,
    *,
    videos: Path,
    annotations: Path,
    probes: Path,
    index: Path,
    rejected: Path,
    near_duplicates: Path,
    summary: Path,
    csv: Path,
    json: Path,
) -> None:
    """Match, probe, group, and write the tables, their counts, and the index as text.

    Raises:
        FvcError: An input is missing, or no video is usable; then the tables say why.
    """
    annotated = read_annotations(annotations)
    on_disk, usable, rejections = match_files(list_files(videos), annotated)
    findings, refused = probe_all(usable, videos, params.index, probes)
    rejections += refused
    found = find_near_duplicates(
        [each.fingerprint for each in findings.values()],
        max_distance=params.index.fingerprint_distance,
        min_share=params.index.fingerprint_share,
        known=probes / KEPT_MATCHES,
    )
    groups = name_groups(findings, annotated, found)
    rows = index_rows(findings, usable, annotated.videos, groups)
    INDEX.write(index, INDEX.frame(rows))
    # Of what was written, so that all three have the same rows in the same order.
    table = INDEX.read(index)
    publishing.write_csv(csv, table)
    publishing.write_json_rows(json, table)
    across = rows_across(found, list(findings), annotated.videos)
    NEAR_DUPLICATES.write(near_duplicates, NEAR_DUPLICATES.frame(across))
    REJECTED.write(rejected, REJECTED.frame([asdict(rejection) for rejection in rejections]))
    counts = summarise(annotated, on_disk, groups, rejections)
    write_json(summary, counts)
    say(annotated, counts)
    if not rows:
        cause = f"holds no video, as none is usable; {rejected} has the reason of each"
        raise FvcError(index, cause, "Compare data/annotations with what is in data/archives")


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc index", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--videos", type=Path, required=True, help="read: the unpacked files")
    parser.add_argument("--annotations", type=Path, required=True, help="read: FVC.csv and more")
    parser.add_argument(
        "--probes", type=Path, required=True, help="kept: what files are and which match"
    )
    parser.add_argument("--index", type=Path, required=True, help="written: one row per video")
    parser.add_argument("--rejected", type=Path, required=True, help="written: the other videos")
    parser.add_argument(
        "--near-duplicates", type=Path, required=True, help="written: matches across cascades"
    )
    parser.add_argument("--summary", type=Path, required=True, help="written: counts")
    parser.add_argument("--csv", type=Path, required=True, help="written: the index as CSV")
    parser.add_argument("--json", type=Path, required=True, help="written: the index as JSON")
    args = vars(parser.parse_args(argv))
    run(load_params(args.pop("params")), **args)
