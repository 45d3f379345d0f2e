"""Stores: names, equality with plain h5py, and invalid files."""

import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_piano.data.hdf5 import MelName, RollName, Store, StoreWriter, open_pair, parse_mel_name, parse_roll_name
from ov_piano.errors import InputError
from ov_piano.settings import LogMelSettings

MEL = MelName("MAESTROv3")
ROLL = RollName("MAESTROv3", 0.024, True)
METADATA = [(f'é "{n}"', 2004, "train", 1.5 * n, "it's", "a\\b") for n in range(6)]
LENGTHS = (5, 333, 1, 700, 1000, 27)  # the last chunk is full at the end of the fifth: 2039 = 6 * 333 + 41


def arrays(height=6):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(height, length)).astype(np.float32) for length in LENGTHS]


def write_plain(path, height=6, chunk=333):
    """Write a store like the published code: append each recording with plain h5py."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", (height, 0), "float32", maxshape=(height, None), chunks=(height, chunk), compression="lzf"
        )
        text = h5py.string_dtype("utf-8")
        metadata = file.create_dataset("metadata", (0,), text, maxshape=(None,), chunks=(1,))
        idxs = file.create_dataset("data_idxs", (2, 0), "int64", maxshape=(2, None), chunks=(2, 1))
        for array, entry in zip(arrays(height), METADATA, strict=True):
            begin, count = data.shape[1], len(metadata)
            for dataset, size in ((data, begin + array.shape[1]), (metadata, count + 1), (idxs, count + 1)):
                dataset.resize(size, axis=dataset.ndim - 1)
            data[:, begin:] = array
            metadata[count] = str(entry)
            idxs[:, count] = begin, begin + array.shape[1]
            file.flush()


def write_ours(path, height=6, chunk=333):
    with StoreWriter(path, height, chunk) as writer:
        for array, entry in zip(arrays(height), METADATA, strict=True):
            writer.append(array, entry)


def write_chunked(path, height=6, chunk=333, offset=0):
    """Write a store from parts whose chunks are aligned with it, or ``offset`` frames off."""
    with h5py.File(f"{path}.source", "w") as sources, StoreWriter(path, height, chunk) as writer:
        for index, (array, entry) in enumerate(zip(arrays(height), METADATA, strict=True)):
            lead = (writer.frames + offset) % chunk
            shape = (height, lead + array.shape[1])
            source = sources.create_dataset(
                str(index), shape, "f4", maxshape=(height, None), chunks=(height, chunk), compression="lzf"
            )
            source[:, lead:] = array
            writer.append_chunked(source, lead, entry)


def contents(path):
    """Values and storage layout of each dataset."""
    with h5py.File(path) as file:
        return {
            name: (
                dataset[()].tolist(),
                dataset.dtype,
                dataset.maxshape,
                dataset.compression,
                dataset.chunks if name == "data" else None,
            )
            for name, dataset in file.items()
        }


@pytest.mark.parametrize("write", [write_ours, write_chunked, lambda path: write_chunked(path, offset=100)])
def test_stores_equal_files_written_with_plain_h5py(tmp_path, write):
    write_plain(tmp_path / "plain.h5")
    write(tmp_path / "ours.h5")
    assert contents(tmp_path / "ours.h5") == contents(tmp_path / "plain.h5")


@pytest.mark.parametrize("write", [write_ours, write_plain])
def test_a_store_reads_back_what_was_written(tmp_path, write):
    write(tmp_path / "a.h5")
    store = pickle.loads(pickle.dumps(Store(tmp_path / "a.h5", 6)))
    assert (store.height, len(store), store.metadata) == (6, 6, METADATA)
    np.testing.assert_array_equal(store.ends, np.cumsum(LENGTHS))
    for begin, end, array in zip(store.begins, store.ends, arrays(), strict=True):
        np.testing.assert_array_equal(store.read(begin, end), array)
    np.testing.assert_array_equal(store.read(330, 345), np.concatenate(arrays(), axis=1)[:, 330:345])
    store.close()


def test_a_store_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.h5"

    def interrupted():
        with StoreWriter(path, 6, 333) as writer:
            writer.append(arrays()[0], METADATA[0])
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    write_ours(path)
    with pytest.raises(InputError, match="exists already"):
        write_ours(path)
    assert len(Store(path)) == 6


def test_default_names_are_the_published_ones():
    assert str(MEL) == "MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5"
    assert str(ROLL) == "MAESTROv3_roll_quant=0.024_midivals=128_extendsus=True.h5"
    assert parse_roll_name("some/folder/MAPS_roll_quant=0.024_midivals=128_extendsus=False.h5") == RollName(
        "MAPS", 0.024, False
    )


NUMBERS = st.integers(1, 10**6)


@given(
    st.sampled_from(["MAESTROv1", "MAESTROv2", "MAESTROv3", "MAPS"]), st.tuples(*[NUMBERS] * 6), NUMBERS, st.booleans()
)
def test_names_parse_back_to_their_parameters(dataset, numbers, hop, extend_sustain):
    mel = MelName(dataset, LogMelSettings(*numbers))
    assert parse_mel_name(f"dir/{mel}") == mel
    roll = RollName(dataset, hop / numbers[0], extend_sustain)
    assert parse_roll_name(str(roll)) == roll


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rolls.h5",
        str(ROLL).replace("True", "true"),
        str(ROLL).replace("True", "1"),
        str(ROLL).replace("MAESTROv3", "MAESTROv9"),
        str(ROLL).replace("128", "127"),
        str(ROLL).replace("0.024", "0.0240"),
        str(ROLL).replace("0.024", "nan"),
        str(ROLL) + ".part",
        str(MEL),
    ],
)
def test_other_roll_names_are_refused(name):
    with pytest.raises(InputError, match="expected a file name like MAESTROv3_roll"):
        parse_roll_name(f"folder/{name}")


def test_other_mel_names_are_refused():
    for name in (str(ROLL), str(MEL).replace("2048", "-2048"), str(MEL).replace("250(", "0x10(")):
        with pytest.raises(InputError, match="expected a file name like MAESTROv3_logmel"):
            parse_mel_name(name)


def _spoil(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("data_idxs"), "lacks the dataset 'data_idxs'"),
        (lambda file: file["data"].resize(2100, axis=1), "adjoining recordings from frame 0 to 2100"),
        (lambda file: file["data_idxs"].resize(5, axis=1), r"data_idxs: expected shape \(2, 6\), found \(2, 5\)"),
        (lambda file: file["data_idxs"].__setitem__((0, 1), 6), "adjoining recordings"),
        (lambda file: file["metadata"].__setitem__(0, "('a', "), "not a complete HDF5 file"),
        (lambda file: file["metadata"].__setitem__(0, "__import__('os')"), "not a complete HDF5 file"),
        (lambda file: file["metadata"].__setitem__(0, "3"), "metadata: expected tuples"),
    ],
)
def test_incomplete_stores_are_refused(tmp_path, change, message):
    path = tmp_path / "a.h5"
    write_ours(path)
    _spoil(path, change)
    with pytest.raises(InputError, match=message) as error:
        Store(path)
    assert str(path) in str(error.value)


def test_truncated_missing_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="no such file"):
        Store(path)
    write_ours(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:1000], b"", b"RIFF" * 100):
        path.write_bytes(part)
        with pytest.raises(InputError, match="not a complete HDF5 file"):
            Store(path)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="expected 7 rows, as the name says, found 6"):
        Store(path, 7)


def test_a_file_that_is_being_written_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    write_ours(path)
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="is being written by another process"):
            Store(path)
        writer.stdin.close()
        writer.wait(10)
    assert len(Store(path)) == 6


def _pair(folder, mel=MEL, roll=ROLL, **change):
    """A pair of stores; ``change`` modifies the roll's contents."""
    with StoreWriter(folder / str(mel), 250, 333) as writer:
        for array, entry in zip(arrays(250), METADATA, strict=True):
            writer.append(array, entry)
    rows = list(zip(arrays(259), change.get("metadata", METADATA), strict=False))
    with StoreWriter(folder / str(roll), 259, 333) as writer:
        for array, entry in rows:
            writer.append(array[:, : change.get("cut")], entry)
    return folder / str(mel), folder / str(roll)


