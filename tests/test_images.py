"""Photos of every kind become upright 8-bit RGB, or are refused by name."""

from __future__ import annotations

import io
import itertools
import os
import re
import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, features

from cloakbench.errors import CloakBenchError
from cloakbench.files.images import (
    Photos,
    largest_change,
    load_photos,
    photo_files,
    read_photo,
    save_photos,
    square_crop,
    to_images,
    to_pixels,
)

RAMP = np.arange(64, dtype=np.uint8) * 4
KINDS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else [])]
GREY = np.tile(RAMP, (48, 1))  # 64 wide, 48 high, brighter to the right


def colours() -> Image.Image:
    """64 x 48 px: a ramp in red, its mirror image in green, flat blue."""
    return Image.fromarray(np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 80)], axis=-1))


def read(image: Image.Image, path: Path, **options) -> np.ndarray:
    image.save(path, **options)
    photo = read_photo(path)
    assert photo.mode == "RGB"
    return np.asarray(photo)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_rgb_is_read_as_it_is(suffix, tmp_path):
    np.testing.assert_array_equal(read(colours(), tmp_path / f"a.{suffix}"), np.asarray(colours()))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "JPG", "jfif"])
def test_lossy_rgb_is_read_nearly_as_it_is(suffix, tmp_path):
    result = read(colours(), tmp_path / f"a.{suffix}", quality=95)
    difference = np.abs(result.astype(int) - np.asarray(colours()))

    assert difference.mean() < 4


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_photos_have_three_equal_channels(mode, tmp_path):
    result = read(Image.fromarray(GREY).convert(mode), tmp_path / "a.png")

    np.testing.assert_array_equal(result, np.stack([GREY] * 3, axis=-1))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert deep.mode.startswith("I")

    for suffix in ("png", "tif"):
        result = read(deep, tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(result, np.stack([GREY] * 3, axis=-1))


def test_black_and_white_photos_span_the_whole_range(tmp_path):
    result = read(Image.fromarray(GREY).convert("1"), tmp_path / "a.png")

    assert set(np.unique(result)) == {0, 255}


def test_transparency_is_laid_on_white(tmp_path):
    opaque = np.dstack([np.asarray(colours()), np.full_like(GREY, 255)])
    opaque[:, :32, 3] = 0
    opaque[:, 32:40, 3] = 128
    result = read(Image.fromarray(opaque), tmp_path / "a.png")

    np.testing.assert_array_equal(result[:, :32], np.full((48, 32, 3), 255))
    np.testing.assert_array_equal(result[:, 40:], np.asarray(colours())[:, 40:])
    half = (np.asarray(colours())[:, 32:40].astype(int) + 255) / 2
    np.testing.assert_allclose(result[:, 32:40], half, atol=1.5)


def test_a_palette_is_resolved_and_its_transparent_colour_is_white(tmp_path):
    indices = np.zeros((48, 64), np.uint8)
    indices[:, 32:] = 1
    palette = Image.fromarray(indices)
    palette = palette.convert("P")
    palette.putdata(indices.flatten().tolist())
    palette.putpalette([200, 10, 30, 0, 0, 250])

    plain = read(palette, tmp_path / "plain.png")
    clear = read(palette, tmp_path / "clear.png", transparency=0)

    assert plain[0, 0].tolist() == [200, 10, 30]
    assert clear[0, 0].tolist() == [255, 255, 255]
    assert plain[0, 63].tolist() == clear[0, 63].tolist() == [0, 0, 250]


def test_cmyk_photos_keep_their_colours(tmp_path):
    cmyk = Image.new("CMYK", (64, 48), (0, 255, 255, 0))
    result = read(cmyk, tmp_path / "a.jpg", quality=95)

    np.testing.assert_allclose(result.reshape(-1, 3).mean(0), [255, 0, 0], atol=4)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_photos_are_turned_as_their_camera_says(orientation, turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = read(colours(), tmp_path / "a.png", exif=exif)

    np.testing.assert_array_equal(result, turn(np.asarray(colours())))


# Colours: a profile says what the numbers of a photo mean


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc_profile(space: bytes, pcs: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A file by the ICC's specification, version 2."""
    white = fixed(0.9642, 1.0, 0.8249)  # D50
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + white,
    } | tags
    tags = {key: tag + bytes(-len(tag) % 4) for key, tag in tags.items()}
    table, place = struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for key, tag in tags.items():
        table += key + struct.pack(">II", place, len(tag))
        place += len(tag)
    head = struct.pack(">I", place) + bytes(4) + b"\x02\x40\0\0" + kind + space + pcs
    head += bytes(12) + b"acsp" + bytes(28) + white + bytes(48)
    return head + table + b"".join(tags.values())


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def rgb_profile(curve: bytes, *primaries: tuple[float, float, float]) -> bytes:
    """Of a screen, by its primaries' XYZ, adapted to D50."""
    tags = {}
    for name, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*primary), name + b"TRC": curve}
    return icc_profile(b"RGB ", b"XYZ ", b"mntr", tags)


