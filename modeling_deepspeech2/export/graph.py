"""Builds ONNX graphs from expressions: `graph.Relu(graph.Add(x, 1.0))`.

Each call of an operator adds one node and returns the name of its output. Numbers and arrays among the inputs become
initialisers, and equal ones are stored once. Large matrices may be stored in fewer bits than they are computed with.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper


OPSET, IR_VERSION = 17, 8

WeightType = Literal["float32", "int16", "int8"]
Operand = str | float | int | Sequence[int] | np.ndarray | None


class Graph:
    """A graph under construction.

    >>> graph = Graph()
    >>> largest, index = graph.TopK(graph.Abs("x"), [1], outputs=2)
    >>> model = graph.model([value_info("x", np.float32, ["n"])], [value_info(largest, np.float32, [1])])

    Args:
        weights: how [`weight`] stores matrices. Every type is computed in float32; runtimes turn the others into that once,
            when they load the model.
        parent: the graph that this one is a branch of.
    """

    def __init__(self, weights: WeightType = "float32", parent: "Graph | None" = None):
        self.root: Graph = parent.root if parent else self
        self.weights: WeightType = self.root.weights if parent else weights
        self.nodes: list[Any] = []
        self._initializers: dict[tuple, TensorProto] = {}
        self._weights: dict[tuple, str] = {}
        self._counter: itertools.count = parent._counter if parent else itertools.count()

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return functools.partial(self._add, op_type)

    def _add(self, op_type: str, *inputs: Operand, outputs: int | None = None, **attributes: Any) -> str | list[str]:
        names = [self._new_name(op_type) for _ in range(outputs or 1)]
        self.nodes.append(helper.make_node(op_type, [self._operand(value) for value in inputs], names, **attributes))
        return names[0] if outputs is None else names

    def _new_name(self, stem: str) -> str:
        return f"{stem}_{next(self._counter)}"

    def _operand(self, value: Operand) -> str:
        if value is None:  # an optional input that is left out
            return ""
        return value if isinstance(value, str) else self.constant(value)

    def constant(self, value: float | int | Sequence[int] | np.ndarray) -> str:
        """An initialiser; floating point numbers of double precision become float32, other types stay as they are."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(array, self._new_name("constant"))
        return self._initializers[key].name

    def give(self, name: str, value: str) -> str:
        """Calls a value by a name of its own, for an output of the model."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        return name

    def weight(self, array: np.ndarray, row_axes: tuple[int, ...] = (0,)) -> str:
        """A matrix in the type that the graph stores; integers have one scale for each row.

        Branches keep none of their own: onnxruntime holds a branch's initialisers twice.

        Args:
            row_axes: the axes that count the rows.
        """
        if self is not self.root:
            return self.root.weight(array, row_axes)
        array = np.asarray(array, np.float32)
        if self.weights == "float32":
            return self.constant(array)
        key = array.shape, row_axes, array.tobytes()
        if key not in self._weights:
            self._weights[key] = self._compressed(array, row_axes)
        return self._weights[key]

    def _compressed(self, array: np.ndarray, row_axes: tuple[int, ...]) -> str:
        dtype = np.dtype(self.weights)
        axes = tuple(axis for axis in range(array.ndim) if axis not in row_axes)
        scale = np.abs(array).max(axis=axes, keepdims=True) / np.iinfo(dtype).max
        scale[scale == 0] = 1
        quantized = np.rint(array / scale).astype(dtype)
        # Not DequantizeLinear: runtimes fold a cast and a product of constants when they load, but not that.
        if dtype == np.int8:
            return self.Mul(self.Cast(quantized, to=TensorProto.FLOAT), scale)
        # In two halves, because onnxruntime in a browser casts only bytes.
        high, low = (
            self.Cast(half, to=TensorProto.FLOAT) for half in ((quantized >> 8).astype(np.int8), quantized.astype(np.uint8))
        )
        return self.Mul(self.Add(self.Mul(high, 256.0), low), scale)

    def when(
        self, condition: str, then: Callable[["Graph"], list[str]], otherwise: Callable[["Graph"], list[str]]
    ) -> list[str]:
        """The float32 outputs of one of two branches, each of which sees the names of this graph."""
        branches = [self._branch(build) for build in (then, otherwise)]
        count = len(branches[0].output)
        return self.If(condition, outputs=count, then_branch=branches[0], else_branch=branches[1])

    def _branch(self, build: Callable[["Graph"], list[str]]) -> GraphProto:
        branch = Graph(parent=self)
        # A branch may only give what one of its own nodes made.
        outputs = [branch.Identity(name) for name in build(branch)]
        return branch._proto(
            "branch", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        )

    def _proto(self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, list(self._initializers.values()))

    def model(
        self,
        inputs: list[ValueInfoProto],
        outputs: list[ValueInfoProto],
        defaults: dict[str, np.ndarray] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> ModelProto:
        """The finished model, checked.

        Args:
            defaults: values of inputs that may be left out.
            metadata: facts for programs that run the model.
        """
        proto = self._proto("deepspeech2", inputs, outputs)
        proto.initializer.extend(numpy_helper.from_array(value, name) for name, value in (defaults or {}).items())
        model = helper.make_model(
            proto,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="modeling_deepspeech2",
        )
        helper.set_model_props(model, metadata or {})
        checker.check_model(model)
        return model


def value_info(name: str, dtype: type, shape: Sequence[str | int] | None) -> ValueInfoProto:
    """An input or output; a dimension that has a name may have any size, and without a shape any shape will do."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
