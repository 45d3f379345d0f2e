"""Devices: unused ones are not initialised; invalid choices give one line."""

import pytest
import torch

from ov_piano.data.chunks import ChunkDataset
from ov_piano.data.loader import training_loader
from ov_piano.errors import InputError
from ov_piano.machine.device import select_device
from ov_piano.model import fast_training
from ov_piano.model.fast import LastStage, optimize_for_inference
from ov_piano.model.kernels import native, sparse_conv, winograd
from ov_piano.model.onset_velocity_net import OnsetVelocityNet
from ov_piano.training import processes
from ov_piano.training.processes import Processes
from tests.test_chunks import make_pair


@pytest.fixture
def no_compiler(monkeypatch):
    def search(*_):
        raise AssertionError("looked for compiled kernels")

    for module in (native, sparse_conv, winograd, fast_training):
        monkeypatch.setattr(module, "library", search)


@pytest.mark.usefixtures("no_compiler")
def test_nothing_is_compiled_for_other_devices_than_the_cpu():
    model = OnsetVelocityNet(init=False).to("meta")
    logmel = torch.empty(1, 250, 20, device="meta")
    assert fast_training._plan(model.train(), logmel) is None
    assert isinstance(optimize_for_inference(model), LastStage)
    with pytest.raises(AssertionError, match="looked for compiled kernels"):
        optimize_for_inference(OnsetVelocityNet(init=False))


@pytest.mark.parametrize("pin_memory", [False, True])
def test_memory_is_pinned_only_for_a_gpu(tmp_path, monkeypatch, pin_memory):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    dataset = ChunkDataset(make_pair(tmp_path)[0], [0], 20, 7)
    with training_loader(dataset, 2, workers=0, seed=0, pin_memory=pin_memory) as loader:
        assert loader._loader.pin_memory is pin_memory
    with training_loader(dataset, 2, workers=0, seed=0) as loader:
        assert loader._loader.pin_memory is False


@pytest.mark.parametrize(
    ("world", "local_rank", "device", "used"),
    [(1, 0, "cuda", "cuda"), (1, 0, "cuda:1", "cuda:1"), (4, 3, "cuda", "cuda:3"), (4, 3, "cpu", "cpu")],
)
def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch, world, local_rank, device, used):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("RANK", str(local_rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr(processes, "select_device", lambda name, tf32: torch.device(name))
    assert Processes.from_environment(device).device == torch.device(used)


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="DEVICE=cuda:0: with several processes expected DEVICE=cuda, one GPU"):
        Processes.from_environment("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "cuda:99"])
def test_devices_that_cannot_be_used_are_named(name):
    with pytest.raises(InputError, match=f"DEVICE={name}: not a usable device"):
        select_device(name)
