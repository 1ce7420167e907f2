"""Peak memory and time of d2net extract on one long video: a made-up minute, repeated without encoding it again.

    python benchmarks/video_memory.py [--hours 10] [--fps 2] [--decoder av] [--most 64]

Exits 1 where the peak beyond that of a six-minute video is more than `--most` MiB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

from d2net.video import needed

RATE = 25
SHORT = 0.1  # hours

MEASURED = """
import resource, sys, time
from d2net.video.backbones import make_backbone
from d2net.video.extract import extract
video, out, fps, decoder = sys.argv[1:]
began = time.perf_counter()
result = extract([video], out, make_backbone("motion", fps=float(fps), decoder=decoder), progress=False)
assert result.done, result.failed
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - began)
"""


def write_minute(path: Path) -> None:
    """160 x 120 pixels, a bar that moves."""
    import numpy as np

    av = needed("av", "av")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.options = {"preset": "ultrafast", "x264-params": "log-level=none"}
        for i in range(60 * RATE):
            image = np.zeros((120, 160, 3), np.uint8)
            image[:, i % 160 : i % 160 + 20] = 200
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def repeat(minute: Path, path: Path, times: int) -> None:
    """The minute's packets, one minute later every time."""
    av = needed("av", "av")
    with av.open(str(minute)) as source:
        of = source.streams.video[0]
        base = Fraction(of.time_base)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in source.demux(of) if p.dts is not None]
        with av.open(str(path), "w") as file:
            stream = file.add_stream_from_template(of)
            for k in range(times):
                later = round(60 * k / base)
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = stream, base
                    packet.pts, packet.dts, packet.is_keyframe = pts + later, dts + later, key
                    file.mux(packet)


def measure(video: Path, out: Path, fps: float, decoder: str) -> tuple[float, float]:
    """(peak MiB, seconds) of one extraction in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, video, out, str(fps), decoder], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    peak, seconds = done.stdout.split()
    return int(peak) / 1024, float(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--fps", type=float, default=2.0, help="that frames are resampled to; all are decoded")
    parser.add_argument("--decoder", default="av")
    parser.add_argument("--most", type=float, default=64.0, help="MiB beyond the peak of the short video")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_minute(base / "minute.mkv")
        peaks = []
        for name, hours in (("short", SHORT), ("long", asked.hours)):
            video = base / f"{name}.mkv"
            repeat(base / "minute.mkv", video, max(1, round(60 * hours)))
            peak, seconds = measure(video, base / name, asked.fps, asked.decoder)
            peaks.append(peak)
            rate = hours * 3600 * RATE / seconds
            print(f"{hours:g} hours, {video.stat().st_size / 1e6:.0f} MB: peak {peak:.0f} MiB, {seconds:.0f} s, "
                  f"{rate:.0f} frames decoded a second", flush=True)  # fmt: skip
    more = peaks[1] - peaks[0]
    print(f"{more:.0f} MiB more")
    return int(more > asked.most)


if __name__ == "__main__":
    sys.exit(main())
