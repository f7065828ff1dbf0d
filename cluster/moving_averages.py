"""Evaluation with moving averages of the weights, which may share values."""

from __future__ import annotations

from typing import Any

import keras

from .optimizer import clustering_optimizer


class SwapEMAWeights(keras.callbacks.SwapEMAWeights):
    """Keras' callback of this name, for clustered models too: evaluated kernels share the averages' K values.

    Evaluation and prediction, with `swap_on_epoch` also the callbacks at an epoch's end, see the values that `fit`
    will end in if it ends here. Training goes on from the bits it had.
    Raises ModelError for a clustered model whose optimizer keeps no averages (`use_ema=True`).
    """

    def on_predict_end(self, logs: Any = None) -> None:
        """As after an evaluation; Keras' own (3.15) leaves the averages in the model."""
        self.on_test_end(logs)

    def _swap_variables(self) -> None:
        clustering = clustering_optimizer(self.model.optimizer)
        if clustering is None:
            super()._swap_variables()
        else:
            clustering.swap_averages(averaged=not self._ema_weights_in_model)

    def _finalize_ema_values(self) -> None:
        clustering = clustering_optimizer(self.model.optimizer)
        if clustering is None:
            super()._finalize_ema_values()
        else:
            clustering.keep_averages()
