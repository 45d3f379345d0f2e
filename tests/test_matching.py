"""The maximum matching equals mir_eval's."""

from hypothesis import given
from hypothesis import strategies as st
from mir_eval.util import _bipartite_match

from ov_piano.evaluation.matching import maximum_matching

ESTIMATES = st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), min_size=1, unique=True))


@given(ESTIMATES)
def test_equals_mir_eval_for_any_candidates(candidates):
    assert maximum_matching(candidates) == _bipartite_match(candidates)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=50))
def test_equals_mir_eval_for_notes_that_repeat_quickly(windows):
    candidates = {est: list(range(begin, begin + size)) for est, (begin, size) in enumerate(windows)}
    assert maximum_matching(candidates) == _bipartite_match(candidates)


def test_no_candidates_give_no_matches():
    assert maximum_matching({}) == {}


def test_a_long_alternating_path_is_matched():
    """Each estimate takes its first reference; for the last to get one, all others must move on."""
    count = 5000
    candidates = {est: [est, est + 1] for est in range(count)} | {count: [0]}
    expected = {est + 1: est for est in range(count)} | {0: count}
    assert maximum_matching(candidates) == expected
