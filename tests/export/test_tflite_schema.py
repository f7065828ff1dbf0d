"""The TFLite schema: whole files read, written and read again, and seen by the runtimes' own reader."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from edgepalette.errors import FormatError
from edgepalette.evaluate.process import ask
from edgepalette.evaluate.signature import signature
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.convert import batch_one, quiet
from edgepalette.export.flatbuffer import OpaqueTable, Table
from edgepalette.export.lean import lean
from edgepalette.export.loader import expand
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    SubGraph,
    Tensor,
    TensorType,
    constant,
    read_model,
    write_model,
)

Exported = Callable[[str, int], TfliteFiles]


def assert_same(ours: Any, theirs: Any, place: str = "model") -> None:
    """Equal field by field, tables included."""
    assert type(ours) is type(theirs), place
    if isinstance(ours, Table):
        for name, _, _ in ours.slots():
            assert_same(getattr(ours, name), getattr(theirs, name), f"{place}.{name}")
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs), place
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{place}[{number}]")
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype, place
        np.testing.assert_array_equal(ours, theirs, place)
    else:
        assert ours == theirs, place


def seen_by_litert(data: bytes) -> Any:
    """The whole file as plain values, by LiteRT's generated reader: an opinion that is not ours."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        if hasattr(value, "__dict__"):
            return {name: plain(field) for name, field in vars(value).items()}
        return value

    return plain(schema.ModelT.InitFromPackedBuf(data, 0))


def assert_kept(data: bytes) -> None:
    model = read_model(data)
    written = write_model(model)
    assert_same(read_model(written), model)
    before, after = seen_by_litert(data), seen_by_litert(written)
    for field in before:
        assert after[field] == before[field], field
    assert write_model(read_model(written)) == written


@pytest.mark.parametrize("name", ["small", "recurrent", "kernels"])
@pytest.mark.parametrize("kind", ["stock", "dense", "palette"])
def test_an_int8_file_is_kept_field_by_field(exported: Exported, name: str, kind: str) -> None:
    assert_kept(getattr(exported(name, 16), kind))


@pytest.mark.parametrize("name", ["mlperf_tiny_ic_int8", "mlperf_tiny_kws_int8"])
def test_a_published_file_is_kept_field_by_field(shared: Path, name: str) -> None:
    assert_kept((shared / "models" / f"{name}.tflite").read_bytes())


def converted(converter: Any, **settings: Any) -> bytes:
    """The converter's file; `ops` and `types` are settings of its target."""
    converter.target_spec.supported_ops = settings.pop("ops", converter.target_spec.supported_ops)
    converter.target_spec.supported_types = settings.pop("types", [])
    for name, value in settings.items():
        setattr(converter, name, value)
    with quiet():
        return bytes(converter.convert())


def of_layers(inputs: Any, outputs: Any, **settings: Any) -> bytes:
    import tensorflow as tf

    model = batch_one(keras.Model(inputs, outputs))
    return converted(tf.lite.TFLiteConverter.from_keras_model(model), **settings)


def of_function(function: Callable[..., Any], shape: tuple[int, ...], **settings: Any) -> bytes:
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec(shape)])
    concrete = traced.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    return converted(converter, **settings)


