"""Tests of famus_tf.data.picture_checks."""

import pytest

from famus_tf.data import picture_checks
from famus_tf.data.pictures import PictureRecords, index_records
from tests import sample_pictures

GOOD = sample_pictures.formats()
BAD = sample_pictures.defects()


@pytest.fixture
def files(tmp_path):
    """All good ones, then all bad ones, then one that is missing."""
    contents = [*GOOD.values(), *BAD.values(), b"soon gone"]
    some = sample_pictures.write_files(tmp_path, {f"{n % 3}/{n:03d}.jpg": data for n, data in enumerate(contents)})
    (tmp_path / some.paths[-1].decode()).unlink()
    return some


def expected(reasons):
    """(row, reason) of those among the bad ones and the missing one whose reason is asked for."""
    rows = [*BAD, "missing"]
    return [(len(GOOD) + n, reason) for n, reason in enumerate(rows) if reason in reasons]


def test_listing_alone_finds_missing_and_empty_files(files):
    assert picture_checks.cheap_bad_rows(files) == expected({"empty file", "missing"})


def test_the_first_bytes_tell_what_is_no_picture(files):
    undamaged_at_first = {reason for reason in BAD if reason.startswith(("truncated", "damaged"))}
    found = list(picture_checks.find_bad(files))
    assert found == expected({*BAD, "missing"} - undamaged_at_first)
    assert picture_checks.check(files, range(len(files))) == found


def test_decoding_finds_all_bad_pictures_and_no_good_one(files):
    assert list(picture_checks.find_bad(files, decode=True)) == expected({*BAD, "missing"})


@pytest.mark.parametrize("decode", [False, True])
def test_only_the_rows_asked_for_are_looked_at_in_their_order(files, decode):
    last, empty = len(files) - 1, len(GOOD)
    found = picture_checks.find_bad(files, [last, 0, empty], decode=decode, num_workers=2)
    assert list(found) == [(last, "missing"), (empty, "empty file")]
    assert list(picture_checks.find_bad(files, [], decode=decode)) == []


def test_a_folder_in_place_of_a_picture_cannot_be_read(files, tmp_path):
    path = tmp_path / files.paths[0].decode()
    path.unlink()
    path.mkdir()
    assert picture_checks.check(files, [0]) == [(0, "cannot be read (Is a directory)")]


def test_bad_pictures_in_records_are_found(tmp_path):
    path = sample_pictures.write_records(tmp_path / "x.tfrecord", [GOOD["png"], b"", BAD["truncated JPEG"]])
    some = PictureRecords([path], index_records([path]), "image", (8, 8))
    assert picture_checks.check(some, range(3)) == [(1, "empty file")]
    assert list(picture_checks.find_bad(some, decode=True)) == [(1, "empty file"), (2, "truncated JPEG")]
    assert picture_checks.cheap_bad_rows(some) == []


@pytest.mark.parametrize(
    ("data", "name"),
    [(GOOD["jpeg"], "JPEG"), (GOOD["palette png"], "PNG"), (GOOD["gif"], "GIF"), (GOOD["webp"], "WebP"),
     (GOOD["bmp"], "BMP"), (b"RIFF\0\0\0\0WAVE", None), (b"", None)],
)  # fmt: skip
def test_formats_are_told_by_their_first_bytes(data, name):
    assert picture_checks.picture_format(data[:64]) == name


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "bmp"])
def test_a_whole_picture_that_does_not_decode_is_called_damaged(name):
    assert picture_checks.why_undecodable(GOOD[name]).startswith("damaged")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xef\xbb\xbf <HTML>", "HTML, not a picture"),
        (b"<svg xmlns=", "SVG, not a picture"),
        (b"<?xml version", "XML, not a picture"),
        (b"%PDF-1.4", "PDF, not a picture"),
        (b"\x1f\x8b\x08", "gzip, not a picture"),
        (b"PK\x03\x04", "ZIP, not a picture"),
        (b"\x01\x02\x03", "no known picture format (it begins with the bytes 01 02 03)"),
    ],
)
def test_what_lies_there_instead_is_named(data, reason):
    assert picture_checks.why_no_picture(data) == reason
