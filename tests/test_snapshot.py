import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ov_piano.errors import InputError
from ov_piano.machine.atomic import partial_path
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.model.snapshot import load_snapshot, save_atomically, save_snapshot
from tests.golden_weights import golden_state


class SmallNet(nn.Sequential):
    def __init__(self, width=3):
        super().__init__(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


class Executes:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Net_2026_01_01step=10_f1=0.5.torch"


def refused(path, model=None):
    """The error message; checks that the model is unchanged."""
    model = model or SmallNet()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(InputError) as refusal:
        load_snapshot(path, model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_weights_read_back_as_saved(path):
    saved = SmallNet()
    saved[1].running_mean.fill_(3.5)
    save_snapshot(saved, path)
    assert os.listdir(path.parent) == [path.name]
    loaded = load_snapshot(path, SmallNet())
    for name, x in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], x), name


def test_a_snapshot_is_a_plain_state_dict(path):
    save_snapshot(SmallNet(), path)
    state = torch.load(path, weights_only=True)
    assert list(state) == list(SmallNet().state_dict())
    assert all(type(x) is torch.Tensor for x in state.values())


def test_a_published_snapshot_is_loaded(path):
    model = OnsetVelocityNet(init=False)
    torch.save(golden_state(model), path)
    loaded = load_snapshot(path, model)
    np.testing.assert_array_equal(loaded.specnorm.bn.running_mean[:250], np.full(250, -40))


@pytest.mark.parametrize("failing_call", ["fsync", "replace"])
def test_failed_save_leaves_the_earlier_file(path, monkeypatch, failing_call):
    save_snapshot(SmallNet(), path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing_call, full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*step=10") as failure:
        save_snapshot(SmallNet(), path)
    assert failure.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_save_removes_partial_files_of_ended_processes_only(path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left, others = (partial_path(path.with_name("other.torch"), pid) for pid in (ended.pid, os.getpid()))
    for partial in (left, others, path.with_name("notes.partial.txt")):
        partial.touch()
    save_snapshot(SmallNet(), path)
    assert {other.name for other in path.parent.iterdir()} == {path.name, others.name, "notes.partial.txt"}


def test_save_makes_folders(tmp_path):
    save_atomically({"x": torch.ones(2)}, tmp_path / "out" / "model_snapshots" / "a.torch")
    assert torch.load(tmp_path / "out" / "model_snapshots" / "a.torch")["x"].tolist() == [1, 1]


def test_a_missing_file_is_named(path):
    assert refused(path) == "snapshot not found"
    path.mkdir()
    assert refused(path) == "snapshot not found"


@pytest.mark.parametrize("content", [b"", b"RIFF\0\0\0\0WAVEfmt ", b"text\n" * 99, b"PK\x03\x04 no archive"])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    assert refused(path).startswith(
        "not a snapshot: expected a saved state dict, found another kind of file or a damaged"
    )


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_files_are_refused(path, part):
    save_snapshot(SmallNet(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "found another kind of file or a damaged one" in refused(path)


@pytest.mark.parametrize(
    ("save", "found"),
    [
        (torch.save, "a pickle that calls io.open"),
        (lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)), "a pickle that calls io.open"),
        (lambda content, path: path.write_bytes(pickle.dumps(content)), "another kind of pickle"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_code_in_a_pickle_is_not_executed(path, save, found):
    trap = path.parent / "executed"
    save({"0.weight": Executes(trap)}, path)
    assert refused(path) == f"not a snapshot: expected a saved state dict, found {found} (not executed)"
    assert not trap.exists()


def test_a_pickled_module_is_refused(path):
    torch.save(SmallNet(), path)
    assert "found a pickle that calls test_snapshot.SmallNet (not executed)" in refused(path)


def test_other_contents_are_refused(path):
    torch.save([1, 2], path)
    assert refused(path) == "not a snapshot: expected a state dict, found list"
    torch.save({}, path)
    assert refused(path) == "not a snapshot: expected a state dict, found dict"
    torch.save({"model": SmallNet().state_dict(), "step": 3}, path)
    assert refused(path) == "not a snapshot: expected tensors, found 'model' of type OrderedDict"
    torch.save({"0.weight": torch.zeros(3, 1, 3, 3).to_sparse()}, path)
    assert refused(path) == "not a snapshot: expected tensors, found '0.weight' of type Tensor"


def test_missing_and_unexpected_names_are_refused(path):
    state = SmallNet().state_dict()
    torch.save({f"module.{name}": x for name, x in state.items()}, path)
    assert refused(path) == (
        "not a snapshot of SmallNet: 0.bias, 0.weight, 1.bias and 4 more names missing, "
        "module.0.bias, module.0.weight, module.1.bias and 4 more unexpected"
    )
    del state["1.running_var"]
    torch.save(state, path)
    assert refused(path) == "not a snapshot of SmallNet: 1.running_var names missing, no unexpected"


def test_other_shapes_are_refused(path):
    save_snapshot(SmallNet(width=4), path)
    assert refused(path) == (
        "snapshot with shapes other than those of SmallNet: 0.bias (expected float32 (3,), found float32 (4,)), "
        "0.weight (expected float32 (3, 1, 3, 3), found float32 (4, 1, 3, 3)), "
        "1.bias (expected float32 (3,), found float32 (4,)) and 3 more"
    )


def test_other_number_types_are_refused(path):
    state = SmallNet().state_dict()
    torch.save({**state, "0.bias": torch.tensor([1, 2, 3])}, path)
    assert "0.bias (expected float32 (3,), found int64 (3,))" in refused(path)
    torch.save({**state, "0.bias": torch.tensor([1, 2, 3], dtype=torch.float64)}, path)
    assert load_snapshot(path, SmallNet())[0].bias.tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(path, value):
    model = SmallNet()
    model[1].running_var[1] = value
    save_snapshot(model, path)
    assert refused(path) == "snapshot with values that are not finite in 1.running_var"