def of_module(variable: Any, signatures: dict[str, Any], **settings: Any) -> bytes:
    """signatures: by name (function of the variable and an input, the input's shape)."""
    import tensorflow as tf

    module = tf.Module()
    module.variable = tf.Variable(variable)
    entries = {
        name: tf.function(
            lambda x, function=function: function(module.variable, x),
            input_signature=[tf.TensorSpec(shape)],
        )
        for name, (function, shape) in signatures.items()
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        tf.saved_model.save(module, folder, signatures=entries)
        return converted(tf.lite.TFLiteConverter.from_saved_model(folder), **settings)


def lstm() -> bytes:
    entry = keras.Input((5, 4))
    return of_layers(entry, layers.Dense(3)(layers.LSTM(6)(entry)))


def gru() -> bytes:
    entry = keras.Input((5, 4))
    return of_layers(entry, layers.GRU(6, return_sequences=True)(entry))


def attention() -> bytes:
    entry = keras.Input((6, 8))
    return of_layers(entry, layers.MultiHeadAttention(2, 4)(entry, entry))


def ports() -> bytes:
    row, image = keras.Input((7,)), keras.Input((5, 5, 2))
    joined = layers.Concatenate()([row, layers.Flatten()(layers.Conv2D(3, 3)(image))])
    return of_layers([row, image], [layers.Dense(4)(joined), layers.Softmax()(joined)])


def embedding() -> bytes:
    entry = keras.Input((9,), dtype="int32")
    return of_layers(entry, layers.Dense(3)(layers.Embedding(50, 8)(entry)))


def convolutions(**settings: Any) -> bytes:
    """Plain, depthwise and transposed, and a dense layer large enough to be quantized by itself."""
    entry = keras.Input((9, 9, 3))
    inner = layers.DepthwiseConv2D(3)(layers.Conv2D(24, 3, activation="relu")(entry))
    inner = layers.Flatten()(layers.Conv2DTranspose(5, 3, strides=2)(inner))
    return of_layers(entry, layers.Dense(20)(inner), **settings)


def optimized(**settings: Any) -> bytes:
    import tensorflow as tf

    return convolutions(optimizations=[tf.lite.Optimize.DEFAULT], **settings)


def dynamic_range() -> bytes:
    return optimized()


def float16() -> bytes:
    import tensorflow as tf

    return optimized(types=[tf.float16])


def int16_activations() -> bytes:
    import tensorflow as tf

    images = np.random.default_rng(0).normal(size=(3, 1, 9, 9, 3)).astype(np.float32)
    ops = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return optimized(ops=[ops], representative_dataset=lambda: ([image] for image in images))


def volume() -> bytes:
    entry = keras.Input((5, 5, 5, 2))
    return of_layers(entry, layers.Conv3D(4, 3)(entry))


def sparse() -> bytes:
    import tensorflow as tf

    entry, layer = keras.Input((64,)), layers.Dense(64, use_bias=False)
    outputs = layer(entry)
    kernel = np.zeros((64, 64), np.float32)
    kernel[:4, ::16] = np.random.default_rng(0).normal(size=(4, 4))
    layer.set_weights([kernel])
    return of_layers(entry, outputs, optimizations=[tf.lite.Optimize.EXPERIMENTAL_SPARSITY])


def several_signatures() -> bytes:
    entries = {"left": (lambda v, x: x @ v, (1, 3)), "right": (lambda v, x: x + v, (3, 3))}
    return of_module(np.eye(3, dtype=np.float32), entries)


def state() -> bytes:
    """A variable that lives from one call to the next, named in an operator's options."""
    entries = {"step": (lambda v, x: v.assign_add(x).read_value() * 2.0, (1, 3))}
    start = np.zeros((1, 3), np.float32)
    return of_module(start, entries, experimental_enable_resource_variables=True)


def branches() -> bytes:
    """Three subgraphs, one without operators."""
    import tensorflow as tf

    return of_function(lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x), (1, 4))


def random_numbers() -> bytes:
    """Seeds of 64 bits among the options."""
    import tensorflow as tf

    return of_function(lambda x: x + tf.random.uniform((1, 4), seed=2**40 + 7), (1, 4))


def buckets() -> bytes:
    import tensorflow as tf

    return of_function(lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[0.5, 1.5, 2.5]), (1, 4))


def custom() -> bytes:
    """An operator TFLite does not have, with options of its own."""
    import tensorflow as tf

    ratio = [1.0, 1.4, 1.7, 1.0]
    return of_function(
        lambda x: tf.raw_ops.FractionalMaxPool(value=x, pooling_ratio=ratio, seed=3)[0],
        (1, 8, 8, 1),
        allow_custom_ops=True,
    )


