"""Who may have the device's memory: carries the memory plan out while both models are at work.

The one owner of where models lie. The worker's two threads say when they write and when they paint;
only a plan of turns makes one wait for the other. After running out of memory it goes one rung down
and stays there until the worker starts anew. What is written and painted is not known here.
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
    choose,
    ladder,
    language_place,
    sizes_of,
)
from banatie.devices.runtime import Runtime, fastest_cpu_dtype, memory_for_models
from banatie.enhancement.enhancer import Enhancer
from banatie.errors import BanatieError, OutOfMemory
from banatie.models.safetensors_header import parameter_count
from banatie.models.types import LanguageModel, PaintingModel
from banatie.models.validate import check_language_model
from banatie.painting.painter import Painter

logger = logging.getLogger(__name__)

RAN_OUT = "with the plan before, memory ran out"


class ModelPlacement:
    """Both loaded models and the plan that they follow.

    `below` are the rungs below the plan, `spare` the bytes of the device that it leaves; without an
    enhancer no prompt is enhanced.
    """

    def __init__(
        self,
        plan: Plan,
        below: Sequence[Plan],
        runtime: Runtime,
        painter: Painter,
        enhancer: Enhancer | None,
        spare: int = 0,
    ) -> None:
        self.painter = painter
        self.enhancer = enhancer
        self._plan = plan
        self._below = deque(below)
        self._runtime = runtime
        self._spare = spare
        self._turn = _FairLock()

    @classmethod
    def load(
        cls,
        model: PaintingModel,
        language_model: LanguageModel | None,
        runtime: Runtime,
        wanted: PlacementPreferences,
        *,
        sharing: int = 1,
        compiled: bool = False,
    ) -> ModelPlacement:
        """Plan, and load both models as planned; a language model that is broken is left out.

        So many processes are `sharing` the device. Raises ModelNotFound, ModelBroken and
        OutOfMemory about the painting model.
        """
        free = memory_for_models(runtime.device) // sharing
        runtime, plans, plan = planned(model, language_model, runtime, wanted, free)
        logger.info("memory: %s", plan.reasoned)
        below = deque(each for each in plans if each.needed < plan.needed)
        enhancer = _load_enhancer(language_model, plan, runtime) if language_model else None
        while True:
            try:
                painter = Painter.load(model, runtime, plan, compiled)
            except OutOfMemory:
                if not below:
                    raise
                plan = replace(below.popleft(), why=RAN_OUT)
                logger.warning("out of memory while loading; trying: %s", plan)
                if enhancer is not None:
                    _set_aside(enhancer, plan)
            else:
                return cls(plan, below, runtime, painter, enhancer, free - plan.needed)

    def adopt(self, language_model: LanguageModel) -> None:
        """Load a language model that another worker had; one that is broken is left out."""
        try:
            parameters = parameter_count(check_language_model(language_model.folder))
        except BanatieError as error:
            logger.error("no prompt will be enhanced: %s", error)
            return
        size = parameters * self._runtime.language_dtype.itemsize
        place = language_place(parameters, size, self._spare, self._runtime.device)
        plan = replace(self._plan, language=place)
        self.enhancer = _load_enhancer(language_model, plan, self._runtime)
        self._plan = plan
        logger.info("memory: %s", plan)

    @property
    def plan(self) -> Plan:
        """The plan as it is now."""
        return self._plan

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While the language model works."""
        with self._turn:
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
        with self._turn:
            self.enhancer.move_to("cpu")
            self.painter.move_to(self._runtime.device)
            yield

    def step_down(self) -> bool:
        """Go one rung down, on the painter's thread between two pictures; False at the bottom."""
        if not self._below:
            return False
        with self._turn:
            below = self._below.popleft()
            # A language model that was sent away stays away.
            language = "cpu" if self._plan.language == "cpu" else below.language
            self._plan = replace(below, language=language, why=RAN_OUT)
            self.painter.arrange(self._plan)
            if self.enhancer is not None:
                _set_aside(self.enhancer, self._plan)
        logger.warning("out of memory; until the next start: %s", self._plan)
        return True

    def move_language_model_to_cpu(self) -> bool:
        """Let the language model compute on the CPU from now on; False if it does so already.

        To be called inside `writing`, between two prompts.
        """
        if self.enhancer is None or self.enhancer.device == "cpu":
            return False
        self._plan = replace(self._plan, language="cpu", why=RAN_OUT)
        _set_aside(self.enhancer, self._plan)
        # After its own turn the painter is not there.
        self.painter.move_to(self._runtime.device)
        logger.warning("out of memory while writing; until the next start: %s", self._plan)
        return True


def planned(
    model: PaintingModel,
    language_model: LanguageModel | None,
    runtime: Runtime,
    wanted: PlacementPreferences,
    free: int,
) -> tuple[Runtime, tuple[Plan, ...], Plan]:
    """All plans for these models, and the one to begin with when so many bytes are `free`.

    The runtime is the one given but on a CPU without room for float32, which paints in bfloat16
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
    )
    plans = ladder(sizes, runtime.device, wanted)
    plan = choose(plans, free, runtime.device)
    if plan.needed > free and runtime.device == "cpu" and runtime.dtype == torch.float32:
        half = replace(runtime, dtype=torch.bfloat16)
        return planned(model, language_model, half, wanted, free)
    return runtime, plans, plan


def _load_enhancer(language_model: LanguageModel, plan: Plan, runtime: Runtime) -> Enhancer | None:
    place = None
    if plan.language == "swap":
        # It is fetched when it is its turn.
        place = "cpu"
    elif plan.language == "cpu":
        dtype = fastest_cpu_dtype(torch.cpu.get_capabilities())
        runtime = Runtime("cpu", torch.float32, dtype)
    try:
        return Enhancer.load(language_model, runtime, place)
    except (BanatieError, MemoryError, torch.OutOfMemoryError) as error:
        # Pictures can be made without it: their records will carry a warning.
        logger.error("no prompt will be enhanced: %s", error)
        return None


def _set_aside(enhancer: Enhancer, plan: Plan) -> None:
    """Take the language model off the device if the plan has it elsewhere."""
    if plan.language == "swap":
        # It is fetched when it is its turn, as it is.
        enhancer.move_to("cpu")
    elif plan.language == "cpu":
        enhancer.move_to("cpu", fastest_cpu_dtype(torch.cpu.get_capabilities()))


class _FairLock:
    """A lock that is given in the order in which it was asked for.

    With Python's own, a painter with many pictures would take it again before the writer wakes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    def __enter__(self) -> None:
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            self._changed.wait_for(lambda: self._line[0] is ticket)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._line.popleft()
            self._changed.notify_all()
