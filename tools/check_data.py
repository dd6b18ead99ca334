"""Checks a dataset before training: its files, counts, classes, labels and pictures.

    python -m tools.check_data --dataset=clothing1m --data_dir=DIR
    python -m tools.check_data --dataset=folder --data_dir=DIR --decode=all --output=bad.csv

Takes the flags of `famus_tf.train` that name the data (--dataset, --data_dir, --label_set, --labels_csv, ...), and two
of its own. --decode=none looks the pictures up in their folders and opens some, as training does before it begins;
--decode=start reads how each begins; --decode=all decodes every one as training does. --output writes those that cannot
be used as CSV.

Exit code 0: nothing wrong was found; 1: something was; 2: the data could not be read, or a flag is wrong; 74: --output
could not be written; 130: interrupted.
"""

import collections
import dataclasses
import pathlib
import sys

from absl import flags

from famus_tf import entry_point, options, quiet_start
from famus_tf.errors import InputError

SHOWN = 10
PICTURES_PER_TICK = 2000  # a pipeline is built for every tick, which takes longer than a hundred pictures
LONG_TAILED = ("cifar10_lt", "cifar100_lt")
NOISE_TOLERANCE = 0.5  # percentage points; the authors' files and papers differ by a few hundredths
LOOKED_AT = {"none": "looked up and some opened", "start": "read at their beginning", "all": "decoded"}

