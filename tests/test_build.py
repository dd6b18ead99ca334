"""BUILD and the packaging files against the tree: read here from scratch, without the tool that writes BUILD."""

import ast
import collections
import dataclasses
import pathlib
import re
import sys

import pytest

from tools import build_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("famus_tf", "tools", "tests")
STARTER = "tests/run_pytest.py"
CONFTEST = "tests/conftest"


@dataclasses.dataclass(frozen=True)
class Target:
    """One rule of BUILD, as it was called."""

    rule: str
    name: str
    srcs: tuple[str, ...] = ()
    deps: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    main: str | None = None
    args: tuple[str, ...] = ()


def read_build(root):
    """Executes BUILD with stand-ins for Bazel's functions; returns its targets in order."""
    targets = []

    def rule(kind):
        def stand_in(*, name, srcs=(), deps=(), data=(), main=None, args=(), **_):
            lists = (tuple(entries) for entries in (srcs, deps, data))
            targets.append(Target(kind, name, *lists, main, tuple(args)))

        return stand_in

    def glob(patterns, exclude=()):
        found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
        # Only what was found is held against the exclusions: "**/" would walk every folder, a virtual environment too.
        found = {path.relative_to(root) for path in found}
        return sorted(path.as_posix() for path in found if not any(path.match(pattern) for pattern in exclude))

    functions = {kind: rule(kind) for kind in ("py_library", "py_binary", "py_test", "filegroup")}
    functions.update(dict.fromkeys(("package", "licenses", "exports_files"), lambda *_, **__: None))
    text = (root / "BUILD").read_text(encoding="utf-8")
    exec(compile(text, "BUILD", "exec"), {"__builtins__": {}, "glob": glob, **functions})
    return targets


def sources(root):
    """Returns every Python file of the tree, relative to its root."""
    return {path.relative_to(root).as_posix() for folder in FOLDERS for path in (root / folder).rglob("*.py")}


def imports(root, path):
    """Returns the files of the tree that a file imports, or names in a string to load or run; itself left out."""
    found = set()
    loads_by_name = not path.startswith("famus_tf/") or path.endswith("__init__.py")

    def add(*dotted):
        """Adds the module behind the first of the names that is one."""
        for name in dotted:
            stem = name.replace(".", "/")
            for candidate in (stem + ".py", stem + "/__init__.py"):
                if (root / candidate).is_file():
                    found.add(candidate)
                    return

    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    add(alias.name)
            case ast.ImportFrom(module=module, names=names, level=0):
                for alias in names:
                    add(f"{module}.{alias.name}", module)
            case ast.ImportFrom():
                pytest.fail(f"{path}: relative import; write out the module's whole name")
            case ast.Constant(value=str(text)) if loads_by_name and re.fullmatch(r"\w+(\.\w+)+", text):
                if (root / (text.replace(".", "/") + ".py")).is_file():
                    add(text)
    return found - {path}


def problems(root):
    """Compares BUILD with the tree; returns one sentence per difference."""
    targets = read_build(root)
    names = collections.Counter(target.name for target in targets)
    found = [f"{name}: {count} targets of this name" for name, count in names.items() if count > 1]
    files = sources(root)
    holders = collections.defaultdict(list)
    for target in targets:
        for label in (*target.deps, *target.data):
            if label.startswith(":") and label[1:] not in names:
                found.append(f"{target.name}: no target is called {label}")
        if target.rule == "filegroup":
            continue
        for path in target.srcs:
            holders[path].append(target)
            if path not in files:
                found.append(f"{target.name}: no such file: {path}")
    for path in sorted(files - {STARTER}):
        if len(holders[path]) != 1:
            found.append(f"{path}: in {len(holders[path])} targets, not in one")
        else:
            found += target_problems(root, path, holders[path][0], holders)
    if cycle := dependency_cycle({target.name: [label[1:] for label in target.deps] for target in targets}):
        found.append(f"cycle: {' -> '.join(cycle)}")
    return found


