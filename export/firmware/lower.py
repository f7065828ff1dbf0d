"""Which function makes an operator's call."""

from __future__ import annotations

from collections.abc import Callable

from .call import Call
from .graph import Node
from .operators.add import add
from .operators.average_pool_2d import average_pool_2d
from .operators.concatenation import concatenation
from .operators.conv_2d import conv_2d
from .operators.depthwise_conv_2d import depthwise_conv_2d
from .operators.dequantize import dequantize
from .operators.fully_connected import fully_connected
from .operators.lookup import logistic_lookup, relu_lookup, tanh_lookup
from .operators.max_pool_2d import max_pool_2d
from .operators.mean import mean
from .operators.mul import mul
from .operators.pad import pad
from .operators.quantize import quantize
from .operators.reshape import reshape
from .operators.softmax import softmax
from .operators.sub import sub
from .operators.transpose_conv import transpose_conv

# bytes of scratch an operator may use at most → its call
Lowering = Callable[[Node, int], Call]

LOWERINGS: dict[str, Lowering] = {
    "ADD": add,
    "AVERAGE_POOL_2D": average_pool_2d,
    "CONCATENATION": concatenation,
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "DEQUANTIZE": dequantize,
    "EXPAND_DIMS": reshape,
    "FULLY_CONNECTED": fully_connected,
    "LOGISTIC": logistic_lookup,
    "MAX_POOL_2D": max_pool_2d,
    "MEAN": mean,
    "MUL": mul,
    "PAD": pad,
    "PADV2": pad,
    "QUANTIZE": quantize,
    "RELU": relu_lookup,
    "RELU6": relu_lookup,
    "RESHAPE": reshape,
    "SOFTMAX": softmax,
    "SQUEEZE": reshape,
    "SUB": sub,
    "TANH": tanh_lookup,
    "TRANSPOSE_CONV": transpose_conv,
}
