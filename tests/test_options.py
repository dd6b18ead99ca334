"""The command line: what wins over what, what is refused and how, the help screen, and flags.txt."""

import os

import pytest
from absl import flags

from famus_tf import flag_table, help_screen, options, recipe_files
from famus_tf.errors import InputError


def parsed(*typed):
    """Flags of their own, parsed as the program would."""
    flag_values = flags.FlagValues()
    assert options.parse_flags(["train", *typed], flag_values) == ["train"]
    return flag_values


def value(name, *typed):
    return parsed(*typed)[name].value


def recipe(path):
    return recipe_files.read(recipe_files.folder() / path)


def test_no_flags_at_all_are_the_main_job():
    config = options.config(10, parsed())
    assert (config.data.dataset, config.method.name) == ("digits", "mwnet_famus")
    assert (config.data.noise_type, config.data.noise_rate) == ("symmetric", 0.4)
    assert config.method.meta_model.name == "mwnet"
    assert config.method.layer_sampler.name == "famus"
    assert config.run.model_dir == os.path.join("runs", "digits-mwnet_famus-symmetric-0.4-seed0")


def test_another_dataset_starts_without_noise():
    assert options.data_config(parsed("--dataset=cifar10")).noise_rate == 0.0


def test_a_typed_flag_wins_over_the_recipe():
    assert recipe("datasets/digits.flags")["learning_rate"] != 0.375
    assert value("learning_rate", "--learning_rate=0.375") == 0.375


def test_a_methods_recipe_wins_over_the_defaults_and_a_pairs_over_the_methods():
    assert flag_table.BY_NAME["meta_learning_rate"].default == 0.001
    assert recipe("methods/mlc.flags")["meta_learning_rate"] == 0.11
    assert value("meta_learning_rate", "--dataset=cifar100", "--method=mlc") == 0.11
    assert value("meta_learning_rate", "--dataset=cifar10", "--method=mlc") == 1e-5


def test_a_pairs_recipe_wins_over_the_datasets():
    assert value("train_steps", "--dataset=cifar10", "--method=mwnet") == 20000
    assert value("train_steps", "--dataset=cifar10", "--method=l2r") == 60000


def test_a_users_flagfile_wins_over_recipes_and_chooses_them(tmp_path):
    path = tmp_path / "mine.flags"
    path.write_text("# a comment\n--dataset=cifar10\n--method=l2r\n\n--batch_size=48\n")
    flag_values = parsed(f"--flagfile={path}")
    assert flag_values["dataset"].value == "cifar10"
    assert flag_values["train_steps"].value == 60000  # of recipes/cifar10.l2r.flags
    assert flag_values["batch_size"].value == 48


def test_of_a_flagfile_and_a_typed_flag_the_later_wins(tmp_path):
    path = tmp_path / "mine.flags"
    path.write_text("--batch_size=48\n--method=ce\n")
    assert value("batch_size", f"--flagfile={path}", "--batch_size=32") == 32
    assert value("batch_size", "--batch_size=32", "--flagfile", str(path)) == 48
    assert value("meta_model", "--method=mwnet", f"--flagfile={path}") == "none"


def test_what_was_typed_can_be_had_without_the_recipes(tmp_path):
    path = tmp_path / "mine.flags"
    path.write_text("--model_dir=there\n")
    typed = options.typed_flags(["train", "--dataset=cifar10", "--verbosity=1", f"--flagfile={path}"])
    assert (typed["dataset"], typed["model_dir"]) == ("cifar10", "there")
    assert typed["train_steps"] is None  # recipes/cifar10.mwnet_famus.flags would set it
    assert typed.keys() == flag_table.BY_NAME.keys()


def test_flags_may_be_typed_in_every_form_absl_knows():
    flag_values = parsed("--noise_rate", "0.2", "-seed=3", "--noaugment", "--nesterov", "--dataset", "cifar100")
    assert flag_values["noise_rate"].value == 0.2
    assert flag_values["seed"].value == 3
    assert flag_values["augment"].value is False
    assert flag_values["nesterov"].value is True
    assert flag_values["model"].value == "wrn-28-10"


