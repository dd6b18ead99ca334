"""Tests of famus_tf.data.cifar_n, on a tiny CIFAR and label files as their authors write them."""

import csv
import pickle
import zipfile

import numpy as np
import pytest

from famus_tf.config import DataConfig
from famus_tf.data import cifar_n, tfds_folder
from famus_tf.errors import InputError
from tests.tiny_tfds import CIFAR_LABELS, write_cifar

CLEAN = np.array(CIFAR_LABELS["train"])  # 0 3 9 3 1 8 2
AGGREGATE = np.array([0, 3, 9, 5, 1, 8, 2])
WORST = np.array([1, 3, 9, 5, 1, 0, 4])
RANDOM = [(CLEAN + np.arange(7) * step) % 10 for step in (1, 2, 3)]
TEN = {
    "clean_label": CLEAN,
    "aggre_label": AGGREGATE,
    "worse_label": WORST,
    "random_label1": RANDOM[0],
    "random_label2": RANDOM[1],
    "random_label3": RANDOM[2],
}
HUNDRED_NOISY = np.array([99, 3, 9, 50, 1, 8, 2])
ORDER = np.array([4, 0, 6, 2, 5, 1, 3])  # the i-th label of an ordered file belongs to image ORDER[i]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    write_cifar(data_dir, "cifar10", 10)
    write_cifar(data_dir, "cifar100", 100)
    return data_dir


@pytest.fixture
def root(prepared, tmp_path):
    for name in ("cifar10", "cifar100"):
        (tmp_path / name).symlink_to(prepared / name)
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(name, root):
        raise ConnectionError(f"no route to {name}'s host")

    monkeypatch.setattr(tfds_folder, "download", refuse)


def write_pt(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(columns, protocol=2))


def write_npy(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, {name: list(values) for name, values in columns.items()}, allow_pickle=True)


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def in_order(columns, order=ORDER):
    return {name: values[order] for name, values in columns.items()}


def load10(root, label_set=None):
    return cifar_n.load_cifar10n(DataConfig(dataset="cifar10n", data_dir=str(root), label_set=label_set))


def load100(root, label_set=None):
    return cifar_n.load_cifar100n(DataConfig(dataset="cifar100n", data_dir=str(root), label_set=label_set))


@pytest.mark.parametrize(
    ("label_set", "expected"),
    [
        (None, AGGREGATE),
        ("aggregate", AGGREGATE),
        ("worst", WORST),
        ("random1", RANDOM[0]),
        ("random2", RANDOM[1]),
        ("random3", RANDOM[2]),
    ],
)
def test_each_label_set_is_joined_to_cifar_by_the_images_ids(root, label_set, expected):
    write_pt(root / "CIFAR-10_human.pt", TEN)
    dataset = load10(root, label_set)
    assert dataset.name == "cifar10n"
    assert dataset.train.ids.tolist() == [f"train_{row:05d}" for row in range(7)]
    assert dataset.train.given_labels.tolist() == expected.tolist()
    assert dataset.train.given_labels.dtype == np.int32
    assert dataset.train.true_labels.tolist() == CLEAN.tolist()
    assert dataset.test.given_labels.tolist() == CIFAR_LABELS["test"]
    assert dataset.notes == (f"Noisy labels: {root}/CIFAR-10_human.pt, set '{label_set or 'aggregate'}'.",)


@pytest.mark.parametrize("key", ["noisy_label", "noise_label"])
def test_cifar100n_has_its_fine_labels_under_either_name_and_its_superclasses(root, key):
    write_pt(root / "CIFAR-100_human.pt", {"clean_label": CLEAN, key: HUNDRED_NOISY, "noisy_coarse_label": [0] * 7})
    for label_set in (None, "fine"):
        dataset = load100(root, label_set)
        assert dataset.train.given_labels.tolist() == HUNDRED_NOISY.tolist()
    assert len(dataset.coarse_labels) == 100


@pytest.mark.parametrize("folder", ["", "data", "cifar10n", "cifar-10-100n/data"])
def test_the_labels_are_found_in_the_usual_folders(root, folder):
    write_pt(root / folder / "CIFAR-10_human.pt", TEN)
    assert load10(root).train.given_labels.tolist() == AGGREGATE.tolist()


