"""Maximum matching between estimates and references: Hopcroft and Karp, SIAM J. Comput. 2(4), 1973.

Visits neighbours in the same order as mir_eval, to find the same one of several maximum matchings.
"""

from collections.abc import Mapping, Sequence


def maximum_matching(candidates: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """A maximum matching as reference -> estimate.

    :param candidates: the references that each estimate may match
    """
    owner: dict[int, int] = {}  # reference -> estimate
    for estimate, references in candidates.items():
        free = next((reference for reference in references if reference not in owner), None)
        if free is not None:
            owner[free] = estimate
    while _augment(candidates, owner):
        pass
    return owner


def _augment(candidates: Mapping[int, Sequence[int]], owner: dict[int, int]) -> bool:
    """Augment the matching along shortest alternating paths; False if there are none."""
    matched = {estimate: reference for reference, estimate in owner.items()}
    layer = [estimate for estimate in candidates if estimate not in matched]
    open_estimates = set(layer)  # not yet on a path
    reached_from: dict[int, list[int]] = {}  # reference -> estimates of the previous layer
    ends: list[int] = []  # unmatched references
    while layer and not ends:
        found: dict[int, list[int]] = {}
        for estimate in layer:
            for reference in candidates[estimate]:
                if reference not in reached_from:
                    found.setdefault(reference, []).append(estimate)
        reached_from |= found
        ends = [reference for reference in found if reference not in owner]
        layer = [owner[reference] for reference in found if reference in owner]
        open_estimates.update(layer)
    for end in ends:
        for reference, estimate in _path(end, reached_from, open_estimates, matched):
            owner[reference] = estimate
    return bool(ends)


def _path(
    end: int, reached_from: dict[int, list[int]], open_estimates: set[int], matched: dict[int, int]
) -> list[tuple[int, int]]:
    """A path from ``end`` back to an unmatched estimate, as the pairs to match; empty if there is none.

    Later paths must not visit the same nodes. Not recursive, since paths can be as long as the number of notes.
    """
    steps = [(end, iter(reached_from.pop(end, ())))]
    chosen: list[int] = []  # the estimate of each step except the last
    while steps:
        estimate = next((estimate for estimate in steps[-1][1] if estimate in open_estimates), None)
        if estimate is None:
            steps.pop()
            if chosen:
                chosen.pop()
            continue
        open_estimates.remove(estimate)
        chosen.append(estimate)
        if estimate not in matched:
            return [(reference, estimate) for (reference, _), estimate in zip(steps, chosen, strict=True)]
        previous = matched[estimate]
        steps.append((previous, iter(reached_from.pop(previous, ()))))
    return []
