"""Targets, losses, schedule and step against numbers computed with the published code."""

import copy
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ov_piano.errors import InputError
from ov_piano.model.networks import NETWORKS
from ov_piano.model.onsets_and_velocities import OnsetsAndVelocities
from ov_piano.training.breakpoint import BreakpointFile
from ov_piano.training.losses import velocity_loss, velocity_loss_floor
from ov_piano.training.schedule import CyclicDecay, WarmUpCyclicDecay
from ov_piano.training.state import TrainingState, find_state
from ov_piano.training.step import TrainingForward, TrainingStep, adamw, sgd
from ov_piano.training.targets import training_targets
from tests.golden_weights import golden_state

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "train_steps.npz")


def test_targets_equal_a_hand_worked_example():
    velocities = torch.zeros(1, 1, 8)
    velocities[0, 0, [0, 2, 3, 7]] = torch.tensor([99.0, 127.0, 64.0, 32.0])
    onsets, vels = training_targets(velocities)
    # frame 0 is dropped with its onset; 64 at frame 3 shows only once the 127 before it has passed
    assert onsets.tolist() == [[[0, 1, 1, 1, 1, 0, 1]]]
    assert (vels * 127).round().tolist() == [[[0, 127, 127, 127, 64, 0, 32]]]


def test_targets_equal_the_published_ones(golden):
    onsets, velocities = training_targets(torch.from_numpy(golden["roll"][:, 21:109]))
    np.testing.assert_array_equal(onsets, golden["onset_target"])
    np.testing.assert_allclose(velocities, golden["velocity_target"], atol=1e-7)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("default", CyclicDecay(6.0, 1e-5, 1500, 0.95, 1.0)),
        ("slowdown", CyclicDecay(1.0, 1e-3, 10, 0.5, 2.0)),
    ],
)
def test_schedule_equals_the_published_one(name, schedule):
    sequences = np.load(GOLDEN / "sgdr.npz")
    lrs, ends = zip(*(schedule(step) for step in range(1, len(sequences[f"{name}_lr"]) + 1)), strict=True)
    np.testing.assert_allclose(lrs, sequences[f"{name}_lr"], rtol=1e-6)
    np.testing.assert_array_equal(ends, sequences[f"{name}_wrapped"])


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("default", WarmUpCyclicDecay(0.008, 500, 1000, 0.975, 1.0)),
        ("slowdown", WarmUpCyclicDecay(1.0, 5, 10, 0.5, 2.0)),
    ],
)
def test_schedule_with_warm_up_equals_the_published_one(name, schedule):
    sequences = np.load(GOLDEN / "adamwr.npz")
    lrs, ends = zip(*(schedule(step) for step in range(1, len(sequences[f"{name}_lr"]) + 1)), strict=True)
    np.testing.assert_allclose(lrs, sequences[f"{name}_lr"], rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(ends, sequences[f"{name}_cycle_end"])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("network", NETWORKS.values())
def test_losses_of_nine_steps_equal_the_published_ones(network, fast, monkeypatch):
    # oneDNN rounds differently on each generation of processors, and nine steps amplify that beyond the tolerance.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", fast)
    golden = np.load(GOLDEN / ("train_steps_2023.npz" if network is OnsetsAndVelocities else "train_steps.npz"))
    model = network(dropout=0.0, init=False)
    model.load_state_dict(golden_state(model, db_statistics=False))
    model.train()
    if network is OnsetsAndVelocities:
        optimizer, schedule = adamw(model, 0.0003), WarmUpCyclicDecay(0.008, 2, 4, 0.975, 1.0)
        recorded_weight = 0.1  # of the velocity loss: recorded before its weight in the total, 10, is applied
    else:
        recorded_weight = 1
        optimizer, schedule = sgd(model, 0.85, 0.0), CyclicDecay(0.1, 1e-5, 4, 0.95, 1.0)
    forward = TrainingForward(model, trainable_onsets=True, fast=fast)
    step = TrainingStep(forward, optimizer, schedule, positives_weight=8.0, velocity_weight=10.0)
    logmel, velocities = torch.from_numpy(golden["x"]), torch.from_numpy(golden["roll"][:, 21:109])
    found, rates = [], []
    for i in range(1, 10):
        losses = step.losses(logmel, velocities)
        found.append([losses.onset.item(), recorded_weight * losses.velocity.item()])
        rates.append(step.update(losses, i)[0])
        if i == 1:
            norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-3)
    np.testing.assert_allclose(rates, golden["lrs"], rtol=1e-6, atol=1e-12)
    expected = dict(zip(golden["grad_names"], golden["grad_norms"], strict=True))
    assert norms.keys() == expected.keys()
    np.testing.assert_allclose([norms[n] for n in expected], list(expected.values()), rtol=1e-2, atol=1e-5)


def test_the_floor_of_the_velocity_loss_is_the_loss_of_perfect_logits():
    onset_target = torch.tensor([[[1.0, 0, 1, 1]]])
    velocity_target = torch.tensor([[[0.3, 0, 1.0, 0.8]]])
    floor = velocity_loss_floor(onset_target, velocity_target)
    assert floor.item() == pytest.approx((0.610864 + 0 + 0.500402) / 4, abs=1e-6)  # binary entropies in nats
    perfect = velocity_loss(torch.logit(velocity_target, eps=1e-7), onset_target, velocity_target)
    assert perfect.item() == pytest.approx(floor.item(), abs=1e-6)
    assert velocity_loss(torch.zeros(1, 1, 4), onset_target, velocity_target) > floor