@pytest.mark.parametrize("order_in", ["", "data"])
def test_ordered_labels_are_put_in_place_by_the_order_file(root, order_in):
    write_npy(root / "data" / "CIFAR-10_human_ordered.npy", in_order(TEN))
    np.save(root / order_in / "image_order_c10.npy", ORDER)
    assert load10(root, "worst").train.given_labels.tolist() == WORST.tolist()


def test_the_table_that_tensorflow_datasets_asks_for_is_read(root):
    write_csv(root / "CIFAR-100_human_annotations.csv", in_order({"clean_label": CLEAN, "noise_label": HUNDRED_NOISY}))
    np.save(root / "image_order_c100.npy", ORDER)
    assert load100(root).train.given_labels.tolist() == HUNDRED_NOISY.tolist()


def message_of(load, *arguments):
    with pytest.raises(InputError) as caught:
        load(*arguments)
    return str(caught.value)


USE = "Use the authors' CIFAR-10_human.pt from https://github.com/UCSC-REAL/cifar-10-100n."


def test_labels_in_the_order_file_s_order_are_told_as_such(root):
    write_pt(root / "CIFAR-10_human.pt", in_order(TEN))
    np.save(root / "image_order_c10.npy", ORDER)
    # Against 0 3 9 3 1 8 2 the file has 1 0 2 9 8 3 3.
    assert message_of(load10, root) == (
        f"{root}/CIFAR-10_human.pt does not belong to these images: 7 of its 7 clean labels are not cifar10's, the"
        " first that of training image 0, which is 1 (automobile) in the file and 0 (airplane) in cifar10. Its labels"
        f" are in the order of tensorflow-datasets (as {root}/image_order_c10.npy has it), not of the original"
        f" files. {USE}"
    )


def test_labels_in_the_order_on_disk_are_told_without_an_order_file(root):
    write_pt(root / "CIFAR-10_human.pt", in_order(TEN, np.arange(7)[::-1]))
    # Against 0 3 9 3 1 8 2 the file has 2 8 1 3 9 3 0, which agrees in the middle.
    message = message_of(load10, root)
    assert "6 of its 7 clean labels are not cifar10's, the first that of training image 0" in message
    assert message.endswith(
        f"Its labels are in the order of tensorflow-datasets (as {root}/cifar10 stores it), not of the original files."
        f" {USE}"
    )


def test_a_file_called_ordered_that_is_not_is_told_as_such(root):
    write_npy(root / "CIFAR-10_human_ordered.npy", TEN)
    np.save(root / "image_order_c10.npy", ORDER)
    assert message_of(load10, root).endswith(
        f"Its labels are in the order of the original files, not of tensorflow-datasets as its name says. {USE}"
    )


def test_labels_that_no_order_explains_are_told_with_the_first_that_differs(root):
    clean = CLEAN.copy()
    clean[[4, 5]] = [12, 0]
    write_pt(root / "CIFAR-10_human.pt", TEN | {"clean_label": clean})
    assert message_of(load10, root) == (
        f"{root}/CIFAR-10_human.pt does not belong to these images: 2 of its 7 clean labels are not cifar10's, the"
        " first that of training image 4, which is 12 (no class) in the file and 1 (automobile) in cifar10. No known"
        f" order of the images explains it. {USE}"
    )


def test_missing_labels_are_named_with_where_to_get_them(root):
    message = message_of(load10, root)
    assert message.startswith(
        "The labels of cifar10n are missing: none of CIFAR-10_human.pt, CIFAR-10_human_ordered.npy,"
        f" CIFAR-10_human_annotations.csv is in {root} or its folders data, cifar10n"
    )
    assert message.endswith(
        f"Fetch CIFAR-10_human.pt from https://github.com/UCSC-REAL/cifar-10-100n (folder data) and put it into {root}."
    )


def test_a_file_of_0_bytes_is_passed_over_or_named(root):
    (root / "CIFAR-10_human_ordered.npy").touch()
    assert message_of(load10, root).startswith(
        f"{root}/CIFAR-10_human_ordered.npy is empty (0 bytes), as it is in some"
    )
    write_csv(root / "CIFAR-10_human_annotations.csv", in_order(TEN))
    np.save(root / "image_order_c10.npy", ORDER)
    assert load10(root).train.given_labels.tolist() == AGGREGATE.tolist()


