"""Draws the images of `glyphs`: characters of many scripts in the font faces that matplotlib ships."""

import unicodedata
from functools import cache
from math import cos, radians, sin
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

DRAWING = 1  # to be raised by every change of what is drawn; part of the cache file's name
SIDE = 28
PER_CLASS = 20
FAMILIES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
STYLES = ("", "-Bold", "-Oblique", "-Italic", "-BoldOblique", "-BoldItalic", "Bol", "Italic", "BolIta")
MIN_FACES = 4
FONT_SIZE = 96
SUPERSAMPLING = 3
# Of two characters whose plain drawings (blurred by a pixel) have a larger cosine, the later is dropped:
# Latin A, Greek Alpha and Cyrillic A are one class, and so are most capitals with their small letters.
MAX_COSINE = 0.9
# First to last code point, in the order in which they win against near copies.
BLOCKS = {
    "digits": (0x0030, 0x0039),
    "Latin": (0x0041, 0x024F),
    "Greek": (0x0370, 0x03FF),
    "Cyrillic": (0x0400, 0x052F),
    "Armenian": (0x0531, 0x0587),
    "Hebrew": (0x05D0, 0x05EA),
    "Arabic": (0x0620, 0x064A),
    "Lao": (0x0E81, 0x0EDF),
    "Georgian": (0x10A0, 0x10FF),
    "phonetic": (0x0250, 0x02AF),
    "Canadian syllabics": (0x1401, 0x1676),
    "Lisu": (0xA4D0, 0xA4F7),
    "Old Italic": (0x10300, 0x1031E),
    "currency": (0x20A0, 0x20BF),
    "mathematics": (0x2200, 0x22FF),
}

Faces = list[Path]


def draw() -> dict[str, np.ndarray]:
    """All classes: `code_points` [C] and `images` uint8 [C, PER_CLASS, SIDE, SIDE], 255 is ink.

    Takes some seconds; a progress bar is shown in a terminal.
    """
    chars = candidates()
    plain = np.stack([_plain(char, faces[0]) for char, faces in chars])
    kept = [chars[i] for i in _distinct(plain)]
    progress = tqdm(kept, "drawing glyphs", unit="class", disable=None)
    return {
        "images": np.stack([instances(char, faces) for char, faces in progress]),
        "code_points": np.array([ord(char) for char, _ in kept], dtype=np.int32),
    }


def candidates() -> list[tuple[str, Faces]]:
    """Letters, digits and symbols that are no compositions of others, each with the faces that have it."""
    import matplotlib
    from fontTools.ttLib import TTFont

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = [folder / f"{family}{style}.ttf" for family in FAMILIES for style in STYLES]
    covers = {}
    for path in filter(Path.is_file, paths):
        with TTFont(path, lazy=True) as font:
            covers[path] = frozenset(font.getBestCmap() or ())
    found = []
    for first, last in BLOCKS.values():
        for point in range(first, last + 1):
            char = chr(point)
            faces = [path for path, covered in covers.items() if point in covered]
            category = unicodedata.category(char)
            is_base = category in ("Lu", "Ll", "Lo", "Nd", "Sm", "Sc") and not unicodedata.decomposition(char)
            if is_base and len(faces) >= MIN_FACES:
                found.append((char, faces))
    return found


def _distinct(plain: Float[np.ndarray, "C d"]) -> list[int]:
    """The rows that are no near copies of an earlier row that was kept."""
    cosines = plain @ plain.T
    kept: list[int] = []
    for i, row in enumerate(cosines):
        if not (row[kept] > MAX_COSINE).any():
            kept.append(i)
    return kept


def _plain(char: str, face: Path) -> Float[np.ndarray, " d"]:
    """The undistorted drawing, blurred, as a unit vector."""
    from PIL import Image, ImageFilter

    image = _place(_glyph(char, face), np.eye(2), 24.0, np.zeros(2))
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(1))
    row = np.asarray(blurred, dtype=np.float64).ravel()
    return row / np.linalg.norm(row)


def instances(char: str, faces: Faces) -> UInt8[np.ndarray, "I h w"]:
    """One character, 255 is ink: its faces in turn, each time under another random affine map.

    Every character has a stream of its own: one more or less leaves the others' images as they are.
    """
    rng = np.random.default_rng([DRAWING, ord(char)])
    glyphs = [_glyph(char, faces[i]) for i in rng.permutation(len(faces))]
    images = []
    for i in range(PER_CLASS):
        angle, shear = radians(rng.uniform(-15, 15)), rng.uniform(-0.25, 0.25)
        aspect, size = np.exp(rng.uniform(-0.15, 0.15)), rng.uniform(19, 25)
        rotation = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
        matrix = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([aspect, 1 / aspect])
        room = (SIDE - size) / 2 - 0.5
        images.append(_place(glyphs[i % len(glyphs)], matrix, size, rng.uniform(-room, room, 2)))
    return np.stack(images)


def _glyph(char: str, face: Path) -> "Image":
    """The glyph in white on black, cropped to its ink and a margin of one pixel."""
    from PIL import Image, ImageDraw, ImageOps

    canvas = Image.new("L", (4 * FONT_SIZE, 3 * FONT_SIZE))
    ImageDraw.Draw(canvas).text((FONT_SIZE, FONT_SIZE), char, font=_font(face), fill=255)
    return ImageOps.expand(canvas.crop(canvas.getbbox()), border=1)


@cache
def _font(face: Path) -> "FreeTypeFont":
    from PIL import ImageFont

    # The basic layout is always there; the other one depends on how Pillow was built.
    return ImageFont.truetype(face, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _place(
    glyph: "Image", matrix: Float[np.ndarray, "2 2"], size: float, shift: Float[np.ndarray, " 2"]
) -> UInt8[np.ndarray, "h w"]:
    """The glyph under ``matrix``, ``size`` pixels in its longer direction, ``shift`` off the centre."""
    from PIL import Image

    half = np.array(glyph.size) / 2
    corners = matrix @ (half[:, None] * [[1, 1, -1, -1], [1, -1, 1, -1]])
    matrix = matrix * (SUPERSAMPLING * size / (2 * np.abs(corners).max()))
    side = SUPERSAMPLING * SIDE
    inverse = np.linalg.inv(matrix)  # Pillow wants the map from the result to the source
    offset = half - inverse @ (side / 2 + SUPERSAMPLING * shift)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    large = glyph.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(large.resize((SIDE, SIDE), Image.Resampling.BOX))
