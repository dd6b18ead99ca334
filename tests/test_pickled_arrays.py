"""Tests of famus_tf.data.pickled_arrays: label files are read, and nothing in them is run."""

import collections
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from famus_tf.data import pickled_arrays
from famus_tf.errors import InputError

LABELS = np.array([3, 0, 9, 258], np.int64)


def torch_file(path, data, storages=None, folder="archive"):
    """Writes what torch.save writes: a zip archive of a pickle and of the tensors' storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", data)
        archive.writestr(f"{folder}/version", "3\n")
        for key, storage in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", storage)
    return path


def from_torch(tmp_path, value, protocol=2):
    return pickled_arrays.read_torch(torch_file(tmp_path / "x.pt", pickle.dumps(value, protocol=protocol)))


def from_numpy(tmp_path, value):
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    return pickled_arrays.read_numpy(tmp_path / "x.npy")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<i4", "<u2"])
def test_numpy_arrays_in_a_torch_file_are_read(tmp_path, dtype, protocol):
    found = from_torch(tmp_path, {"worse_label": LABELS.astype(dtype)}, protocol)
    assert (found["worse_label"].tolist(), found["worse_label"].dtype) == (LABELS.tolist(), np.int64)


def test_lists_are_read_and_other_values_left_out(tmp_path):
    found = from_torch(tmp_path, {"clean_label": [3, 0], "note": "by hand", "rates": [0.5], "flags": [True]})
    assert {name: values.tolist() for name, values in found.items()} == {"clean_label": [3, 0]}


def test_the_old_and_the_new_name_of_numpys_module_are_known(tmp_path):
    data = pickle.dumps({"a": LABELS}, protocol=2)
    old, new = data.replace(b"numpy._core.", b"numpy.core."), data.replace(b"numpy.core.", b"numpy._core.")
    assert old != new
    for text in (old, new):
        found = pickled_arrays.read_torch(torch_file(tmp_path / "x.pt", text))
        assert found["a"].tolist() == LABELS.tolist()


class _Tensor:
    """Pickles as a tensor does."""

    def __init__(self, storage, offset, size, stride=(1,)):
        self.parts = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class _Storage:
    def __init__(self, kind, key, count):
        self.kind, self.key, self.count = kind, key, count


class _TorchPickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", getattr(sys.modules["torch"], value.kind), value.key, "cpu", value.count)
        return None


@pytest.fixture
def fake_torch(monkeypatch):
    """PyTorch's names, so that a pickle can name them."""
    torch, utilities = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("LongStorage", "IntStorage", "FloatStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*parts):
        raise AssertionError("called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utilities._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utilities
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utilities)


def tensor_file(tmp_path, tensors, storages):
    data = io.BytesIO()
    _TorchPickler(data, protocol=2).dump(tensors)
    return torch_file(tmp_path / "x.pt", data.getvalue(), storages)


def test_tensors_are_read_from_their_storages(tmp_path, fake_torch):
    storage = np.arange(10, 20, dtype="<i8")
    tensors = {
        "a": _Tensor(_Storage("LongStorage", "0", 10), 2, (3,)),
        "b": _Tensor(_Storage("IntStorage", "1", 2), 0, (2,)),
    }
    path = tensor_file(tmp_path, tensors, {"0": storage.tobytes(), "1": np.array([7, 8], "<i4").tobytes()})
    found = pickled_arrays.read_torch(path)
    assert {name: values.tolist() for name, values in found.items()} == {"a": [12, 13, 14], "b": [7, 8]}


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_Tensor(_Storage("LongStorage", "0", 4), 2, (3,)), "a tensor of shape \\(3,\\) is no list of labels"),
        (_Tensor(_Storage("LongStorage", "0", 4), 0, (2, 2), (2, 1)), "a tensor of shape \\(2, 2\\)"),
        (_Tensor(_Storage("LongStorage", "9", 4), 0, (3,)), "There is no item named 'archive/data/9'"),
        (_Tensor(_Storage("FloatStorage", "0", 4), 0, (3,)), "names the Python object torch.FloatStorage"),
    ],
)
def test_tensors_that_are_no_lists_of_labels_are_refused(tmp_path, fake_torch, tensor, message):
    path = tensor_file(tmp_path, {"a": tensor}, {"0": np.zeros(4, "<i8").tobytes()})
    with pytest.raises(InputError, match=message):
        pickled_arrays.read_torch(path)


def test_a_dict_saved_by_numpy_is_read(tmp_path):
    found = from_numpy(tmp_path, {"clean_label": list(LABELS), "noise_label": LABELS, "plain": LABELS.tolist()})
    assert {name: values.tolist() for name, values in found.items()} == dict.fromkeys(
        ("clean_label", "noise_label", "plain"), LABELS.tolist()
    )


class _Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("write", [from_torch, from_numpy])
@pytest.mark.parametrize("name", ["system", "mkdir", "eval"])
def test_a_file_that_would_run_something_is_refused_and_nothing_is_run(tmp_path, write, name):
    trace = tmp_path / "trace"
    attack = {
        "system": _Attack(os.system, f"touch {trace}"),
        "mkdir": _Attack(os.mkdir, str(trace)),
        "eval": _Attack(eval, f"open({str(trace)!r}, 'w')"),
    }[name]
    with pytest.raises(
        InputError, match=rf"was not read: it names the Python object \w+\.{name}, which no list"
    ) as caught:
        write(tmp_path, {"clean_label": LABELS, "worse_label": attack})
    assert not trace.exists()
    assert "Fetch the file from its authors." in str(caught.value)


def test_the_attack_works_on_a_reader_that_runs_pickles(tmp_path):
    pickle.loads(pickle.dumps(_Attack(os.mkdir, str(tmp_path / "trace"))))
    assert (tmp_path / "trace").exists()


def test_numpys_own_unpickling_is_out_of_reach(tmp_path):
    with pytest.raises(InputError, match="names the Python object numpy.*load"):
        from_torch(tmp_path, {"a": _Attack(np.load, "x.npy")})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "does not hold a dict of labels by name"),
        ({"a": np.zeros((2, 2), np.int64)}, "an array of shape \\(2, 2\\) is no list of labels"),
        ({"a": np.zeros(2)}, "numbers of type 'f8' are no labels"),
    ],
)
def test_other_contents_are_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        from_torch(tmp_path, value)


def test_an_array_that_is_no_dict_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds an array \[4\] of int64, not a dict of labels"):
        from_numpy(tmp_path, LABELS)
    with pytest.raises(InputError, match="does not hold a dict of labels by name"):
        from_numpy(tmp_path, np.array(["a", None], dtype=object)[:1].reshape(()))


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match="x.pt cannot be read \\(No such file"):
        pickled_arrays.read_torch(path)
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(InputError, match="x.pt is damaged, or not a file of torch.save \\(File is not a zip file\\)"):
        pickled_arrays.read_torch(path)
    torch_file(path, pickle.dumps({"a": LABELS})[:-20])
    with pytest.raises(InputError, match="x.pt is damaged, or no file of labels"):
        pickled_arrays.read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="x.pt holds no data.pkl, so torch.save did not write it"):
        pickled_arrays.read_torch(path)
    (tmp_path / "x.npy").write_bytes(b"hello, this is no array")
    with pytest.raises(InputError, match="x.npy is damaged, or no .npy file"):
        pickled_arrays.read_numpy(tmp_path / "x.npy")