@pytest.mark.parametrize(
    ("rules", "pauses_at"),
    [
        ({"inconditional": False, "step_gt": None, "step_every": None}, []),
        ({"inconditional": True, "step_gt": None, "step_every": None}, [1, 2, 3, 4, 5, 6]),
        ({"inconditional": False, "step_gt": 4, "step_every": None}, [5, 6]),
        ({"inconditional": False, "step_gt": None, "step_every": 3}, [3, 6]),
        ({"inconditional": False, "step_gt": 5, "step_every": 2}, [2, 4, 6]),
        ({"inconditional": True, "step_gt": "soon", "step_every": None}, []),
        ({"inconditional": False, "step_gt": True, "step_every": 1.5}, []),
        ({"inconditional": "false", "step_gt": None, "step_every": 1}, []),
        ({"inconditional": False, "step_gt": None, "step_every": 0}, []),
        ([1, 2], []),
    ],
)
def test_breakpoint_file_pauses_at_the_steps_it_names(tmp_path, rules, pauses_at):
    path = tmp_path / "breakpoint.json"
    path.write_text(json.dumps(rules))
    breakpoint_file = BreakpointFile(path)
    assert [step for step in range(1, 7) if breakpoint_file.wants_pause(step)] == pauses_at


def test_no_pause_without_a_terminal(tmp_path, caplog):
    path = tmp_path / "breakpoint.json"
    path.write_text('{"inconditional": false, "step_gt": null, "step_every": 2}')
    breakpoint_file = BreakpointFile(path, interactive=False)
    assert not any(breakpoint_file.wants_pause(step) for step in range(1, 7))
    assert [record.getMessage() for record in caplog.records] == [
        f"ignoring {path}: pausing requires a terminal and a single process"
    ]


def test_a_resumed_optimizer_keeps_its_new_settings(tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer = sgd(model, 0.85, 0.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = TrainingState.of(model, optimizer, step=1, epoch=0, batch=1, conf="MOMENTUM: 0.85\nTRAIN_BS: 8")
    other = torch.nn.Linear(2, 1)
    resumed = sgd(other, 0.5, 0.1)
    TrainingState.load(state.save(tmp_path)).restore(other, resumed, tmp_path)
    assert (resumed.param_groups[0]["momentum"], resumed.param_groups[0]["weight_decay"]) == (0.5, 0.1)
    assert torch.equal(resumed.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
    assert state.differences("MOMENTUM: 0.5\nTRAIN_BS: 8") == ["MOMENTUM: 0.85 -> 0.5"]


@pytest.mark.parametrize(("saved", "resumed"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_a_state_of_another_optimiser_is_refused(tmp_path, saved, resumed):
    optimizers = {"sgd": lambda model: sgd(model, 0.85, 0.0), "adamw": lambda model: adamw(model, 0.0003)}
    model = torch.nn.Linear(2, 1)
    state = TrainingState.of(model, optimizers[saved](model), step=1, epoch=0, batch=1, conf="")
    with pytest.raises(InputError, match=r"state\.pt: state of an optimiser other than \w+ \(setting OPTIMIZER\)"):
        state.restore(model, optimizers[resumed](model), tmp_path / "state.pt")


def test_moments_and_steps_of_adamw_are_resumed(tmp_path):
    torch.manual_seed(0)
    model, data = torch.nn.Linear(2, 1), torch.randn(6, 4, 2)

    def descend(model, optimizer, batches):
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = 0.1
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    once, resumed = copy.deepcopy(model), torch.nn.Linear(2, 1)
    descend(once, adamw(once, 0.01), data)
    optimizer = adamw(model, 0.01)
    descend(model, optimizer, data[:3])
    path = TrainingState.of(model, optimizer, step=3, epoch=0, batch=3, conf="").save(tmp_path)
    optimizer = adamw(resumed, 0.01)
    TrainingState.load(path).restore(resumed, optimizer, path)
    descend(resumed, optimizer, data[3:])
    assert torch.equal(resumed.weight, once.weight)


def test_the_states_of_the_last_steps_of_the_newest_run_are_kept_and_resumed(tmp_path, caplog):
    model = torch.nn.Linear(2, 1)
    for moment, step in enumerate((900, 1000, 100, 200)):  # a second training in the folder of a first
        state = TrainingState.of(model, sgd(model, 0.85, 0.0), step=step, epoch=0, batch=step, conf="")
        path = state.save(tmp_path)
        os.utime(path, ns=(-moment, -moment))  # as a copied folder may have them
    assert find_state("auto", tmp_path) == path
    assert sorted(kept.name for kept in tmp_path.iterdir()) == [
        "training_state_step=100.pt",
        "training_state_step=200.pt",
    ]
    assert not caplog.records
    assert find_state(None, tmp_path) is None
    assert "pass RESUME=auto to continue that run" in caplog.text


def test_each_fault_of_the_breakpoint_file_is_logged_once(tmp_path, caplog):
    path = tmp_path / "breakpoint.json"
    breakpoint_file = BreakpointFile(path)
    with caplog.at_level(logging.WARNING):
        for text in (None, "{", "", '{"step_gt": "x"}', '{"inconditional": 1}', "[" * 100_000, b"\xff\xfe"):
            if text is not None:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
            assert not any(breakpoint_file.wants_pause(step) for step in range(1, 4))
    assert len(caplog.records) == 7
    path.write_text('{"inconditional": true}')
    assert breakpoint_file.wants_pause(1)
