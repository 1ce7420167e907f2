"""The folder that `d2net extract` writes: an .npy a video, and a log that says what they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from d2net.data.features.folder import FolderFeatures
from d2net.data.features.listing import Part, VideoFiles, listed
from d2net.data.features.store import FeatureError
from d2net.data.files import read_text, shown, some, write_atomically
from d2net.ranges import LONGEST
from d2net.timing import Timing

LOG = "extraction.jsonl"
FORMAT = "d2net features 1"


class Extracted(NamedTuple):
    """One video's line of the log: its file of features, what they were made of, and how long that lasts."""

    video: str
    file: str
    snippets: int
    duration: float
    source: str
    sha256: str
    note: str = ""


class Log(NamedTuple):
    """identity: the backbone's, the same for all. videos: by name."""

    identity: dict[str, Any]
    videos: dict[str, Extracted]


def read_log(path: Path) -> Log:
    """Reads a log; a last line that an interruption cut short is left out.

    Raises:
        FeatureError: names the line.
    """
    lines = read_text(path, "a log of extraction").split("\n")[:-1]
    try:
        head = json.loads(lines[0])
        if head.pop("format") != FORMAT:
            raise FeatureError(f"{path} is of another version of d2net; extract again with --overwrite")
        Timing(fps=head["fps"], stride=head["stride"], snippet_frames=head["snippet_frames"])
        if not isinstance(head["backbone"], str) or not isinstance(head["streams"], list):
            raise ValueError("backbone and streams are needed")
    except FeatureError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise FeatureError(f"{path}: its first line does not say what the features are: {error!r}") from error
    videos = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            entry = Extracted(**json.loads(line))
            _check(entry)
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error) if isinstance(error, ValueError) else shown(line)
            todo = "extract again with --overwrite"
            raise FeatureError(f"{path}: line {number} is not of a video: {reason}; {todo}") from error
        videos[entry.video] = entry
    return Log(head, videos)


def _check(entry: Extracted) -> None:
    texts = (entry.video, entry.file, entry.source, entry.sha256, entry.note)
    if not all(isinstance(x, str) for x in texts):
        raise ValueError(f"expected text, got {shown(texts)}")
    if not entry.file.endswith(".npy") or entry.file.startswith(".") or Path(entry.file).name != entry.file:
        raise ValueError(f"file must be an .npy in the folder, got {entry.file!r}")
    if not isinstance(entry.snippets, int) or entry.snippets < 1:
        raise ValueError(f"snippets must be at least 1, got {shown(entry.snippets)}")
    if not isinstance(entry.duration, (int, float)) or not 0 < entry.duration <= LONGEST or math.isnan(entry.duration):
        raise ValueError(f"duration must be positive seconds, got {shown(entry.duration)}")


def head_line(identity: dict[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **identity}, allow_nan=False) + "\n"


def video_line(entry: Extracted) -> str:
    fields = {k: v for k, v in entry._asdict().items() if k != "note" or v}
    return json.dumps(fields, allow_nan=False) + "\n"


def write_log(path: Path, log: Log) -> None:
    """Writes it whole, videos by name."""
    lines = [head_line(log.identity), *(video_line(log.videos[name]) for name in sorted(log.videos))]
    write_atomically(path, lambda file: file.write("".join(lines).encode()))


class ExtractedFeatures(FolderFeatures):
    """Features with their timing, durations, streams and the backbone that made them."""

    def __init__(self, path: Path):
        log = read_log(path / LOG)
        if not log.videos:
            raise FeatureError(f"{path}: no video is extracted yet; run d2net extract to its end")
        listing = listed(path)
        held = {listing.file(i) for i in range(len(listing.stems))}
        missing = [e.file for e in log.videos.values() if e.file not in held and not (path / e.file).is_file()]
        if missing:
            raise FeatureError(f"{path}: {len(missing)} files of its log are gone ({some(missing)}); extract again")
        files = VideoFiles.of_each((v, (_part(path, v, log.videos[v].file),)) for v in sorted(log.videos))
        super().__init__(path, files, [listing.of_kinds([".npy"])])
        odd = [n for n, e in log.videos.items() if self.lengths[n] != e.snippets]
        if odd:
            raise FeatureError(
                f"{path}: {log.videos[odd[0]].file} has {self.lengths[odd[0]]} rows, the log says "
                f"{log.videos[odd[0]].snippets}; extract again"
            )
        self.stated = {k: float(log.identity[k]) for k in ("fps", "stride", "snippet_frames")}
        self.durations = {name: float(entry.duration) for name, entry in log.videos.items()}
        self.identity = log.identity
        at = 0
        streams = []
        for name, width in log.identity["streams"]:
            streams.append([at, at + width, name])
            at += width
        self.streams = streams
        self.layout = f"extracted by {log.identity['backbone']}"


def _part(path: Path, video: str, file: str) -> Part:
    return Part(path, file.removeprefix(video)) if file.startswith(video) else Part(path, file, own=False)
