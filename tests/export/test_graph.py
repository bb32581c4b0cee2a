"""The builder of graphs: what it shares, what it stores in fewer bits, and its branches."""

import numpy as np
import pytest
from small_models import open_session

from modeling_deepspeech2.export.graph import Graph, value_info


def build(graph: Graph, value: str, shape: list):
    graph.give("y", value)
    return graph.model([value_info("x", np.float32, ["n", 3])], [value_info("y", np.float32, shape)])


def test_a_call_adds_a_node_and_equal_arrays_are_stored_once():
    graph = Graph()
    shift = np.array([1.0, 2.0, 3.0])
    model = build(graph, graph.Add(graph.Mul("x", shift), shift), ["n", 3])
    assert [node.op_type for node in model.graph.node] == ["Mul", "Add", "Identity"]
    assert len(model.graph.initializer) == 1
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(open_session(model).run(None, {"x": x})[0], [2 * shift, 2 * shift])


@pytest.mark.parametrize(
    ("weights", "tolerance", "bytes_each"), [("float32", 0, 4), ("int16", 1 / 65_534, 2), ("int8", 1 / 254, 1)]
)
def test_weights_are_stored_as_asked_and_computed_in_float32(weights, tolerance, bytes_each):
    """Integers have one scale for each row: a row of small numbers keeps its precision beside one of large numbers."""
    matrix = np.random.default_rng(0).normal(size=(3, 500)) * np.array([[1e-3], [1.0], [0.0]])
    graph = Graph(weights)
    model = build(graph, graph.MatMul("x", graph.weight(matrix)), ["n", 500])
    assert bytes_each * matrix.size <= model.ByteSize() < bytes_each * matrix.size + 500
    (stored,) = open_session(model).run(None, {"x": np.eye(3, dtype=np.float32)})
    assert (np.abs(stored - matrix).max(1) <= (tolerance + 1e-6) * np.abs(matrix).max(1)).all()


def test_a_branch_sees_the_names_around_it():
    graph = Graph()
    double = graph.Add("x", "x")
    rows = graph.Shape("x", start=0, end=1)
    (result,) = graph.when(
        graph.Greater(rows, [1]),
        lambda branch: [branch.Mul(double, 10.0)],
        lambda branch: [double],
    )
    session = open_session(build(graph, result, ["n", 3]))
    for count, factor in ((1, 2), (2, 20)):
        x = np.ones((count, 3), np.float32)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], factor * x)


@pytest.mark.parametrize("weights", ["float32", "int16", "int8"])
def test_weights_of_branches_are_held_by_the_whole_graph(weights):
    """onnxruntime keeps the initialisers of a branch twice in memory."""
    graph, matrix = Graph(weights), np.random.default_rng(0).standard_normal((3, 3))

    def product(branch: Graph) -> list[str]:
        return [branch.MatMul("x", branch.weight(matrix))]

    (result,) = graph.when(graph.Greater(graph.Shape("x", start=0, end=1), [1]), product, product)
    model = build(graph, result, ["n", 3])
    (branches,) = (node.attribute for node in model.graph.node if node.op_type == "If")
    assert all(not branch.g.initializer for branch in branches)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(open_session(model).run(None, {"x": x})[0], x @ matrix, atol=0.05)


def test_what_is_no_operator_is_no_attribute():
    with pytest.raises(AttributeError):
        Graph().nothing  # noqa: B018
