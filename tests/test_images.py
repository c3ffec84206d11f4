"""Pixels of every kind, against Pillow and NumPy; the encoder; streamed batches."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerasdl.data import images as images_module
from kerasdl.data import pixels as pixels_module
from kerasdl.data.batches import BatchSource
from kerasdl.data.image_files import Photos, faults
from kerasdl.data.images import ImageEncoder, read_image
from kerasdl.data.labelled import Labelled, hold_out
from kerasdl.data.pixels import MOST_PIXELS, fitted_image
from kerasdl.errors import InputError

pytestmark = pytest.mark.backend_free

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (6, 4), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height, width):
    """A colour image that JPEG keeps nearly as it is."""
    y, x = np.mgrid[0:height, 0:width]
    channels = 255 * y / height, 255 * x / width, 255 * (y + x) / (height + width)
    return np.stack(channels, -1).astype(np.uint8)


def over_white(pixels, alpha):
    """Blend in exact fractions; `alpha` from 0 to 255."""
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(side=100_000):
    """A PNG of 100 bytes that says it has 10,000,000,000 pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def refusal(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Formats


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_formats_give_the_pixels(kind, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(COLOUR, kind, **options)
    path = tmp_path / "image"
    path.write_bytes(content)
    for source in (content, path, str(path), Image.fromarray(COLOUR), COLOUR):
        pixels = read_image(source)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, COLOUR)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_becomes_colour_and_colour_grey(kind):
    content = saved(GREY, kind)
    np.testing.assert_array_equal(read_image(content, channels=1), GREY[..., None])
    np.testing.assert_array_equal(read_image(content), np.stack([GREY] * 3, -1))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    grey = read_image(saved(COLOUR, kind), channels=1)
    assert grey.shape == (6, 4, 1)
    assert abs(grey[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind, orientation):
    # What has to be done to the stored pixels, from the EXIF standard's table.
    turn = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p[::-1].swapaxes(0, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p[:, ::-1].swapaxes(0, 1),
    }[orientation]
    stored = smooth(32, 48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    content = saved(stored, kind, exif=exif, **options.get(kind, {}))
    shown = turn(stored).astype(int)
    pixels = read_image(content)
    assert pixels.shape == shown.shape
    assert abs(pixels - shown).max() <= (12 if kind == "JPEG" else 0)


def test_transparency_shows_white():
    alpha = RANDOM.integers(0, 256, (6, 4), dtype=np.uint8)
    colour = saved(np.dstack([COLOUR, alpha]))
    assert abs(read_image(colour) - over_white(COLOUR, alpha)).max() <= 1
    webp = saved(np.dstack([COLOUR, alpha]), "WEBP", lossless=True, exact=True)
    assert abs(read_image(webp) - over_white(COLOUR, alpha)).max() <= 1
    grey = saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]))
    expected = over_white(GREY[..., None], alpha)
    assert abs(read_image(grey, channels=1) - expected).max() <= 1
    array = read_image(np.dstack([COLOUR, alpha]))
    assert abs(array - over_white(COLOUR, alpha)).max() <= 1


def test_palettes_with_and_without_transparency():
    indices = RANDOM.integers(0, 4, (6, 4), dtype=np.uint8)
    colours = RANDOM.integers(0, 256, (4, 3), dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel())
    image.putpalette(colours.tobytes())
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        np.testing.assert_array_equal(read_image(saved(image, kind)), colours[indices])
    expected = np.where((indices == 2)[..., None], 255, colours[indices])
    for kind in ("PNG", "GIF"):
        content = saved(image, kind, transparency=2)
        np.testing.assert_array_equal(read_image(content), expected)
    alphas = bytes([0, 255, 128, 255])  # one byte for each colour
    expected = over_white(colours[indices], np.frombuffer(alphas, np.uint8)[indices])
    content = saved(image, "PNG", transparency=alphas)
    assert abs(read_image(content) - expected).max() <= 1