# Flags of its own, besides which those of famus_tf.train are defined when they are parsed.
FLAGS = flags.FlagValues()
_DECODE = flags.DEFINE_enum("decode", "none", list(LOOKED_AT), "How closely to look at pictures.", flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "A CSV file for the pictures that cannot be used.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Checks and prints."""
    if options.asks_for_help(argv):
        print(f"{__doc__}\n{FLAGS.get_help()}")
        return
    options.parse_flags(argv, FLAGS)
    if _OUTPUT.value and not pathlib.Path(_OUTPUT.value).parent.is_dir():
        raise InputError(f"--output={_OUTPUT.value} is in a folder that does not exist; make it, or choose another.")
    quiet_start.import_tensorflow(show_chatter=False)
    try:
        check(options.data_config(FLAGS), _DECODE.value, _OUTPUT.value)
    except KeyboardInterrupt:
        raise entry_point.ProgramEnd("\nInterrupted.", entry_point.EXIT_INTERRUPTED) from None


def check(config, decode: str, output: str | None) -> None:
    """Checks one dataset and prints what there is to say.

    Args:
        config: A `famus_tf.config.DataConfig`.
        decode: As the flag.
        output: As the flag.

    Raises:
        InputError: If the data cannot be read.
        ProgramEnd: If something is wrong with them.
    """
    from famus_tf import registry

    dataset = with_long_tail(registry.load_dataset(config), config)
    tables = parts(dataset)
    published = registry.published_counts(config)
    print("\n".join([*summary(dataset, tables, published, config), ""]), flush=True)
    looked_at, inside_train = with_own_pictures(tables)
    found = find_bad(looked_at, decode)
    print("\n".join([*picture_lines(found, looked_at, inside_train, decode, config.max_bad_fraction), ""]), flush=True)
    if output:
        write(output, found)
    problems = [*differing_counts(tables, published), *differing_noise(dataset.train, config), *empty_classes(dataset)]
    if found:
        problems.append(f"{counted(len(found), 'picture')} cannot be used")
    if problems:
        raise entry_point.ProgramEnd(f"Not in order: {'; '.join(problems)}.", exit_code=1)
    print("Nothing wrong was found.")


def with_long_tail(dataset, config):
    """Returns a long-tailed `Dataset` as it is trained, cut to its tail beside the meta set; others as they are.

    Args:
        dataset: As loaded: those with a long tail are whole until they are split.
        config: The `DataConfig`.

    Raises:
        InputError: If the meta set or the imbalance factor leaves a class without an example.
    """
    if config.dataset not in LONG_TAILED:
        return dataset
    from famus_tf.data import splitting

    splits = splitting.split(
        dataset, num_meta=config.num_meta, meta_set=config.meta_set, imbalance_factor=config.imbalance_factor
    )
    beside = f" beside a meta set of {config.num_meta:,}" if config.num_meta else ""
    note = (
        f"train is the long tail of --imbalance_factor={config.imbalance_factor:g}, cut out of the"
        f" {len(dataset.train):,} training examples{beside}."
    )
    return dataclasses.replace(dataset, train=splits.train, meta=splits.meta, notes=(*splits.notes, note))


def parts(dataset) -> dict:
    """Returns part -> its examples, those that there are."""
    tables = {"train": dataset.train, "meta": dataset.meta, "validation": dataset.validation, "test": dataset.test}
    return {part: table for part, table in {**tables, **dataset.more_tests}.items() if table is not None}


def with_own_pictures(tables: dict) -> tuple[dict, list[str]]:
    """Returns the parts whose pictures lie on disk, without those that are a selection of the training pictures.

    Args:
        tables: Part -> its examples.

    Returns:
        The first, as in `tables`, and the names of the second.
    """
    import numpy as np

    from famus_tf.runs import bad_pictures

    own, inside_train = bad_pictures.with_pictures(tables), []
    ids = tables["train"].ids
    for part in [part for part in own if part != "train"]:
        # Most lists have nothing in common with it, which one id tells at once.
        some = tables[part].ids
        if len(some) and (ids == some[0]).any() and np.isin(some, ids).all():
            inside_train.append(part)
            del own[part]
    return own, inside_train


def summary(dataset, tables: dict, published: dict[str, int], config) -> list[str]:
    """The lines on counts, classes and noise.

    Args:
        dataset: The `Dataset`.
        tables: Its parts.
        published: Part -> number of examples as published, where that is known.
        config: The `DataConfig`.
    """
    import numpy as np

    from famus_tf.data import dataset_folder

    num_classes = len(dataset.class_names)
    place = f" in {config.labels_csv or config.data_dir}" if config.labels_csv or config.data_dir else ""
    lines = [f"{dataset.name}{place}: {num_classes} classes", ""]
    lines.append(f"  {'part':<12}{'examples':>12}{'published':>12}{'smallest class':>16}{'largest class':>15}")
    for part, table in tables.items():
        counts = np.bincount(table.given_labels, minlength=num_classes)
        expected = f"{published[part]:,}" if part in published else "-"
        lines.append(f"  {part:<12}{len(table):>12,}{expected:>12}{counts.min():>16,}{counts.max():>15,}")
    shown = [f"{label} {name}" for label, name in enumerate(dataset.class_names[:SHOWN])]
    if num_classes > SHOWN:
        dots = ["..."] if num_classes > SHOWN + 1 else []
        shown += [*dots, f"{num_classes - 1} {dataset.class_names[-1]}"]
    lines += ["", f"  class order   {', '.join(shown)}", f"  label noise   {label_noise(dataset.train, config)}"]
    # The table shows these already.
    on_counts = dataset_folder.notes_on_counts(
        dataset.name, {part: len(table) for part, table in tables.items()}, published
    )
    return [*lines, *(f"  note          {note}" for note in dataset.notes if note not in on_counts)]


def label_noise(train, config) -> str:
    """What is known of wrong labels in the training examples, before and after training adds its own."""
    from famus_tf.data import cifar_n, corruption

    if train.true_labels is None:
        return "unknown, since this dataset does not tell which training labels are true"
    rate = corruption.measured_noise_rate(train.given_labels, train.true_labels)
    added = ""
    if config.noise_rate:
        added = f"; these flags have training add --noise_type={config.noise_type} --noise_rate={config.noise_rate:g}"
    published = cifar_n.published_noise_rate(config)
    known = "" if published is None else f" (published: {published:.2f} %)"
    found = f"{100 * rate:.2f} % of the training labels are wrong" if rate else "none in the data themselves"
    return found + known + added


def differing_counts(tables: dict, published: dict[str, int]) -> list[str]:
    """A phrase for each part whose number of examples is not the published one."""
    return [
        f"{part} has {len(table):,} examples and not the published {published[part]:,}"
        for part, table in tables.items()
        if part in published and len(table) != published[part]
    ]


def differing_noise(train, config) -> list[str]:
    """A phrase on the share of wrong training labels, if it is not the published one."""
    from famus_tf.data import cifar_n, corruption

    published = cifar_n.published_noise_rate(config)
    if published is None:
        return []
    measured = 100 * corruption.measured_noise_rate(train.given_labels, train.true_labels)
    if abs(measured - published) <= NOISE_TOLERANCE:
        return []
    return [
        f"{measured:.2f} % of the training labels are wrong and not the published {published:.2f} %: the label file is"
        " another one, or damaged"
    ]


def empty_classes(dataset) -> list[str]:
    """A phrase on the classes that have no training example, if there are such."""
    present = set(dataset.train.given_labels.tolist())
    absent = [repr(name) for label, name in enumerate(dataset.class_names) if label not in present]
    if not absent:
        return []
    names = ", ".join(absent[:SHOWN]) + (f" and {len(absent) - SHOWN:,} more" if len(absent) > SHOWN else "")
    return [f"{'class' if len(absent) == 1 else 'classes'} {names} without a training example"]


def find_bad(tables: dict, decode: str) -> list:
    """The pictures that cannot be used, of all parts.

    Args:
        tables: Part -> its examples, pictures all of them.
        decode: As the flag.

    Returns:
        `BadPicture`s in the order of parts and rows.
    """
    import keras
    import numpy as np

    from famus_tf.data import picture_checks
    from famus_tf.runs import bad_pictures

    places = {part: place for place, part in enumerate(tables)}
    if decode == "none":
        return sorted(bad_pictures.find_at_start(tables), key=lambda picture: (places[picture.part], picture.row))
    absent = bad_pictures.find_cheap(tables)
    found, shows_progress = [], sys.stdout.isatty()
    for part, table in tables.items():
        found += [picture for picture in absent if picture.part == part]
        rows = np.setdiff1d(np.arange(len(table)), [picture.row for picture in found if picture.part == part])
        if shows_progress:
            print(f"  {part}: {counted(len(rows), 'picture')} to be {LOOKED_AT[decode]}")
        bar = keras.utils.Progbar(len(rows), unit_name="picture", verbose=int(shows_progress))
        for start in range(0, len(rows), PICTURES_PER_TICK):
            chunk = rows[start : start + PICTURES_PER_TICK]
            for row, reason in picture_checks.find_bad(table.images, chunk, decode=decode == "all"):
                found.append(bad_pictures.described(part, table, row, reason))
            bar.update(start + len(chunk))
    return sorted(found, key=lambda picture: (places[picture.part], picture.row))


def picture_lines(
    found: list, tables: dict, inside_train: list[str], decode: str, max_bad_fraction: float
) -> list[str]:
    """The lines on pictures: how many of each part cannot be used, why, where most of them are, and the first ones.

    Args:
        found: As from `find_bad`.
        tables: Part -> its examples, those that were looked at.
        inside_train: Names of parts that are a selection of the training pictures.
        decode: As the flag.
        max_bad_fraction: Above which share of a part training refuses it.
    """
    from famus_tf.runs import bad_pictures

    if not tables:
        return ["  pictures      arrays in memory, nothing to decode"]
    count = sum(len(table) for table in tables.values())
    lines = [f"  pictures      {count:,} {LOOKED_AT[decode]}, {f'{len(found):,}' if found else 'none'} cannot be used"]
    lines += [
        f"                those of {part} are training pictures and were looked at there" for part in inside_train
    ]
    for part, table in tables.items():
        bad = [picture for picture in found if picture.part == part]
        if not bad:
            continue
        reasons = collections.Counter(picture.reason for picture in bad).most_common()
        folder, in_folder = bad_pictures.worst_folder(bad)
        share = len(bad) / len(table)
        is_much = f", more than --max_bad_fraction={max_bad_fraction:g}" if share > max_bad_fraction else ""
        percent = f"{100 * share:.2f}" if share >= 0.0001 else "under 0.01"
        why = ", ".join(f"{number:,} {reason}" for reason, number in reasons[:SHOWN])
        lines += [
            f"  {part + ':':<14}{len(bad):,} of {len(table):,} ({percent} %{is_much}): {why}",
            f"                most in {folder} ({in_folder:,})",
            *(f"    {picture.picture}: {picture.reason}" for picture in bad[:SHOWN]),
        ]
        if len(bad) > SHOWN:
            lines.append(f"    and {len(bad) - SHOWN:,} more; --output=FILE.csv lists all")
    return lines


def write(output: str, found: list) -> None:
    """Writes the CSV file and says so.

    Raises:
        ProgramEnd: If it cannot be written.
    """
    from famus_tf.runs import bad_pictures

    try:
        bad_pictures.save(output, found)
    except OSError as error:
        raise entry_point.ProgramEnd(
            f"Error: {output} cannot be written ({error.strerror}).", entry_point.EXIT_NOT_WRITTEN
        ) from error
    print(f"{counted(len(found), 'picture')} written to {output}.")


def counted(number: int, word: str) -> str:
    """For example "1 picture" or "1,200 pictures"."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
