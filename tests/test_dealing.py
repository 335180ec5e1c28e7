import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from fvc.dealing import deal


def counts_of(seed: int, num_groups: int, num_classes: int) -> np.ndarray:
    """Groups of very different sizes, most of one class, many of them alike."""
    generator = np.random.default_rng(seed)
    sizes = np.minimum(generator.pareto(1.1, num_groups).astype(int) + 1, 60)
    lean = generator.dirichlet(np.full(num_classes, 0.1), num_groups)
    counts = np.array([generator.multinomial(*each) for each in zip(sizes, lean, strict=True)])
    return counts[:, counts.any(axis=0)].astype(float)


@pytest.mark.parametrize("num_parts", [2, 3, 5, 9, 20])
@pytest.mark.parametrize("num_classes", [1, 2, 6, 9, 17])
@pytest.mark.parametrize("num_groups", [20, 61, 300])
def test_groups_are_dealt_as_scikit_learn_deals_them(
    num_groups: int, num_classes: int, num_parts: int
) -> None:
    for seed in range(3):
        counts = counts_of(seed + 100 * num_classes, num_groups, num_classes)
        # Both refuse what has fewer of every class than parts.
        counts[0] += num_parts
        groups, classes = (axis.repeat(counts.astype(int).ravel()) for axis in places(counts))
        splitter = StratifiedGroupKFold(num_parts, shuffle=True, random_state=seed)
        theirs = np.full(num_groups, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for part, (_, rows) in enumerate(splitter.split(groups, classes, groups)):
                theirs[groups[rows]] = part
        ours = deal(counts, num_parts, seed)
        assert ours.tolist() == theirs.tolist(), "every published fold would be another"


def places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry, in order."""
    rows, columns = np.indices(counts.shape)
    return rows.ravel(), columns.ravel()


def test_too_little_to_deal_is_refused() -> None:
    with pytest.raises(ValueError, match="2 groups do not fill 3 parts"):
        deal(np.array([[4.0, 0], [0, 4]]), 3, 0)
    with pytest.raises(ValueError, match="2 videos of a label do not fill 3 parts"):
        deal(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), 3, 0)
