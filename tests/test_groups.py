from itertools import permutations

from fvc.groups import connected, shared


def test_a_chain_of_links_is_one_group_in_any_order() -> None:
    links = [("video_a", "f10"), ("video_b", "f10"), ("video_b", "f9"), ("video_c", "f1")]
    expected = {"video_a": "f9", "video_b": "f9", "f10": "f9", "f9": "f9"}
    expected |= {"video_c": "f1", "f1": "f1"}
    for ordered in permutations(links):
        assert connected(ordered) == expected
        assert connected((other, one) for one, other in ordered) == expected


def test_a_node_that_is_linked_to_itself_is_alone() -> None:
    assert connected([("a", "a"), ("b", "c")]) == {"a": "a", "b": "b", "c": "b"}
    assert connected([]) == {}


def test_nodes_that_share_a_value_are_linked() -> None:
    values = {"a": ["1"], "b": ["2"], "c": ["1", "2"], "d": ["3"], "e": []}
    assert connected(shared(values)) == {"a": "a", "b": "a", "c": "a", "d": "d"}