def test_one_bit_is_black_and_white():
    bits = RANDOM.integers(0, 2, (6, 5)).astype(bool)
    for kind in ("PNG", "BMP", "TIFF"):
        content = saved(Image.fromarray(bits), kind)
        pixels = read_image(content, channels=1)[..., 0]
        np.testing.assert_array_equal(pixels, np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(kind):
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(6, 4)
    pixels = read_image(saved(values, kind), channels=1)[..., 0]
    assert abs(pixels - values / 257).max() <= 0.5
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    wide = Image.fromarray(values.astype(np.int32))  # as older files are read: mode I
    assert wide.mode == "I"
    np.testing.assert_array_equal(read_image(wide, channels=1)[..., 0], pixels)


def test_sixteen_bits_with_a_transparent_value():
    values = np.array([[0, 1000], [40_000, 65_535]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 0, 0, 0, 0)),
            chunk(b"tRNS", struct.pack(">H", 1000)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )
    pixels = read_image(content, channels=1)[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 255], [156, 255]])


def test_adobe_cmyk_is_inverted():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:8, :8, 0] = 255  # cyan
    ink[:8, 8:, 1] = 255  # magenta
    ink[8:, :8, 3] = 255  # black
    content = saved(Image.frombytes("CMYK", (16, 16), ink.tobytes()), "JPEG")
    assert b"Adobe" in content  # its marker: the inks are stored inverted
    pixels = read_image(content).astype(int)
    corners = pixels[[2, 2, 13, 13], [2, 13, 2, 13]]
    white, none = 255, 0
    expected = [[none, white, white], [white, none, white], [0, 0, 0], [255, 255, 255]]
    assert abs(corners - expected).max() <= 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (5, 3), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(
        read_image(content), np.full((3, 5, 3), [255, 0, 0], np.uint8)
    )


# Refusals


def test_bombs_are_refused_from_their_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    message = refusal(read_image, path)
    assert str(path) in message
    assert "100,000 x 100,000" in message
    # The very limit is no bomb, but has no pixels that could be read.
    side = int(MOST_PIXELS**0.5)
    assert "damaged" in refusal(read_image, bomb(side))
    assert "the most" in refusal(read_image, bomb(side + 1))
    assert str(path) in faults([path])[path]


def test_what_is_no_image_is_refused_by_name(tmp_path):
    whole = saved(smooth(64, 64), "JPEG")
    contents = {
        "text.jpg": b"Dear Sir or Madam",
        "empty.png": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "cut.png": saved(COLOUR)[:60],
        "header.gif": b"GIF89a",
        "page.pdf": b"%PDF-1.4",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert refusal(read_image, path).startswith(str(path))
    assert "is empty" in refusal(read_image, tmp_path / "empty.png")
    assert "JPEG, PNG" in refusal(read_image, tmp_path / "text.jpg")
    paths = sorted(tmp_path.iterdir())
    assert list(faults(paths)) == paths
    assert "No such file" in refusal(read_image, tmp_path / "none.jpg")
    assert "Is a directory" in refusal(read_image, tmp_path)
    assert "the image" in refusal(read_image, b"text")


def test_damage_in_the_middle_is_found_by_decoding(tmp_path):
    whole = bytearray(saved(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)))
    whole[1000:1100] = bytes(100)
    path = tmp_path / "broken.png"
    path.write_bytes(whole)
    assert faults([path]) == {}  # begins and ends as it should
    assert str(path) in faults([path], decode=True)[path]