CONVERTED: dict[str, Callable[[], bytes]] = {
    maker.__name__: cache(maker)
    for maker in (
        lstm, gru, attention, ports, embedding, convolutions, dynamic_range, float16,
        int16_activations, volume, sparse, several_signatures, state, branches, random_numbers,
        buckets, custom,
    )
}  # fmt: skip
# what makes each of them another kind of file
KINDS: dict[str, Callable[[Model], bool]] = {
    "lstm": lambda model: len(model.subgraphs) == 3,
    "gru": lambda model: len(model.subgraphs) == 3,
    "ports": lambda model: len(model.subgraphs[0].inputs) == 2,  # type: ignore[arg-type] # it has inputs
    "float16": lambda model: any(t.type == TensorType.FLOAT16 for t in model.subgraphs[0].tensors),
    "dynamic_range": lambda model: any(
        t.type == TensorType.INT8 for t in model.subgraphs[0].tensors
    ),
    "int16_activations": lambda model: any(
        t.type == TensorType.INT16 for t in model.subgraphs[0].tensors
    ),
    "sparse": lambda model: any(t.sparsity for t in model.subgraphs[0].tensors),
    "several_signatures": lambda model: len(model.signature_defs) == 2,
    "branches": lambda model: any(not graph.operators for graph in model.subgraphs),
    "custom": lambda model: any(op.custom_options for op in model.subgraphs[0].operators),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONVERTED))
def test_a_file_of_the_converter_is_kept_field_by_field(name: str) -> None:
    data = CONVERTED[name]()
    assert KINDS.get(name, lambda _: True)(read_model(data)), "no file of the kind it stands for"
    assert_kept(data)


@pytest.mark.slow
def test_what_is_written_of_the_converters_files_runs_to_the_same_bits(tmp_path: Path) -> None:
    """Read and written, and lean; clustered, as palettes and dense. All in a process or two."""
    files: dict[int, list[list[str]]] = {}
    # LiteRT does not have its operator
    for name in CONVERTED.keys() - {"custom"}:
        model = read_model(CONVERTED[name]())
        few = lean(cluster_tflite(model, 4)[0])
        forms = [CONVERTED[name](), write_model(model), write_model(lean(model))]
        for number, data in enumerate([*forms, write_model(few), palettize(few).data]):
            path = tmp_path / f"{name}-{number}.tflite"
            path.write_bytes(data)
            taken = signature(path)
            given = tmp_path / f"{name}.npz"
            random = np.random.default_rng(0)
            inputs = [port.random(4, random) for port in taken.inputs]
            np.savez(given, **{f"x{place}": values for place, values in enumerate(inputs)})
            files.setdefault(len(taken.outputs), []).append([str(path), str(given)])
    for outputs, named in files.items():
        question = {"runtime": "tflite", "options": {"package": "ai-edge-litert"}, "files": named}
        answer = ask("pair_child", {**question, "outputs": outputs}, "LiteRT", named[0][0])
        for first in range(0, len(named), 5):
            for place in range(outputs):
                found = [answer[f"f{first + form}y{place}"] for form in range(5)]
                assert len(np.unique(found[0])) > 1, named[first][0]
                assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes(), named[first]
                assert found[3].tobytes() == found[4].tobytes(), named[first][0]


def test_old_files_name_their_operators_by_the_deprecated_code(shared: Path) -> None:
    model = read_model((shared / "models" / "mlperf_tiny_kws_int8.tflite").read_bytes())
    assert {code.builtin_code for code in model.operator_codes} == {0}
    assert {Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED} <= {
        code.code for code in model.operator_codes
    }


def test_options_with_vectors_are_kept() -> None:
    reshape, shape = 17, np.array([3, -1], "<i4")
    options = OpaqueTable(fields=(), vectors=((0, 4, shape.tobytes()),))
    model = file_of(Tensor(), None)
    operator = Operator(builtin_options_type=reshape, builtin_options=options)
    graph = replace(model.subgraphs[0], operators=(operator,))
    data = write_model(replace(model, operator_codes=(OperatorCode(),), subgraphs=(graph,)))
    assert_kept(data)
    (seen,) = seen_by_litert(data)["subgraphs"][0]["operators"]
    assert seen["builtinOptions"]["newShape"] == [3, -1]


