"""The command of comparison: the same job by another method, ready to be copied."""

import shlex

import pytest
from absl import flags

from famus_tf import command_text, options

START = "python -m famus_tf.train"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ([], ""),
        (["--dataset=cifar10", "--noise_rate=0.4"], " --dataset=cifar10 --noise_rate=0.4"),
        (["--dataset", "cifar10", "--noise_rate", "0.4"], " --dataset cifar10 --noise_rate 0.4"),
        # The method, its own settings, its layer sampler's and the run folder go, however they are written.
        (["--method=mwnet", "--seed=1"], " --seed=1"),
        (["--method", "mwnet", "--seed", "1"], " --seed 1"),
        (["-method", "mwnet", "-seed", "1"], " -seed 1"),
        (["--seed=1", "--method", "mwnet"], " --seed=1"),
        (["--gated_variables=4", "--budget_weight", "0.5", "--seed=1"], " --seed=1"),
        (["--meta_learning_rate", "0.5", "--sampler_variant=official"], ""),
        (["--meta_model=mwnet", "--layer_sampler=famus"], ""),
        (["--model_dir=runs/a", "--epochs=3"], " --epochs=3"),
        (["--model_dir", "runs/a", "--epochs=3"], " --epochs=3"),
        # Switches have no value to skip.
        (["--meta_nesterov", "--seed=1"], " --seed=1"),
        (["--nometa_nesterov", "--seed=1"], " --seed=1"),
        (["--meta_nesterov=false", "--nesterov", "--noaugment"], " --nesterov --noaugment"),
        # Names that only begin like a dropped one stay.
        (
            ["--model=resnet32", "--noise_type=flip", "--verbosity=0"],
            " --model=resnet32 --noise_type=flip --verbosity=0",
        ),
    ],
)
def test_what_was_typed_stays_but_for_the_method(typed, kept):
    assert command_text.comparison(typed, "mwnet_famus") == f"{START}{kept} --method=ce"


def test_plain_training_is_compared_with_famus():
    assert command_text.comparison(["--method=ce", "--seed=1"], "ce") == f"{START} --seed=1 --method=mwnet_famus"


@pytest.mark.parametrize("folder", ["/my data/tfds", "it's here", "$HOME/x", "a;b"])
def test_what_a_shell_would_change_is_quoted(folder):
    command = command_text.comparison([f"--data_dir={folder}", "--method=mwnet"], "mwnet")
    assert shlex.split(command)[3:] == [f"--data_dir={folder}", "--method=ce"]


def parsed(arguments):
    flag_values = flags.FlagValues()
    options.parse_flags(["train", *arguments], flag_values)
    return flag_values


@pytest.mark.parametrize(("typed", "other"), [("mwnet_random", "ce"), ("ce", "mwnet_famus")])
def test_the_command_after_a_flagfile_of_a_run_is_another_run(tmp_path, typed, other):
    run = parsed([f"--method={typed}", "--seed=5", f"--model_dir={tmp_path / 'run'}"])
    flagfile = tmp_path / "flags.txt"
    flagfile.write_text("\n".join(options.flag_lines(run)))
    command = command_text.comparison([f"--flagfile={flagfile}"], typed)
    config = options.config(10, parsed(shlex.split(command)[3:]))
    assert config.method.name == other
    assert config.run.seed == 5
    assert config.run.model_dir == f"runs/digits-{other}-symmetric-0.4-seed5"
