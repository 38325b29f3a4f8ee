"""CUDA graphs: the UNet's kernels recorded once for each shape of its inputs, and replayed.

Launching a UNet's two thousand kernels one by one takes the processor longer than an H100 takes to
run them: 30 guided steps at 1024×1024 took 2.8 s so, and 1.5 s replayed, with the same pixels. A
graph holds the addresses of the weights, so that it is dropped when they are moved. Knows no jobs.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

from banatie.devices.runtime import is_out_of_memory

logger = logging.getLogger(__name__)

MAX_GRAPHS = 8
"""Of different shapes; all share their memory, as only one runs at a time."""
ROOM = 3 * 2**30
"""Bytes that must be free to record two pictures of 1024×1024; a trial's graphs took 1.6 GB."""
PLANNED_LATENTS = 2 * 128 * 128

Inputs = Mapping[str, torch.Tensor | None]


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, torch.Tensor]
    output: torch.Tensor


class UNetGraphs:
    """Calls a UNet, replaying a graph where there is one; for one thread at a time."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._unet = unet
        self._recorded: dict[tuple[object, ...], _Recorded] = {}
        self._pool: tuple[int, int] | None = None
        self._failed = False
        self.enabled = False
        """Whether to record: only on a CUDA device, on which all of the UNet stays."""

    def predict(self, inputs: Inputs) -> torch.Tensor:
        """The UNet's prediction; `inputs` are `sample`, `timestep` and what else it takes.

        `text_embeds` and `time_ids` are its added conditions, and `image_tokens` are for an
        IP-Adapter in it.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        if not self.enabled or self._failed:
            return self._call(given)
        # A schedule's timesteps may be on the processor, whose memory a graph cannot read.
        given["timestep"] = given["timestep"].to(given["sample"].device)
        key = tuple((name, value.shape, value.dtype) for name, value in given.items())
        if key not in self._recorded:
            if not _has_room(given["sample"]):
                return self._call(given)
            return self._record(key, given)
        recorded = self._recorded[key]
        for name, value in recorded.inputs.items():
            value.copy_(given[name])
        recorded.graph.replay()
        # The next replay overwrites the output.
        return recorded.output.clone()

    def clear(self) -> None:
        """Drop all graphs, with their memory: the weights are elsewhere from now on."""
        self._recorded.clear()
        self._pool = None

    def _record(self, key: tuple[object, ...], given: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict, and record how; if that fails, never try again."""
        if len(self._recorded) >= MAX_GRAPHS:
            self.clear()
        # The first run on another stream fills the libraries' caches, which cannot be recorded.
        inputs = {name: value.clone() for name, value in given.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first = self._call(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # The language model may compute in another thread meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self._call(inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._failed = True
            self.clear()
            reason = textwrap.shorten(str(error), 300)
            logger.warning("the UNet cannot be recorded as a CUDA graph: %s", reason)
        else:
            self._recorded[key] = _Recorded(graph, inputs, output)
        return first

    def _call(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        added = {name: given[name] for name in ("text_embeds", "time_ids")}
        attended: object = given["encoder_hidden_states"]
        if "image_tokens" in given:
            # As the attention processors of an IP-Adapter expect it.
            attended = (attended, [given["image_tokens"]])
        return self._unet(
            given["sample"],
            given["timestep"],
            encoder_hidden_states=attended,
            timestep_cond=given.get("timestep_cond"),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


def _has_room(sample: torch.Tensor) -> bool:
    free, _ = torch.cuda.mem_get_info(sample.device)
    latents = sample.shape[0] * sample.shape[-2] * sample.shape[-1]
    return free > ROOM * max(1.0, latents / PLANNED_LATENTS)
