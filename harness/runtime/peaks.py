"""How fast a device could multiply matrices at best, and what share of that a training reached.

Peaks are those of NVIDIA's data sheets, dense (without sparsity), with sums in float32; float32 itself is
without TF32, which PyTorch leaves off. A device that is not in the list has none, and so has every CPU: what
one reaches depends on its clock and its cores.
"""

from __future__ import annotations

import re

_TERA = 1e12
_PEAKS: tuple[tuple[str, float, float | None, float], ...] = (
    # name, then TFLOP/s in float16, bfloat16 (None: not computed in hardware) and float32
    (r"H100 PCIe", 756, 756, 51),
    (r"H100|H200|GH200", 989, 989, 67),
    (r"A100", 312, 312, 19.5),
    (r"L40S", 362, 362, 91.6),
    (r"L4", 121, 121, 30.3),
    (r"A10", 125, 125, 31.2),
    (r"T4", 65, None, 8.1),
    (r"V100-PCIE|V100 PCIe", 112, None, 14),
    (r"V100", 125, None, 15.7),
    (r"RTX 3090", 71, 71, 35.6),
    (r"RTX 4090", 165, 165, 82.6),
)


# Others of the same name, or a slice of one: with another peak than the list's.
_VARIANT = re.compile(r"\b(?:MIG|NVL|Ti|SUPER|Laptop|Max-Q|Mobile|D)\b")


def peak_flops(device_name: str, dtype: str) -> float | None:
    """FLOP/s of one device in `dtype` ("bfloat16", "float16", "float32"); None where that is not known."""
    if _VARIANT.search(device_name):
        return None
    for pattern, half, brain, single in _PEAKS:
        if re.search(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])", device_name):
            found = {"float16": half, "bfloat16": brain, "float32": single}[dtype]
            return None if found is None else found * _TERA
    return None


def utilisation(
    flops: float | None, seconds: float | None, peak: float | None, devices: int
) -> tuple[float | None, str]:
    """Model FLOPs over what `devices` of this peak could have done in `seconds`, and what is to be said of it.

    Model FLOPs utilisation: PaLM, arXiv 2204.02311, appendix B. A share above 1 cannot be: the peak is of
    another device, or the count is wrong, and None is returned with the reason.
    """
    if not flops or not seconds or peak is None or devices < 1:
        return None, ""
    share = flops / (seconds * peak * devices)
    if share > 1:
        return None, (
            f"training at {share:.0%} of the device's peak of {peak / _TERA:,.0f} TFLOP/s is not plausible: "
            "its share of the peak is left out"
        )
    return share, ""
