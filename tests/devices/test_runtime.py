"""The devices of a machine, and the number formats for each."""

from types import SimpleNamespace

import pytest
import torch

from banatie.devices.runtime import _dtypes, choose_runtime, fastest_cpu_dtype, present_devices
from banatie.errors import ConfigError


def test_a_cpu_paints_in_float32() -> None:
    assert choose_runtime("cpu").dtype == torch.float32


def test_a_cpu_uses_bfloat16_only_where_it_computes_in_it() -> None:
    assert fastest_cpu_dtype({"avx512_bf16": True, "amx_bf16": False}) == torch.bfloat16
    assert fastest_cpu_dtype({"avx2": True, "avx512_f": True}) == torch.float32
    assert fastest_cpu_dtype({}) == torch.float32


def test_the_capabilities_of_this_processor_are_understood() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert choose_runtime("cpu").language_dtype == fastest_cpu_dtype(capabilities)


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float16), (8, torch.bfloat16)])
def test_a_card_that_emulates_bfloat16_uses_float16(
    major: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What torch answers on a card of that generation: tensors of bfloat16 can always be made.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert _dtypes("cuda") == (dtype, dtype)


def test_every_present_device_can_be_used() -> None:
    for device in present_devices():
        assert choose_runtime(device).device == device
    assert choose_runtime().device == present_devices()[0]


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "mps:9"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"painting\.devices: '{device}' cannot be used: \w+"):
        choose_runtime(device)


def test_processes_that_share_a_processor_take_a_part_of_it_each() -> None:
    before = torch.get_num_threads()
    try:
        for threads, sharing, expected in ((6, 1, 6), (0, 3, 2), (0, 3, 1), (5, 3, 5)):
            choose_runtime("cpu", threads, sharing)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
