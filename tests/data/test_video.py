"""Reading clips: the right frames, the right shape, and clear words about broken files."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lofa.data import ClipShape, read_clip
from lofa.data.video import frame_times
from lofa.errors import DataError
from tests.data.conftest import grey_ramp, write_video

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets" / "videos"


def levels(frames: np.ndarray) -> list[int]:
    return [round((float(picture.mean()) - 40) / 8) for picture in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm", ".gif"])
def test_every_container_gives_frames_of_the_asked_size(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}", grey_ramp(12))
    clip = read_clip(path, ClipShape(5, 16, 32, 8))
    assert clip.frames.shape == (5, 16, 32, 3) and clip.frames.dtype == np.uint8
    assert all(abs(a - b) <= 1 for a, b in zip(levels(clip.frames), [4, 5, 6, 7, 8], strict=True))


@pytest.mark.parametrize(
    ("rate", "frames", "fps", "window", "windows", "expected"),
    [
        (8, 12, 4, 0, 2, [0, 2, 4, 6, 8]),  # half the rate
        (8, 12, 8, 0, 3, [0, 1, 2, 3, 4]),  # the first of three windows
        (8, 12, 8, 2, 3, [7, 8, 9, 10, 11]),  # the last
        (8, 3, 8, 0, 1, [0, 0, 1, 2, 2]),  # too short: spread over the clip
        (16, 17, 8, 0, 1, [4, 6, 8, 10, 12]),  # the middle
    ],
)
def test_frames_are_those_nearest_in_time(
    tmp_path: Path, rate: int, frames: int, fps: float, window: int, windows: int, expected: list[int]
) -> None:
    path = write_video(tmp_path / "clip.mp4", grey_ramp(frames), rate)
    clip = read_clip(path, ClipShape(5, 16, 16, fps), window, windows)
    found = levels(clip.frames)
    assert found == expected or expected == [0, 0, 1, 2, 2] and found in ([0, 0, 1, 1, 2], [0, 1, 1, 2, 2])
    assert clip.fps == pytest.approx(fps if frames > 3 else 16)


def test_the_centre_is_cropped_not_squeezed(tmp_path: Path) -> None:
    frames = np.zeros((6, 32, 96, 3), np.uint8)
    frames[:, :, 32:64] = 200
    clip = read_clip(write_video(tmp_path / "wide.mp4", frames), ClipShape(5, 32, 32, 8))
    assert clip.frames[:, :, 4:-4].min() > 150


def test_a_turned_phone_video_comes_upright(tmp_path: Path) -> None:
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    frames[:, :16] = 220  # bright above
    path = write_video(tmp_path / "phone.mp4", frames)
    one, bytes_ = (1 << 16).to_bytes(4, "big"), path.read_bytes()
    nought, minus, last = bytes(4), (-(1 << 16)).to_bytes(4, "big", signed=True), (1 << 30).to_bytes(4, "big")
    straight = one + nought * 3 + one + nought * 3 + last
    clockwise = nought + one + nought + minus + nought * 4 + last  # players turn the picture by a quarter to the right
    track = bytes_.index(b"tkhd")
    place = bytes_.index(straight, track)
    path.write_bytes(bytes_[:place] + clockwise + bytes_[place + len(straight) :])
    picture = read_clip(path, ClipShape(5, 32, 32, 8)).frames[0]
    assert picture[:, 18:].mean() > 200 and picture[:, :14].mean() < 20  # above has gone to the right


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_an_image_is_a_clip_of_one_frame(tmp_path: Path, ending: str) -> None:
    """Turned upright as its camera says, its centre cut out, whatever its mode."""
    picture = Image.new("RGBA" if ending != "jpg" else "RGB", (48, 24), "blue")
    picture.paste("red", (0, 0, 24, 24))  # left
    exif = picture.getexif()
    exif[0x0112] = 6  # turn it to the right by 90 degrees
    picture.save(tmp_path / f"a.{ending}", exif=exif)
    frames = read_clip(tmp_path / f"a.{ending}", ClipShape(1, 32, 16, 1.0)).frames
    assert frames.shape == (1, 32, 16, 3)
    top, bottom = frames[0, 4, 8], frames[0, -4, 8]
    assert top[0] > 200 > 50 > top[2] and bottom[2] > 200 > 50 > bottom[0]


def test_images_and_videos_are_not_taken_for_each_other(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    for name, count, words in (
        ("a.gif", 1, "a.gif: a moving picture, where images are wanted"),
        ("a.png", 5, "a.png: an image; a clip of 5 frames needs a moving picture"),
        ("b.png", 1, "b.png: not an image that can be read"),
        ("c.png", 1, "c.png: no such file"),
    ):
        with pytest.raises(DataError, match=words):
            read_clip(tmp_path / name, ClipShape(count, 16, 16, 8.0))


def test_broken_files_are_named_with_their_fault(tmp_path: Path) -> None:
    shape = ClipShape(17, 16, 16, 8)
    good = write_video(tmp_path / "good.mp4", np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 3])
    hole = tmp_path / "hole.mp4"
    hole.write_bytes(good.read_bytes()[:2000] + bytes(good.stat().st_size - 6000) + good.read_bytes()[-4000:])
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    still = write_video(tmp_path / "still.mp4", grey_ramp(1))
    for path, words in ((text, "not a video"), (cut, "not a video"), (hole, "damaged"), (still, "only 1 frame")):
        with pytest.raises(DataError, match=words) as caught:
            read_clip(path, shape)
        assert str(path) in str(caught.value)


def test_a_clip_with_zero_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as container:
        container.add_stream("mpeg4", rate=8, width=32, height=32).pix_fmt = "yuv420p"
        container.start_encoding()
    with pytest.raises(DataError, match="zero frames"):
        read_clip(path, ClipShape(5, 16, 16, 8))


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the folder of real videos is not here")
def test_real_videos_are_read() -> None:
    for path in sorted(ASSETS.iterdir()):
        clip = read_clip(path, ClipShape(17, 64, 64, 8))
        assert clip.frames.shape == (17, 64, 64, 3)
        assert clip.frames.std() > 5
        assert frame_times(path) == sorted(frame_times(path))
