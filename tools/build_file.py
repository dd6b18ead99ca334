"""Writes `BUILD` from the imports of the tree.

    python -m tools.build_file            # prints it
    python -m tools.build_file --write    # writes it

Every Python file gets one target, named after it: a `py_binary` if it is a program, a `py_test` if it is a test file,
otherwise a `py_library`. Its deps are what it imports, wherever the import stands in the file. An `__init__`, a test
and a tool also depend on the modules they name in a string ("famus_tf.trainer"): that is how the first loads modules
late and the others run programs. Packages from pip become comments.

A module does not depend on the `__init__` of its own package: Bazel puts an empty one where it is missing, and the
`__init__` depends on the modules whose names it makes public.
"""

import argparse
import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("famus_tf", "tools", "tests")
TEST_STARTER = "tests/run_pytest.py"
TEST_SUPPORT = "tests/conftest.py"
# Files that a target reads while it runs, beside its sources.
RECIPES = ":recipes"
DATA = {"famus_tf/recipe_files.py": RECIPES}
# Tests that read the source tree itself.
TREE_TESTS = ("test_build", "test_layering")
# What an imported name is called on pip, where it is not the same.
PIP_NAMES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}

HEADER = """\
# Written from the imports by `python -m tools.build_file --write`; tests/test_build.py holds it against them.
# From Bazel 9 on, first add: load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

licenses(["notice"])

exports_files(["LICENSE"])
"""
RECIPES_RULE = """\
filegroup(
    name = "recipes",
    srcs = glob(["flags/**/*.flags"]),
)
"""
TREE_RULE = """\
filegroup(
    name = "tree",
    srcs = ["BUILD"] + glob([
        "*.toml",
        "*.txt",
        "famus_tf/**/*.py",
        "flags/**/*.flags",
        "tests/**/*.py",
        "tools/**/*.py",
    ]),
)
"""
TEST_RULE = """\
[
    py_test(
        name = "tests/" + stem,
        size = "medium",
        srcs = [
            "tests/" + stem + ".py",
            "{starter}",
        ],
        args = ["tests/" + stem + ".py"],
        data = ["pyproject.toml"] + ([":tree"] if stem in [{tree_tests}] else []){golden},
        main = "{starter}",
        deps = [":{support}"] + deps,
    )
    for stem, deps in {{
{entries}
    }}.items()
]
"""


def python_files(root: pathlib.Path) -> list[str]:
    """Returns every Python file of the source folders, as sorted paths relative to `root`."""
    return sorted(
        path.relative_to(root).as_posix() for folder in SOURCE_FOLDERS for path in (root / folder).rglob("*.py")
    )


def target_name(path: str) -> str:
    """Returns the name of the target that holds a file: its path without ".py"."""
    return path.removesuffix(".py")


def imported_names(tree: ast.Module, path: str) -> set[str]:
    """Returns the dotted names that a file imports.

    Args:
        tree: The file, parsed.
        path: Its path relative to the root, which relative imports start from.

    Returns:
        `from a import b` gives "a.b"; which part of it is a module is decided by `own_file`.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.split("/")[: -node.level] if node.level else []
            source = [*above, node.module] if node.module else above
            names.update(".".join([*source, alias.name]) for alias in node.names)
    return names


def mentioned_modules(tree: ast.Module, path: str, files: set[str]) -> set[str]:
    """Returns the files of the tree whose dotted module name is a string in a file that may load modules by name."""
    if path.startswith("famus_tf/") and not path.endswith("/__init__.py"):
        return set()
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    paths = {text.replace(".", "/") + ".py" for text in strings if "." in text and "/" not in text}
    return paths & files


def own_file(name: str, files: set[str]) -> str | None:
    """Returns the file of the tree that a dotted name comes from.

    The longest beginning that is a module counts, or the `__init__` of the package.

    Args:
        name: For example "famus_tf.data.examples.ExampleTable".
        files: All files of the tree.

    Returns:
        A path; None for a name that is not the tree's.

    Raises:
        ValueError: If the name is the tree's, but there is no such module.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = "/".join(parts[:length])
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in files:
                return path
    if parts[0] in SOURCE_FOLDERS:
        raise ValueError(f"An import names {name}, but the tree has no such module.")
    return None


