"""MAPS: file names, filters and the standard split."""

import shutil

import pytest

from ov_piano.data.maps import load_recordings, parse_basename, piece_of, standard_split
from ov_piano.errors import InputError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MAPS_MUS-chpn_op10_e01_AkPnCGdD", {"category": "MUS", "piece": "chpn_op10_e01", "instrument": "AkPnCGdD"}),
        (
            "MAPS_ISOL_TR1_F_S0_M60_ENSTDkCl",
            {
                "category": "ISOL",
                "playing": "TR1",
                "loudness": "F",
                "sustain": 0,
                "note": 60,
                "instrument": "ENSTDkCl",
            },
        ),
        (
            "MAPS_ISOL_CH0.3_M_AkPnBcht",
            {"category": "ISOL", "secs": 0.3, "loudness": "M", "instrument": "AkPnBcht"},
        ),
        (
            "MAPS_RAND_P5_M21-108_I32-96_S1_n13_StbgTGd2",
            {
                "category": "RAND",
                "polyphony": 5,
                "lowest": 21,
                "highest": 108,
                "softest": 32,
                "loudest": 96,
                "sustain": 1,
                "index": 13,
                "instrument": "StbgTGd2",
            },
        ),
        (
            "MAPS_UCHO_C0-4-7-12_I60-68_S0_n2_SptkBGCl",
            {
                "category": "UCHO",
                "chord": (0, 4, 7, 12),
                "softest": 60,
                "loudest": 68,
                "sustain": 0,
                "index": 2,
                "instrument": "SptkBGCl",
            },
        ),
    ],
)
def test_file_names_give_their_metadata(name, expected):
    assert parse_basename(name) == expected


@pytest.mark.parametrize(
    "name", ["", "MAPS_MUS-piece_Steinway", "maps_mus-piece_AkPnBcht", "MAPS_ISOL_XX_F_S0_M60_AkPnBcht"]
)
def test_other_file_names_are_refused(name):
    with pytest.raises(InputError, match="not a MAPS file name"):
        parse_basename(name)


def test_pieces_are_recognised_across_instruments():
    assert piece_of("MAPS_MUS-chpn-p11-format0_AkPnCGdD") == piece_of("MAPS_MUS-chpn-p11_StbgTGd2") == "chpn-p11"
    assert piece_of("MAPS_ISOL_CH0.3_M_AkPnBcht") is None


def test_recordings_are_sorted_by_instrument_category_and_name(toy_maps):
    recordings = load_recordings(toy_maps)
    assert len(recordings) == 11
    assert [tuple(rec.metadata) for rec in recordings[:4]] == [
        ("MAPS_MUS-bk_xmas1_StbgTGd2", "StbgTGd2", "MUS"),
        ("MAPS_MUS-mz_331_2_StbgTGd2", "StbgTGd2", "MUS"),
        ("MAPS_ISOL_CH0.3_M_AkPnBcht", "AkPnBcht", "ISOL"),
        ("MAPS_ISOL_NO_F_S0_M60_AkPnBcht", "AkPnBcht", "ISOL"),
    ]
    for recording in recordings:
        assert recording.audio_path.is_file()
        assert recording.midi_path.is_file()