def file_of(tensor: Tensor, data: bytes | None) -> Model:
    graph = replace(graph_of_one(), tensors=(tensor,))
    return Model(version=3, subgraphs=(graph,), buffers=(Buffer(), Buffer(data=data)))


def graph_of_one() -> SubGraph:
    return SubGraph(inputs=np.array([0], np.int32), outputs=np.array([0], np.int32))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorType.FLOAT32, np.array([[1.5, -2.0]], "<f4")),
        (TensorType.INT8, np.array([[-128, 127]], "i1")),
        (TensorType.INT32, np.array([[2**31 - 1, -5]], "<i4")),
        (TensorType.INT64, np.array([[2**40, -5]], "<i8")),
    ],
)
def test_constant_gives_a_tensors_values_in_its_shape(kind: TensorType, values: Any) -> None:
    tensor = Tensor(shape=np.array([1, 2], np.int32), type=kind, buffer=1)
    found = constant(file_of(tensor, values.tobytes()), tensor)
    assert found is not None
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_constant_of_a_scalar_and_of_nothing() -> None:
    scalar = Tensor(type=TensorType.FLOAT32, buffer=1)
    found = constant(file_of(scalar, np.float32(7).tobytes()), scalar)
    assert found is not None
    assert found.shape == ()
    assert constant(file_of(scalar, None), scalar) is None
    text = Tensor(type=TensorType.STRING, buffer=1)
    assert constant(file_of(text, b"abcd"), text) is None


@pytest.mark.parametrize("length", [4, 12, 7])
def test_constant_refuses_data_of_another_length_than_the_shapes(length: int) -> None:
    tensor = Tensor(
        shape=np.array([1, 2], np.int32), type=TensorType.FLOAT32, buffer=1, name=b"weights"
    )
    with pytest.raises(FormatError, match=r"tensor 'weights' of shape \(1, 2\) needs 2 values"):
        constant(file_of(tensor, bytes(length)), tensor)


def test_numbers_that_name_nothing_are_refused() -> None:
    tensor = Tensor(buffer=2)
    with pytest.raises(FormatError, match="names buffer 2 of 2"):
        read_model(write_model(file_of(tensor, None)))
    graph = replace(graph_of_one(), tensors=(Tensor(),), outputs=np.array([1], np.int32))
    model = Model(version=3, subgraphs=(graph,), buffers=(Buffer(),))
    with pytest.raises(FormatError, match=r"names a tensor outside \[0, 1\)"):
        read_model(write_model(model))


def test_an_operator_is_whichever_code_field_is_larger() -> None:
    assert OperatorCode(deprecated_builtin_code=Op.CONV_2D).code == Op.CONV_2D
    assert OperatorCode(deprecated_builtin_code=127, builtin_code=150).code == 150


def test_operators_of_equal_options_share_them() -> None:
    """The file holds the options once; reading them for every operator must not count as overlapping."""
    options = OpaqueTable(tuple((slot, struct.pack("<I", slot + 1)) for slot in range(6)), ())
    operators = tuple(
        Operator(
            inputs=np.array([number]),
            outputs=np.array([number + 1]),
            builtin_options_type=1,
            builtin_options=options,
        )
        for number in range(300)
    )
    graph = SubGraph(tensors=(Tensor(shape=np.array([1, 8])),) * 301, operators=operators)
    codes, buffers = (OperatorCode(),), (Buffer(),)
    data = write_model(Model(operator_codes=codes, subgraphs=(graph,), buffers=buffers))
    again = read_model(data)
    assert [op.builtin_options for op in again.subgraphs[0].operators] == [options] * 300
    assert write_model(again) == data
    assert expand(data) == data