def dependencies(root: pathlib.Path, path: str, files: set[str]) -> tuple[list[str], list[str]]:
    """Reads what a file depends on.

    Args:
        root: The top of the tree.
        path: The file, relative to it.
        files: All files of the tree.

    Returns:
        The names of the targets, and the pip names of other people's packages; both sorted.

    Raises:
        ValueError: If the file cannot be parsed or imports a module that the tree does not have.
    """
    try:
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path} cannot be parsed: {error}.") from error
    own, pip = mentioned_modules(tree, path, files), set()
    for name in imported_names(tree, path):
        if (file := own_file(name, files)) is not None:
            own.add(file)
        elif (top := name.split(".")[0]) not in sys.stdlib_module_names:
            pip.add(PIP_NAMES.get(top, top.replace("_", "-")))
    return sorted(target_name(file) for file in own - {path}), sorted(pip)


def is_program(root: pathlib.Path, path: str) -> bool:
    """Tells whether a file can be run: whether it has an `if __name__ == ...` block."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.If) and "__name__" in ast.dump(node.test) for node in tree.body)


def attribute(name: str, items: list[str], indent: int = 4) -> str:
    """Returns a list-valued attribute of a rule, on one line if it has one entry without a comment.

    Args:
        name: The attribute's name, with what follows it: "deps =", or '"test_x":' in a dictionary.
        items: Entries as they are to be written; those that begin with "#" are comments.
        indent: How many spaces stand before the attribute.
    """
    space = " " * indent
    if not items or (len(items) == 1 and not items[0].startswith("#")):
        return f"{space}{name} [{''.join(items)}],"
    lines = [f"{space}    {item}" if item.startswith("#") else f"{space}    {item}," for item in items]
    return "\n".join([f"{space}{name} [", *lines, f"{space}],"])


def dependency_items(root: pathlib.Path, path: str, files: set[str]) -> list[str]:
    """Returns a file's dependencies as entries of a list in BUILD: the tree's own, then pip's as comments."""
    own, pip = dependencies(root, path, files)
    return [f'":{name}"' for name in own] + [f"# pip: {name}" for name in pip]


def module_rule(root: pathlib.Path, path: str, files: set[str]) -> str:
    """Returns the rule of a file that is no test: `py_library`, or `py_binary` for a program."""
    program = is_program(root, path)
    lines = ["py_binary(" if program else "py_library(", f'    name = "{target_name(path)}",']
    if path.startswith("tests/"):
        lines.append("    testonly = True,")
    lines.append(attribute("srcs =", [f'"{path}"']))
    if path in DATA:
        lines.append(attribute("data =", [f'"{DATA[path]}"']))
    if program:
        lines.append(f'    main = "{path}",')
    if items := dependency_items(root, path, files):
        lines.append(attribute("deps =", items))
    return "\n".join([*lines, ")"]) + "\n"


def is_test(path: str) -> bool:
    """Tells whether pytest collects a file of the tree."""
    return path.startswith("tests/") and path.rpartition("/")[2].startswith("test_")


def test_rule(root: pathlib.Path, files: set[str]) -> str:
    """Returns the one rule that makes a `py_test` of every test file."""
    entries = [
        attribute(f'"{target_name(path).removeprefix("tests/")}":', dependency_items(root, path, files), indent=8)
        for path in sorted(filter(is_test, files))
    ]
    golden = any(path.is_file() and path.suffix not in (".py", ".pyc") for path in (root / "tests").rglob("*"))
    return TEST_RULE.format(
        starter=TEST_STARTER,
        support=target_name(TEST_SUPPORT),
        tree_tests=", ".join(f'"{stem}"' for stem in TREE_TESTS),
        golden=' + glob(["tests/**/*"], exclude = ["**/*.py", "**/*.pyc"])' if golden else "",
        entries="\n".join(entries),
    )


def build_text(root: pathlib.Path) -> str:
    """Returns the text of `BUILD` for the tree under `root`.

    Raises:
        ValueError: If a file cannot be parsed or imports a module that the tree does not have.
    """
    files = set(python_files(root))
    modules = sorted(path for path in files if not is_test(path) and path != TEST_STARTER)
    rules = [module_rule(root, path, files) for path in modules]
    return "\n".join([HEADER, RECIPES_RULE, TREE_RULE, *rules, test_rule(root, files)])


def main() -> None:
    """Prints BUILD, or writes it."""
    parser = argparse.ArgumentParser(description="Makes BUILD from the imports of the tree.")
    parser.add_argument("--write", action="store_true", help="write BUILD instead of printing it")
    arguments = parser.parse_args()
    try:
        text = build_text(ROOT)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if arguments.write:
        (ROOT / "BUILD").write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