def test_ordered_labels_without_the_order_are_refused(root):
    write_npy(root / "data" / "CIFAR-10_human_ordered.npy", in_order(TEN))
    assert message_of(load10, root) == (
        f"{root}/data/CIFAR-10_human_ordered.npy is in the order of tensorflow-datasets, and image_order_c10.npy, which"
        f" says which image is which, is not in {root}/data, in the folder above, or in {root}. Fetch it, or"
        " CIFAR-10_human.pt, which does not need it, from https://github.com/UCSC-REAL/cifar-10-100n."
    )


@pytest.mark.parametrize("order", [[0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [0.0] * 7])
def test_an_order_that_is_no_permutation_is_refused(root, order):
    write_npy(root / "CIFAR-10_human_ordered.npy", in_order(TEN))
    np.save(root / "image_order_c10.npy", np.array(order))
    assert "image_order_c10.npy does not hold each of 0 to 6 once" in message_of(load10, root)


def test_an_order_that_is_no_array_is_refused(root):
    write_npy(root / "CIFAR-10_human_ordered.npy", in_order(TEN))
    (root / "image_order_c10.npy").write_bytes(b"no")
    assert f"{root}/image_order_c10.npy cannot be read" in message_of(load10, root)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"clean_label": CLEAN}, "CIFAR-10_human.pt has no list 'aggre_label', only clean_label; fetch it again"),
        ({"aggre_label": CLEAN}, "CIFAR-10_human.pt has no list 'clean_label', only aggre_label; fetch it again"),
        (
            {"clean_label": CLEAN[:5], "aggre_label": CLEAN[:5]},
            "CIFAR-10_human.pt has 5 labels and cifar10 7 training images; expected as many labels as images.",
        ),
        (
            {"clean_label": CLEAN, "aggre_label": CLEAN + 1},
            "CIFAR-10_human.pt: its 7 labels of set 'aggregate' run from 1 to 10; expected 7 of 0 to 9.",
        ),
    ],
)
def test_a_file_with_other_contents_is_refused(root, columns, message):
    write_pt(root / "CIFAR-10_human.pt", columns)
    assert message in message_of(load10, root)


def test_a_table_of_other_contents_is_refused(root):
    (root / "CIFAR-10_human_annotations.csv").write_text("clean_label,aggre_label\n1,2\n3,x\n")
    message = message_of(load10, root)
    assert message.startswith(f"{root}/CIFAR-10_human_annotations.csv is no table of labels (")
    assert message.endswith("Make it again from CIFAR-10_human_ordered.npy.")


def test_a_web_page_of_one_long_line_is_no_table(root):
    (root / "CIFAR-10_human_annotations.csv").write_text("<html>" + "x" * 140_000)
    assert message_of(load10, root) == (
        f"{root}/CIFAR-10_human_annotations.csv is no table of labels (field larger than field limit (131072));"
        " expected a line of names and lines of whole numbers. Make it again from CIFAR-10_human_ordered.npy."
    )


@pytest.mark.parametrize(
    ("dataset", "label_set", "rate"),
    [
        ("cifar10n", None, 9.01),
        ("cifar10n", "aggregate", 9.01),
        ("cifar10n", "random1", 17.23),
        ("cifar10n", "random2", 18.12),
        ("cifar10n", "random3", 17.64),
        ("cifar10n", "worst", 40.21),
        ("cifar100n", None, 40.20),
        ("cifar100n", "fine", 40.20),
        ("cifar10", None, None),
    ],
)
def test_the_published_noise_rates_are_those_of_the_authors_files(dataset, label_set, rate):
    assert cifar_n.published_noise_rate(DataConfig(dataset=dataset, label_set=label_set)) == rate


def test_a_malicious_file_is_refused_and_not_run(root):
    class Attack:
        def __reduce__(self):
            return __import__("os").mkdir, (str(root / "trace"),)

    write_pt(root / "CIFAR-10_human.pt", TEN | {"aggre_label": Attack()})
    assert "was not read: it names the Python object" in message_of(load10, root)
    assert not (root / "trace").exists()


@pytest.mark.parametrize(
    ("load", "label_set", "message"),
    [
        (load10, "aggre", "--label_set must be one of aggregate, random1, random2, random3, worst; got 'aggre'."),
        (load100, "worst", "--label_set must be one of fine; got 'worst'."),
    ],
)
def test_an_unknown_label_set_is_refused_before_anything_is_read(tmp_path, load, label_set, message):
    assert message in message_of(load, tmp_path, label_set)
