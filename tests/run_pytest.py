"""Starts pytest on the files named as arguments: the `main` of every py_test in BUILD."""

import os
import sys

import pytest


def main(arguments: list[str]) -> int:
    """Runs pytest and returns its exit code, honouring what Bazel says through the environment."""
    arguments = [*arguments, "-p", "no:cacheprovider"]
    if report := os.environ.get("XML_OUTPUT_FILE"):
        arguments.append(f"--junitxml={report}")
    if wanted := os.environ.get("TESTBRIDGE_TEST_ONLY"):  # bazel test --test_filter
        arguments += ["-k", wanted]
    return pytest.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