def test_broken_notes_beside_whole_pixels_do_no_harm():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12"
    content = saved(smooth(32, 32), "JPEG", quality=95, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of them
        assert abs(read_image(content) - smooth(32, 32).astype(int)).max() < 20


def test_permissions_are_named(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(saved(COLOUR))

    def locked(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("builtins.open", locked)
    assert "secret.png cannot be read (Permission denied)" in refusal(read_image, path)
    assert "Permission denied" in faults([path])[path]


def test_pixels_that_are_no_bytes_are_refused():
    assert "float32" in refusal(read_image, np.zeros((4, 4), np.float32))
    assert "bool" in refusal(read_image, np.zeros((4, 4), bool))
    assert "range" in refusal(read_image, np.full((4, 4), 256))
    assert "range" in refusal(read_image, np.full((4, 4), -1))
    assert "(9, 4, 4, 2)" in refusal(
        ImageEncoder.fit_encode, np.zeros((9, 4, 4, 2), "u1")
    )
    assert "fractions" in refusal(
        read_image, Image.fromarray(np.ones((2, 2), np.float32))
    )
    np.testing.assert_array_equal(read_image(COLOUR.astype(np.int64)), COLOUR)


# Size


def test_the_middle_is_resized_as_pillow_does():
    image = smooth(60, 90)
    middle = Image.fromarray(image[:, 15:75])
    for interpolation, way in (("bilinear", 2), ("bicubic", 3)):
        expected = middle.resize((20, 20), way)
        found = fitted_image(image, (20, 20), interpolation=interpolation)
        # At the edges of the middle, the pixels around it count a little.
        assert abs(found - np.asarray(expected, int)).max() <= 2
    part = np.asarray(Image.fromarray(image[15:45, 30:60]).resize((10, 10), 2), int)
    assert abs(fitted_image(image, (10, 10), crop=0.5) - part).max() <= 2
    wide = np.asarray(Image.fromarray(image[15:45]).resize((30, 10), 2), int)
    assert abs(fitted_image(image, (10, 30)) - wide).max() <= 2
    assert fitted_image(np.zeros((1, 1), np.uint8), (7, 5)).shape == (7, 5, 3)


def test_resizing_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = fitted_image(stripes, (8, 8), channels=1)
    assert abs(small.astype(int) - 127).max() <= 10


def test_photos_are_decoded_small_and_still_right():
    y, x = np.mgrid[0:512, 0:640] / 20
    waves = 127 + 60 * np.sin(x) + 60 * np.cos(y + x / 3)
    content = saved(np.stack([waves, waves[::-1], waves], -1).astype(np.uint8), "JPEG")
    full = Image.fromarray(read_image(content)[:, 64:576]).resize((128, 128), 2)
    quick = fitted_image(content, (128, 128)).astype(int)
    assert abs(quick - np.asarray(full)).mean() < 1.5
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(Image.open(io.BytesIO(content)), "JPEG", exif=exif, quality=95)
    upright = np.rot90(quick, -1)
    assert abs(fitted_image(turned, (128, 128)) - upright).mean() < 1.5


# The encoder


def some_arrays(count=50, channels=3):
    shape = (count, 8, 8, channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def some_photos(folder, count=12, ending="png"):
    paths = []
    for i, pixels in enumerate(some_arrays(count)):
        size = (10 + i % 3, 12)
        paths.append(folder / f"{i:02}.{ending}")
        Image.fromarray(pixels).resize(size).save(paths[-1])
    return Photos(tuple(paths), folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_keep_their_size_and_are_normalised(channels):
    arrays = some_arrays(channels=channels)
    encoder, inputs = ImageEncoder.fit_encode(arrays)
    assert encoder.sizes == {"input_shape": (8, 8, channels)}
    scaled = arrays / 255
    np.testing.assert_allclose(encoder.mean, scaled.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(encoder.std, scaled.std((0, 1, 2)), atol=1e-6)
    pictures = inputs["image"]
    assert not pictures.is_streamed
    assert pictures.lengths.tolist() == [0] * 50
    rows = np.array([4, 2, 2])
    batch = pictures.take(rows).pad(0)
    assert batch.dtype == np.float32
    expected = (scaled[rows] - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2))
    np.testing.assert_allclose(batch, expected, atol=1e-4)


def test_size_channels_and_statistics_can_be_given():
    options = {"image_size": 4, "channels": 1, "mean": (0.5,), "std": (0.25,)}
    encoder, inputs = ImageEncoder.fit_encode(some_arrays(), **options)
    assert (encoder.mean, encoder.std) == ((0.5,), (0.25,))
    pixels = encoder.pixels(some_arrays())
    assert pixels.shape == (50, 4, 4, 1)
    batch = inputs["image"].pad(0)
    np.testing.assert_allclose(batch, (pixels / 255 - 0.5) / 0.25, atol=1e-5)
    for size in (0, (4, -1), (4, 4, 4)):
        assert "image_size" in refusal(
            ImageEncoder.fit_encode, some_arrays(), image_size=size
        )
    constant = ImageEncoder.fit_encode(np.zeros((3, 4, 4, 3), np.uint8))[1]
    assert np.isfinite(constant["image"].pad(0)).all()


def test_small_arrays_are_enlarged_and_nothing_else(tmp_path):
    def size(examples, **options):
        return ImageEncoder.fit_encode(examples, **options)[0].size

    wide = some_arrays()[:, :4]
    assert size(wide, smallest=6) == (6, 12)
    assert size(wide, smallest=4) == (4, 8)
    assert size(wide, smallest=6, image_size=5) == (5, 5)
    assert size(some_photos(tmp_path), smallest=64) == (224, 224)


def test_a_crop_happens_once(tmp_path):
    photos = some_photos(tmp_path)
    for examples in (photos, some_arrays()):
        options = {"image_size": 8, "crop": 0.5, "mean": (0,) * 3, "std": (1,) * 3}
        cached = ImageEncoder.fit_encode(examples, **options)[1]["image"]
        streamed = ImageEncoder.fit_encode(examples, cache_mb=0, **options)[1]["image"]
        assert (cached.is_streamed, streamed.is_streamed) == (False, True)
        np.testing.assert_array_equal(cached.pad(0), streamed.pad(0))


def test_cached_and_streamed_photos_are_the_same(tmp_path):
    photos = some_photos(tmp_path, ending="jpg")
    cached, inputs = ImageEncoder.fit_encode(photos, image_size=16)
    streamed, others = ImageEncoder.fit_encode(photos, image_size=16, cache_mb=0.001)
    assert cached == streamed
    assert not inputs["image"].is_streamed
    assert others["image"].is_streamed
    assert isinstance(others["image"].examples, Photos)
    rows = np.array([3, 0, 11])
    np.testing.assert_array_equal(
        inputs["image"].take(rows).pad(0), others["image"].take(rows).pad(0)
    )
    np.testing.assert_array_equal(
        cached.encode(photos[rows])["image"].pad(0), inputs["image"].take(rows).pad(0)
    )
    assert ImageEncoder.fit_encode(photos)[0].sizes == {"input_shape": (224, 224, 3)}


def test_the_cache_is_shared_by_training_and_validation(tmp_path):
    photos = some_photos(tmp_path)  # 12 * 16 * 16 * 3 = 9,216 bytes
    encoder, inputs = ImageEncoder.fit_encode(photos, image_size=16, cache_mb=0.012)
    assert not inputs["image"].is_streamed
    assert not encoder.encode(photos[:3])["image"].is_streamed
    assert encoder.encode(photos[:4])["image"].is_streamed


def test_check_takes_whatever_holds_an_image(tmp_path):
    photos = some_photos(tmp_path)
    path = photos.paths[0]
    encoder, _ = ImageEncoder.fit_encode(photos, image_size=8)
    expected = encoder.pixels(encoder.check(path))
    pixels = np.asarray(Image.open(path))
    mixed = [path, str(path), pixels, Image.open(path), path.read_bytes()]
    for one in mixed:
        for examples in (one, [one], (one, one)):
            checked = encoder.check(examples)
            assert len(checked) == (2 if isinstance(examples, tuple) else 1)
            np.testing.assert_array_equal(encoder.pixels(checked)[-1:], expected)
    checked = encoder.check(mixed)
    assert checked.shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(checked, np.repeat(expected, 5, axis=0))
    assert encoder.check(GREY).shape == (1, 6, 4, 1)
    assert encoder.check(np.zeros((2, 6, 5), np.uint8)).shape == (2, 6, 5, 1)
    assert len(encoder.check([])) == 0
    assert encoder.encode(encoder.no_examples)["image"].pad(0).shape == (0, 8, 8, 3)
    assert "a float" in refusal(encoder.check, [1.5])
    assert "float64" in refusal(encoder.check, np.zeros((2, 8, 8, 3)))
    assert "(3, 0, 8, 3)" in refusal(encoder.check, np.zeros((3, 0, 8, 3), np.uint8))


def test_the_settings_make_the_same_encoder_again():
    encoder, _ = ImageEncoder.fit_encode(
        some_arrays(), image_size=(4, 6), crop=0.9, interpolation="bicubic"
    )
    assert ImageEncoder.from_folder(encoder.config, Path()) == encoder
    assert encoder.contents() == {}
    for name, value in {
        "size": [4, 0],
        "channels": 2,
        "mean": [0.5],
        "std": [1, 1, 0],
        "crop": 1.5,
        "interpolation": "nearest",
        "other": 1,
    }.items():
        config = {**encoder.config, name: value}
        assert "not valid" in refusal(ImageEncoder.from_folder, config, Path())
        lacking = {key: encoder.config[key] for key in encoder.config if key != name}
        if name in encoder.config:
            assert "not valid" in refusal(ImageEncoder.from_folder, lacking, Path())


# Copies and fingerprints


def test_copies_of_files_stay_on_one_side(tmp_path):
    random = np.random.default_rng(2)
    paths, contents = [], []
    for i in range(60):
        # The same length and ends everywhere: only the middle tells them apart.
        middle = bytearray(20_000)
        middle[10_000] = int(random.integers(25))
        paths.append(tmp_path / f"{i}.png")
        contents.append(bytes(middle))
        paths[-1].write_bytes(contents[-1])
    labels = np.arange(60) % 2
    data = Labelled("x", Photos(tuple(paths), tmp_path), labels, ("a", "b"))
    kept, held = hold_out(data, 0.25, seed=0)
    sides = [{path.read_bytes() for path in part.examples} for part in (kept, held)]
    assert not sides[0] & sides[1]
    assert 10 <= len(held) <= 20
    assert len(set(data.examples.copy_keys())) == len(set(contents))


def test_copies_of_pixels_stay_on_one_side():
    pool = some_arrays(20)
    examples = pool[np.random.default_rng(0).integers(20, size=80)]
    data = Labelled("x", examples, np.arange(80) % 2, ("a", "b"))
    kept, held = hold_out(data, 0.25, seed=0)
    sides = [{image.tobytes() for image in part.examples} for part in (kept, held)]
    assert not sides[0] & sides[1]
    assert len(kept) + len(held) == 80


def test_fingerprints_of_images(tmp_path):
    arrays, labels = some_arrays(4), np.array([0, 1, 0, 1])
    changed = arrays.copy()
    changed[2, 3, 3, 0] ^= 1
    photos = some_photos(tmp_path, 4)
    prints = {
        Labelled("x", examples, labels, ("a", "b")).fingerprint
        for examples in (arrays, changed, arrays[::-1], photos, photos[::-1])
    }
    assert len(prints) == 5
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    moved = some_photos(elsewhere, 4)
    one, other = (Labelled("x", e, labels, ("a", "b")) for e in (photos, moved))
    assert one.fingerprint == other.fingerprint


# Batches


def epochs(pictures, count, seed):
    """Return the batches of some epochs as Keras reads them."""
    targets = np.arange(len(pictures))
    source = BatchSource({"image": pictures}, targets, batch_size=5, seed=seed)
    found = []
    for _ in range(count):
        source.on_epoch_begin()
        found.append([source[i] for i in range(source.num_batches)])
    return found


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_every_photo_comes_once_an_epoch_in_the_order_of_the_seed(
    tmp_path, monkeypatch, cores
):
    photos = some_photos(tmp_path)
    _, inputs = ImageEncoder.fit_encode(photos, image_size=8)
    expected = epochs(inputs["image"], 2, seed=3)
    monkeypatch.setattr(pixels_module, "num_cores", lambda: cores)
    _, inputs = ImageEncoder.fit_encode(photos, image_size=8, cache_mb=0)
    found = epochs(inputs["image"], 2, seed=3)
    for batches, others in zip(expected, found, strict=True):
        order = np.concatenate([targets for _, targets in others])
        assert sorted(order) == list(range(12))
        for (images, targets), (same, rows) in zip(batches, others, strict=True):
            np.testing.assert_array_equal(targets, rows)
            np.testing.assert_array_equal(images, same)
    first, second = ([t.tolist() for _, t in batches] for batches in found)
    assert first != second


def test_streamed_batches_are_made_ahead_by_a_thread(tmp_path, monkeypatch):
    photos = some_photos(tmp_path)
    _, inputs = ImageEncoder.fit_encode(photos, image_size=8, cache_mb=0)
    made, done = [], threading.Event()
    fitted = images_module.fitted_image

    def watched(source, *arguments, **options):
        made.append(source)
        if len(made) == 12:
            done.set()
        return fitted(source, *arguments, **options)

    monkeypatch.setattr(images_module, "fitted_image", watched)
    source = BatchSource(inputs, np.arange(12), batch_size=4, seed=0)
    source.on_epoch_begin()
    source[0]
    assert done.wait(10)  # the two batches after it


def test_a_damaged_photo_in_a_stream_is_named(tmp_path):
    photos = some_photos(tmp_path)
    _, inputs = ImageEncoder.fit_encode(photos, image_size=8, cache_mb=0)
    photos.paths[7].write_bytes(b"rubbish")
    source = BatchSource(inputs, np.arange(12), batch_size=12)
    message = refusal(source.__getitem__, 0)
    assert str(photos.paths[7]) in message
    assert str(source.failure) == message


def test_reading_photos_imports_no_backend():
    code = (
        "import sys\n"
        "from kerasdl.data.images import ImageEncoder\n"
        "from kerasdl.data.image_sources import load_images\n"
        "print({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
