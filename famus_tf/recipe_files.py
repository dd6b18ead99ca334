"""Where the recipes are, which of them a run uses, and what they say.

A recipe is a text file of `--name=value` lines; lines that begin with `#` are comments. Three kinds apply to a run by
themselves, the later ones stronger: `datasets/<dataset>.flags`, `methods/<method>.flags`, and, where a paper gives
settings for the pair, `recipes/<dataset>.<method>.flags`. The files in `tables/` are for `--flagfile`.
"""

import pathlib

from famus_tf import flag_table
from famus_tf.config import nearest_hint
from famus_tf.errors import InputError


def folder() -> pathlib.Path:
    """Returns the folder of recipes: `flags/` beside the package, or `recipes/` inside it where it was installed.

    Raises:
        InputError: If there is neither.
    """
    package = pathlib.Path(__file__).resolve().parent
    places = (package.parent / "flags", package / "recipes")
    for place in places:
        # Another project may have left a folder called "flags" in site-packages.
        if (place / "methods").is_dir():
            return place
    raise InputError(
        f"The recipes are missing: neither {places[0]} nor {places[1]} holds a folder 'methods'."
        " Install famus_tf again."
    )


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods, which are those of the recipes in `methods/`; plain training comes first."""
    names = (path.stem for path in (folder() / "methods").glob("*.flags"))
    return tuple(sorted(names, key=lambda name: (name.count("_"), name)))


def paths(dataset: str, method: str) -> list[pathlib.Path]:
    """Returns the recipes that apply to a run, the weakest first.

    Args:
        dataset: A registered name; what follows a colon, as in "tfds:mnist", does not count.
        method: A registered name.
    """
    root, dataset = folder(), dataset.partition(":")[0]
    pair = root / "recipes" / f"{dataset}.{method}.flags"
    always = [root / "datasets" / f"{dataset}.flags", root / "methods" / f"{method}.flags"]
    return [*always, pair] if pair.is_file() else always


def read(path: pathlib.Path) -> dict[str, object]:
    """Returns what a recipe sets, {flag's name: value}.

    Args:
        path: The file.

    Raises:
        InputError: If the file cannot be read, or a line is not `--name=value` with a known name and a value of its
            kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The recipe {path} cannot be read: {error.strerror}.") from None
    settings = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, text = line.strip().removeprefix("--").partition("=")
        if not (line.startswith("--") and equals):
            raise InputError(f"{path}, line {number}: expected --name=value or a comment; got {line!r}.")
        if name not in flag_table.BY_NAME:
            raise InputError(f"{path}, line {number}: --{name} is not a flag.{nearest_hint(name, flag_table.BY_NAME)}")
        settings[name] = flag_table.from_text(flag_table.BY_NAME[name], text)
    return settings
