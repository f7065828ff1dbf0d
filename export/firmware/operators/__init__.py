"""How each TFLite operator becomes a call of a kernel: one file per operator, one function each."""