def test_suffixes_may_be_in_capitals(toy_maps, tmp_path):
    root = shutil.copytree(toy_maps, tmp_path / "MAPS")
    for path in [*root.rglob("*op27*.wav"), *root.rglob("*op27*.mid")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    recordings = load_recordings(root)
    assert [rec.metadata for rec in recordings] == [rec.metadata for rec in load_recordings(toy_maps)]
    for recording in recordings:
        assert recording.audio_path.is_file()
        assert recording.midi_path.is_file()


def test_instruments_and_categories_filter_the_recordings(toy_maps):
    names = [rec.name for rec in load_recordings(toy_maps, ["AkPnBcht", "ENSTDkAm"], ["MUS", "RAND"])]
    assert names == [
        "MAPS_MUS-bk_xmas1_AkPnBcht",
        "MAPS_MUS-chpn_op27_2_AkPnBcht",
        "MAPS_RAND_P2_M36-95_I60-68_S0_n1_AkPnBcht",
        "MAPS_MUS-scn15_7_ENSTDkAm",
    ]


def test_missing_folders_are_skipped_with_a_warning(toy_maps, caplog):
    load_recordings(toy_maps, ["AkPnBcht", "ENSTDkAm", "AkPnCGdD"], ["MUS", "RAND"])
    assert "no folder AkPnCGdD: skipping" in caplog.text
    load_recordings(toy_maps, ["ENSTDkAm"], ["MUS", "RAND"])  # the others have RAND
    assert "no folder */RAND: skipping" in caplog.text


def test_repeated_pieces_are_kept_chosen_or_dropped(toy_maps):
    def pieces(**choice):
        recordings = load_recordings(toy_maps, categories=["MUS"], **choice)
        return sorted(rec.name.removeprefix("MAPS_MUS-") for rec in recordings)

    unique = ["alb_se3_SptkBGAm", "chpn_op27_2_AkPnBcht", "scn15_7_ENSTDkAm"]
    assert pieces(repeated_pieces="drop") == unique
    chosen = {tuple(sorted(set(pieces(repeated_pieces="one", seed=seed)) - set(unique))) for seed in range(20)}
    xmas, mozart = ("bk_xmas1_AkPnBcht", "bk_xmas1_StbgTGd2"), ("mz_331_2_ENSTDkCl", "mz_331_2_StbgTGd2")
    assert chosen == {(a, b) for a in xmas for b in mozart}
    assert pieces(repeated_pieces="one", seed=3) == pieces(repeated_pieces="one", seed=3)
    assert len(load_recordings(toy_maps, categories=["ISOL", "RAND"], repeated_pieces="drop")) == 3


def test_standard_split_tests_on_the_disklaviers():
    table = [
        ("MAPS_MUS-a_ENSTDkCl", "ENSTDkCl", "MUS", "test"),
        ("MAPS_MUS-b_ENSTDkAm", "ENSTDkAm", "MUS", "test"),
        ("MAPS_MUS-a_AkPnBcht", "AkPnBcht", "MUS", "unused"),
        ("MAPS_MUS-b-format0_StbgTGd2", "StbgTGd2", "MUS", "unused"),
        ("MAPS_ISOL_CH0.3_M_AkPnBcht", "AkPnBcht", "ISOL", "unused"),
        ("MAPS_ISOL_CH0.3_M_ENSTDkAm", "ENSTDkAm", "ISOL", "unused"),
    ]
    pieces = [
        (f"MAPS_MUS-p{index}_{instrument}", instrument, "MUS")
        for index in range(20)
        for instrument in ("AkPnBcht", "SptkBGCl")
    ]
    splits = standard_split([row[:3] for row in table] + pieces, seed=5)
    assert splits[:6] == [row[3] for row in table]
    by_piece = list(zip(splits[6::2], splits[7::2], strict=True))
    assert all(first == second for first, second in by_piece)
    assert sorted(first for first, _ in by_piece) == ["train"] * 18 + ["validation"] * 2
    assert len({tuple(standard_split(pieces, seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: next(root.rglob("*op27*.wav")).unlink(), r"op27_2_AkPnBcht\.wav: no such file, although"),
        (lambda root: next(root.rglob("*op27*.mid")).unlink(), r"op27_2_AkPnBcht\.mid: no such file, although"),
        (lambda root: (root / "AkPnBcht" / "MUS" / "song.mid").touch(), "song: not a MAPS file name"),
        (lambda root: (root / "AkPnBcht").rename(root / "AkPnCGdD"), "expected a recording of AkPnCGdD"),
        (shutil.rmtree, "no such folder: expected MAPS"),
        (lambda root: [shutil.rmtree(folder) for folder in root.iterdir()], "no recording left"),
    ],
)
def test_broken_trees_are_refused_with_the_path(toy_maps, tmp_path, damage, message):
    root = shutil.copytree(toy_maps, tmp_path / "MAPS")
    damage(root)
    with pytest.raises(InputError, match=message):
        load_recordings(root)


@pytest.mark.parametrize(
    "filters", [{"instruments": ["Steinway"]}, {"categories": ["mus"]}, {"repeated_pieces": "two"}]
)
def test_unknown_filters_are_refused(toy_maps, filters):
    with pytest.raises(InputError, match=r"unknown .*expected one of"):
        load_recordings(toy_maps, **filters)
