"""The Keras backend clustering needs."""

from __future__ import annotations

from ..errors import ModelError


def require_tensorflow_backend() -> None:
    """Raises ModelError unless Keras runs on TensorFlow."""
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ModelError(
            f"edgepalette needs Keras on the tensorflow backend, got {backend!r}; "
            "set the environment variable KERAS_BACKEND=tensorflow and start again"
        )
