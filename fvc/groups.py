"""Groups: what is linked, directly or through others, stays together in every split."""

from collections.abc import Iterable, Mapping


def connected(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map every node of a graph to the representative of its connected component.

    The representative is the component's smallest node, shorter before
    longer, so it depends neither on the order of the links nor on their
    direction. A link from a node to itself only makes the node known.
    """
    above: dict[str, str] = {}

    def root_of(node: str) -> str:
        above.setdefault(node, node)
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for one, other in links:
        first, second = sorted((root_of(one), root_of(other)), key=_rank)
        above[second] = first
    return {node: root_of(node) for node in above}


def _rank(node: str) -> tuple[int, str]:
    return len(node), node


def commonest(counts: Mapping[str, int]) -> str:
    """The name with the highest count; of equal ones, the first."""
    return min(counts, key=lambda name: (-counts[name], name))


def shared(values: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Link the nodes that share a value: each to the first node that has it."""
    first: dict[str, str] = {}
    return [
        (node, first.setdefault(value, node)) for node, held in values.items() for value in held
    ]