def target_problems(root, path, target, holders):
    """Compares the one target of a file with the file."""
    text = (root / path).read_text(encoding="utf-8")
    is_test = pathlib.PurePath(path).match("tests/**/test_*.py") or pathlib.PurePath(path).match("tests/test_*.py")
    rule = "py_test" if is_test else "py_binary" if "\nif __name__ ==" in text else "py_library"
    wanted = {":" + holders[file][0].name for file in imports(root, path) if holders[file]}
    found = []
    if is_test:
        wanted.add(":" + CONFTEST)
        if (target.main, target.args) != (STARTER, (path,)):
            found.append(f"{target.name}: does not start {STARTER} with {path}")
    elif target.main != (path if rule == "py_binary" else None):
        found.append(f"{target.name}: main is {target.main}")
    if target.rule != rule:
        found.append(f"{target.name}: is a {target.rule}, should be a {rule}")
    if set(target.srcs) != ({path, STARTER} if is_test else {path}):
        found.append(f"{target.name}: srcs are {', '.join(target.srcs)}")
    found += [f"{target.name}: {label} is missing" for label in sorted(wanted - set(target.deps))]
    found += [f"{target.name}: {label} is unused" for label in sorted(set(target.deps) - wanted)]
    if list(target.deps) != sorted(set(target.deps)) and not is_test:
        found.append(f"{target.name}: deps are not sorted or not unique")
    return found


def dependency_cycle(graph):
    """Returns the names along some cycle of {name: names it depends on}; None if there is none."""
    finished = set()

    def search(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in finished:
            return None
        for other in graph.get(name, ()):
            if cycle := search(other, [*way, name]):
                return cycle
        finished.add(name)
        return None

    return next((cycle for name in graph if (cycle := search(name, []))), None)


# The real tree.


def test_every_file_has_one_target_whose_deps_are_its_imports():
    assert problems(ROOT) == []


def test_build_is_what_the_tool_writes():
    written = (ROOT / "BUILD").read_text(encoding="utf-8")
    assert written == build_file.build_text(ROOT), "run: python -m tools.build_file --write"


def test_every_recipe_is_in_the_filegroup_that_the_recipe_reader_depends_on():
    targets = {target.name: target for target in read_build(ROOT)}
    recipes = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "flags").rglob("*.flags"))
    assert recipes
    assert list(targets["recipes"].srcs) == recipes
    assert targets["famus_tf/recipe_files"].data == (":recipes",)


def test_tests_that_read_the_tree_get_it():
    by_name = {target.name: target for target in read_build(ROOT)}
    for name in ("tests/test_build", "tests/test_layering"):
        assert ":tree" in by_name[name].data
    assert set(by_name["tree"].srcs) >= {"BUILD", "pyproject.toml", "requirements.txt", *sources(ROOT)}


def test_pyproject_lists_every_package():
    tomllib = pytest.importorskip("tomllib")  # in the standard library from Python 3.11 on
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "famus_tf").rglob("*.py")}
    assert listed["package-dir"] == {"famus_tf.recipes": "flags"}
    assert set(listed["packages"]) == {name.replace("/", ".") for name in packages} | {"famus_tf.recipes"}
    assert not (ROOT / "famus_tf" / "recipes").exists(), "that name belongs to the installed flags/"


@pytest.mark.parametrize(
    "folder, lists",
    [
        ("famus_tf", ["requirements.txt"]),
        ("tools", ["requirements.txt", "requirements-dev.txt"]),
        ("tests", ["requirements.txt", "requirements-dev.txt"]),
    ],
)
def test_every_imported_package_stands_in_the_requirements(folder, lists):
    lines = [line for name in lists for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    required = {match[0] for line in lines if (match := re.match(r"[a-z][\w-]*", line))}
    imported = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - set(FOLDERS)
    on_pip = {
        "PIL": "pillow",
        "absl": "absl-py",
        "sklearn": "scikit-learn",
        "tensorflow_datasets": "tensorflow-datasets",
    }
    assert {on_pip.get(name, name) for name in foreign} <= required


# Toy trees: the checks above find what they are for.

TOY = {
    "famus_tf/__init__.py": '"""Toy."""\nLATE = "famus_tf.low"\n',
    "famus_tf/low.py": "import numpy as np\n",
    "famus_tf/room/__init__.py": "",
    "famus_tf/room/high.py": "from famus_tf import low\n",
    "famus_tf/train.py": 'from famus_tf.room.high import low\n\nif __name__ == "__main__":\n    print(low)\n',
    "tests/conftest.py": "import pytest\n",
    "tests/run_pytest.py": "import pytest\n",
    "tests/test_high.py": "def test_it():\n    from famus_tf.room import high\n    assert high\n",
}


@pytest.fixture
def toy(tmp_path):
    for path, text in TOY.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "BUILD").write_text(build_file.build_text(tmp_path))
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_tool_writes_a_build_that_holds(toy):
    assert problems(toy) == []
    deps = {target.name: target.deps for target in read_build(toy)}
    assert deps["famus_tf/__init__"] == (":famus_tf/low",)
    assert deps["famus_tf/low"] == ()
    assert deps["famus_tf/room/high"] == (":famus_tf/low",)
    assert deps["famus_tf/train"] == (":famus_tf/room/high",)
    assert deps["tests/test_high"] == (":tests/conftest", ":famus_tf/room/high")


