"""Every error edgepalette raises on purpose.

    EdgepaletteError                one clear message: what was expected, what came, what to do
    ├── RecipeError                 an option or a recipe key is wrong
    ├── DataError                   arrays that cannot be trained or measured on
    ├── ModelError                  a Keras model that cannot be loaded, trained or clustered
    ├── FormatError                 a file is damaged, hostile or of another format
    ├── ExportError                 a model that cannot be written in the format asked for
    ├── TargetError                 a runtime is missing, refused the file or crashed
    └── RunError                    a run directory that cannot be used

The command prints the message and exits with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class EdgepaletteError(Exception):
    """Base of all errors a user can cause and mend."""


class RecipeError(EdgepaletteError):
    """An option or a recipe key has a value that cannot be used."""


class DataError(EdgepaletteError):
    """Training, test or calibration arrays are missing, unreadable or of the wrong form."""


class ModelError(EdgepaletteError):
    """A Keras model cannot be loaded, trained or clustered."""


class FormatError(EdgepaletteError):
    """A file's bytes are not what its format requires."""


class ExportError(EdgepaletteError):
    """A model cannot be written in the format asked for."""


class TargetError(EdgepaletteError):
    """A target's runtime is missing, refused the file, or crashed."""


class RunError(EdgepaletteError):
    """A run directory cannot be read, written or resumed."""
