"""The floors of the house: who may import whom, and the other rules of form, read from the sources."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "famus_tf"

# From the ground up. A module imports only from lower floors, and on its own floor from entries before its own.
# "room.*" is every module of the room that is not named here; these stand side by side and do not import each other.
FLOORS = (
    # 0: arithmetic and plain records
    ("errors", "whole_files", "config", "losses", "finiteness", "optimizers"),
    # 1: the parts a user can name
    (
        "data.decoding",
        "data.pictures",
        "data.picture_checks",
        "data.examples",
        "data.long_tail",
        "data.splitting",
        "data.corruption",
        "data.augmentation",
        "data.class_balance",
        "data.batch_shares",
        "data.picture_batches",
        "data.pipeline",
        "data.feeds",
        "data.dataset_folder",
        "data.list_files",
        "data.record_features",
        "data.imagenet_validation",
        "data.tfds_folder",
        "data.folder_listing",
        "data.folder_table",
        "data.pickled_arrays",
        "data.cifar",
        "data.*",
        "models.arguments",
        "models.initializers",
        "models.convolution",
        "models.normalization",
        "models.graph_config",
        "models.keras_applications",
        "models.weight_files",
        "models.*",
        "meta.fan_in_uniform",
        "meta.meta_model",
        "meta.gumbel_select",
        "meta.layer_sampling",
        "meta.gradient_sampler",
        "meta.meta_gradient",
        "meta.*",
    ),
    # 2: what one training step is
    ("methods.method", "methods.loss_scaling", "methods.*"),
    # 3: running
    (
        "determinism",
        "cluster",
        "workers",
        "replicas",
        "runs.run_folder",
        "runs.write_failures",
        "runs.callback_list",
        "runs.stop_request",
        "runs.compiled_loop",
        "runs.evaluation",
        "runs.*",
        "trainer",
    ),
    # 4: the door
    (
        "quiet_start",
        "entry_point",
        "settings",
        "flag_table",
        "recipe_files",
        "command_text",
        "dataset_loaders",
        "network_builders",
        "registry",
        "help_screen",
        "options",
        "run_splits",
        "run_facts",
        "run_endings",
        "training_job",
        "train",
        "evaluate",
    ),
)
# (who, what it may not know), where the floors alone would allow it.
STRANGERS = (("models.*", "data.*"), ("meta.*", "data.*"))
# Who may name `absl.flags`, and `tf.distribute`.
FLAG_READERS = ("options", "train", "evaluate")
REPLICA_KNOWERS = (
    "cluster",
    "workers",
    "replicas",
    "trainer",
    "methods.*",
    "runs.compiled_loop",
    "data.pipeline",
    "evaluate",
)

FORBIDDEN_WORDS = {"util", "utils", "common", "helper", "helpers", "misc", "core", "base"}
MAX_LINES = {PACKAGE: 400, "tools": 400, "tests": 500}


def python_files(root, *folders):
    """Yields (path relative to root, parsed file) for every Python file of the folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text(encoding="utf-8"))


def module_name(path):
    """Returns a file's dotted name inside the package: "data.examples", or "data" for its __init__, "" for the top."""
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def matches(name, entry):
    """Tells whether a module is the entry, or in the room of an entry "room.*"."""
    return name == entry or (entry.endswith(".*") and name.startswith(entry[:-1]))


def height(name):
    """Returns a module's (floor, place on it), by its own entry before its room's; None if it stands nowhere."""
    places = {entry: (floor, place) for floor, row in enumerate(FLOORS) for place, entry in enumerate(row)}
    room = name.rpartition(".")[0] + ".*"
    return places.get(name, places.get(room))