def test_a_pair_shares_recordings_and_frames(tmp_path):
    pair = open_pair(*_pair(tmp_path))
    assert (pair.dataset, pair.frame_secs, pair.mel.height, pair.roll.height) == ("MAESTROv3", 0.024, 250, 259)
    assert pair.metadata[1].basename == METADATA[1][0]
    assert pair.metadata[2].duration == 3.0
    np.testing.assert_array_equal(pair.ends - pair.begins, LENGTHS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roll": RollName("MAESTROv2", 0.024, True)}, "MAESTROv3 and MAESTROv2"),
        ({"roll": RollName("MAESTROv3", 0.032, True)}, "frames of 0.024 s and 0.032 s"),
        ({"metadata": METADATA[:5]}, "6 and 5 recordings"),
        ({"metadata": METADATA[::-1]}, "in the first, .* in the second at the same position"),
        ({"cut": 600}, r'é "3" has 700 and 600 frames'),
    ],
)
def test_mismatched_pairs_are_refused(tmp_path, change, message):
    paths = _pair(tmp_path, **change)
    with pytest.raises(InputError, match=f"do not belong together: .*{message}"):
        open_pair(*paths)


def test_metadata_of_another_dataset_is_refused(tmp_path):
    mel, roll = MEL._replace(dataset="MAPS"), ROLL._replace(dataset="MAPS")
    with pytest.raises(InputError, match=r"metadata: expected \('basename', 'instrument', 'category'\)"):
        open_pair(*_pair(tmp_path, mel, roll))
