"""Tests of tools.check_data on miniature datasets: its screen and exit code for every kind of defect."""

import csv
import functools
import shutil
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from famus_tf import dataset_loaders, entry_point, registry
from famus_tf.config import DataConfig
from famus_tf.data import clothing1m, red_mini_imagenet, webvision
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from tests import sample_pictures
from tests.tiny_datasets import make_clothing1m, make_red_mini_imagenet, make_webvision
from tools import check_data

PICTURE = functools.partial(sample_pictures.jpeg, 12, 16)
DEFECTS = sample_pictures.defects()
TINY_COUNTS = {"train": 28, "validation": 14, "test": 14, "meta": 14}


pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture(autouse=True)
def own_flags():
    """Each test parses the command line anew."""
    saved = flagsaver.save_flag_values(check_data.FLAGS)
    yield
    flagsaver.restore_flag_values(saved, check_data.FLAGS)


@pytest.fixture
def run(capsys):
    """Runs the program; returns (exit code, lines of the screen, lines of standard error)."""

    def run(*arguments):
        code = entry_point.run(check_data.main, ["check_data", *(str(argument) for argument in arguments)])
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 2 classes with 12 training pictures each, one meta and one test picture."""
    root = tmp_path_factory.mktemp("made")
    counts = {"train": 12, "meta": 1, "test": 1}
    names = [f"{part}/{name}/{n:02d}.jpg" for part in counts for name in ("ant", "bee") for n in range(counts[part])]
    sample_pictures.write_files(root, dict.fromkeys(names, PICTURE()))
    return root


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "pictures")


@pytest.fixture
def clothing(tmp_path, monkeypatch):
    """A miniature Clothing1M that counts as complete."""
    monkeypatch.setattr(clothing1m, "_PUBLISHED_COUNTS", TINY_COUNTS)
    return make_clothing1m(tmp_path / "clothing1m")


def row_of(lines, part):
    """The columns of a part in the table of counts."""
    (row,) = [line.split() for line in lines if line.split()[:1] == [part]]
    return row[1:]


def about_pictures(lines):
    """The lines on pictures, without the empty one and the last sentence."""
    start = next(number for number, line in enumerate(lines) if line.startswith("  pictures "))
    return lines[start : lines.index("", start)]


# Nothing wrong.


@pytest.mark.parametrize(
    ("decode", "how"),
    [("none", "looked up and some opened"), ("start", "read at their beginning"), ("all", "decoded")],
)
def test_a_good_folder_is_in_order(run, folder, decode, how):
    code, lines, errors = run("--dataset=folder", f"--data_dir={folder}", f"--decode={decode}")
    assert (code, errors) == (0, [])
    assert lines == [
        f"folder in {folder}: 2 classes",
        "",
        "  part            examples   published  smallest class  largest class",
        "  train                 24           -              12             12",
        "  meta                   2           -               1              1",
        "  test                   2           -               1              1",
        "",
        "  class order   0 ant, 1 bee",
        "  label noise   unknown, since this dataset does not tell which training labels are true",
        "",
        f"  pictures      28 {how}, none cannot be used",
        "",
        "Nothing wrong was found.",
    ]


def test_a_complete_clothing1m_is_in_order_and_its_counts_are_shown(run, clothing):
    code, lines, errors = run("--dataset=clothing1m", f"--data_dir={clothing}", "--decode=all")
    assert (code, errors) == (0, [])
    assert row_of(lines, "train") == ["28", "28", "2", "2"]
    assert row_of(lines, "meta") == ["14", "14", "1", "1"]
    assert about_pictures(lines) == ["  pictures      70 decoded, none cannot be used"]
    assert "  class order   0 T-Shirt, 1 Shirt, 2 Knitwear" in "\n".join(lines)
    assert lines[-3:] == [about_pictures(lines)[0], "", "Nothing wrong was found."]


def test_arrays_are_not_decoded_and_the_noise_to_come_is_told(run):
    code, lines, errors = run("--dataset=digits", "--noise_type=symmetric", "--noise_rate=0.25", "--decode=all")
    assert (code, errors) == (0, [])
    assert about_pictures(lines) == ["  pictures      arrays in memory, nothing to decode"]
    assert (
        "  label noise   none in the data themselves; these flags have training add --noise_type=symmetric"
        " --noise_rate=0.25"
    ) in lines


def dataset(given, true, class_names=("a", "b"), **more):
    """A dataset of arrays with these labels in train, and one example in test."""

    def table(part, given, true):
        ids = np.array([f"{part}_{row}" for row in range(len(given))])
        return ExampleTable(ids, np.zeros((len(given), 2, 2, 3), np.uint8), np.int32(given), np.int32(true))

    preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    return Dataset("digits", table("train", given, true), table("test", [0], [0]), class_names, preprocessing, **more)


def test_known_wrong_labels_are_counted_and_notes_are_shown(run, monkeypatch):
    noisy = dataset([0, 1, 1, 0], [0, 1, 0, 0], notes=("Take care.",))
    monkeypatch.setitem(dataset_loaders.DATASETS, "digits", lambda config: noisy)
    code, lines, _ = run("--noise_rate=0")
    assert code == 0
    assert "  label noise   25.00 % of the training labels are wrong" in lines
    assert "  note          Take care." in lines


def test_meta_pictures_that_are_training_pictures_are_looked_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(red_mini_imagenet, "_TRAIN_COUNTS", {"0.4": 200})
    monkeypatch.setattr(red_mini_imagenet, "_TEST_COUNT", 100)
    root = make_red_mini_imagenet(tmp_path)
    (root / "training_s32" / "red_noise_nl_0.4" / "0" / f"n{0:08d}{0:08d}.jpg").unlink()
    code, lines, _ = run("--dataset=red_mini_imagenet", f"--data_dir={root}")
    assert code == 1
    assert row_of(lines, "meta")[0] == "100"
    assert about_pictures(lines)[:3] == [
        "  pictures      300 looked up and some opened, 1 cannot be used",
        "                those of meta are training pictures and were looked at there",
        "  train:        1 of 200 (0.50 %): 1 missing",
    ]


# Something wrong.


def test_missing_and_empty_files_are_told_by_part_with_the_worst_folder(run, folder):
    for number in range(11):
        (folder / "train" / "bee" / f"{number:02d}.jpg").write_bytes(b"")
    (folder / "train" / "ant" / "05.jpg").write_bytes(b"")
    (folder / "test" / "ant" / "00.jpg").write_bytes(b"")
    code, lines, errors = run("--dataset=folder", f"--data_dir={folder}")
    assert code == 1
    assert about_pictures(lines) == [
        "  pictures      28 looked up and some opened, 13 cannot be used",
        "  train:        12 of 24 (50.00 %, more than --max_bad_fraction=0.01): 12 empty file",
        f"                most in {folder}/train/bee (11)",
        f"    {folder}/train/ant/05.jpg: empty file",
        *(f"    {folder}/train/bee/{number:02d}.jpg: empty file" for number in range(9)),
        "    and 2 more; --output=FILE.csv lists all",
        "  test:         1 of 2 (50.00 %, more than --max_bad_fraction=0.01): 1 empty file",
        f"                most in {folder}/test/ant (1)",
        f"    {folder}/test/ant/00.jpg: empty file",
    ]
    assert errors == ["Not in order: 13 pictures cannot be used."]


def test_a_listed_picture_that_is_missing_is_found_and_written(run, clothing, tmp_path):
    gone, empty = clothing / "images/0/00/train0,0.jpg", clothing / "images/7/01/train1,10.jpg"
    gone.unlink()
    empty.write_bytes(b"")
    output = tmp_path / "bad.csv"
    code, lines, errors = run(
        "--dataset=clothing1m", f"--data_dir={clothing}", "--max_bad_fraction=0.5", f"--output={output}"
    )
    assert code == 1
    assert about_pictures(lines) == [
        "  pictures      70 looked up and some opened, 2 cannot be used",
        "  train:        2 of 28 (7.14 %): 1 missing, 1 empty file",
        f"                most in {gone.parent} (1)",
        f"    {gone}: missing",
        f"    {empty}: empty file",
    ]
    assert lines[-1] == f"2 pictures written to {output}."
    assert errors == ["Not in order: 2 pictures cannot be used."]
    with output.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["part", "row", "id", "picture", "reason"],
            ["train", "0", "0/00/train0,0.jpg", str(gone), "missing"],
            ["train", "1", "7/01/train1,10.jpg", str(empty), "empty file"],
        ]


@pytest.mark.parametrize(
    ("defect", "found_by"),
    [("HTML, not a picture", ("none", "start", "all")), ("truncated JPEG", ("all",)), ("truncated PNG", ("all",))],
)
def test_what_is_no_whole_picture_is_found_by_looking_closely_enough(run, folder, defect, found_by):
    (folder / "train" / "bee" / "07.jpg").write_bytes(DEFECTS[defect])
    for decode in ("none", "start", "all"):
        code, lines, errors = run("--dataset=folder", f"--data_dir={folder}", f"--decode={decode}")
        if decode not in found_by:
            assert (code, errors, lines[-1]) == (0, [], "Nothing wrong was found.")
            continue
        assert code == 1
        assert about_pictures(lines)[1:] == [
            f"  train:        1 of 24 (4.17 %, more than --max_bad_fraction=0.01): 1 {defect}",
            f"                most in {folder}/train/bee (1)",
            f"    {folder}/train/bee/07.jpg: {defect}",
        ]
        assert errors == ["Not in order: 1 picture cannot be used."]


def test_bad_pictures_of_all_kinds_come_in_the_order_of_parts_and_rows(run, folder, monkeypatch):
    monkeypatch.setattr(check_data, "PICTURES_PER_TICK", 5)
    (folder / "test" / "bee" / "00.jpg").write_bytes(DEFECTS["truncated JPEG"])
    (folder / "train" / "bee" / "07.jpg").write_bytes(b"")
    (folder / "train" / "bee" / "11.jpg").write_bytes(DEFECTS["truncated JPEG"])
    (folder / "train" / "ant" / "03.jpg").write_bytes(DEFECTS["text, not a picture"])
    _, lines, _ = run("--dataset=folder", f"--data_dir={folder}", "--decode=all")
    assert about_pictures(lines) == [
        "  pictures      28 decoded, 4 cannot be used",
        "  train:        3 of 24 (12.50 %, more than --max_bad_fraction=0.01): 1 text, not a picture, 1 empty file,"
        " 1 truncated JPEG",
        f"                most in {folder}/train/bee (2)",
        f"    {folder}/train/ant/03.jpg: text, not a picture",
        f"    {folder}/train/bee/07.jpg: empty file",
        f"    {folder}/train/bee/11.jpg: truncated JPEG",
        "  test:         1 of 2 (50.00 %, more than --max_bad_fraction=0.01): 1 truncated JPEG",
        f"                most in {folder}/test/bee (1)",
        f"    {folder}/test/bee/00.jpg: truncated JPEG",
    ]


def test_progress_is_shown_to_a_person_only(run, folder, monkeypatch):
    (folder / "train" / "bee" / "07.jpg").write_bytes(b"")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    _, lines, _ = run("--dataset=folder", f"--data_dir={folder}", "--decode=all")
    # The picture that is known to be empty needs no decoding.
    assert "  train: 23 pictures to be decoded" in lines
    assert any("23/23" in line for line in lines)
    monkeypatch.undo()
    _, lines, _ = run("--dataset=folder", f"--data_dir={folder}", "--decode=all")
    # The temporary folder's name may hold the number too.
    assert not any("to be decoded" in line or "/23" in line for line in lines)


def test_counts_that_were_not_published_are_wrong_and_told_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(clothing1m, "_PUBLISHED_COUNTS", TINY_COUNTS | {"train": 29, "test": 1_000})
    root = make_clothing1m(tmp_path)
    code, lines, errors = run("--dataset=clothing1m", f"--data_dir={root}")
    assert code == 1
    assert row_of(lines, "train")[:2] == ["28", "29"]
    assert row_of(lines, "test")[:2] == ["14", "1,000"]
    assert not any("were published" in line for line in lines)
    assert errors == [
        "Not in order: train has 28 examples and not the published 29; test has 14 examples and not the published"
        " 1,000."
    ]


def test_a_class_without_training_examples_is_wrong(run, clothing):
    labels = clothing / "noisy_label_kv.txt"
    labels.write_text("".join(line.replace(" 12\n", " 3\n") for line in labels.read_text().splitlines(keepends=True)))
    code, lines, errors = run("--dataset=clothing1m", f"--data_dir={clothing}")
    assert code == 1
    assert row_of(lines, "train") == ["28", "28", "0", "4"]
    assert errors == ["Not in order: class 'Vest' without a training example."]


def test_many_classes_without_training_examples_are_not_all_named(run, monkeypatch):
    names = tuple(f"c{label}" for label in range(14))
    monkeypatch.setitem(dataset_loaders.DATASETS, "digits", lambda config: dataset([0, 1], [0, 1], names))
    code, lines, errors = run()
    assert code == 1
    assert "  class order   0 c0, 1 c1, 2 c2, 3 c3, 4 c4, 5 c5, 6 c6, 7 c7, 8 c8, 9 c9, ..., 13 c13" in lines
    shown = ", ".join(f"'c{label}'" for label in range(2, 12))
    assert errors == [f"Not in order: classes {shown} and 2 more without a training example."]


# What cannot be checked at all.


def assert_refused(result, message):
    code, lines, errors = result
    assert (code, lines) == (2, [])
    assert errors == [f"Error: {message}"]


def test_a_wrong_line_is_named_with_its_file(run, clothing):
    labels = clothing / "noisy_label_kv.txt"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([*lines[:4], "images/0/00/x.jpg 14", *lines[4:]]))
    assert_refused(
        run("--dataset=clothing1m", f"--data_dir={clothing}"),
        f"{labels}, line 5: the label '14' in 'images/0/00/x.jpg 14'; expected a whole number from 0 to 13. That is so"
        f" in 1 of {len(lines) + 1} lines. Correct each such label, or check that the list belongs to this dataset.",
    )


def test_a_folder_that_is_not_there_is_refused(run, tmp_path):
    assert_refused(
        run("--dataset=folder", f"--data_dir={tmp_path / 'nowhere'}"),
        f"--data_dir={tmp_path / 'nowhere'} does not exist; expected a folder of pictures, one directory per class.",
    )


def test_what_the_system_refuses_is_one_sentence(run, monkeypatch):
    def refuse(config):
        raise PermissionError(13, "Permission denied", "/data/list.txt")

    monkeypatch.setitem(dataset_loaders.DATASETS, "digits", refuse)
    assert_refused(
        run(), "/data/list.txt cannot be read (Permission denied); check that it is there and that you may read it."
    )


def test_a_wrong_flag_is_refused_before_anything_is_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "load_dataset", None)
    for argument, word in (
        ("--decode=some", "none|start|all"),
        ("--data_dri=x", "--data_dir"),
        (f"--output={tmp_path}/nowhere/bad.csv", "folder that does not exist"),
    ):
        code, lines, errors = run(argument)
        assert (code, lines, len(errors)) == (2, [], 1)
        assert word in errors[0]


def test_a_list_that_cannot_be_written_is_told(run, folder, tmp_path):
    (tmp_path / "bad.csv").mkdir()
    code, lines, errors = run("--dataset=folder", f"--data_dir={folder}", f"--output={tmp_path / 'bad.csv'}")
    assert code == 74
    assert errors == [f"Error: {tmp_path / 'bad.csv'} cannot be written (Is a directory)."]


def test_an_interruption_says_nothing_of_checkpoints(run, monkeypatch):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "load_dataset", interrupt)
    assert run() == (130, [], ["", "Interrupted."])


def test_help_needs_no_data(run):
    code, lines, _ = run("--help")
    assert code == 0
    assert any("python -m tools.check_data" in line for line in lines)
    assert any("--decode" in line and "none|start|all" in line for line in lines)
    assert "decode" not in flags.FLAGS


# The published counts.


def test_published_counts_are_those_of_the_datasets_modules():
    def counts(name, **settings):
        return registry.published_counts(DataConfig(dataset=name, **settings))

    assert counts("cifar10") == counts("cifar100") == {"train": 50_000, "test": 10_000}
    assert counts("cifar10n") == counts("cifar100n") == {"train": 50_000, "test": 10_000}
    assert counts("digits") == counts("folder") == counts("tfds:mnist") == {}
    assert counts("clothing1m", meta_set="clean") == {
        "train": 1_000_000, "validation": 14_313, "test": 10_526, "meta": 47_570
    }  # fmt: skip
    assert counts("webvision") == {"train": 65_944, "test": 2_500}
    assert counts("webvision", imagenet_dir="x") == {"train": 65_944, "test": 2_500, "imagenet": 2_500}
    assert counts("red_mini_imagenet", label_set="0.8") == {"train": 50_008, "test": 5_000}


TEN = tuple(f"c{label}" for label in range(10))


@pytest.mark.parametrize(
    ("num_wrong", "problem"),
    [
        (90, ""),
        (95, ""),  # 9.50 - 9.01 = 0.49
        (
            96,
            "; 9.60 % of the training labels are wrong and not the published 9.01 %: the label file is another one, or"
            " damaged",
        ),
        (
            0,
            "; 0.00 % of the training labels are wrong and not the published 9.01 %: the label file is another one, or"
            " damaged",
        ),
    ],
)
def test_cifar_n_is_compared_with_the_published_counts_and_noise_rate(run, monkeypatch, num_wrong, problem):
    true = np.arange(1000) % 10
    given = np.where(np.arange(1000) < num_wrong, (true + 1) % 10, true)
    monkeypatch.setitem(dataset_loaders.DATASETS, "cifar10n", lambda config: dataset(given, true, TEN))
    code, lines, errors = run("--dataset=cifar10n", "--data_dir=x")
    assert code == 1
    assert row_of(lines, "train")[:2] == ["1,000", "50,000"]
    found = f"{num_wrong / 10:.2f} % of the training labels are wrong" if num_wrong else "none in the data themselves"
    assert f"  label noise   {found} (published: 9.01 %)" in lines
    assert errors == [
        "Not in order: train has 1,000 examples and not the published 50,000; test has 1 examples and not the published"
        f" 10,000{problem}."
    ]


def test_a_long_tail_is_shown_as_it_is_trained(run, monkeypatch):
    labels = np.arange(50_000) % 10
    whole = dataset(labels, labels, TEN, notes=("Take care.",))
    monkeypatch.setitem(dataset_loaders.DATASETS, "cifar10_lt", lambda config: whole)
    settings = ("--dataset=cifar10_lt", "--data_dir=x")
    _, lines, errors = run(*settings)
    assert row_of(lines, "train") == ["12,380", "12,380", "49", "4,990"]
    assert row_of(lines, "meta") == ["100", "-", "10", "10"]
    assert [line for line in lines if line.startswith("  note")] == [
        "  note          Take care.",
        "  note          train is the long tail of --imbalance_factor=100, cut out of the 50,000 training examples"
        " beside a meta set of 100.",
    ]
    assert errors == ["Not in order: test has 1 examples and not the published 10,000."]
    _, lines, _ = run(*settings, "--method=ce", "--num_meta=0", "--imbalance_factor=10")
    assert row_of(lines, "train") == ["20,431", "20,431", "500", "5,000"]
    assert not any(line.split()[:1] == ["meta"] for line in lines)


def test_a_long_tail_of_fewer_images_than_published_is_wrong(run, monkeypatch):
    labels = np.arange(49_000) % 10
    monkeypatch.setitem(dataset_loaders.DATASETS, "cifar10_lt", lambda config: dataset(labels, labels, TEN))
    code, lines, errors = run("--dataset=cifar10_lt", "--data_dir=x", "--num_meta=105")
    assert code == 1
    # Of 5,000 or 4,900 images a class gives the meta set 11 or 10; class 0 is among the former.
    assert row_of(lines, "train")[1:] == ["12,379", "48", "4,889"]
    assert errors[0].startswith(f"Not in order: train has {row_of(lines, 'train')[0]} examples and not the published")


def test_a_factor_that_empties_a_class_is_refused(run, monkeypatch):
    labels = np.arange(200) % 10
    monkeypatch.setitem(dataset_loaders.DATASETS, "cifar10_lt", lambda config: dataset(labels, labels, TEN))
    assert_refused(
        run("--dataset=cifar10_lt", "--data_dir=x"),
        "--imbalance_factor=100 leaves the smallest class without an example, because the largest has 10; give a factor"
        " of at most 10.",
    )


def test_webvisions_second_test_set_is_a_part_of_its_own(run, tmp_path, monkeypatch):
    monkeypatch.setattr(webvision, "_PUBLISHED_COUNTS", {"train": 50, "test": 50})
    root = make_webvision(tmp_path)
    code, lines, _ = run("--dataset=webvision", f"--data_dir={root}")
    assert code == 0
    assert row_of(lines, "test") == ["50", "50", "1", "1"]
