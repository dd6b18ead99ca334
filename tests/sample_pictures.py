"""Encoded pictures for tests: one scene in every format, and what goes wrong with picture files."""

import functools
import io
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from famus_tf.data.pictures import PictureFiles

HEIGHT, WIDTH = 18, 24


def scene(height=HEIGHT, width=WIDTH, shade=0):
    """[height, width, 3] uint8: smooth ramps, so that lossy formats stay close, all three channels different."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 230 * columns / max(width - 1, 1)
    green = 200 * rows / max(height - 1, 1) + 20
    blue = 90 + 60 * np.sin(5 * rows / height + 4 * columns / width)
    return np.clip(np.stack([red, green, blue], axis=-1) + shade, 0, 255).astype(np.uint8)


def encoded_by_pillow(image, file_format, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def decoded_by_pillow(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@functools.cache
def jpeg(height=HEIGHT, width=WIDTH, shade=0):
    return encoded_by_pillow(scene(height, width, shade), "JPEG", quality=95)


@functools.cache
def formats():
    """{name: bytes} of the scene in every format and kind that must be decoded."""
    image = scene()
    with_alpha = np.concatenate([image, np.full([HEIGHT, WIDTH, 1], 77, np.uint8)], axis=-1)
    later_frame = Image.fromarray(255 - image)
    return {
        "jpeg": jpeg(),
        "progressive jpeg": encoded_by_pillow(image, "JPEG", quality=95, progressive=True),
        "grey jpeg": encoded_by_pillow(image, "JPEG", "L", quality=95),
        "cmyk jpeg": encoded_by_pillow(image, "JPEG", "CMYK", quality=95),
        "png": encoded_by_pillow(image, "PNG"),
        "grey png": encoded_by_pillow(image, "PNG", "L"),
        "bilevel png": encoded_by_pillow(image, "PNG", "1"),
        "palette png": encoded_by_pillow(image, "PNG", "P"),
        "alpha png": encoded_by_pillow(with_alpha, "PNG", "RGBA"),
        "grey alpha png": encoded_by_pillow(with_alpha, "PNG", "LA"),
        "gif": encoded_by_pillow(image, "GIF", "P"),
        "animated gif": encoded_by_pillow(image, "GIF", "P", save_all=True, append_images=[later_frame]),
        "webp": encoded_by_pillow(image, "WEBP"),
        "lossless webp": encoded_by_pillow(image, "WEBP", lossless=True),
        "bmp": encoded_by_pillow(image, "BMP"),
        "bmp of 32 bits": encoded_by_pillow(with_alpha, "BMP", "RGBA"),
        "palette bmp": encoded_by_pillow(image, "BMP", "P"),
        "grey bmp": encoded_by_pillow(image, "BMP", "L"),
    }


@functools.cache
def defects():
    """{reason: bytes} of files that are no usable picture; the reason is what `picture_checks` says."""
    half = {name: formats()[name][: len(formats()[name]) // 2] for name in ("jpeg", "png", "gif", "webp", "bmp")}
    png = formats()["png"]
    middle = png.index(b"IDAT") + 10
    return {
        "empty file": b"",
        "HTML, not a picture": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text, not a picture": b"Forbidden\n",
        "Git LFS pointer, not a picture": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "TIFF, which is not read": encoded_by_pillow(scene(), "TIFF"),
        "truncated JPEG": half["jpeg"],
        "truncated PNG": half["png"],
        "truncated GIF": half["gif"],
        "truncated WebP": half["webp"],
        "truncated BMP": half["bmp"],
        "damaged PNG": png[:middle] + bytes(byte ^ 0xFF for byte in png[middle : middle + 20]) + png[middle + 20 :],
        "no known picture format (it begins with the bytes 00 00 00 00 00 00 00 00)": bytes(100),
    }


def write_files(folder, contents, size=(8, 8)):
    """Writes {path: bytes} below a folder and returns the set of these pictures, in that order."""
    for path, content in contents.items():
        file = pathlib.Path(folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return PictureFiles(folder, np.array([path.encode() for path in contents]), size)


def write_records(path, pictures, key="image"):
    """Writes a TFRecord file with one `tf.train.Example` for each of the encoded pictures."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, encoded in enumerate(pictures):
            features = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return str(path)


def resized_by_hand(image, height, width):
    """Antialiased bilinear resizing, one axis after the other, by its definition: [height, width, C] float64."""
    result = image.astype(np.float64)
    for axis, length in enumerate((height, width)):
        step = image.shape[axis] / length
        centers = (np.arange(length) + 0.5) * step - 0.5
        distances = np.abs(np.arange(image.shape[axis]) - centers[:, np.newaxis]) / max(step, 1.0)
        kernel = np.maximum(1.0 - distances, 0.0)
        kernel /= kernel.sum(axis=1, keepdims=True)
        result = np.moveaxis(np.tensordot(kernel, result, axes=(1, axis)), 0, axis)
    return result
