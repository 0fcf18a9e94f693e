"""What share of a device's speed a training reached: known devices, and nothing implausible."""

from __future__ import annotations

import pytest

from harness.record import Cost
from harness.runtime.peaks import peak_flops, utilisation


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "float16", 989),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("Tesla T4", "float16", 65),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("Tesla V100-PCIE-16GB", "float16", 112),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA A10", "bfloat16", 125),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165),
    ],
)
def test_peaks_of_known_devices(name: str, dtype: str, tera: float) -> None:
    assert peak_flops(name, dtype) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("Intel(R) Xeon(R) Processor", "bfloat16"),
        ("NVIDIA A10G", "bfloat16"),  # another chip than the A10
        ("NVIDIA L40", "bfloat16"),
        ("Tesla T4", "bfloat16"),
        ("AMD Instinct MI300X", "bfloat16"),
    ],
)
def test_what_is_not_known_has_no_peak(name: str, dtype: str) -> None:
    assert peak_flops(name, dtype) is None


def test_the_share_is_of_all_devices() -> None:
    share, told = utilisation(4e14, 2.0, 1e14, 4)
    assert (share, told) == (pytest.approx(0.5), "")
    assert Cost(model_flops_utilisation=share).model_flops_utilisation == share


@pytest.mark.parametrize("lacking", [(None, 1.0, 1e12), (1e12, None, 1e12), (1e12, 1.0, None)])
def test_what_was_not_measured_gives_none(lacking: tuple[float | None, ...]) -> None:
    assert utilisation(*lacking, 1) == (None, "")


def test_more_than_the_peak_is_not_plausible() -> None:
    share, told = utilisation(3e12, 1.0, 1e12, 1)
    assert share is None
    assert "not plausible" in told
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Cost(model_flops_utilisation=1.2)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
    ],
)
def test_a_variant_or_a_slice_of_a_device_has_no_peak_of_the_whole(name: str) -> None:
    assert peak_flops(name, "float16") is None
