"""FeCAM against its formulas, a class and an image at a time."""

import numpy as np
import pytest
import torch

from cil.common.errors import UserError
from cil.methods.fecam import correlation
from tests.methods.test_contract import fitted, small  # noqa: F401


def slow(train: np.ndarray, shown: np.ndarray, tukey: float | None, diagonal: float, others: float, unit: bool) -> list[float]:
    """The distances of images, (images, width), to one class with the features `train`."""
    scaled = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # noqa: E731
    power = lambda rows: rows if tukey is None else rows**tukey  # noqa: E731
    if unit:
        train, shown = power(scaled(train)), power(scaled(shown))
        mean = train.mean(0)
    else:
        mean, train, shown = scaled(power(train.mean(0))), power(train), scaled(power(shown))
    covariance, width = np.cov(train.T), train.shape[1]
    off = covariance[~np.eye(width, dtype=bool)]
    for i in range(width):
        for j in range(width):
            covariance[i, j] += diagonal * np.var(train, axis=0, ddof=1).mean() if i == j else others * off.mean()
    deviations = np.sqrt(np.diag(covariance))
    inverse = np.linalg.inv(covariance / np.outer(deviations, deviations))
    return [float((x - mean) @ inverse @ (x - mean)) for x in shown]


@pytest.mark.parametrize(
    "settings", [(None, 1.0, 0.5, False), (None, 1.0, 0.0, True), (None, 10.0, 5.0, True), (0.5, 2.0, 0.5, False)]
)
def test_scores_are_distances(small, settings, tmp_path, scenario):  # noqa: F811
    tukey, diagonal, others, unit = settings
    words = (f"method.tukey={'null' if tukey is None else tukey}", f"method.diagonal={diagonal}", f"method.others={others}",
             f"method.unit={unit}".lower(), *([] if tukey is None else ["backbone=resnet_tiny"]))  # fmt: skip
    trainer = fitted(small("fecam", *words), tmp_path)
    method = trainer.method
    with torch.no_grad():
        found = method.predict(scenario[0].test.batch(torch.arange(4)).images)
        shown = method.frozen_stage(scenario[0].test.batch(torch.arange(4)).images).double().numpy()
        for task in scenario:
            batch = task.train_plain.batch(torch.arange(len(task.train_plain)))
            features = method.frozen_stage(batch.images).double().numpy()
            for label in task.classes:
                wanted = slow(features[batch.labels == label], shown, *settings)
                torch.testing.assert_close(-found[:, label], torch.tensor(wanted).float(), rtol=1e-3, atol=1e-4)
    assert trainer.trained_parameters == 0


def test_a_feature_that_does_not_vary_is_measured_as_it_is():
    close = torch.testing.assert_close
    close(correlation(torch.tensor([[4.0, 3.0], [3.0, 9.0]])), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    close(correlation(torch.tensor([[4.0, 0.0], [0.0, 0.0]])), torch.eye(2))


def test_powers_of_negative_features_are_refused(small, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=r"method.tukey=0.5 takes powers .* below 0; type method.tukey=null"):
        fitted(small("fecam", "method.tukey=0.5"), tmp_path)
