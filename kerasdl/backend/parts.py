"""Which part of a batch a replica computes."""


def bounds(count, place, replicas):
    """Return first row and end of a replica's part of a batch.

    The parts of all replicas are the batch, each row once; their sizes differ by one at
    most. Numbers may be integers or tensors.

    Args:
        count: Rows of the batch.
        place: Number of the replica, from 0.
        replicas: Number of replicas.

    Example:
        >>> [bounds(5, place, 3) for place in range(3)]
        [(0, 1), (1, 3), (3, 5)]
    """
    return place * count // replicas, (place + 1) * count // replicas
