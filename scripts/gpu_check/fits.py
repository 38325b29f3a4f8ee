"""Does it fit? The card made small: the plan, its peak, and stepping down when memory runs out."""

from __future__ import annotations

import dataclasses

import torch

from banatie.devices.memory_plan import PlacementPreferences
from banatie.devices.runtime import device_memory, free_memory
from banatie.errors import OutOfMemory
from banatie.painting.painter import Painter
from banatie.worker.placement import ModelPlacement, plan_placement
from scripts.gpu_check.context import Context, describe_picture, ignore, picture_bytes
from scripts.gpu_check.results import wrong_unless

CARDS_GB = (8, 6, 12, 10, 16, 24)


def run(context: Context) -> None:
    """Every size of card; on a CPU the plan alone."""
    step = context.recorder.step
    for size in CARDS_GB[:2] if context.tiny else CARDS_GB:
        step(f"a card of {size} GB", lambda size=size: _card(context, size), needs=12)
    if context.is_cuda:
        step("out of memory steps down", lambda: _stepped_down(context), needs=15)


def _card(context: Context, size: int) -> dict:
    runtime, plans, plan = plan_placement(
        context.model, None, context.runtime, PlacementPreferences(), int(size * 1e9)
    )
    # In the words of docs/memory.md.
    placed = ", ".join([plan.painter, plan.language, *(["tiles"] if plan.tiled else [])])
    found = {"plan": placed, "of plans": len(plans), "planned GB": round(plan.needed / 1e9, 2)}
    limited = _limit(context, size)
    try:
        context_at = dataclasses.replace(context, runtime=runtime)
        painter = Painter.load(context.model, runtime, plan)
        job = context_at.job(steps=4)
        pictures: list = []
        peak = context_at.peak(lambda: pictures.append(painter.paint(job, ignore)))
        seconds = context_at.seconds(lambda: painter.paint(job, ignore), 1, 0)
        reserved = torch.cuda.max_memory_reserved() / 1e9 if context.is_cuda else 0.0
        found |= wrong_unless((peak <= size, "more than the card has")) | {
            "peak GB": peak,
            "reserved GB": round(reserved, 2),
            "seconds for 4 steps": round(seconds, 3),
            **describe_picture(pictures[0]),
        }
    except OutOfMemory as error:
        found |= {"wrong": f"the plan does not fit: {error}"}
    finally:
        painter = None
        free_memory(context.runtime.device)
        if limited:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def _stepped_down(context: Context) -> dict:
    placement = ModelPlacement.load(context.model, None, context.runtime, PlacementPreferences())
    job = context.job(steps=4)
    before = picture_bytes(placement.painter.paint(job, ignore))
    taken, failures = [], 0
    _limit(context, 8)
    try:
        while True:
            try:
                picture = placement.painter.paint(job, ignore)
                break
            except OutOfMemory:
                failures += 1
                if not placement.step_down():
                    return {"plans": taken, "wrong": "no plan fits in 8 GB"}
                taken.append(str(placement.plan))
        again = placement.painter.paint(job, ignore)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same = picture_bytes(picture) == picture_bytes(again)
    return {
        "failures": failures,
        "plans": ", ".join(taken),
        "the next picture is the same": same,
        "as before": picture_bytes(picture) == before,
        "GB at the end": round(torch.cuda.memory_allocated() / 1e9, 2),
    } | wrong_unless((same, "the next picture is another one"), (failures > 0, "nothing ran out"))


def _limit(context: Context, size: int) -> bool:
    memory = device_memory(context.runtime.device)
    if memory is None or size * 1e9 >= memory[1]:
        return False
    free_memory(context.runtime.device)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(size * 1e9 / memory[1])
    return True
