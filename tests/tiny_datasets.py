"""Miniatures of Clothing1M, WebVision, ILSVRC12's validation set and Red Mini-ImageNet, laid out as the real ones are.

Every maker writes real, tiny JPEGs whose brightness goes with the label, so that a miniature can be trained on.
"""

import functools
import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.errors import InputError

CLOTHING_CLASSES = 14
WEBVISION_CLASSES = 50
RED_CLASSES = 100


@functools.cache
def jpeg(label, shade=0, size=(12, 16)):
    """The bytes of a picture of one grey, brighter for higher labels."""
    grey = (2 * label + shade) % 256
    return tf.io.encode_jpeg(tf.fill([*size, 3], tf.constant(grey, tf.uint8))).numpy()


def write(path, content):
    """Writes bytes, text, or lines; makes the folders."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else "".join(f"{line}\n" for line in content)
        path.write_text(text, encoding="utf-8", newline="")
    return path


def message_of(load, root, **settings):
    """What a loader says of a folder that it refuses."""
    with pytest.raises(InputError) as error:
        load(root, **settings)
    return str(error.value)


# Clothing1M.


def clothing_keys(part, count):
    """The part's keys, as in "0/07/train7,70.jpg", in an order that is not the alphabet's."""
    return [f"{(7 * n) % 10}/{n % 100:02d}/{part}{n},{10 * n}.jpg" for n in range(count)]


def clothing_labels(part, count):
    """The part's labels: every class, in turn, from another one on for every part."""
    shift = {"train": 0, "val": 3, "test": 5, "meta": 11}[part]
    return [(n + shift) % CLOTHING_CLASSES for n in range(count)]


def make_clothing1m(root, *, lists="official", lists_in="", pictures_in="images", prefix="images/", per_class=2):
    """Writes the four lists, the labels and the pictures.

    Args:
        root: The dataset's folder.
        lists: "official" (keys, and files of labels), or "remade" ("path label").
        lists_in: A folder below root, as "annotations".
        pictures_in: "images", or "" for 0 ... 9 directly below root.
        prefix: Of every path in the lists.
        per_class: Training examples of each class; validation, test and clean training have one.
    """
    root = pathlib.Path(root)
    counts = {"train": per_class * CLOTHING_CLASSES} | dict.fromkeys(("val", "test", "meta"), CLOTHING_CLASSES)
    known = {"noisy": [], "clean": []}
    for part, count in counts.items():
        keys, labels = clothing_keys(part, count), clothing_labels(part, count)
        for key, label in zip(keys, labels, strict=True):
            write(root / pictures_in / key, jpeg(label))
        lines = [f"{prefix}{key} {label}" for key, label in zip(keys, labels, strict=True)]
        known["noisy" if part == "train" else "clean"] += lines
        name = {"train": "noisy_train", "meta": "clean_train"}.get(part, f"clean_{part}")
        if lists == "remade":
            write(root / lists_in / f"{name}.txt", lines)
        else:
            write(root / lists_in / f"{name}_key_list.txt", [f"{prefix}{key}" for key in keys])
    if lists == "official":
        # As in the real one, the noisy labels of clean pictures are there too, and the order is another.
        also_noisy = [f"{prefix}{key} 0" for key in clothing_keys("test", CLOTHING_CLASSES)]
        write(root / lists_in / "noisy_label_kv.txt", [*reversed(known["noisy"]), *also_noisy])
        write(root / lists_in / "clean_label_kv.txt", known["clean"][::-1])
    return root


# WebVision and ILSVRC12.


def imagenet_synsets():
    """The 1000 synsets of ILSVRC12 in the order of their labels, from tensorflow-datasets."""
    return _imagenet_list("labels.txt")


def validation_truth():
    """The synset of each of ILSVRC12's 50,000 validation pictures, from tensorflow-datasets."""
    return _imagenet_list("validation_labels.txt")


@functools.cache
def _imagenet_list(name):
    package = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations[0]
    return tuple(pathlib.Path(package, "datasets", "imagenet2012", name).read_text().split())


def make_webvision(root, *, lists_in="info", per_class=1):
    """Writes lists with labels 0 to 52 (three too many for mini-WebVision), 1000 synsets, and the pictures."""
    root = pathlib.Path(root)
    train, test = [], []
    for n in range(per_class * (WEBVISION_CLASSES + 3)):
        label = (7 * n) % (WEBVISION_CLASSES + 3)
        train.append(f"google/q{label:04d}/train{n}.jpg {label}")
        test.append(f"val{n:06d}.jpg {label}")
        write(root / train[-1].split()[0], jpeg(label))
        write(root / "val_images_256" / test[-1].split()[0], jpeg(label))
    write(root / lists_in / "train_filelist_google.txt", train)
    write(root / lists_in / "val_filelist.txt", test)
    names = [f"{synset} name{label}, other name" for label, synset in enumerate(imagenet_synsets())]
    write(root / lists_in / "synsets.txt", names)
    return root


