import numpy as np
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.metrics.diversity import diversity


def test_against_loops_over_pairs_and_examples():
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 9))
    differ, kl, cosine = [], [], []
    for a in range(3):
        for b in range(3):
            for i in range(9):
                if a == b:
                    continue
                one, two = p[a, i], p[b, i]
                differ.append(np.argmax(one) != np.argmax(two))
                kl.append(sum(x * np.log(x / y) for x, y in zip(one, two, strict=True)))
                cosine.append(one @ two / np.sqrt(one @ one) / np.sqrt(two @ two))
    expected = {
        "disagreement": np.mean(differ),
        "kl": np.mean(kl),
        "cosine_similarity": np.mean(cosine),
    }
    assert diversity(p) == pytest.approx(expected, rel=1e-12)


def test_equal_members_do_not_differ_and_opposite_ones_do_most():
    sure = np.eye(2)[None]
    same = diversity(np.concatenate([sure, sure]))
    assert same == {"disagreement": 0.0, "kl": 0.0, "cosine_similarity": 1.0}
    opposite = diversity(np.concatenate([sure, 1 - sure]))
    assert opposite["disagreement"] == 1.0
    assert opposite["cosine_similarity"] == 0.0
    assert np.isfinite(opposite["kl"])


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 2), (2, 0, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="member_probs: got shape "):
        diversity(np.full(shape, 0.5))
