"""Ids and addresses in the forms that the three platforms use."""

import string
from types import MappingProxyType

import numpy as np

URL_FORMS = MappingProxyType(
    {
        "youtube": (
            "https://www.youtube.com/watch?v={source_id}",
            "https://www.youtube.com/watch?v={source_id}",
            "https://www.youtube.com/watch?v={source_id}&feature=youtu.be",
            "https://youtu.be/{source_id}",
        ),
        "facebook": (
            "https://www.facebook.com/{page}/videos/{source_id}/",
            "https://www.facebook.com/{page}/videos/{source_id}",
            "https://www.facebook.com/watch/?v={source_id}",
        ),
        "twitter": (
            "https://twitter.com/{page}/status/{source_id}",
            "https://twitter.com/{page}/status/{source_id}?s=20",
        ),
    }
)
NUM_DIGITS = MappingProxyType({"facebook": 16, "twitter": 18})
YOUTUBE_ALPHABET = string.ascii_letters + string.digits + "-_"
YOUTUBE_ID_LENGTH = 11


def draw_source_id(platform: str, generator: np.random.Generator) -> str:
    """Make up an id: digits on Facebook and Twitter, eleven characters on YouTube."""
    if platform == "youtube":
        letters = generator.integers(len(YOUTUBE_ALPHABET), size=YOUTUBE_ID_LENGTH)
        return "".join(YOUTUBE_ALPHABET[letter] for letter in letters)
    first, *rest = generator.integers(10, size=NUM_DIGITS[platform])
    return "".join(str(digit) for digit in [max(first, 1), *rest])


def draw_url(platform: str, source_id: str, generator: np.random.Generator) -> str:
    """Write the address of a video in one of its platform's forms."""
    forms = URL_FORMS[platform]
    form = forms[generator.integers(len(forms))]
    return form.format(source_id=source_id, page=f"page{generator.integers(1000, 10000)}")
