"""The private names of torch and diffusers that painting uses exist in the installed versions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import banatie.painting
from banatie.painting.library_internals import (
    COMPILED_CALL,
    CompilationError,
    drop_compiled_calls,
    uncompiled,
)

MODULES = Path(banatie.painting.__file__).parent


class Doubling(torch.nn.Module):
    """A module of our own, since torch does not compile the forward of its own ones."""

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers * 2


def test_a_compiled_module_keeps_its_compiled_call_under_the_name() -> None:
    compiled = 0

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable:
        nonlocal compiled
        compiled += 1
        return graph.forward

    torch._dynamo.reset()
    module = Doubling()
    assert getattr(module, COMPILED_CALL) is None
    module.compile(backend=backend)
    assert getattr(module, COMPILED_CALL) is not None
    with uncompiled(module):
        module(torch.ones(2))
    assert compiled == 0
    module(torch.ones(2))
    assert compiled == 1
    drop_compiled_calls(module)
    assert getattr(module, COMPILED_CALL) is None


def test_a_failed_compilation_raises_the_error() -> None:
    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable:
        raise RuntimeError("no compiler")

    torch._dynamo.reset()
    module = Doubling()
    module.compile(backend=backend)
    with pytest.raises(CompilationError, match="no compiler"):
        module(torch.ones(2))


def test_no_other_module_of_painting_uses_a_private_name_of_a_library() -> None:
    found = []
    for file in sorted(MODULES.glob("*.py")):
        if file.name == "library_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                found += [] if own else [f"{file.name}:{node.lineno} {node.attr}"]
            elif isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                found += [f"{file.name}:{node.lineno} {n}" for n in names if _is_private(n)]
    assert found == []


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
