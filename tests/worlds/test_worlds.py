"""Laws of the procedural world."""

import itertools
from pathlib import Path

import numpy as np
import pytest

import lofa.worlds as worlds
from lofa.worlds.appearance import BACKGROUNDS, BODIES, DRIFTS, SIZES, STYLES
from lofa.worlds.captions import GENERIC_PHRASES, action_phrases, appearance_phrases, split_words
from lofa.worlds.skeleton import joints_of, pose

NAMES = list(worlds.ACTIONS)
SOME: list[str | None] = [*NAMES[::25], None]


def test_same_seed_same_clip_alone_or_in_a_batch() -> None:
    seeds = list(range(len(SOME)))
    batch = worlds.sample_batch(SOME, seeds)
    for clip, action, seed in zip(batch, SOME, seeds, strict=True):
        (alone,) = worlds.sample_batch([action], [seed])
        assert np.array_equal(clip.frames, alone.frames)
        assert np.array_equal(clip.joints, alone.joints)
        assert (clip.caption, clip.action, clip.appearance) == (alone.caption, action, alone.appearance)
    assert batch[0].frames.shape == (17, 64, 64, 3)
    assert batch[0].frames.dtype == np.uint8
    assert batch[0].joints.shape == (17, 15, 2)
    assert batch[0].joints.dtype == np.float32


def test_seeds_vary_motion_and_look() -> None:
    clips = worlds.sample_batch([NAMES[0]] * 6, range(6))
    assert len({clip.joints.tobytes() for clip in clips}) == 6
    assert len({clip.appearance for clip in clips}) > 3
    assert len({clip.caption for clip in clips}) == 6


@pytest.mark.parametrize(("frames", "size"), [(2, 16), (9, 48)])
def test_other_lengths_and_sizes(frames: int, size: int) -> None:
    (clip,) = worlds.sample_batch([NAMES[-1]], [3], frames=frames, size=size)
    assert clip.frames.shape == (frames, size, size, 3)
    assert clip.joints.shape == (frames, 15, 2)


def test_joints_stay_inside_the_frame() -> None:
    rng = np.random.default_rng(0)
    motions = [worlds.sample_motion(name, seed)[0] for seed, name in enumerate(NAMES)]
    motions += [worlds.sample_motion(None, seed)[0] for seed in range(60)]
    motions += [worlds.random_motion(rng) for _ in range(60)]
    joints = np.stack(motions)
    assert np.isfinite(joints).all()
    assert joints.min() > 0.04
    assert joints.max() < 0.96


def test_joints_lie_on_the_drawn_figure() -> None:
    size = 64
    for clip in worlds.sample_batch(SOME, range(len(SOME)), size=size):
        shades = np.array(list(clip.appearance.shades().values()), dtype=float)
        at = (clip.joints * size).astype(int)
        colours = clip.frames[np.arange(17)[:, None], at[..., 1], at[..., 0]].astype(float)
        nearest = np.abs(colours[:, :, None] - shades).max(-1).min(-1)
        assert (nearest < 40).mean() > 0.98


def test_right_is_darker_and_on_the_images_left() -> None:
    joints = joints_of(pose(1))[0]
    for right, left in ((3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14)):
        assert worlds.JOINTS[right].startswith("right")
        assert joints[right, 0] < 0 < joints[left, 0]
    for body in BODIES:
        shades = worlds.Appearance(body=body).shades()
        assert sum(shades["right"]) < sum(shades["body"]) < sum(shades["left"])


def test_every_shade_differs_from_every_background() -> None:
    for body, background in itertools.product(BODIES, BACKGROUNDS.values()):
        for shade in worlds.Appearance(body=body).shades().values():
            assert np.linalg.norm(np.subtract(shade, background)) > 45


def test_camera_moves_floor_and_figure_alike() -> None:
    look = worlds.Appearance(background="white", style="floor", drift="up", body="blue")
    still = worlds.fit_pose(np.repeat(joints_of(pose(1)), 17, 0))
    video = worlds.render((still + look.camera(17)[:, None])[None], [look])[0]
    floor = video[:, 40:, 1, 0].argmin(1)
    head = (np.abs(video.astype(int) - np.array(BODIES["blue"])).sum(-1) < 20).any(-1).argmax(-1)
    assert floor[-1] - floor[0] == pytest.approx(head[-1] - head[0], abs=1)
    assert floor[-1] - floor[0] >= 4


