"""The enhancer: loads a language model from a folder and enriches prompts with it.

With a small model the lexicon mode writes what it can and the guided mode the rest; larger models
write in the free mode. This module handles the device, the time limit and the result for the
caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from banatie.devices.runtime import Runtime, free_memory, is_out_of_memory
from banatie.enhancement.compose import Composition, TextMode, TokenCounter
from banatie.enhancement.decoding import Check, Decoder, GenerationFailed
from banatie.enhancement.free import FreeMode
from banatie.enhancement.guided import GuidedMode
from banatie.enhancement.lexicon_mode import LexiconMode
from banatie.enhancement.prompt import Subject, parse_prompt
from banatie.enhancement.templates import Template, load_few_shot_examples, load_templates
from banatie.enhancement.vocabulary import Vocabulary
from banatie.errors import BanatieError, ModelBroken, OutOfMemory
from banatie.models.types import LanguageModel


class Stopped(BanatieError):
    """The caller stopped the enhancement while the model was writing."""


@dataclass(frozen=True)
class Enhancement:
    """The result of enhancing a prompt."""

    text: str
    """The enhanced prompt, or the original one when `warning` is set."""
    template: str
    model: str
    mode: TextMode
    seconds: float
    warning: str | None
    """Why the original prompt is used, in a sentence for the user."""
    from_model: tuple[str, ...] = ()
    from_slots: tuple[str, ...] = ()
    from_lexicon: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deadline:
    """A time limit in seconds from `started`, and the caller's request to stop earlier."""

    started: float
    seconds: float
    stop: Callable[[], bool]

    def check(self) -> None:
        """Raise Stopped when the caller stops, GenerationFailed when the time is over."""
        if self.stop():
            raise Stopped("The enhancement was stopped")
        if time.monotonic() > self.started + self.seconds:
            raise GenerationFailed(f"The language model needed more than {self.seconds:g} seconds")


class Enhancer:
    """A loaded language model with the templates; `device` is where the model is."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        description: LanguageModel,
        device: str,
    ) -> None:
        self._model = model
        self._description = description
        self.device = device
        self.name = description.name
        self._templates = load_templates()
        self._vocabulary = Vocabulary.load()
        self._decoder = Decoder(model, tokenizer)
        self._lexicon = LexiconMode(self._decoder, self._vocabulary)
        self._mode: GuidedMode | FreeMode
        if description.mode == "guided":
            # The configuration of a fine-tuned model names the adapter that was merged into it.
            fine_tuned = getattr(model.config, "merged_adapter", None) is not None
            self._mode = GuidedMode(self._decoder, self._vocabulary, fine_tuned)
        else:
            self._mode = FreeMode(
                self._decoder, self._vocabulary, load_few_shot_examples(), self._lexicon
            )

    @classmethod
    def load(cls, model: LanguageModel, runtime: Runtime, place: str | None = None) -> Enhancer:
        """Load a model from its folder onto the runtime's device, or onto another, `place`.

        Raises ModelBroken, naming the folder and the remedy, when its files are not usable.
        """
        remedy = (
            f"run: banatie models pull {model.name}" if model.source else "copy its files again"
        )
        if model.folder.is_dir() and not any(model.folder.glob("*.safetensors")):
            raise ModelBroken(
                f"{model.folder} holds no weights in the safetensors format, the only one that is "
                f"loaded; convert them, or remove the folder and {remedy}"
            )
        # Pickled weights and a model's own code could run anything, so neither is loaded.
        safely = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.folder, **safely)
            network, report = AutoModelForCausalLM.from_pretrained(
                model.folder,
                **safely,
                use_safetensors=True,
                dtype=runtime.language_dtype,
                # On a CPU, eager attention takes two thirds of the fused one's time per token.
                attn_implementation="eager" if runtime.device == "cpu" else None,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelBroken(
                f"the language model in {model.folder} cannot be loaded ({reason}); "
                f"remove the folder and {remedy}"
            ) from error
        if report["missing_keys"]:
            raise ModelBroken(
                f"the language model in {model.folder} lacks weights "
                f"({min(report['missing_keys'])}); remove the folder and {remedy}"
            )
        place = place or runtime.device
        return cls(network.to(place).eval(), tokenizer, model, place)

    def move_to(self, device: str, dtype: torch.dtype | None = None) -> None:
        """Move the model to a device, between two prompts; does nothing if it is there."""
        if device == self.device:
            return
        # Not moved along: on a fast device a prefix is computed again within milliseconds.
        self._decoder.clear_prefixes()
        self._model.to(device, dtype)
        before, self.device = self.device, device
        free_memory(before)

    def enhance(
        self,
        prompt: str,
        template: str,
        *,
        seed: int,
        count_tokens: TokenCounter,
        time_limit: float,
        stop: Callable[[], bool] = lambda: False,
    ) -> Enhancement:
        """Enrich a prompt in the style of a template; the same seed gives the same text.

        `count_tokens` counts as the painting model's tokenizers do, without special tokens;
        `time_limit` is in seconds; `stop` is called between tokens, and Stopped raised when it
        returns True. When the time is over or the model writes nothing usable, the result is the
        original prompt with a warning. Raises OutOfMemory after freeing the memory.
        """
        started = time.monotonic()
        deadline = Deadline(started, time_limit, stop)
        subject = parse_prompt(prompt, self._vocabulary)
        warning = None
        composition: Composition | None
        try:
            if not subject.text:
                raise GenerationFailed("The prompt is nothing but tags")
            with torch.inference_mode():
                composition = self._write(
                    subject, self._templates[template], seed, count_tokens, deadline.check
                )
        except GenerationFailed as reason:
            composition = Composition(prompt, mode=self._description.mode)
            warning = f"{reason}; the prompt is used unchanged"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            composition = None
        if composition is None:
            # Raised here, where no traceback keeps the tensors alive.
            free_memory(self.device)
            raise OutOfMemory(f"{self.device} ran out of memory while the prompt was enhanced")
        return Enhancement(
            text=composition.text,
            template=template,
            model=self.name,
            mode=composition.mode,
            seconds=time.monotonic() - started,
            warning=warning,
            from_model=composition.from_model,
            from_slots=composition.from_slots,
            from_lexicon=composition.from_lexicon,
        )

    def _write(
        self,
        subject: Subject,
        template: Template,
        seed: int,
        count_tokens: TokenCounter,
        check: Check,
    ) -> Composition:
        """A small model writes only what the lexicon has nothing to say of."""
        arguments = (subject, template, seed, count_tokens, check)
        if isinstance(self._mode, GuidedMode):
            composed = self._lexicon.write(*arguments)
            if composed is not None:
                return composed
        return self._mode.write(*arguments)
