"""Failures to write: said loudly, once, and remembered until they are made good."""

import errno

import pytest
import tensorflow as tf

from famus_tf.runs.write_failures import WriteFailures, reason_of

FULL = OSError(errno.ENOSPC, "No space left on device", "/disk/file")


def fail(failures, what, error, **settings):
    with failures.noting(what, **settings):
        raise error


def test_a_failure_is_said_once_and_does_not_come_through(caplog):
    failures = WriteFailures()
    for _ in range(3):
        fail(failures, "results.json", FULL)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == (
        "Could not write results.json: No space left on device. Training goes on. Make room, or mend the disk."
    )
    assert failures.said == [record.getMessage()]
    assert failures.missing == {"results.json": "No space left on device"}


def test_another_kind_of_failure_and_another_record_are_said_as_well(caplog):
    failures = WriteFailures()
    fail(failures, "results.json", FULL)
    fail(failures, "results.json", OSError(errno.EROFS, "Read-only file system"))
    fail(failures, "model.keras", FULL)
    assert len(caplog.records) == len(failures.said) == 3
    assert failures.missing == {"results.json": "Read-only file system", "model.keras": "No space left on device"}


def test_a_later_success_makes_it_good_where_the_whole_is_written_anew():
    failures = WriteFailures()
    fail(failures, "results.json", FULL)
    fail(failures, "events", FULL, can_be_made_up=False)
    for what, can_be_made_up in [("results.json", True), ("events", False)]:
        with failures.noting(what, can_be_made_up=can_be_made_up):
            pass
    assert failures.missing == {"events": "No space left on device"}
    assert len(failures.said) == 2


@pytest.mark.parametrize("bug", [ValueError("a bug"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_anything_else_comes_through(bug):
    with pytest.raises(type(bug)):
        fail(WriteFailures(), "results.json", bug)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (OSError("unable to flush"), "unable to flush"),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "{{node x}} /a/ckpt.data; No space left on device [Op:SaveV2]"
            ),
            "No space left on device",
        ),
        (tf.errors.OutOfRangeError(None, None, "/a/x.v2; File too large\n\tFailed to flush 1"), "File too large"),
        (tf.errors.DataLossError(None, None, "not an sstable (bad magic number)"), "not an sstable (bad magic number)"),
        (
            tf.errors.FailedPreconditionError(None, None, "{{function_node x}} Not a directory [Op:W]"),
            "Not a directory",
        ),
        (OSError(), "OSError"),
    ],
)
def test_the_reason_is_what_the_system_said_in_one_line(error, reason):
    assert reason_of(error) == reason