def test_typed_epochs_replace_a_recipes_steps_and_typed_steps_win_again():
    assert value("train_steps", "--dataset=cifar10") == 20000
    assert value("train_steps", "--dataset=cifar10", "--epochs=3") is None
    assert value("train_steps", "--dataset=cifar10", "--epochs", "3", "--train_steps=7") == 7
    assert value("train_steps", "--dataset=cifar10", "--train_steps=7", "--epochs=3") is None


def test_of_decay_epochs_and_decay_steps_the_later_given_counts():
    assert options.method_config(10, parsed("--dataset=cifar10")).base.decay_steps == (18000, 19000)
    by_epoch = parsed("--dataset=cifar10", "--decay_epochs=2,3")
    assert options.method_config(10, by_epoch).base.decay_steps == (20, 30)
    by_step = parsed("--dataset=digits", "--decay_steps=5,6")
    assert options.method_config(10, by_step).base.decay_steps == (5, 6)
    never = parsed("--dataset=digits", "--decay_steps=")
    assert options.method_config(10, never).base.decay_steps == ()


def test_decay_epochs_need_the_length_of_an_epoch():
    with pytest.raises(ValueError, match="steps_per_epoch"):
        options.method_config(None, parsed("--decay_epochs=2"))


def test_the_whole_network_is_gated_by_all():
    assert options.method_config(1, parsed("--gated_variables=all")).layer_sampler.gated_variables == 0


