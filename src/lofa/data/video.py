"""Reads a clip of fixed length, rate and size out of a video file (mp4, avi, mkv, webm, gif: whatever PyAV decodes), or
one of a single frame out of an image file.

The frames wanted stand at times t_k = start + k / fps; the frame shown nearest to each is taken, centre-cropped to the
goal's shape and resized. A video shorter than the clip is spread over it: its own rate is lost, but no frame is
invented at the end. Decoding streams, so memory holds the clip's frames alone.
"""

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lofa.data.source import ClipShape, Loaded
from lofa.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "frame_times", "read_clip"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".gif", ".mov", ".m4v")


def frame_times(path: str | Path) -> list[float]:
    """Times in seconds at which the frames of a video are shown, ascending, read from the container without decoding.

    Raises:
        DataError: not a video, no video stream or no frames.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            base = float(stream.time_base or 0)
            stamps = [packet.pts for packet in container.demux(stream) if packet.size]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a video that can be read ({error})") from None
    if not stamps:
        raise DataError(f"{path}: a clip with zero frames")
    if any(stamp is None for stamp in stamps):
        return [i / rate for i in range(len(stamps))]
    return sorted(float(stamp) * base for stamp in stamps if stamp is not None)


def wanted_times(times: list[float], shape: ClipShape, window: int = 0, windows: int = 1) -> tuple[list[float], float]:
    """Times of a clip's frames and its true rate; windows are spread evenly from the first frame to the last."""
    frames, fps = shape.frames, shape.fps
    length = (frames - 1) / fps
    start, whole = times[0], times[-1] - times[0]
    if whole <= length:  # too short for the rate: spread it
        spread = whole / max(frames - 1, 1)
        return [start + k * spread for k in range(frames)], (1 / spread if spread else fps)
    centre = 0.5 if windows == 1 else window / (windows - 1)
    start += (whole - length) * centre
    return [start + k / fps for k in range(frames)], fps


def _decoded(path: str | Path) -> Iterator[tuple[float, av.VideoFrame]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        for i, frame in enumerate(container.decode(stream)):
            yield (i / rate if frame.time is None else float(frame.time)), frame


def _fit(frame: av.VideoFrame, shape: ClipShape) -> NDArray[np.uint8]:
    """The upright centre of a frame in the goal's shape, resized: (height, width, 3)."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return _crop(Image.fromarray(np.ascontiguousarray(pixels)), shape)


def _crop(image: Image.Image, shape: ClipShape) -> NDArray[np.uint8]:
    height, width = shape.size
    scale = min(image.width / width, image.height / height)
    dx, dy = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (dx, dy, image.width - dx, image.height - dy)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def read_clip(path: str | Path, shape: ClipShape, window: int = 0, windows: int = 1) -> Loaded:
    """Reads clip number `window` of `windows` evenly placed ones; a single one is the middle of the video.

    Raises:
        DataError: the file can't be read, has no frames, is a still image, or breaks off before the clip ends.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return _read_image(path, shape)
    times, frames = frame_times(path), shape.frames
    if frames == 1 and len(times) > 1:
        raise DataError(f"{path}: a moving picture, where images are wanted (clips of one frame)")
    if frames > 1 and len(times) < 2:
        raise DataError(f"{path}: only {len(times)} frame; a clip of {frames} needs a moving picture")
    wanted, rate = wanted_times(times, shape, window, windows)
    nearest = [_nearest(times, time) for time in wanted]
    taken: list[NDArray[np.uint8]] = []
    reached = float("-inf")
    try:
        for reached, frame in _decoded(path):
            if reached + 1e-6 < nearest[len(taken)]:
                continue
            last = _fit(frame, shape)
            while len(taken) < frames and reached + 1e-6 >= nearest[len(taken)]:
                taken.append(last)
            if len(taken) == frames:
                break
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise DataError(f"{path}: damaged after {len(taken)} of {frames} frames ({error})") from None
    tolerance = 1.5 * (times[-1] - times[0]) / max(len(times) - 1, 1) + 1e-3
    if taken and nearest[-1] - reached <= tolerance:  # a container may announce a frame more than it shows
        taken += [taken[-1]] * (frames - len(taken))
    if len(taken) < frames:
        raise DataError(f"{path}: damaged or cut off: {len(taken)} of the {frames} frames of the clip could be decoded")
    return Loaded(np.stack(taken), fps=rate)


def _read_image(path: str | Path, shape: ClipShape) -> Loaded:
    if shape.frames > 1:
        raise DataError(f"{path}: an image; a clip of {shape.frames} frames needs a moving picture")
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read ({error})") from None
    return Loaded(np.stack([_crop(upright, shape)]))


def _nearest(times: list[float], time: float) -> float:
    i = bisect_left(times, time)
    return min(times[max(i - 1, 0) : i + 1], key=lambda other: abs(other - time))
