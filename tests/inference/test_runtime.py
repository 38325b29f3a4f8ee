"""The number formats that a device is given."""

import torch

from banatie.inference.runtime import choose_runtime, quickest_cpu_dtype


def test_a_cpu_paints_in_float32() -> None:
    assert choose_runtime("cpu").dtype == torch.float32


def test_a_cpu_writes_in_bfloat16_only_where_it_computes_in_it() -> None:
    assert quickest_cpu_dtype({"avx512_bf16": True, "amx_bf16": False}) == torch.bfloat16
    assert quickest_cpu_dtype({"avx2": True, "avx512_f": True}) == torch.float32
    assert quickest_cpu_dtype({}) == torch.float32


def test_what_this_processor_says_is_understood() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert choose_runtime("cpu").language_dtype == quickest_cpu_dtype(capabilities)