def cmyk_profile(black: tuple[int, int, int]) -> bytes:
    """Of a press whose inks change nothing but for black, which is `black` in Lab."""
    inks = itertools.product((0, 1), repeat=4)
    lab = [black if ink[3] else (255, 128, 128) for ink in inks]
    unit = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    line = bytes(range(256))
    lut = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + 4 * line + bytes(sum(lab, ())) + 3 * line
    )
    return icc_profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut, b"A2B1": lut})


SRGB_CURVE = b"curv" + bytes(4) + struct.pack(">I", 1024)
SRGB_CURVE += b"".join(
    struct.pack(">H", round(65535 * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)))
    for v in (number / 1023 for number in range(1024))
)
DISPLAY_P3 = rgb_profile(
    SRGB_CURVE, (0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)
)
ADOBE_RGB = rgb_profile(
    gamma(563 / 256), (0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)
)
SRGB = rgb_profile(
    SRGB_CURVE, (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7142)
)
GAMMA_ONE = icc_profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": gamma(1.0)})


@pytest.mark.parametrize(
    ("profile", "stored", "meant"),
    [
        (DISPLAY_P3, (234, 51, 35), (255, 0, 0)),  # what browsers show of `color(display-p3 ...)`
        (DISPLAY_P3, (117, 251, 76), (0, 255, 0)),
        (ADOBE_RGB, (219, 0, 0), (255, 0, 0)),
        (ADOBE_RGB, (144, 255, 60), (0, 255, 0)),
        (DISPLAY_P3, (128, 128, 128), (128, 128, 128)),
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_colours_are_those_that_the_profile_says(profile, stored, meant, kind, tmp_path):
    image = Image.new("RGB", (64, 48), stored)
    options = {"quality": 100} | ({"lossless": True} if kind == "webp" else {})
    result = read(image, tmp_path / f"a.{kind}", icc_profile=profile, **options)

    np.testing.assert_allclose(result[5, 5], meant, atol=5)  # near 0, steps of light are fine


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_counts_beside_transparency_and_palettes(mode, tmp_path):
    image = Image.new("RGB", (64, 48), (234, 51, 35))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    result = read(image, tmp_path / "a.png", icc_profile=DISPLAY_P3)

    np.testing.assert_allclose(result[5, 60], (255, 0, 0), atol=3)
    assert mode == "P" or result[5, 5].tolist() == [255, 255, 255]


def test_grey_photos_have_profiles_of_their_own(tmp_path):
    half = Image.new("L", (64, 48), 55)  # linear light of 55 / 255 is 0.2157, in sRGB 128
    deep = Image.fromarray(np.full((48, 64), 55 * 257, np.uint16))
    clear = Image.merge("LA", (half, Image.new("L", half.size, 255)))

    for image in (half, deep, clear):
        result = read(image, tmp_path / "a.png", icc_profile=GAMMA_ONE)
        np.testing.assert_allclose(result[5, 5], (128, 128, 128), atol=1)


def test_inks_are_those_of_the_press(tmp_path):
    image = Image.new("CMYK", (64, 48), (0, 0, 0, 255))
    dark_red = (137, 128 + 80, 128 + 67)  # Lab (53.7, 80, 67), which is sRGB's red
    profile = cmyk_profile(dark_red)

    for kind in ("jpg", "tif"):
        result = read(image, tmp_path / f"a.{kind}", icc_profile=profile, quality=100)
        np.testing.assert_allclose(result[5, 5], (255, 0, 0), atol=12)


def test_a_profile_of_srgb_changes_no_pixel(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    builtin = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    for profile in (SRGB, builtin):
        result = read(noise, tmp_path / "a.png", icc_profile=profile)
        np.testing.assert_array_equal(result, np.asarray(noise))


@pytest.mark.parametrize("profile", [GAMMA_ONE, cmyk_profile((9, 9, 9)), b"", b"nonsense"])
def test_a_profile_for_other_pixels_changes_none_and_a_broken_one_is_named(
    profile, tmp_path, caplog
):
    result = read(colours(), tmp_path / "a.tif", icc_profile=profile)

    np.testing.assert_array_equal(result, np.asarray(colours()))
    assert ("a.tif: its colour profile is broken" in caplog.text) == (profile == b"nonsense")


def test_nothing_but_pixels_is_left_of_a_photo(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "at home"
    for profile in (DISPLAY_P3, SRGB):
        colours().save(tmp_path / "a.png", icc_profile=profile, exif=exif, dpi=(72, 72))
        read_photo(tmp_path / "a.png").save(tmp_path / "b.png")
        colours().save(tmp_path / "plain.png")

        with Image.open(tmp_path / "b.png") as saved:
            assert saved.info == {}


# What is no single photo of known values


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif", "avif"])
def test_a_file_of_several_images_is_refused_by_name(kind, tmp_path):
    second = Image.new("RGB", (64, 48))
    colours().save(tmp_path / f"a.{kind}", save_all=True, append_images=[second])

    with pytest.raises(CloakBenchError, match=rf"a\.{kind}: has 2 images, .* Save the one"):
        read_photo(tmp_path / f"a.{kind}")


def test_a_phones_photo_with_a_preview_is_that_photo(tmp_path):
    preview = Image.new("RGB", (64, 48))
    colours().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.n_frames == 2

    difference = np.abs(np.asarray(read_photo(tmp_path / "a.jpg")).astype(int) - colours())
    assert difference.mean() < 4


def test_32_bit_photos_are_refused_by_name(tmp_path):
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / "counts.tif")

    with pytest.raises(CloakBenchError, match=r"counts\.tif: has 32-bit values, whose range"):
        read_photo(tmp_path / "counts.tif")


@pytest.mark.parametrize("read", [read_photo, lambda path: photo_files(path.parent)])
def test_a_pipe_and_a_device_among_photos_are_refused_by_name(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(CloakBenchError, match=r"pipe\.png: is a folder, pipe or device"):
        read(tmp_path / "pipe.png")
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "null.png").symlink_to("/dev/zero")
    with pytest.raises(CloakBenchError, match=r"null\.png: is a folder, pipe or device"):
        read(tmp_path / "null.png")


def test_a_folder_is_no_photo(tmp_path):
    with pytest.raises(CloakBenchError, match=r"is a folder, pipe or device, not a file"):
        read_photo(tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    result = read(colours(), tmp_path / "a.avif", quality=95)

    assert np.abs(result.astype(int) - colours()).mean() < 4
    assert photo_files(tmp_path) == [tmp_path / "a.avif"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_read_or_refused_but_never_a_crash(tmp_path):
    path = tmp_path / "odd.avif"
    for place in range(4, 300, 4):
        content = bytearray(encoded("AVIF"))
        content[place] ^= 255
        path.write_bytes(content)
        outcome = ""
        try:
            read_photo(path)
        except CloakBenchError as error:
            outcome = str(error)
        assert re.fullmatch(r"(.*odd\.avif: (is|has) .*\.)?", outcome)


def test_avif_that_this_pillow_cannot_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(bytes(4) + b"ftypavif" + bytes(99))
    monkeypatch.setattr(features, "check", lambda feature: False)

    with pytest.raises(CloakBenchError, match=r"a\.jpg: is AVIF, .*`pip install --upgrade pillow`"):
        read_photo(tmp_path / "a.jpg")


def test_heic_is_read(tmp_path):
    pillow_heif.register_heif_opener()
    result = read(colours(), tmp_path / "a.heic", quality=95)

    assert np.abs(result.astype(int) - colours()).mean() < 4
    assert photo_files(tmp_path) == [tmp_path / "a.heic"]


def test_a_photo_of_the_longest_name_is_saved_under_it(tmp_path):
    save_photos(Photos(torch.zeros(1, 3, 32, 32), ("a" * 251,)), tmp_path)

    assert load_photos(tmp_path).names == ("a" * 251,)


def test_floating_point_photos_are_refused_by_name(tmp_path):
    Image.fromarray(GREY / np.float32(255)).save(tmp_path / "depth.tif")

    with pytest.raises(CloakBenchError, match=r"depth\.tif: has floating-point values"):
        read_photo(tmp_path / "depth.tif")


def test_a_header_that_promises_a_gigantic_photo_is_refused_by_name(tmp_path):
    content = bytearray(encoded("BMP"))
    content[18:26] = (200_000).to_bytes(4, "little") * 2
    (tmp_path / "bomb.bmp").write_bytes(content)

    with pytest.raises(CloakBenchError, match=r"bomb\.bmp: claims more pixels"):
        read_photo(tmp_path / "bomb.bmp")


def test_a_photo_is_read_where_pillow_has_no_word_for_what_exif_lacks(tmp_path, monkeypatch):
    """Some versions raise for a block of EXIF that a photo has not."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "plain.png")

    def missing(exif, tag):
        raise KeyError(tag)

    monkeypatch.setattr(Image.Exif, "get_ifd", missing)
    assert read_photo(tmp_path / "plain.png").getpixel((0, 0)) == (255, 0, 0)


def test_adobe_rgb_that_only_exif_tells_of_is_read_as_the_colours_that_it_means(tmp_path):
    """Cameras that are set to Adobe RGB put no profile into their photos."""
    meant = np.random.default_rng(0).integers(40, 216, (32, 32, 3)).astype(np.uint8)
    curve = meant / 255
    linear = np.where(curve <= 0.04045, curve / 12.92, ((curve + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    adobe_to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    adobe = linear @ to_xyz.T @ np.linalg.inv(adobe_to_xyz).T
    stored = (255 * adobe.clip(0, 1) ** (256 / 563)).round().astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.IFD.Interop: {1: "R03"}}
    Image.fromarray(stored).save(tmp_path / "adobe.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "plain.png")

    read = np.asarray(read_photo(tmp_path / "adobe.png"), dtype=int)

    assert np.abs(read - meant).max() <= 2
    np.testing.assert_array_equal(np.asarray(read_photo(tmp_path / "plain.png")), stored)
    assert np.abs(stored.astype(int) - meant).max() > 8


def test_cropping_takes_the_central_square_of_any_shape():
    wide = np.zeros((50, 90, 3), np.uint8)
    wide[:, 20:70] = 200

    for array in (wide, wide.transpose(1, 0, 2)):
        cropped = square_crop(Image.fromarray(array), 64)
        assert cropped.size == (64, 64)
        assert np.asarray(cropped).min() > 150  # Lanczos rings at the crop's edge
        assert np.asarray(cropped)[4:-4, 4:-4].min() > 195


@pytest.mark.parametrize(("y", "top"), [(70, 45), (10, 0), (500, 150)])
def test_cropping_around_a_point_keeps_the_largest_square_that_the_photo_has(y, top):
    """A portrait's face is mostly at its top, above the central square."""
    rows = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 50, axis=1)
    photo = Image.fromarray(np.stack([rows] * 3, axis=-1))

    cropped = np.asarray(square_crop(photo, 50, around=(25, y)))

    np.testing.assert_array_equal(cropped[:, 25, 0], np.arange(top, top + 50))


def test_a_square_photo_of_the_right_size_is_not_resampled():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))

    np.testing.assert_array_equal(np.asarray(square_crop(photo, 64)), np.asarray(photo))


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_a_tiny_photo_is_refused_by_name_and_size(size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "tiny.png")

    with pytest.raises(
        CloakBenchError, match=rf"tiny\.png: is {size[0]}x{size[1]} px; at least 32"
    ):
        read_photo(tmp_path / "tiny.png")


def encoded(suffix: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_photo_is_refused_by_name(kind, share, tmp_path):
    path = tmp_path / "half.png"
    content = encoded(kind)
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(CloakBenchError, match=r"half\.png: is .*\. Replace or remove it\."):
        read_photo(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"hello, I am text", "is not an image"), (b"\x89PNG\r\n\x1a\n", "is")],
)
def test_an_empty_file_or_another_kind_of_file_is_refused_by_name(content, reason, tmp_path):
    (tmp_path / "fake.jpg").write_bytes(content)

    with pytest.raises(CloakBenchError, match=rf"fake\.jpg: {reason}.*\. Replace or remove it\."):
        read_photo(tmp_path / "fake.jpg")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupt_file_is_read_or_refused_but_never_a_crash(data, tmp_path):
    content = bytearray(encoded(data.draw(st.sampled_from(KINDS))))
    for _ in range(data.draw(st.integers(1, 8))):
        near = data.draw(st.sampled_from([64, len(content)]))
        content[data.draw(st.integers(0, near - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "odd.png").write_bytes(content)

    try:
        outcome = read_photo(tmp_path / "odd.png").mode
    except CloakBenchError as error:
        outcome = str(error)
    refused = re.fullmatch(r".*odd\.png: (is|has|claims) .*\.$", outcome)
    assert outcome == "RGB" or refused


def test_a_photo_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CloakBenchError, match=r"gone\.png: no such photo"):
        read_photo(tmp_path / "gone.png")


def test_photos_are_listed_by_name_without_hidden_files_and_manifests(tmp_path):
    for name in ("b.png", "a.jpg", "C.PNG", ".hidden.png", "._a.jpg", "job.json", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()

    assert [path.name for path in photo_files(tmp_path)] == ["C.PNG", "a.jpg", "b.png"]


@pytest.mark.parametrize("name", ["notes.txt", "clip.mp4", "a.raw", "noextension"])
def test_a_file_that_is_no_photo_is_named(name, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(CloakBenchError, match=rf"{name}: not a photo .*Move it out"):
        load_photos(tmp_path)


def test_folders_that_are_missing_or_empty_are_named(tmp_path):
    with pytest.raises(CloakBenchError, match=r"gone: no such photo or folder of photos"):
        load_photos(tmp_path / "gone")
    with pytest.raises(CloakBenchError, match=r"no photos in this folder"):
        load_photos(tmp_path)


def test_photos_of_two_sizes_are_refused_with_the_command_that_helps(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "b.png")

    with pytest.raises(CloakBenchError, match=r"b\.png: is 64x48 px but a\.png is 64x64.*data"):
        load_photos(tmp_path)


@given(st.integers(0, 2**32 - 1))
def test_every_grey_level_survives_pixels_and_back(seed):
    levels = np.random.default_rng(seed).integers(0, 256, (2, 5, 7, 3), np.uint8)
    images = [Image.fromarray(array) for array in levels]

    pixels = to_pixels(images)

    assert pixels.shape == (2, 3, 5, 7)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert all(np.array_equal(a, b) for a, b in zip(to_images(pixels), levels, strict=True))


def test_pixels_are_rounded_to_the_nearest_level_and_clipped():
    pixels = torch.tensor([-1.0, 0.0019, 0.0020, 0.5, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)

    assert np.asarray(to_images(pixels)[0])[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_saved_photos_are_loaded_with_the_same_names_and_values(tmp_path):
    levels = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32) % 256
    save_photos(Photos(levels / 255, ("second", "first")), tmp_path)

    loaded = load_photos(tmp_path)
    assert loaded.names == ("first", "second")
    assert torch.equal(loaded.pixels, levels.flip(0).float() / 255)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_the_largest_change_is_in_grey_levels_and_has_no_overflow():
    black, white = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (255, 3, 0))

    assert largest_change([black], [black]) == 0
    assert largest_change([black, black], [black, white]) == 255
    assert largest_change([white, black], [black, black]) == 255


def test_two_photos_of_one_name_are_refused(tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)

    with pytest.raises(CloakBenchError, match=r"a\.bmp and a\.png have one name"):
        load_photos(tmp_path)
