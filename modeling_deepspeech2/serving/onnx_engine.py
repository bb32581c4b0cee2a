"""The live ONNX graph of a model in onnxruntime, as the dispatcher uses it; its logits are PyTorch's but for rounding."""

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from ..export.live import live_graph
from ..feature_extraction_deepspeech2 import DeepSpeech2FeatureExtractor
from ..modeling_deepspeech2 import DeepSpeech2ForCTC
from .engine import samples_to_phase


class OnnxEngine:
    """An [`Engine`](engine.py) on the CPU; the graph is built from the weights of the model when it is loaded.

    Args:
        model: a trained unidirectional model, or what `fold_batch_norm` made of it.
        feature_extractor: its own.

    Raises:
        UserError: the model cannot transcribe a stream.
    """

    def __init__(self, model: DeepSpeech2ForCTC, feature_extractor: DeepSpeech2FeatureExtractor):
        graph, self._start = live_graph(model, feature_extractor)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self._axes = {name: shapes[name].index("batch") for name in self._start}
        self._outputs = ["logits", *(f"next_{name}" for name in self._start)]
        self.sampling_rate = feature_extractor.sampling_rate
        self.unit = model.config.inputs_to_logits_ratio
        self.seconds_per_frame = self.unit / self.sampling_rate
        self.first_piece = samples_to_phase(self.step, self.unit)

    def step(self, samples: np.ndarray, states: list[Tensor] | None) -> tuple[np.ndarray, list[Tensor]]:
        return self._run(samples, states, last=False)

    def finish(self, samples: np.ndarray, states: list[Tensor] | None) -> np.ndarray:
        logits, _ = self._run(samples[None], states, last=True)
        return logits[0]

    def _run(self, samples: np.ndarray, states: list[Tensor] | None, last: bool) -> tuple[np.ndarray, list[Tensor]]:
        inputs = {"samples": samples, "last": np.array([last])}
        for place, (name, axis) in enumerate(self._axes.items()):
            if states is None:
                shape = [len(samples) if index == axis else size for index, size in enumerate(self._start[name])]
                inputs[name] = np.zeros(shape, np.float32)
            else:
                inputs[name] = np.moveaxis(states[place].numpy(), 0, axis)
        logits, *following = self._session.run(self._outputs, inputs)
        # Streams first, as the table of states has them.
        rows = [np.ascontiguousarray(np.moveaxis(value, axis, 0)) for value, axis in zip(following, self._axes.values())]
        return logits, [torch.from_numpy(value) for value in rows]
