"""Chains of fallbacks: where they end, how long they are, and that a circle is never missed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.site.fallbacks import chains

NAMES = [f"o{i}" for i in range(8)]
graphs = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(NAMES), max_size=3) for name in NAMES}
)


def walks(below: dict[str, list[str]], start: str) -> list[list[str]]:
    """Every way down, ended by nothing more or by the first output that comes again."""
    found, waiting = [], [[start]]
    while waiting:
        walk = waiting.pop()
        following = below[walk[-1]] if walk[-1] not in walk[:-1] else []
        waiting += [[*walk, name] for name in following]
        if not following:
            found.append(walk)
    return found


def test_the_longest_chain() -> None:
    ends, circles = chains({"a": ["b", "c"], "b": ["c"], "c": [], "d": ["a"]})
    assert ends == {"c": ["c"], "b": ["b", "c"], "a": ["a", "b", "c"], "d": ["d", "a", "b", "c"]}
    assert circles == []


def test_a_circle_is_told_once_and_what_leads_into_it_not_at_all() -> None:
    ends, circles = chains({"x": ["a"], "a": ["b"], "b": ["a", "c"], "c": []})
    assert (ends, circles) == ({"c": ["c"]}, [["a", "b", "a"]])


@given(graphs)
def test_against_every_way_down(below: dict[str, list[str]]) -> None:
    below = {name: [each for each in names if each != name] for name, names in below.items()}
    ends, circles = chains(below)
    ways = {name: walks(below, name) for name in NAMES}
    endless = {name for name in NAMES if any(way[-1] in way[:-1] for way in ways[name])}
    assert set(ends) == set(NAMES) - endless
    for name, chain in ends.items():
        assert chain in ways[name]
        assert len(chain) == max(map(len, ways[name]))
    assert bool(circles) == bool(endless)
    for circle in circles:
        assert circle[0] == circle[-1]
        assert len(set(circle)) == len(circle) - 1
        assert all(after in below[before] for before, after in pairwise(circle))
