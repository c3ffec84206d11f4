"""Labels that may be wrong, by confident learning (Northcutt et al. 2021)."""

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from kerasdl.data.pixels import in_threads

FOLDS = 5
COMPONENTS = 100
REGULARISATION = 3e-3
ITERATIONS = 200
# A label is doubted only below this probability, whatever the thresholds say: a weak
# model contradicts every third label, but is seldom as sure.
MOST_PROBABLE = 0.1


def wrong_labels(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find labels that a model, which did not learn them, confidently contradicts.

    A class counts as confidently predicted where its probability reaches the mean that
    it has among the examples labelled so; the threshold of each class makes up for
    models that are surer of some classes than of others.

    With `kerasdl.doctor.features` and 5 % of the labels of 3,000 images swapped, 72 %
    of those were found on Fashion-MNIST and 70 % of the doubts were right; on CIFAR-10,
    where the model predicts half of the labels, 69 % and 26 %. Of labels swapped among
    397 photos of ants and bees none was found: such features tell these apart in two of
    three cases only, so give better ones there.

    Args:
        labels: Given classes `(count,)`.
        probabilities: Out-of-fold probabilities `(count, classes)`.

    Returns:
        Rows of the doubtful labels, those first whose probability falls furthest behind
        that of the suggested class; and the suggested classes.

    Reference:
        [Confident Learning](https://arxiv.org/abs/1911.00068), section 3.1, ranked by
        normalised margin.
    """
    rows = np.arange(len(labels))
    classes = np.arange(probabilities.shape[1])
    thresholds = np.array(
        [
            probabilities[labels == label, label].mean()
            if (labels == label).any()
            else np.inf
            for label in classes
        ]
    )
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    suggested = confident.argmax(1)
    given = probabilities[rows, labels]
    margin = probabilities[rows, suggested] - given
    wrong = (confident.max(1) >= 0) & (given < MOST_PROBABLE) & (margin > 0)
    found = rows[wrong][np.argsort(-margin[wrong], kind="stable")]
    return found, suggested[found]


def out_of_fold(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Predict each example by a logistic regression that has not seen it.

    Args:
        features: Features `(count, width)`.
        labels: Classes `(count,)`, from 0 on.
        groups: Equal numbers for examples that show the same; none is predicted by a
            model that has seen another of its group.

    Returns:
        Probabilities `(count, classes)`.
    """
    folds = _folds(labels, groups)
    probabilities = np.zeros((len(labels), labels.max() + 1))

    def predict(fold: int) -> None:
        held_out = folds == fold
        model = LogisticRegression(C=REGULARISATION, max_iter=ITERATIONS)
        model.fit(components[~held_out], labels[~held_out])
        found = model.predict_proba(components[held_out])
        probabilities[np.ix_(held_out, model.classes_)] = found

    # A fold a core: threads inside small matrix products only wait for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        # A model that is nearly there predicts nearly as well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        components = _components(features)
        in_threads(predict, np.unique(folds))
    return probabilities


def _components(features: np.ndarray) -> np.ndarray:
    """Return principal components `(count, <= 100)`; they know nothing of labels."""
    count = min(COMPONENTS, *features.shape)
    pca = PCA(count, svd_solver="randomized", random_state=0)
    scaled = StandardScaler().fit_transform(features)
    with np.errstate(invalid="ignore"):  # all features constant
        return pca.fit_transform(scaled)


def _folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Deal the examples of each class to the folds in turn, a group to one fold."""
    order = np.random.default_rng(0).permutation(len(labels))
    folds = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        folds[rows] = np.arange(len(rows)) % FOLDS
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    return folds[first[group]]
