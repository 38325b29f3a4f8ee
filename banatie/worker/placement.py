"""Model placement: carries the memory plan out while both models are at work.

The only owner of where the models are kept. The worker's two threads announce when they enhance and
when they paint; one waits for the other only where the plan swaps the models. After running out of
memory it steps down to the next plan of the ladder and stays there until the worker restarts. What
is enhanced or painted is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from banatie.devices.memory_plan import (
    PlacementPreferences,
    Plan,
    choose_plan,
    ladder,
    place_language_model,
    sizes_of,
)
from banatie.devices.runtime import Runtime, fastest_cpu_dtype, memory_for_models
from banatie.enhancement.enhancer import Enhancer
from banatie.errors import BanatieError, OutOfMemory
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import IpAdapter, LanguageModel, PaintingModel
from banatie.models.validate import check_language_model
from banatie.painting.painter import Painter

logger = logging.getLogger(__name__)

RAN_OUT_OF_MEMORY = "the previous plan ran out of memory"
"""The reason for a plan that was stepped down to."""


class ModelPlacement:
    """Both loaded models and the plan that they follow."""

    def __init__(
        self,
        plan: Plan,
        smaller: Sequence[Plan],
        runtime: Runtime,
        painter: Painter,
        enhancer: Enhancer | None,
        spare: int = 0,
    ) -> None:
        """`smaller` are the plans to step down to, `spare` the device's bytes that `plan` leaves.

        Without an enhancer no prompt is enhanced.
        """
        self.painter = painter
        self.enhancer = enhancer
        self._plan = plan
        self._smaller = deque(smaller)
        self._runtime = runtime
        self._spare = spare
        self._swap_lock = _FairLock()

    @classmethod
    def load(
        cls,
        model: PaintingModel,
        language_model: LanguageModel | None,
        runtime: Runtime,
        preferences: PlacementPreferences,
        *,
        sharing: int = 1,
        compiled: bool = False,
        ip_adapter: IpAdapter | None = None,
    ) -> ModelPlacement:
        """Choose a plan and load both models.

        A broken language model or IP-Adapter is logged and left out.

        `sharing` is how many processes share the device. Raises ModelNotFound, ModelBroken and
        OutOfMemory for the painting model.
        """
        free = memory_for_models(runtime.device) // sharing
        runtime, plans, plan = plan_placement(
            model, language_model, runtime, preferences, free, ip_adapter
        )
        logger.info("memory: %s", plan.explanation)
        smaller = deque(each for each in plans if each.needed < plan.needed)
        enhancer = _load_enhancer(language_model, plan, runtime) if language_model else None
        while True:
            try:
                painter = Painter.load(model, runtime, plan, compiled, ip_adapter)
            except OutOfMemory:
                if not smaller:
                    raise
                plan = replace(smaller.popleft(), reason=RAN_OUT_OF_MEMORY)
                logger.warning("out of memory while loading; trying: %s", plan)
                if enhancer is not None:
                    _offload(enhancer, plan)
            else:
                return cls(plan, smaller, runtime, painter, enhancer, free - plan.needed)

    def load_language_model(self, language_model: LanguageModel) -> None:
        """Load a language model beside the painting model; a broken one is logged and left out."""
        try:
            parameters = parameter_count(check_language_model(language_model.folder))
        except BanatieError as error:
            logger.error("no prompt will be enhanced: %s", error)
            return
        size = parameters * self._runtime.language_dtype.itemsize
        place = place_language_model(parameters, size, self._spare, self._runtime.device)
        plan = replace(self._plan, language=place)
        self.enhancer = _load_enhancer(language_model, plan, self._runtime)
        self._plan = plan
        logger.info("memory: %s", plan)

    @property
    def plan(self) -> Plan:
        """The plan that is followed now."""
        return self._plan

    @contextmanager
    def enhancing(self) -> Iterator[None]:
        """While the language model works."""
        with self._swap_lock:
            if self._plan.language == "swap" and self.enhancer is not None:
                self.painter.move_to("cpu")
                self.enhancer.move_to(self._runtime.device)
            yield

    @contextmanager
    def painting(self) -> Iterator[None]:
        """While the painter works."""
        if self._plan.language != "swap" or self.enhancer is None:
            yield
            return
        with self._swap_lock:
            self.enhancer.move_to("cpu")
            self.painter.move_to(self._runtime.device)
            yield

    def step_down(self, enlarged_pixels: int = 0) -> bool:
        """Follow the next smaller plan from now on; False if there is none.

        If memory ran out while a picture was enlarged to so many pixels, for which the plan had
        room, the same plan is followed without that room: such pictures are painted in tiles. To be
        called on the painter's thread, between two batches.
        """
        if 0 < enlarged_pixels <= self._plan.max_pixels:
            self._plan = replace(self._plan, max_pixels=0, reason=RAN_OUT_OF_MEMORY)
            self.painter.max_pixels = 0
            logger.warning("out of memory; larger pictures are painted in tiles from now on")
            return True
        if not self._smaller:
            return False
        with self._swap_lock:
            smaller = self._smaller.popleft()
            # A language model that was moved to the CPU stays there.
            language = "cpu" if self._plan.language == "cpu" else smaller.language
            self._plan = replace(smaller, language=language, reason=RAN_OUT_OF_MEMORY)
            self.painter.arrange(self._plan)
            if self.enhancer is not None:
                _offload(self.enhancer, self._plan)
        logger.warning("out of memory; plan until the next start: %s", self._plan)
        return True

    def move_language_model_to_cpu(self) -> bool:
        """Let the language model compute on the CPU from now on; False if it already does.

        To be called inside `enhancing`, between two prompts.
        """
        if self.enhancer is None or self.enhancer.device == "cpu":
            return False
        self._plan = replace(self._plan, language="cpu", reason=RAN_OUT_OF_MEMORY)
        _offload(self.enhancer, self._plan)
        # If the two were swapped, the painter is in main memory now.
        self.painter.move_to(self._runtime.device)
        logger.warning("out of memory while enhancing; plan until the next start: %s", self._plan)
        return True


def plan_placement(
    model: PaintingModel,
    language_model: LanguageModel | None,
    runtime: Runtime,
    preferences: PlacementPreferences,
    free: int,
    ip_adapter: IpAdapter | None = None,
) -> tuple[Runtime, tuple[Plan, ...], Plan]:
    """The runtime, all plans for these models, and the first plan that fits `free` bytes.

    The runtime is the given one, except on a CPU without room for float32, which paints in bfloat16
    then. Raises ModelNotFound and ModelBroken.
    """
    sizes = sizes_of(
        model,
        language_model,
        runtime.device,
        unet_bytes=runtime.dtype.itemsize,
        # A decoder that would overflow in float16 is kept in float32.
        vae_bytes=4 if runtime.dtype == torch.float16 else runtime.dtype.itemsize,
        language_bytes=runtime.language_dtype.itemsize,
        ip_adapter=ip_adapter,
    )
    plans = ladder(sizes, runtime.device, preferences)
    plan = choose_plan(plans, free, runtime.device)
    if plan.needed > free and runtime.device == "cpu" and runtime.dtype == torch.float32:
        half = replace(runtime, dtype=torch.bfloat16)
        return plan_placement(model, language_model, half, preferences, free, ip_adapter)
    return runtime, plans, plan


def _load_enhancer(language_model: LanguageModel, plan: Plan, runtime: Runtime) -> Enhancer | None:
    place = None
    if plan.language == "swap":
        # It is moved to the device when a prompt is enhanced.
        place = "cpu"
    elif plan.language == "cpu":
        dtype = fastest_cpu_dtype(torch.cpu.get_capabilities())
        runtime = Runtime("cpu", torch.float32, dtype)
    try:
        return Enhancer.load(language_model, runtime, place)
    except (BanatieError, MemoryError, torch.OutOfMemoryError) as error:
        # Pictures are painted without it, with a warning in their records.
        logger.error("no prompt will be enhanced: %s", error)
        return None


def _offload(enhancer: Enhancer, plan: Plan) -> None:
    """Move the language model off the device if the plan keeps it elsewhere."""
    if plan.language == "swap":
        # It comes back as it is.
        enhancer.move_to("cpu")
    elif plan.language == "cpu":
        enhancer.move_to("cpu", fastest_cpu_dtype(torch.cpu.get_capabilities()))


class _FairLock:
    """A lock that is given in the order in which it was asked for.

    With Python's own, a painter with many pictures would take it again before the enhancer's thread
    wakes up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiters: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._changed:
            self._waiters.append(ticket)
            self._changed.wait_for(lambda: self._waiters[0] is ticket)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiters.popleft()
            self._changed.notify_all()
