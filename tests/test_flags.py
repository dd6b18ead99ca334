"""The recipes in `flags/`: each parses, says where its values come from, and sets only what is its business."""

import re

import pytest
from absl import flags

from famus_tf import flag_table, options, recipe_files, registry
from famus_tf.errors import InputError

FOLDER = recipe_files.folder()
RECIPES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.flags"))
KINDS = ("datasets", "methods", "recipes", "tables")


def of_kind(kind):
    return [name for name in RECIPES if name.startswith(f"{kind}/")]


def head(name):
    """The comment block a recipe begins with, continued lines joined."""
    block = (FOLDER / name).read_text().split("\n\n")[0]
    return re.sub(r"\n#   ", " ", block).splitlines()


def command(name):
    """The flags in the head's command."""
    (line,) = [line for line in head(name) if line.startswith("# Command: ")]
    return line.removeprefix("# Command: python -m famus_tf.train").split()


def parsed(*typed):
    flag_values = flags.FlagValues()
    options.parse_flags(["train", *typed], flag_values)
    return flag_values


def test_the_folder_holds_recipes_of_the_four_kinds_and_nothing_else():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sorted(path.relative_to(FOLDER).as_posix() for path in files) == RECIPES
    assert {name.split("/")[0] for name in RECIPES} == set(KINDS)


def test_every_dataset_has_its_recipe_and_every_recipe_its_dataset():
    datasets = {name.partition(":")[0] for name in registry.dataset_names()}
    assert {name[len("datasets/") : -len(".flags")] for name in of_kind("datasets")} == datasets