def test_the_run_folder_and_the_record_say_what_was_composed():
    flag_values = parsed("--method=mwnet_famus", "--layer_sampler=all", "--noise_rate=0.25", "--seed=4")
    assert options.method_config(1, flag_values).name == "mwnet"
    assert options.run_config(flag_values).model_dir == os.path.join("runs", "digits-mwnet-symmetric-0.25-seed4")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--noise_rate=40"], "--noise_rate must be a share between 0 and 1; got 40.0. A percentage?.* 0.4"),
        (["--noise_rate=abc"], "--noise_rate must be a number; got 'abc'"),
        (["--noise_rate=nan"], "--noise_rate must be a number; got 'nan'"),
        (["--noise_rate=0.4 # high"], "--noise_rate must be a number.* comment must stand on a line of its own"),
        (["--noise_type=symetric"], "--noise_type must be one of .*Did you mean 'symmetric'"),
        (["--dataset=cifra10"], "--dataset must be one of digits.*; got 'cifra10'. Did you mean 'cifar10'"),
        (["--method=mwnet_faums"], "--method must be one of ce.*Did you mean 'mwnet_famus'"),
        (["--model=resnet23"], "--model must be one of small_cnn.*Did you mean 'resnet32'"),
        (["--method=ce", "--layer_sampler=famus"], "--layer_sampler=famus .*'ce' has none.*--layer_sampler=all"),
        (["--meta_model=mwnets"], "--meta_model must be one of none, mwnet, l2r, mlc; got 'mwnets'"),
        (["--gated_variables=some"], "--gated_variables must be a whole number of 1 or more, or 'all'"),
        (["--gated_variables=0"], "--gated_variables must be a whole number of 1 or more, or 'all'"),
        (["--num_random_layers=0"], "--num_random_layers must be at least 1; got 0"),
        (["--layer_block=0"], "--layer_block must be at least 1; got 0"),
        (["--expected_active_layers=-1"], "--expected_active_layers must be at least 0.0; got -1"),
        (["--budget_weight=-1"], "--budget_weight must be at least"),
        (["--gradient_matching_weight=-1"], "--gradient_matching_weight must be at least"),
        (["--sampler_temperature=0"], "--sampler_temperature must be a positive"),
        (["--sampler_momentum=1"], r"^--sampler_momentum must be in \[0, 1\); got 1.0"),
        (["--sampler_learning_rate=0"], "^--sampler_learning_rate must be a positive"),
        (["--meta_learning_rate=-1"], "^--meta_learning_rate must be a positive, finite number; got -1.0"),
        (["--meta_l2=-1"], "^--meta_l2 must be at least 0.0; got -1"),
        (["--meta_momentum=0"], "^--meta_nesterov needs --meta_momentum above 0"),
        (["--meta_hidden_units=0"], "--meta_hidden_units must be at least 1"),
        (["--learning_rate=0"], "^--learning_rate must be a positive"),
        (["--l2_coefficient=-1"], "^--l2_coefficient must be at least"),
        (["--optimizer=rmsprop"], "--optimizer must be one of sgd, adam; got 'rmsprop'"),
        (["--decay_epochs=30,20"], r"--decay_epochs must increase from 0 or more; got \[30, 20\]"),
        (["--decay_steps=30,20"], r"--decay_steps must increase from 0 or more; got \[30, 20\]"),
        (["--decay_steps=a,b"], "--decay_steps must be whole numbers separated by commas; got 'a,b'"),
        (["--decay_factor=0"], "--decay_factor must be a positive"),
        (["--batch_size=0"], "--batch_size must be at least 1"),
        (["--batch_size=1.5"], "--batch_size must be a whole number; got '1.5'"),
        (["--meta_batch_size=0"], "--meta_batch_size must be at least 1"),
        (["--epochs=0"], "--epochs must be at least 1"),
        (["--train_steps=0"], "--train_steps must be at least 1"),
        (["--seed=-1"], "--seed must be at least 0; got -1"),
        (["--seed"], "Missing value for flag --seed"),
        (["--num_replicas=-1"], "--num_replicas must be at least 0"),
        (["--steps_per_call=0"], "--steps_per_call must be at least 1"),
        (["--checkpoint_interval_s=0"], "--checkpoint_interval_s must be a positive"),
        (["--num_meta=-1"], "--num_meta must be at least 0"),
        (["--num_validation=-1"], "--num_validation must be at least 0"),
        (["--num_meta=0"], "'mwnet_famus' learns from a clean meta set, and --num_meta=0.*--method=ce"),
        (["--num_meta=5"], r"--meta_batch_size=\d+ is larger than the meta set, --num_meta=5\b"),
        (["--augment=maybe"], "--augment must be true or false; got 'maybe'"),
        (["--noaugment=3"], "--noaugment=3 does not take an argument"),
        (["--augment", "false"], "'false' is not a flag; .*--name or --noname"),
        (["digits"], "'digits' is not a flag; flags are written --name=value"),
        (["--", "digits"], "'digits' is not a flag"),
        (["--nosie_rate=0.4"], "--nosie_rate is not a flag of this program. Did you mean '--noise_rate'"),
        (["--noaugmnt"], "--noaugmnt is not a flag of this program. Did you mean '--augment'"),
        (["--zzz=1"], r"--zzz is not a flag of this program\. See --help"),
        (["--flagfile=/no/such.flags"], "--flagfile cannot be read: .*No such file.*/no/such.flags"),
        (["--flagfile"], "--flagfile with no argument"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence_that_names_the_flag(typed, message):
    with pytest.raises(InputError, match=message) as caught:
        parsed(*typed)
    assert "\n" not in str(caught.value)


def test_plain_training_needs_no_meta_set():
    assert options.data_config(parsed("--method=ce", "--num_meta=0")).num_meta == 0


@pytest.mark.parametrize("asked", ["--help", "--helpfull", "--helpshort", "-h"])
def test_help_is_asked_for_in_each_of_its_spellings(asked):
    assert options.asks_for_help(["train", "--seed=1", asked])
    assert not options.asks_for_help(["train", "--seed=1", "help"])


@pytest.mark.parametrize("typed", [[], ["--dataset=cifar10", "--method=mlc_famus"], ["--method=ce"]])
def test_help_fits_two_screens(typed):
    lines = options.help_text(["train", *typed]).splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 100
    assert help_screen.WIDTH == 100


def test_help_lists_every_flag_of_ours_once_in_its_group_and_none_of_absls():
    lines = options.help_text(["train"]).splitlines()
    listed, group = [], None
    for line in lines:
        if line in flag_table.GROUPS:
            group = line
        elif line.startswith("  --"):
            listed.append((group, line.split()[0].removeprefix("--").partition("=")[0]))
    assert listed == [*((flag.group, flag.name) for flag in flag_table.FLAGS), ("Run", "verbosity")]


def test_help_shows_the_defaults_of_the_typed_dataset_and_method():
    text = options.help_text(["train", "--dataset=cifar10", "--method=l2r", "--help"])
    assert "--dataset=cifar10 " in text
    assert "--train_steps=60000 " in text
    assert "--meta_model=l2r " in text
    assert "--epochs=30" not in text
    assert "--noise_rate=0.4 " in options.help_text(["train"])


def test_help_names_all_datasets_methods_and_networks():
    text = options.help_text(["train"])
    assert "Datasets  digits, cifar10, cifar100" in text
    assert "mwnet_random" in text.split("Data\n")[0]
    assert "wrn-<depth>-<width>" in text


@pytest.mark.parametrize("flag", flag_table.FLAGS, ids=lambda flag: flag.name)
def test_a_flags_default_survives_being_written_and_read(flag):
    assert flag_table.from_text(flag, flag_table.to_text(flag, flag.default)) == flag.default


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["--method=ce", "--noaugment", "--decay_steps="],
        ["--dataset=cifar10", "--method=mlc_famus", "--decay_epochs=2,3", "--data_dir=some folder"],
        ["--dataset=cifar100", "--epochs=3", "--gated_variables=all", "--sampler_temperature=0.3"],
        ["--train_steps=7", "--learning_rate=0.1234567890123", "--model_dir=here", "--seed=12345678901"],
    ],
)
def test_flags_txt_brings_back_every_value(typed, tmp_path):
    first = parsed(*typed)
    path = tmp_path / "flags.txt"
    path.write_text("\n".join(options.flag_lines(first)) + "\n")
    again = parsed(f"--flagfile={path}")
    assert options.config(17, again) == options.config(17, first)
    assert options.flag_lines(again) == options.flag_lines(first)
    assert options.differing_flags(options.flag_lines(first), options.flag_lines(again)) == []