def test_a_command_in_a_library_module_is_no_dependency(toy):
    (toy / "famus_tf/low.py").write_text('HOW = "famus_tf.train"\n')
    assert build_file.dependencies(toy, "famus_tf/low.py", sources(toy)) == ([], [])
    assert imports(toy, "famus_tf/low.py") == set()


def test_the_tool_lists_pip_packages_as_comments(toy):
    (toy / "famus_tf/low.py").write_text("import os\nimport numpy\nfrom absl import app\nimport sklearn.svm\n")
    assert build_file.dependencies(toy, "famus_tf/low.py", sources(toy)) == ([], ["absl-py", "numpy", "scikit-learn"])
    assert "        # pip: absl-py\n        # pip: numpy\n        # pip: scikit-learn\n" in build_file.build_text(toy)


def test_the_tool_reads_relative_imports(toy):
    (toy / "famus_tf/room/other.py").write_text("from . import high\nfrom ..low import np\n")
    deps, _ = build_file.dependencies(toy, "famus_tf/room/other.py", sources(toy))
    assert deps == ["famus_tf/low", "famus_tf/room/high"]


def test_the_tool_refuses_an_import_of_nothing(toy):
    (toy / "famus_tf/low.py").write_text("import tests.nowhere\n")
    with pytest.raises(ValueError, match="tests.nowhere"):
        build_file.build_text(toy)


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ('    deps = [":famus_tf/room/high"],\n', "", "famus_tf/train: :famus_tf/room/high is missing"),
        (
            "deps = [\n        # pip: numpy",
            'deps = [\n        ":famus_tf/train",',
            "famus_tf/low: :famus_tf/train is unused",
        ),
        ('srcs = ["famus_tf/low.py"]', 'srcs = ["famus_tf/lo.py"]', "famus_tf/low: no such file: famus_tf/lo.py"),
        ('srcs = ["famus_tf/low.py"]', "srcs = []", "famus_tf/low.py: in 0 targets, not in one"),
        (
            'srcs = ["famus_tf/room/high.py"]',
            'srcs = ["famus_tf/room/high.py", "famus_tf/low.py"]',
            "famus_tf/low.py: in 2 targets, not in one",
        ),
        ('name = "famus_tf/room/high"', 'name = "famus_tf/low"', "famus_tf/low: 2 targets of this name"),
        ('":famus_tf/room/high"', '":famus_tf/rom/high"', "famus_tf/train: no target is called :famus_tf/rom/high"),
        ("py_binary(", "py_library(", "famus_tf/train: is a py_library, should be a py_binary"),
        ('main = "famus_tf/train.py"', 'main = "famus_tf/low.py"', "famus_tf/train: main is famus_tf/low.py"),
        ('":tests/conftest"', "", "tests/test_high: :tests/conftest is missing"),
        ('args = ["tests/"', 'args = ["test/"', "tests/test_high: does not start tests/run_pytest.py with"),
        (
            "deps = [\n        # pip: numpy",
            'deps = [\n        ":famus_tf/room/high",',
            "cycle: famus_tf/low -> famus_tf/room/high -> famus_tf/low",
        ),
    ],
)
def test_a_wrong_build_is_found(toy, old, new, problem):
    edit(toy / "BUILD", old, new)
    assert any(text.startswith(problem) for text in problems(toy)), problems(toy)


@pytest.mark.parametrize(
    "path, text, problem",
    [
        ("famus_tf/new.py", "", "famus_tf/new.py: in 0 targets, not in one"),
        ("tests/test_new.py", "", "tests/test_new.py: in 0 targets, not in one"),
        (
            "famus_tf/room/__init__.py",
            "from famus_tf.room import high\n",
            "famus_tf/room/__init__: :famus_tf/room/high",
        ),
        ("tests/test_high.py", 'RUN = "famus_tf.train"\n', "tests/test_high: :famus_tf/train is missing"),
        ("tests/test_high.py", "def test_it():\n    assert 1\n", "tests/test_high: :famus_tf/room/high is unused"),
    ],
)
def test_a_tree_that_moved_on_is_found(toy, path, text, problem):
    (toy / path).write_text(text)
    assert any(found.startswith(problem) for found in problems(toy)), problems(toy)
