"""Word vectors learnt from the training texts alone, to start an embedding from."""

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from kerasdl.data.batches import Ragged
from kerasdl.data.tokenizing import UNKNOWN_ID

# Counts of context words are raised to this power before the division, which keeps
# rare contexts from dominating (Levy, Goldberg & Dagan 2015, section 3.2).
CONTEXT_SMOOTHING = 0.75


def word_vectors(
    tokens: Ragged, vocabulary_size: int, width: int, *, window: int = 5, seed: int = 0
) -> np.ndarray:
    """Factorise how often words stand near each other.

    The matrix of positive pointwise mutual information between words and their
    neighbours is reduced by a randomised singular value decomposition.

    Args:
        tokens: Token ids of each text.
        vocabulary_size: Number of token ids.
        width: Size of each vector.
        window: Distance in words up to which two words are neighbours.
        seed: Seed of the decomposition.

    Returns:
        Vectors `(vocabulary_size, width)` of unit length, float32; zeros for padding,
        the unknown token and words without neighbours.

    Reference:
        [Improving Distributional
        Similarity](https://aclanthology.org/Q15-1016), section 2.
    """
    counts = _neighbours(tokens, vocabulary_size, window)
    words = np.asarray(counts.sum(axis=1)).ravel()
    contexts = words**CONTEXT_SMOOTHING
    expected = words[counts.row] * (contexts / max(contexts.sum(), 1))[counts.col]
    information = np.log(counts.data / expected)
    positive = information > 0
    matrix = sparse.csr_matrix(
        (
            information[positive].astype(np.float32),
            (counts.row[positive], counts.col[positive]),
        ),
        shape=counts.shape,
    )
    rank = min(width, vocabulary_size - 1)
    left, strength, _ = randomized_svd(matrix, rank, n_iter=2, random_state=seed)
    vectors = np.zeros((vocabulary_size, width), np.float32)
    vectors[:, :rank] = left * np.sqrt(strength)
    # Where the matrix has a lower rank, the decomposition fills even empty rows.
    known = words[:, None] > 0
    vectors *= known
    # What all words share says nothing (Mu & Viswanath 2018, section 2).
    vectors -= known * vectors.sum(axis=0) / max(known.sum(), 1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 1e-6)


def _neighbours(tokens: Ragged, size: int, window: int) -> sparse.coo_matrix:
    """Count pairs of known words at most `window` apart within a text."""
    ids = tokens.values.astype(np.int64)
    rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
    known = ids > UNKNOWN_ID
    counts = sparse.csr_matrix((size, size), dtype=np.float32)
    for gap in range(1, min(window, len(ids) - 1) + 1):
        near = (rows[:-gap] == rows[gap:]) & known[:-gap] & known[gap:]
        pairs = ids[:-gap][near], ids[gap:][near]
        ones = np.ones(len(pairs[0]), np.float32)
        counts = counts + sparse.coo_matrix((ones, pairs), shape=(size, size)).tocsr()
    return (counts + counts.T).tocoo()