def test_flags_txt_has_the_run_folder_and_leaves_out_what_is_unset():
    lines = options.flag_lines(parsed())
    assert "--model_dir=" + os.path.join("runs", "digits-mwnet_famus-symmetric-0.4-seed0") in lines
    names = [line.removeprefix("--").partition("=")[0] for line in lines]
    assert set(flag_table.BY_NAME) - set(names) <= {
        "data_dir", "label_set", "labels_csv", "imagenet_dir", "weights",
        "sampler_temperature", "train_steps", "epochs", "decay_steps", "decay_epochs",
    }  # fmt: skip
    assert len(names) == len(set(names))


def test_only_flags_that_change_results_count_as_differing():
    old = options.flag_lines(parsed("--model_dir=a", "--num_replicas=1", "--steps_per_call=5"))
    new = options.flag_lines(
        parsed("--model_dir=b", "--num_replicas=2", "--data_dir=c", "--checkpoint_interval_s=9", "--seed=2")
    )
    assert options.differing_flags(old, new) == [("seed", "0", "2")]


def test_differing_flags_compare_values_and_count_a_missing_flag_as_its_default():
    old = ["# by hand", "", "--noise_rate=0.40", "--batch_size=64", "--retired=1"]
    new = ["--noise_rate=0.4", "--batch_size=32", "--meta_batch_size=100", "--sampler_momentum=0.5"]
    assert options.differing_flags(old, new) == [
        ("sampler_momentum", "0.9", "0.5"),
        ("batch_size", "64", "32"),
        ("retired", "1", ""),
    ]


def test_epochs_against_steps_differ_in_both():
    old = options.flag_lines(parsed("--dataset=cifar10"))
    new = options.flag_lines(parsed("--dataset=cifar10", "--epochs=3"))
    assert options.differing_flags(old, new) == [("epochs", "1", "3"), ("train_steps", "20000", "")]


def test_result_free_flags_are_flags():
    assert set(options.RESULT_FREE_FLAGS) < flag_table.BY_NAME.keys()