@pytest.mark.parametrize("name", of_kind("recipes"))
def test_a_pairs_recipe_names_a_known_dataset_and_method(name):
    dataset, method = name[len("recipes/") : -len(".flags")].split(".")
    assert dataset in registry.dataset_names()
    assert method in registry.method_names()
    assert FOLDER / name in recipe_files.paths(dataset, method)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_holds_comments_and_settings_on_lines_of_their_own(name):
    for line in (FOLDER / name).read_text().splitlines():
        assert line == "" or line.startswith("# ") or re.fullmatch(r"--[a-z0-9_]+=[^\s#]*", line), line
        assert not line.startswith("--flagfile")
    settings = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith("--")]
    names = [line.partition("=")[0] for line in settings]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_head_says_source_command_printed_and_own_result(name):
    lines = head(name)
    assert len(lines[0]) > 20
    for beginning in ("# Source: ", "# Command: python -m famus_tf.train ", "# Printed result: ", "# Our result: "):
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning
    assert all(line.startswith("# ") for line in lines)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_own_command_uses_it_and_every_value_passes_the_checks(name, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    flag_values = parsed(*command(name))
    if name.startswith("tables/"):
        assert f"--flagfile={FOLDER.name}/{name}" in [
            argument.replace("flags/tables", f"{FOLDER.name}/tables") for argument in command(name)
        ]
    else:
        used = recipe_files.paths(flag_values["dataset"].value, flag_values["method"].value)
        assert FOLDER / name in used
    config = options.config(100, flag_values)
    registry.build_method(config.method)
    for flag, value in recipe_files.read(FOLDER / name).items():
        if name.startswith(("recipes/", "tables/")):
            assert flag_values[flag].value == value, flag


def test_recipes_set_only_what_is_their_business():
    allowed = {
        "datasets": {"Data", "Network", "Optimisation"},
        "methods": {"Method", "Layer sampler"},
        "recipes": {"Data", "Network", "Method", "Layer sampler", "Optimisation"},
        "tables": {"Data", "Network", "Method", "Layer sampler", "Optimisation"},
    }
    for name in RECIPES:
        kind = name.split("/")[0]
        settings = recipe_files.read(FOLDER / name)
        assert settings
        assert {flag_table.BY_NAME[flag].group for flag in settings} <= allowed[kind], name
        if kind == "tables":
            assert {"dataset", "method", "noise_rate"} <= settings.keys(), name
        else:
            assert settings.keys().isdisjoint({"dataset", "method", "data_dir"}), name


def test_a_methods_recipe_composes_what_its_name_says():
    for method in registry.method_names():
        settings = recipe_files.read(FOLDER / "methods" / f"{method}.flags")
        meta_model, _, layer_sampler = method.partition("_")
        assert settings["meta_model"] == ("none" if method == "ce" else meta_model)
        assert settings["layer_sampler"] == (layer_sampler or "all")


def parts(name):
    """A table file's (table, dataset, number or None, row), by its name."""
    table, rest = re.fullmatch(r"tables/([a-z]+\d)_(.*)\.flags", name).groups()
    dataset = max((known for known in registry.dataset_names() if rest.startswith(f"{known}_")), key=len)
    number, row = re.fullmatch(r"(?:(\d+(?:\.\d+)?)_)?(.*)", rest[len(dataset) + 1 :]).groups()
    return table, dataset, number, row


@pytest.mark.parametrize("name", of_kind("tables"))
def test_a_tables_file_says_in_its_name_what_it_sets(name):
    table, dataset, number, row = parts(name)
    settings = recipe_files.read(FOLDER / name)
    assert settings["dataset"] == dataset
    if table == "supplement1":
        assert head(name)[0].startswith("# Table 1 of FaMUS' supplement: ")
    else:
        assert head(name)[0].startswith(f"# Table {table.removeprefix('table')} of FaMUS: ")
    if table not in ("table3", "table4"):
        assert settings["method"] == row
    if table in ("table1", "table2", "table3", "table4", "table5"):
        assert (settings["noise_type"], settings["noise_rate"]) == ("symmetric", float(number))
    else:
        assert settings["noise_rate"] == 0.0
    if table == "table7":
        assert settings["label_set"] == number
    if table == "table8":
        assert settings["imbalance_factor"] == float(number)


def test_the_papers_tables_are_complete():
    names = [name[len("tables/") : -len(".flags")] for name in of_kind("tables")]
    expected = [
        f"table1_{dataset}_{rate}_{method}"
        for dataset in ("cifar10", "cifar100")
        for rate in (0.2, 0.4, 0.6)
        for method in ("mwnet", "mwnet_famus", "l2r", "l2r_famus")
    ]
    expected += [f"table2_cifar10_{rate}_{method}" for rate in (0.1, 0.2, 0.3, 0.4) for method in ("mlc", "mlc_famus")]
    expected += [
        f"table3_{d}_0.6_{row}" for d in ("cifar10", "cifar100") for row in ("lc", "lc_lg", "lc_lr", "lc_lr_lg")
    ]
    expected += [
        f"table4_cifar100_0.6_{row}"
        for row in ("mwnet", "block_b4", "block_b8", "block_b12", "random_s4", "random_s8", "random_s16", "famus_k4")
    ]
    expected += [
        f"table5_{d}_{rate}_{method}"
        for d in ("cifar10", "cifar100")
        for rate in (0.4, 0.6)
        for method in ("l2r", "mwnet", "mwnet_famus")
    ]
    expected += [f"table6_webvision_{method}" for method in ("mwnet", "mwnet_famus")]
    expected += [
        f"table7_red_mini_imagenet_{rate}_{method}" for rate in (0.2, 0.4, 0.6, 0.8) for method in ("ce", "mwnet_famus")
    ]
    expected += [
        f"table8_{d}_{factor}_{method}"
        for d in ("cifar10_lt", "cifar100_lt")
        for factor in (100, 50, 20, 10)
        for method in ("ce", "l2r", "mwnet", "mwnet_famus")
    ]
    expected += [f"supplement1_clothing1m_{method}" for method in ("mlc", "mwnet", "mwnet_famus")]
    assert sorted(names) == sorted(expected)


@pytest.mark.parametrize(
    ("row", "layer_sampler", "budget_weight", "gradient_matching_weight", "printed"),
    [
        ("lc", "all", None, None, "61.7 % (best on test), 933 ms"),
        ("lc_lg", "famus", 0.0, 0.1, "62.2 % (best on test), 446 ms"),
        ("lc_lr", "famus", 0.1, 0.0, "62.0 % (best on test), 275 ms"),
        ("lc_lr_lg", "famus", 0.1, 0.1, "62.9 % (best on test), 284 ms"),
    ],
)
def test_table_3_switches_the_two_losses(row, layer_sampler, budget_weight, gradient_matching_weight, printed):
    name = f"tables/table3_cifar100_0.6_{row}.flags"
    sampler = options.method_config(1, parsed(f"--flagfile={FOLDER / name}")).layer_sampler
    assert sampler.name == layer_sampler
    if budget_weight is not None:
        assert (sampler.budget_weight, sampler.gradient_matching_weight) == (budget_weight, gradient_matching_weight)
    assert any(printed in line for line in head(name))


def test_table_4_chooses_blocks_and_random_layers_of_the_whole_network():
    for number in (4, 8, 12):
        path = FOLDER / f"tables/table4_cifar100_0.6_block_b{number}.flags"
        sampler = options.method_config(1, parsed(f"--flagfile={path}")).layer_sampler
        assert (sampler.name, sampler.layer_block) == ("block", number)
    for number in (4, 8, 16):
        path = FOLDER / f"tables/table4_cifar100_0.6_random_s{number}.flags"
        sampler = options.method_config(1, parsed(f"--flagfile={path}")).layer_sampler
        assert (sampler.name, sampler.num_random_layers, sampler.gated_variables) == ("random", number, 0)


def test_cifar_has_mw_nets_published_settings():
    config = options.config(490, parsed("--dataset=cifar10", "--method=mwnet_famus", "--noise_rate=0.4"))
    assert config.model == "wrn-28-10"
    assert (config.data.num_meta, config.run.batch_size, config.run.train_steps) == (1000, 100, 20000)
    base = config.method.base
    assert (base.learning_rate, base.momentum, base.nesterov, base.l2_coefficient) == (0.05, 0.9, True, 5e-4)
    assert (base.decay_steps, base.decay_factor) == ((18000, 19000), 0.1)
    sampler = config.method.layer_sampler
    assert config.method.meta_model.optimizer.learning_rate == 1e-3
    assert (sampler.optimizer.learning_rate, sampler.optimizer.momentum) == (0.1, 0.9)
    assert (sampler.expected_active_layers, sampler.budget_weight, sampler.gradient_matching_weight) == (4, 0.1, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--noise_rate=0.4 # high", "--noise_rate must be a number"),
        ("noise_rate=0.4", "line 1: expected --name=value or a comment"),
        ("# fine\n--noise_rate", "line 2: expected --name=value or a comment"),
        ("--nosie_rate=0.4", "line 1: --nosie_rate is not a flag.*Did you mean 'noise_rate'"),
    ],
)
def test_a_damaged_recipe_is_refused_with_its_line(text, message, tmp_path):
    path = tmp_path / "damaged.flags"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        recipe_files.read(path)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        recipe_files.read(tmp_path / "none.flags")


def test_an_installed_package_finds_its_recipes_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "famus_tf"
    (package.parent / "flags").mkdir(parents=True)  # another project's, which holds no methods
    (package / "recipes" / "methods").mkdir(parents=True)
    monkeypatch.setattr(recipe_files, "__file__", str(package / "recipe_files.py"))
    assert recipe_files.folder() == package / "recipes"
    (package / "recipes" / "methods").rmdir()
    with pytest.raises(InputError, match="The recipes are missing: neither .*flags nor .*recipes"):
        recipe_files.folder()
