"""Keras 2 writes a model of its own as .h5: `python -m edgepalette.pipeline.keras2_child MODEL OUT.h5`."""

from __future__ import annotations

import sys
from typing import Any


def refuse(config: Any, custom_objects: Any = None) -> Any:
    """In place of Lambda.from_config: its code would run while it is loaded, and the file is anyone's.

    Refused, the layer goes on as a configuration that Keras 3 does not take either.
    """
    del config, custom_objects
    raise RuntimeError("a Lambda layer holds code, which is not run")


def main(source: str, target: str) -> int:
    """Load and save."""
    import tf_keras

    tf_keras.layers.Lambda.from_config = refuse
    tf_keras.models.load_model(source, compile=False).save(target, save_format="h5")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
