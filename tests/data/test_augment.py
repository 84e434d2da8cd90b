"""Augmentation: pure functions of a seed, whose draws have nothing to do with each other."""

from collections import Counter

import albumentations as A
import numpy as np

from fedkvasir.data.augment import AUGMENTS, Augment


def test_an_image_is_flipped_either_way_whether_or_not_it_is_flipped_the_other() -> None:
    corner = np.zeros((8, 8), np.uint8)
    corner[0, 0] = 1
    flips = Augment(AUGMENTS["light"](8)[:2])
    moved = [flips(np.repeat(255 * corner[..., None], 3, 2), corner, seed) for seed in range(400)]
    assert all((image[..., 0] > 0).tolist() == (mask > 0).tolist() for image, mask in moved)
    places = Counter(tuple(map(int, np.argwhere(mask)[0])) for _, mask in moved)
    assert places.keys() == {(0, 0), (0, 7), (7, 0), (7, 7)} and min(places.values()) > 60  # of 100 on average


def test_whether_one_change_is_made_says_nothing_about_another() -> None:
    """Of two changes made with probability one half: both, either alone and none in a quarter of all images each."""
    brighten = A.RandomBrightnessContrast(brightness_limit=(0.2, 0.2), contrast_limit=0, p=0.5)
    augment, grey = Augment([A.HorizontalFlip(p=0.5), brighten]), np.full((4, 4, 3), 100, np.uint8)
    left, both = np.repeat(np.uint8([[1, 1, 0, 0]]), 4, 0), Counter[tuple[bool, bool]]()
    for seed in range(400):
        image, mask = augment(grey, left, seed)
        both[bool(mask[0, 0] == 0), bool(image.max() > 100)] += 1
    assert len(both) == 4 and all(60 < count < 140 for count in both.values())
