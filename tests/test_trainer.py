"""The trainer alone, with a network of two layers: no scripts, audio files or processes."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ov_piano.constants import KEYS
from ov_piano.data.chunks import Chunks
from ov_piano.errors import InputError
from ov_piano.evaluation.search import ONSET_COLUMNS, VELOCITY_COLUMNS
from ov_piano.training.conf import TrainConf
from ov_piano.training.processes import Processes
from ov_piano.training.schedule import CyclicDecay
from ov_piano.training.snapshots import SnapshotFolder
from ov_piano.training.step import TrainingStep, sgd
from ov_piano.training.time_left import TimeLeft, format_duration
from ov_piano.training.trainer import Trainer

MELS, FRAMES, BATCHES = 6, 5, 4


class SmallNet(nn.Module):
    """One onset stage and a velocity stage, each a matrix, with dropout between: (b, mels, t) -> (b, keys, t-1)."""

    def __init__(self):
        super().__init__()
        self.onsets, self.velocities, self.dropout = nn.Linear(MELS, KEYS), nn.Linear(MELS, KEYS), nn.Dropout(0.5)

    def forward(self, logmel):
        x = self.dropout(logmel[:, :, 1:].transpose(1, 2))
        return [self.onsets(x).transpose(1, 2)], self.velocities(x).transpose(1, 2)

    infer = forward


class Loader:
    """Batches that depend on epoch and number only."""

    def batches(self, epoch, first_batch):
        for batch in range(first_batch, BATCHES):
            generator = torch.Generator().manual_seed(100 * epoch + batch)
            logmel = torch.randn(2, MELS, FRAMES, generator=generator)
            velocities = torch.randint(0, 128, (2, KEYS, FRAMES), generator=generator).float()
            yield Chunks(logmel, velocities, torch.tensor([0, 2]))


def new_trainer(folder, **settings) -> Trainer:
    torch.manual_seed(0)
    model = SmallNet()
    schedule = CyclicDecay(0.1, 0.01, 4, 0.5, 1.0)
    step = TrainingStep(model, sgd(model, 0.85, 0.0), schedule, positives_weight=8.0, velocity_weight=10.0)
    scores = pd.DataFrame([[0.5, *[0.25] * 6]], columns=["threshold", *ONSET_COLUMNS, *VELOCITY_COLUMNS])
    defaults = {
        "recording_names": ["first", "second", "third"],
        "augment": lambda logmel, key_velocities: (logmel, key_velocities),
        "wants_pause": lambda step: False,
        "snapshots": SnapshotFolder(folder / "model_snapshots"),
        "states_folder": folder / "training_states",
        "conf_yaml": "TRAIN_BS: 2",
        "fast": False,
    }
    processes = Processes(torch.device("cpu"))
    return Trainer(model, step, lambda infer: scores, processes, 7, **(defaults | settings))


def train(trainer, epochs, max_steps=None):
    """The reports of all steps."""
    return [trainer.train_on(batch) for batch in trainer.batches(Loader(), epochs, max_steps)]


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def averaged(trainer, decay):
    """``trainer`` with a moving average of its weights."""
    trainer.average = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return trainer


@pytest.mark.parametrize("steps_before", [1, 3, BATCHES, BATCHES + 2])
def test_resumed_training_equals_uninterrupted_training(tmp_path, steps_before):
    uninterrupted = averaged(new_trainer(tmp_path / "uninterrupted"), 0.8)
    reports = train(uninterrupted, epochs=3)
    first, second = averaged(new_trainer(tmp_path), 0.8), averaged(new_trainer(tmp_path), 0.8)
    reports_before = train(first, epochs=3, max_steps=steps_before)
    first.save_state()
    second.resume(tmp_path / "training_states" / f"training_state_step={steps_before}.pt")
    reports_after = train(second, epochs=3)
    assert [report._replace(secs=0) for report in reports_before + reports_after] == [
        report._replace(secs=0) for report in reports
    ]
    assert torch.equal(weights(second), weights(uninterrupted))
    for ours, theirs in zip(second.average.parameters(), uninterrupted.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_snapshots_are_of_the_average_and_training_goes_on_with_the_latest_weights(tmp_path):
    plain, trainer = new_trainer(tmp_path), averaged(new_trainer(tmp_path), 0.75)
    expected = None
    for batch in trainer.batches(Loader(), epochs=1):
        trainer.train_on(batch)
        latest = trainer.model.onsets.weight.detach().clone()
        expected = latest if expected is None else 0.75 * expected + 0.25 * latest
    torch.testing.assert_close(trainer.model_for_use().onsets.weight.detach(), expected)
    assert not torch.allclose(expected, latest)
    train(plain, epochs=1)
    assert torch.equal(weights(trainer), weights(plain))


def test_an_average_begins_with_the_weights_of_a_run_that_had_none(tmp_path):
    plain, trainer = new_trainer(tmp_path), averaged(new_trainer(tmp_path), 0.75)
    train(plain, epochs=1)
    plain.save_state()
    trainer.resume(tmp_path / "training_states" / f"training_state_step={BATCHES}.pt")
    assert torch.equal(trainer.model_for_use().onsets.weight, plain.model.onsets.weight)
    train(trainer, epochs=2, max_steps=BATCHES + 1)
    assert torch.equal(trainer.model_for_use().onsets.weight, trainer.model.onsets.weight)


def test_an_edge_weight_is_refused_for_note_ends():
    with pytest.raises(InputError, match="EDGE_LOSS_WEIGHT=4: expected 0"):
        TrainConf(TRAIN_ENDS=True, EDGE_LOSS_WEIGHT=4.0)


def test_a_decay_of_1_is_refused():
    with pytest.raises(InputError, match="AVERAGE_DECAY=1"):
        TrainConf(AVERAGE_DECAY=1.0)


def test_batches_end_with_the_last_epoch_or_at_the_last_step(tmp_path):
    trainer = new_trainer(tmp_path)
    assert len(train(trainer, epochs=2, max_steps=3)) == 3
    assert (trainer.step, trainer.epoch, trainer.batch) == (3, 0, 3)
    assert len(train(trainer, epochs=2)) == 2 * BATCHES - 3
    assert (trainer.step, trainer.epoch, trainer.batch) == (2 * BATCHES, 2, 0)
    assert train(trainer, epochs=2) == []


def test_validation_uses_a_copy_and_marks_its_step(tmp_path):
    trainer = new_trainer(tmp_path)
    train(trainer, epochs=1)
    assert not trainer.is_validated
    model, scores, _ = trainer.validate()
    assert trainer.is_validated
    assert (scores["F1"], scores["onset_threshold"]) == (0.25, 0.5)
    assert not model.training
    with torch.no_grad():
        model.onsets.weight.zero_()
    assert trainer.model.onsets.weight.abs().sum() > 0
    train(trainer, epochs=2)
    assert not trainer.is_validated


def test_a_validated_step_is_known_after_resuming(tmp_path):
    trainer, resumed = new_trainer(tmp_path), new_trainer(tmp_path)
    train(trainer, epochs=1)
    trainer.save(*trainer.validate()[:2])
    (snapshot,) = (tmp_path / "model_snapshots").glob("*.torch")
    assert snapshot.name.startswith("SmallNet_")
    assert snapshot.name.endswith(f"step={BATCHES}_f1=0.2500.torch")
    resumed.resume(tmp_path / "training_states" / f"training_state_step={BATCHES}.pt")
    assert resumed.is_validated


def test_the_state_of_a_step_is_written_once(tmp_path):
    trainer = new_trainer(tmp_path)
    train(trainer, epochs=1)
    trainer.save(trainer.model_for_use())
    path = tmp_path / "training_states" / f"training_state_step={BATCHES}.pt"
    path.unlink()
    trainer.save_state()
    assert not path.exists()
    train(trainer, epochs=2, max_steps=BATCHES + 1)
    trainer.save_state()
    assert [state.name for state in path.parent.iterdir()] == [f"training_state_step={BATCHES + 1}.pt"]


def test_only_the_first_process_writes(tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.processes = SimpleNamespace(is_first=False, device=torch.device("cpu"))
    trainer.save(trainer.model_for_use())
    assert list(tmp_path.iterdir()) == []


def test_batch_norm_batches_change_the_model_for_use_alone(tmp_path):
    trainer = new_trainer(tmp_path, norm_batches=lambda: [torch.full((1, MELS, FRAMES), 3.0)])
    trainer.model = nn.Sequential(nn.Unflatten(1, (MELS, 1)), nn.BatchNorm2d(MELS))
    assert trainer.model_for_use()[1].running_mean.tolist() == [3.0] * MELS
    assert trainer.model[1].running_mean.tolist() == [0.0] * MELS


def test_a_loss_that_is_not_finite_names_the_recordings_and_keeps_the_weights(tmp_path):
    trainer = new_trainer(tmp_path, augment=lambda logmel, velocities: (logmel * float("nan"), velocities))
    before = weights(trainer)
    earlier = tmp_path / "training_states" / "training_state_step=900.pt"
    earlier.parent.mkdir()
    earlier.touch()
    with pytest.raises(InputError, match=r"step 1: the loss is not finite .* recordings in the batch: first, third; "):
        train(trainer, epochs=1)
    assert torch.equal(weights(trainer), before)
    assert {path.name for path in earlier.parent.iterdir()} == {"not_finite_after_step=0.pt", earlier.name}


def test_weights_that_are_not_finite_are_neither_saved_nor_validated(tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.step = 3
    trainer.save_state()
    trainer.step = 4
    with torch.no_grad():
        trainer.model.velocities.weight[0, 0] = float("inf")
    for save in (trainer.save_state, trainer.validate, lambda: trainer.save(trainer.model_for_use())):
        with pytest.raises(InputError, match=r"step 4: the weights are not finite \(velocities.weight\); "):
            save()
    saved = {path.name for path in (tmp_path / "training_states").iterdir()}
    assert saved == {"training_state_step=3.pt", "not_finite_after_step=4.pt"}
    assert not (tmp_path / "model_snapshots").exists()


def test_a_resumed_run_counts_the_snapshots_it_has_saved(tmp_path):
    for keep, steps in ((1, (1, 2)), (1, (3, 4))):
        trainer = new_trainer(tmp_path)
        trainer.snapshots.keep = keep
        if steps[0] > 1:
            trainer.resume(tmp_path / "training_states" / "training_state_step=2.pt")
        for step in steps:
            trainer.step = step
            trainer.save(trainer.model, {"F1": 0.9 - step / 10})
    names = [path.name for path in (tmp_path / "model_snapshots").glob("*.torch")]
    assert sorted(name.split("step=")[1] for name in names) == ["1_f1=0.8000.torch", "4_f1=0.5000.torch"]


def test_the_best_and_the_newest_snapshots_are_kept(tmp_path):
    (tmp_path / "of_another_run.torch").touch()
    folder = SnapshotFolder(tmp_path, keep=2)
    scores = [0.5, 0.9, None, 0.7, 0.6, None]
    paths = [
        folder.save(torch.nn.Linear(1, 1), step, None if f1 is None else {"F1": f1}) for step, f1 in enumerate(scores)
    ]
    kept = {tmp_path / "of_another_run.torch", paths[1], paths[3], paths[4], paths[5]}
    assert set(tmp_path.glob("*.torch")) == kept
    assert set(tmp_path.glob("*.yaml")) == {path.with_suffix(".yaml") for path in kept & set(paths)}


@pytest.mark.parametrize(("secs", "words"), [(0, "00:00 h"), (3700, "01:02 h"), (200_000, "2 d 07:33 h")])
def test_durations_are_printed_in_days_hours_and_minutes(secs, words):
    assert format_duration(secs) == words


def test_the_time_left_follows_the_pace_since_the_first_step(monkeypatch):
    moments = iter([0.0, 600.0])
    monkeypatch.setattr("ov_piano.training.time_left.time.monotonic", lambda: next(moments))
    assert TimeLeft(first_step=50, last_step=150)(step=60) == "01:30 h"