def own_imports(root, tree):
    """Yields (line, module of the package) for every import of the package's modules, however deep in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            if module.split(".")[0] != PACKAGE:
                continue
            stem = module.replace(".", "/") + (f"/{name}" if name else "")
            is_module = (root / f"{stem}.py").is_file() or (root / stem / "__init__.py").is_file()
            inner = stem.replace("/", ".") if name and is_module else module
            yield node.lineno, inner.removeprefix(PACKAGE).removeprefix(".")


def import_problems(root):
    """Finds modules on no floor, and imports that do not point down."""
    found = []
    for path, tree in python_files(root, PACKAGE):
        name = module_name(path)
        is_package = path.name == "__init__.py"
        if not is_package and height(name) is None:
            found.append(f"{path}: stands on no floor; give it a place in FLOORS")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                found.append(f"{path}:{node.lineno}: relative import; write {PACKAGE} and the module's whole name")
        for line, other in own_imports(root, tree):
            if is_package:
                if not matches(other, f"{name}.*" if name else other):
                    found.append(f"{path}:{line}: a package names only its own modules, not {other}")
            elif (root / PACKAGE / other.replace(".", "/") / "__init__.py").is_file():
                found.append(f"{path}:{line}: imports the package {other or PACKAGE}; import the module itself")
            elif height(other) is None:
                found.append(f"{path}:{line}: imports {other}, which is no module on any floor")
            elif height(other) >= height(name):
                found.append(f"{path}:{line}: {name} imports {other}, which does not stand below it")
            elif any(matches(name, who) and matches(other, what) for who, what in STRANGERS):
                found.append(f"{path}:{line}: {name} imports {other}, which it must not know")
    return found


def names_of(tree, package, submodule):
    """Yields the lines where a file names `package.submodule`, through whatever alias it imports it by."""
    aliases = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == package or alias.name.startswith(f"{package}."):
                    aliases.add(alias.asname or package)
                if alias.name.startswith(f"{package}.{submodule}"):
                    yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith(f"{package}.{submodule}"):
                yield node.lineno
            elif node.module == package and submodule in {alias.name for alias in node.names}:
                yield node.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == submodule:
            if isinstance(node.value, ast.Name) and node.value.id in aliases:
                yield node.lineno


def reserved_name_problems(root, package, submodule, allowed):
    """Finds the modules that name `package.submodule` without being allowed to."""
    return [
        f"{path}:{line}: names {package}.{submodule}; only {', '.join(allowed)} may"
        for path, tree in python_files(root, PACKAGE)
        if not any(matches(module_name(path), entry) for entry in allowed)
        for line in names_of(tree, package, submodule)
    ]


def file_name_problems(root):
    """Finds files and folders whose name says nothing about what they hold."""
    return [
        f"{path}: called {part}; name it after what it holds"
        for path, _ in python_files(root, PACKAGE, "tools", "tests")
        for part in path.with_suffix("").parts
        if FORBIDDEN_WORDS & set(part.split("_"))
    ]


def assert_problems(root):
    """Finds assert statements outside the tests."""
    return [
        f"{path}:{node.lineno}: assert; raise InputError or another exception"
        for path, tree in python_files(root, PACKAGE, "tools")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


def length_problems(root):
    """Finds files that are too long."""
    found = []
    for path, _ in python_files(root, *MAX_LINES):
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES[path.parts[0]]:
            found.append(f"{path}: {lines} lines; split it")
    return found


# The real tree.


def test_every_import_points_down():
    assert import_problems(ROOT) == []


def test_only_the_door_reads_flags():
    assert reserved_name_problems(ROOT, "absl", "flags", FLAG_READERS) == []


def test_only_the_step_and_its_drivers_know_replicas():
    assert reserved_name_problems(ROOT, "tensorflow", "distribute", REPLICA_KNOWERS) == []


def test_files_are_named_after_what_they_hold():
    assert file_name_problems(ROOT) == []


def test_there_is_no_assert_outside_the_tests():
    assert assert_problems(ROOT) == []


def test_files_are_short():
    assert length_problems(ROOT) == []


def test_every_entry_names_something_that_exists():
    modules = [module_name(path) for path, _ in python_files(ROOT, PACKAGE)]
    entries = [*(entry for row in FLOORS for entry in row), *FLAG_READERS, *REPLICA_KNOWERS]
    assert [entry for entry in entries if not any(matches(name, entry) for name in modules)] == []


# Toy trees: the checks above find what they are for.


def make_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {path.parent for path in (root / PACKAGE).rglob("*.py")}:
        (folder / "__init__.py").touch()
    return root


@pytest.mark.parametrize(
    "path, text, problem",
    [
        ("errors.py", "from famus_tf import config\n", "errors imports config, which does not stand below it"),
        ("losses.py", "from famus_tf.meta.mwnet import X\n", "losses imports meta.mwnet, which does not"),
        (
            "data/pipeline.py",
            "def f():\n    import famus_tf.trainer\n",
            "data.pipeline imports trainer, which does not",
        ),
        ("data/cifar.py", "import famus_tf.data.digits as d\n", "data.cifar imports data.digits, which does not"),
        ("data/cifar.py", "from famus_tf.models import small_cnn\n", "data.cifar imports models.small_cnn, which does"),
        (
            "models/small_cnn.py",
            "from famus_tf.data import examples\n",
            "imports data.examples, which it must not know",
        ),
        ("models/small_cnn.py", "from famus_tf.meta import mwnet\n", "imports meta.mwnet, which does not stand below"),
        ("meta/mwnet.py", "from famus_tf.data import examples\n", "imports data.examples, which it must not know"),
        ("runs/monitor.py", "from famus_tf import trainer\n", "runs.monitor imports trainer, which does not"),
        ("trainer.py", "from famus_tf import Trainer\n", "imports the package famus_tf; import the module itself"),
        ("trainer.py", "from famus_tf.data import Splits\n", "imports the package data; import the module itself"),
        ("trainer.py", "from famus_tf import nowhere, losses\n", "imports the package famus_tf"),
        ("trainer.py", "import famus_tf.nowhere\n", "imports nowhere, which is no module on any floor"),
        ("trainer.py", "from . import losses\n", "relative import"),
        ("attic.py", "", "stands on no floor"),
        ("attic/box.py", "", "stands on no floor"),
        ("data/__init__.py", "from famus_tf.models import small_cnn\n", "a package names only its own modules"),
    ],
)
def test_an_import_that_does_not_point_down_is_found(tmp_path, path, text, problem):
    others = ("errors", "config", "losses", "trainer", "data/examples", "data/digits", "models/small_cnn", "meta/mwnet")
    tree = make_tree(tmp_path, {f"{PACKAGE}/{name}.py": "" for name in others} | {f"{PACKAGE}/{path}": text})
    (found,) = import_problems(tree)
    assert found.startswith(f"{PACKAGE}/{path}")
    assert problem in found


def test_imports_that_point_down_pass(tmp_path):
    files = {
        "errors.py": "import numpy\n",
        "config.py": "from famus_tf.errors import InputError\n",
        "data/examples.py": "from famus_tf import config, errors\n",
        "data/__init__.py": "from famus_tf.data.examples import ExampleTable\n",
        "data/cifar.py": "from famus_tf.data import examples\n",
        "meta/mwnet.py": "import famus_tf.config\n",
        "trainer.py": "def f():\n    from famus_tf.data import cifar, examples\n",
        "__init__.py": "from famus_tf.trainer import f\n",
    }
    assert import_problems(make_tree(tmp_path, {f"{PACKAGE}/{name}": text for name, text in files.items()})) == []


@pytest.mark.parametrize(
    "text",
    [
        "from absl import app, flags\n",
        "import absl.flags\n",
        "from absl.flags import FLAGS\n",
        "import absl\n\nabsl.flags.DEFINE_string\n",
    ],
)
def test_flags_outside_the_door_are_found(tmp_path, text):
    tree = make_tree(tmp_path, {"famus_tf/meta/mwnet.py": text, "famus_tf/options.py": text, "tools/plot.py": text})
    found = reserved_name_problems(tree, "absl", "flags", FLAG_READERS)
    assert [re.split(r":\d+:", problem)[0] for problem in found] == ["famus_tf/meta/mwnet.py"]


@pytest.mark.parametrize(
    "text",
    [
        "import tensorflow as tf\n\ndef f():\n    return tf.distribute.get_replica_context()\n",
        "import tensorflow\n\ntensorflow.distribute\n",
        "from tensorflow import distribute\n",
        "import tensorflow.distribute as d\n",
        "from tensorflow.distribute import MirroredStrategy\n",
    ],
)
def test_replicas_outside_the_step_are_found(tmp_path, text):
    files = {"famus_tf/meta/mwnet.py": text, "famus_tf/methods/new.py": text, "famus_tf/data/pipeline.py": text}
    found = reserved_name_problems(make_tree(tmp_path, files), "tensorflow", "distribute", REPLICA_KNOWERS)
    assert [re.split(r":\d+:", problem)[0] for problem in found] == ["famus_tf/meta/mwnet.py"]


def test_a_comment_about_replicas_is_no_use_of_them(tmp_path):
    tree = make_tree(tmp_path, {"famus_tf/losses.py": '"""Knows no tf.distribute."""\nimport tensorflow as tf\n'})
    assert reserved_name_problems(tree, "tensorflow", "distribute", REPLICA_KNOWERS) == []


@pytest.mark.parametrize(
    "name", ["famus_tf/utils.py", "famus_tf/core/x.py", "tools/plot_helpers.py", "tests/common.py"]
)
def test_a_name_that_says_nothing_is_found(tmp_path, name):
    (found,) = {problem.split(":")[0] for problem in file_name_problems(make_tree(tmp_path, {name: ""}))} - {
        "famus_tf/core/__init__.py"
    }
    assert found == name


def test_an_assert_in_the_library_is_found(tmp_path):
    text = "def f(x):\n    assert x\n"
    tree = make_tree(tmp_path, {"famus_tf/losses.py": text, "tests/test_losses.py": text})
    assert assert_problems(tree) == ["famus_tf/losses.py:2: assert; raise InputError or another exception"]


def test_a_long_file_is_found(tmp_path):
    files = {"famus_tf/losses.py": "x = 1\n" * 400, "famus_tf/config.py": "x = 1\n" * 401}
    assert length_problems(make_tree(tmp_path, files)) == ["famus_tf/config.py: 401 lines; split it"]
