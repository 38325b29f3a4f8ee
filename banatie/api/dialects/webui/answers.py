"""The answer to txt2img and img2img: pictures as base64, and `info`, which is JSON in a string."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

import banatie
from banatie.api.dialects.webui.requests import Img2Img, Txt2Img
from banatie.api.schemas import timestamp
from banatie.imaging.infotext import parameters_of
from banatie.imaging.parameters import parameters_text
from banatie.records import Generation
from banatie.store.files import Files


@dataclass(frozen=True)
class Made:
    """A generation that has succeeded, and its picture's file."""

    generation: Generation
    data: bytes

    @classmethod
    def read(cls, generations: Sequence[Generation], files: Files) -> list[Made]:
        """Those that have a picture. Waits for the disk."""
        return [
            cls(each, files.path(each.image.storage_key).read_bytes())
            for each in generations
            if each.image is not None
        ]

    @property
    def infotext(self) -> str:
        """As the file has it or, where `storage.metadata` is off, as the record does."""
        each = self.generation
        image = each.image
        return parameters_of(self.data) or parameters_text(
            prompt=each.prompt,
            original_prompt=each.original_prompt,
            negative_prompt=each.negative_prompt,
            steps=each.steps or 0,
            sampler="",
            guidance_scale=each.guidance_scale or 0.0,
            seed=each.seed,
            width=each.width or (image.width if image else 0),
            height=each.height or (image.height if image else 0),
            model=each.model or "",
            hashes={},
            version=f"Banatie {banatie.__version__}",
        )


def answer(
    asked: Txt2Img,
    generations: Sequence[Generation],
    made: Sequence[Made],
    ignored: Sequence[str],
    notes: Sequence[str],
) -> bytes:
    """The answer as JSON."""
    shown = [base64.b64encode(each.data).decode() for each in made] if asked.send_images else []
    parameters = msgspec.to_builtins(asked)
    if isinstance(asked, Img2Img) and not asked.include_init_images:
        parameters |= {"init_images": None, "mask": None}
    info = msgspec.json.encode(_info(asked, generations, made, ignored, notes)).decode()
    return msgspec.json.encode({"images": shown, "parameters": parameters, "info": info})


def _info(
    asked: Txt2Img,
    generations: Sequence[Generation],
    made: Sequence[Made],
    ignored: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    painted = [each.generation for each in made] or list(generations)
    first = painted[0]
    infotexts = [each.infotext for each in made]
    size = (first.image.width, first.image.height) if first.image else (first.width, first.height)
    warnings = list(dict.fromkeys(text for each in painted for text in each.warnings))
    return {
        "prompt": first.prompt,
        "all_prompts": [each.prompt for each in painted],
        "negative_prompt": first.negative_prompt,
        "all_negative_prompts": [each.negative_prompt for each in painted],
        "seed": first.seed,
        "all_seeds": [each.seed for each in painted],
        "subseed": first.seed,
        "all_subseeds": [each.seed for each in painted],
        "subseed_strength": 0,
        "width": size[0],
        "height": size[1],
        "sampler_name": _sampler(infotexts),
        "cfg_scale": first.guidance_scale,
        "steps": first.steps,
        "batch_size": int(asked.batch_size),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.model,
        "sd_model_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": asked.denoising_strength if isinstance(asked, Img2Img) else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": timestamp(first.created_at),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"Banatie {banatie.__version__}",
        "generation_ids": [each.id for each in painted],
        "ignored": list(ignored),
        "warnings": [*notes, *warnings],
    }


def _sampler(infotexts: Sequence[str]) -> str | None:
    """As the first picture's file has it."""
    line = infotexts[0].rpartition("\n")[2] if infotexts else ""
    found = [part for part in line.split(", ") if part.startswith("Sampler: ")]
    return found[0].removeprefix("Sampler: ") if found else None