def make_imagenet_validation(root, way):
    """Writes one validation picture of each of the first 60 synsets, and for "records" all in two TFRecord files.

    Args:
        root: The folder that --imagenet_dir names.
        way: "synsets", "numbers", "flat" or "records".

    Returns:
        label (0 to 49) -> the picture's name.
    """
    root, truth, synsets = pathlib.Path(root), validation_truth(), imagenet_synsets()[:60]
    names = {label: f"ILSVRC2012_val_{truth.index(synset) + 1:08d}.JPEG" for label, synset in enumerate(synsets)}
    if way == "records":
        examples = [{"file_name": name.encode(), "image": jpeg(label), "label": label} for label, name in names.items()]
        write_tfrecord(root / "imagenet2012-validation.tfrecord-00000-of-00002", examples[::-1][:30])
        write_tfrecord(root / "imagenet2012-validation.tfrecord-00001-of-00002", examples[::-1][30:])
        write(root / "label.labels.txt", imagenet_synsets())
    else:
        for label, name in names.items():
            folder = {"synsets": synsets[label], "numbers": str(label), "flat": ""}[way]
            write(root / folder / name, jpeg(label))
    return {label: names[label] for label in range(WEBVISION_CLASSES)}


# Red Mini-ImageNet.


def red_rows(split, count=2 * RED_CLASSES):
    """(name, label) of a split: in a training split every second picture is from the web."""
    if split == "clean_validation":
        return [(f"ILSVRC2012_val_{n + 1:08d}.jpg", (3 * n) % RED_CLASSES) for n in range(RED_CLASSES)]
    return [
        (f"{n * 7919 + 1:016x}.jpg" if n >= RED_CLASSES else f"n{n:08d}{n:08d}.jpg", (3 * n) % RED_CLASSES)
        for n in range(count)
    ]


def make_red_mini_imagenet(root, *, rate="0.4", pictures="s32"):
    """Writes split files, class names and pictures.

    Args:
        root: The folder "mini-imagenet".
        rate: Of the one training split.
        pictures: "s32" (FaMUS' 32 x 32), "folders" (84 x 84, by label), "all_images" (one folder), or "two pools"
            (pictures from the web in `noisy_images`).
    """
    root = pathlib.Path(root)
    write(root / "class_name.txt", [f"class name {label}" for label in range(RED_CLASSES)])
    for split in (f"red_noise_nl_{rate}", "clean_validation"):
        rows = red_rows(split)
        write(root / "split" / split, [f"{name} {label}" for name, label in rows])
        for name, label in rows:
            write(root / _red_path(split, name, label, pictures), jpeg(label, size=(32, 32)))
    return root


def _red_path(split, name, label, pictures):
    is_validation = split == "clean_validation"
    if pictures == "all_images" or (pictures == "two pools" and name.startswith(("n", "ILSVRC"))):
        return f"all_images/{name}"
    if pictures == "two pools":
        return f"noisy_images/{name}"
    ending = "_s32" if pictures == "s32" else ""
    return f"validation{ending}/{label}/{name}" if is_validation else f"training{ending}/{split}/{label}/{name}"


def make_red_records(root, *, kind, rate="0.4"):
    """Writes TFRecords: kind "tfds" (a prepared version), or "authors" (32 x 32, no names); returns their folder."""
    root = pathlib.Path(root)
    for split in (f"red_noise_nl_{rate}", "clean_validation"):
        is_validation, rows = split == "clean_validation", red_rows(split)
        if kind == "tfds":
            name = "validation" if is_validation else f"train_{round(100 * float(rate)):02d}"
            examples = [
                {"id": name.removesuffix(".jpg").encode(), "image": jpeg(label), "is_clean": 1, "label": label}
                for name, label in reversed(rows)
            ]
            for shard in range(2):
                file = f"controlled_noisy_web_labels-{name}.tfrecord-{shard:05d}-of-00002"
                write_tfrecord(root / file, examples[shard::2])
        else:
            key = "image/class/fine_label" if is_validation else "image/class/label"
            examples = [{"image/encoded": jpeg(label, size=(32, 32)), key: label} for _, label in rows]
            write_tfrecord(root / split / "data", examples)
    return root


def example_bytes(features):
    """A serialised `tf.train.Example` of integers and bytes."""
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=np.atleast_1d(value).tolist()))
        for key, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_tfrecord(path, examples):
    """Writes a TFRecord file of dictionaries (or of bytes, as they are)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example if isinstance(example, bytes) else example_bytes(example))
    return path