def test_splits_hold_out_compositions_of_known_words() -> None:
    assert set(worlds.SPLITS) == set(worlds.ACTIONS)
    split = {
        name: [worlds.ACTIONS[action] for action, where in worlds.SPLITS.items() if where == name]
        for name in ("train", "val", "test")
    }
    assert len(split["train"]) >= 110
    assert len(split["val"]) >= 16
    assert len(split["test"]) >= 24
    pairs = {(part.verb, part.limb, word) for action in split["train"] for part in action.parts for word in part.words}
    composed = {part.name for action in split["train"] if len(action.parts) > 1 for part in action.parts}
    spoken = {word for a in split["train"] for text in action_phrases(a) for word in split_words(text)}
    verbs = {action.parts[0].verb for action in split["train"]}
    for name in ("val", "test"):
        assert {len(action.parts) for action in split[name]} == {1, 2}
        assert {action.parts[0].verb for action in split[name] if len(action.parts) == 1} == verbs
        for action in split[name]:
            for part in action.parts:
                assert {(part.verb, part.limb, word) for word in part.words} <= pairs
                assert len(action.parts) == 1 or part.name in composed
            assert {word for text in action_phrases(action) for word in split_words(text)} <= spoken


def test_captions_use_the_vocabulary_and_stay_short() -> None:
    words = set(worlds.vocabulary())
    rng = np.random.default_rng(0)
    for name in [*NAMES, *[None] * 50]:
        for _ in range(5):
            used = split_words(worlds.caption(worlds.Appearance.random(rng), name, rng))
            assert set(used) <= words
            assert len(used) <= 32


def test_captions_name_every_attribute() -> None:
    looks = list(itertools.starmap(worlds.Appearance, itertools.product(BODIES, BACKGROUNDS, STYLES, DRIFTS, SIZES)))
    assert len({phrase for look in looks for phrase in appearance_phrases(look)}) == sum(
        len(appearance_phrases(look)) for look in looks
    )


def test_no_wording_belongs_to_two_classes() -> None:
    owner: dict[str, str] = {}
    for name, action in worlds.ACTIONS.items():
        for phrase in action_phrases(action):
            assert owner.setdefault(phrase, name) == name


def test_generic_captions_use_no_action_word() -> None:
    verbs = {text.split()[0] for name in NAMES for text in action_phrases(worlds.ACTIONS[name])}
    assert not verbs & {word for phrase in GENERIC_PHRASES for word in split_words(phrase)}


def test_free_text_is_used_as_it_is() -> None:
    assert worlds.caption(worlds.Appearance(), "brushes hair", np.random.default_rng(0)).endswith(", brushes hair")


def test_classes_are_distinct_motions() -> None:
    gaps = []
    for seed in (3, 11):
        joints = np.stack([worlds.sample_motion(name, seed)[0] for name in NAMES]) * 64
        # the joint that differs most, in pixels, averaged over time
        gaps.append(np.stack([np.abs(joints - one).max((-1, -2)).mean(-1) for one in joints]))
    gap = np.mean(gaps, 0)[np.triu_indices(len(NAMES), 1)]
    assert gap.min() > 1.0
    assert np.median(gap) > 6


def test_fast_is_faster() -> None:
    for name in NAMES:
        if name.endswith("-slow"):
            slow, fast = (
                np.mean([np.abs(np.diff(worlds.sample_motion(n, s)[0], axis=0)).max() for s in range(4)])
                for n in (name, name.removesuffix("slow") + "fast")
            )
            assert fast > 1.25 * slow, name


def test_fit_pose_keeps_shape_and_survives_gaps() -> None:
    rng = np.random.default_rng(0)
    real = joints_of(pose(5, {"left arm": np.linspace(0, 170, 5)})) * 300 + [400, 900]
    fitted = worlds.fit_pose(real)
    assert fitted.min() > 0
    assert fitted.max() < 1
    flat = real.reshape(-1, 2) - real.reshape(-1, 2).mean(0)
    seen = fitted.reshape(-1, 2) - fitted.reshape(-1, 2).mean(0)
    np.testing.assert_allclose(flat / np.abs(flat).max(), seen / np.abs(seen).max(), atol=1e-4)
    holes = np.where(rng.random((5, 15, 1)) < 0.3, np.nan, real)
    for broken in (holes, np.full((2, 15, 2), np.nan), np.full((1, 15, 2), 7.0)):
        joints = worlds.fit_pose(broken)
        assert ((joints >= 0) & (joints <= 1)).all()
        assert worlds.render(joints[None], [worlds.Appearance()]).dtype == np.uint8


ASSETS = next((p / "shared" / "assets" for p in Path(__file__).parents if (p / "shared" / "assets").is_dir()), None)


@pytest.mark.skipif(ASSETS is None, reason="the real JHMDB poses (shared/assets) are not here")
def test_real_poses_fit_and_render() -> None:
    assert ASSETS is not None
    with np.load(ASSETS / "jhmdb" / "train.npz") as data:
        keypoints, lengths = data["keypoints"], data["lengths"]
    ends = np.cumsum(lengths)
    for i in range(0, len(lengths), 40):
        joints = worlds.fit_pose(keypoints[ends[i] - lengths[i] : ends[i]])
        assert ((joints > 0) & (joints < 1)).all()
        video = worlds.render(joints[None, :4], [worlds.Appearance()], size=32)
        assert video.std() > 5
