"""Datasets as tensorflow-datasets prepares them: where they lie, how they get there, and how they are read.

A prepared dataset is a folder `<data_dir>/<name>/[<config>/]<version>`. Splits are read in their order on disk, shard
by shard, which is the same at every reading.
"""

import contextlib
import difflib
import io
import os
import pathlib
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator

import numpy as np

from famus_tf.errors import InputError

PREFIX = "tfds:"
"""What the name of a dataset here begins with that is any dataset of tensorflow-datasets: "tfds:mnist"."""

_NAME = re.compile(r"tfds:(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_READ_BATCH = 1000
_NUM_HOSTS_TRIED = 3
_CONNECT_TIMEOUT_S = 3.0
_LONGEST_REASON = 1000  # characters; some errors of tensorflow-datasets list everything it knows


def parse_name(text: str, label: str = "The dataset") -> tuple[str, str, str]:
    """Returns the name, configuration and version, "" where it has none, of "tfds:name/config:1.0.0".

    Args:
        text: What was typed.
        label: What the message begins with.

    Raises:
        InputError: If the text is none of "tfds:name", "tfds:name/config", each with or without ":1.0.0".
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise InputError(
            f"{label} of tensorflow-datasets is written tfds:name, tfds:name/config or tfds:name/config:1.0.0; got"
            f" {text!r}."
        )
    return match["name"], match["config"] or "", match["version"] or ""


def data_root(data_dir: str | os.PathLike | None) -> pathlib.Path:
    """Returns the folder of prepared datasets: `data_dir`, or else $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_or_download(name: str, root: pathlib.Path, *, config: str = "", version: str = "") -> pathlib.Path:
    """Returns the folder of a prepared dataset; a dataset that is not there is downloaded.

    Args:
        name: The dataset's name, for example "cifar10".
        root: The folder of prepared datasets.
        config: The name of one of its configurations; "" for a dataset without, or the only one that is there.
        version: For example "3.0.2"; "" for the newest that is there.

    Raises:
        InputError: If the dataset is neither there nor can be downloaded, or has several configurations there and none
            was named.
    """
    wanted = f"{name}/{config}" if config else name
    folder = _prepared(root, name, config, version)
    if folder is None:
        _download_or_explain(wanted + (f":{version}" if version else ""), root)
        folder = _prepared(root, name, config, version)
    if folder is None:
        raise InputError(f"tensorflow-datasets downloaded {wanted}, but left no version of it in {root / wanted}.")
    return folder


@contextlib.contextmanager
def explaining_damage(name: str, folder: pathlib.Path) -> Iterator[None]:
    """Turns what reading a damaged folder raises into an `InputError` that names the folder."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name} in {folder} cannot be used: {error}") from error
    except Exception as error:
        # TensorFlow, tensorflow-datasets, protobuf and JSON each raise exceptions of their own.
        raise InputError(
            f"{name} in {folder} cannot be read; a file is damaged or missing. Delete the folder "
            f"and prepare it again. tensorflow-datasets says: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def quiet_tfds() -> Iterator:
    """Yields the tensorflow_datasets module, its log lines and progress bars off meanwhile."""
    import tensorflow_datasets as tfds  # here, because importing it takes seconds
    from absl import logging

    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        yield tfds
    finally:
        logging.set_verbosity(verbosity)


def read_columns(folder: pathlib.Path, split: str, features: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads some features of a split into memory, in the order on disk; the others are not decoded.

    Args:
        folder: As from `find_or_download`.
        split: For example "train".
        features: Names of features of fixed size.

    Returns:
        {feature: [N, ...] array}; texts are bytes objects.

    Raises:
        InputError: If a feature does not exist, or the split is empty.
    """
    with quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(os.fspath(folder))
        missing = set(features) - set(builder.info.features)
        if missing:
            raise InputError(
                f"it has no feature '{sorted(missing)[0]}', only {', '.join(sorted(builder.info.features))}"
            )
        parts = list(
            tfds.as_numpy(
                builder.as_dataset(
                    split=split,
                    batch_size=_READ_BATCH,
                    shuffle_files=False,
                    decoders=tfds.decode.PartialDecoding({name: builder.info.features[name] for name in features}),
                    # It is read once; with more shards at a time their examples would be interleaved.
                    read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
                )
            )
        )
    if not parts:
        raise InputError(f"its {split} split is empty")
    return {name: np.concatenate([part[name] for part in parts]) for name in features}


def _prepared(root: pathlib.Path, name: str, config: str, version: str) -> pathlib.Path | None:
    """Returns the newest (or the wanted) version's folder, or None."""
    folder = root / name / config
    versions = _versions(folder)
    if not versions and not config:
        configs = [found for found in _folders(folder) if _versions(found)]
        if len(configs) > 1:
            names = ", ".join(sorted(found.name for found in configs))
            raise InputError(
                f"{folder} holds several configurations: {names}. Name one, as in {name}/{configs[0].name}."
            )
        versions = _versions(configs[0]) if configs else {}
    if version:
        return versions.get(_as_numbers(version))
    return versions[max(versions)] if versions else None


def _versions(folder: pathlib.Path) -> dict[tuple[int, ...], pathlib.Path]:
    return {
        _as_numbers(found.name): found
        for found in _folders(folder)
        if _VERSION.fullmatch(found.name) and (found / "dataset_info.json").is_file()
    }


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(found for found in folder.iterdir() if found.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check the folder.") from error


def _download_or_explain(name: str, root: pathlib.Path) -> None:
    try:
        download(name, root)
    except InputError:
        raise
    except Exception as error:
        # Whatever stopped it (network, disk, checksum), the way out is the same.
        short = _short(name)
        raise InputError(
            f"{name} is not in {root} (looked for "
            f"{root / re.sub(':.*', '', name)}/<version>/dataset_info.json), and downloading it failed: "
            f"{type(error).__name__}: {str(error)[:_LONGEST_REASON]}. On a machine with network, run\n"
            '  python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\"\n"
            f"and copy DIR/{short} to {root / short}, or pass the folder that already holds "
            f"{short} as --data_dir."
        ) from error


def download(name: str, root: pathlib.Path) -> None:
    """Downloads and prepares a dataset, after one line that says so.

    Args:
        name: As tensorflow-datasets takes it: "name", "name/config", "name:version", "name/config:version".
        root: The folder of prepared datasets.

    Raises:
        InputError: If tensorflow-datasets does not know the name.
        ConnectionError: If no host of the dataset's files can be reached.
        Exception: Whatever tensorflow-datasets raises.
    """
    with quiet_tfds() as tfds:
        _require_known(tfds, _short(name))
        builder = tfds.builder(name, data_dir=os.fspath(root))
        require_reachable(builder.url_infos or ())
        size = builder.info.download_size
        sys.stdout.write(f"{name} is not in {root}: downloading it{f' ({size})' if size else ''} ...\n")
        sys.stdout.flush()
        with contextlib.redirect_stdout(io.StringIO()):  # tensorflow-datasets says the same in many more words
            builder.download_and_prepare()


def require_reachable(urls: Iterable[str]) -> None:
    """Finds out within seconds that there is no network; tensorflow-datasets tries for minutes.

    Args:
        urls: Where files would come from. One host that answers is enough; with a proxy nothing is tried, as the proxy
            may know names that this machine does not.

    Raises:
        ConnectionError: If no host answers.
    """
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return
    parts = [urllib.parse.urlsplit(url) for url in urls]
    hosts = {(part.hostname, part.port or (80 if part.scheme == "http" else 443)) for part in parts if part.hostname}
    failures = []
    for host, port in sorted(hosts)[:_NUM_HOSTS_TRIED]:
        try:
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
            return
        except OSError as error:
            failures.append(f"{host} cannot be reached ({error.strerror or error})")
    if failures:
        raise ConnectionError("; ".join(failures))


def _require_known(tfds, name: str) -> None:
    known = tfds.list_builders(with_community_datasets=False)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
        raise InputError(
            f"tensorflow-datasets {tfds.__version__} knows no dataset '{name}', and --data_dir holds none of that name."
            f"{hint}"
        )


def _short(name: str) -> str:
    """The dataset's name without configuration and version."""
    return re.split(r"[/:]", name)[0]
