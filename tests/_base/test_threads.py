"""Small linear algebra runs on one thread, and the others are given back."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from saekit._base.threads import one_blas_thread
from saekit.probes import fit


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_inside_there_is_one_thread_and_outside_as_many_as_before():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def test_a_probe_is_fitted_on_one_thread(monkeypatch):
    seen = []
    learn = LogisticRegression.fit

    def watched(self, inputs, labels):
        seen.extend(blas_threads())
        return learn(self, inputs, labels)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    inputs, labels = np.eye(20), np.arange(20) % 2
    with threadpool_limits(2, user_api="blas"):
        next(fit("logistic", inputs, labels, 2, (1.0,)))
    assert set(seen) == {1}
