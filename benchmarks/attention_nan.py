"""At which lengths torch's attention kernels give NaN gradients under a mask, on the graphics card of this machine.

python benchmarks/attention_nan.py: rows of 24 to 512 tokens in bfloat16, padded on the left, 9 heads of 64.
"""

from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ROWS, HEADS, SIZE = 8, 9, 64
LENGTHS = range(24, 513, 8)
KERNELS = {
    "torch's choice": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def main() -> None:
    torch.manual_seed(0)
    print(torch.__version__, torch.backends.cudnn.version(), torch.cuda.get_device_name())
    for name, kernel in KERNELS.items():
        bad = [length for length in LENGTHS if not is_finite(length, kernel)]
        print(f"{name}: NaN at {bad or 'none'} of {len(LENGTHS)} lengths")


def is_finite(length: int, kernel: SDPBackend | None) -> bool:
    """Whether output and gradients are, where padded rows get no gradient."""
    pads = torch.randint(0, length // 3, (ROWS, 1))
    real = torch.arange(length) >= pads
    mask = (torch.ones(length, length, dtype=torch.bool).tril() & real[:, None, :])[:, None].cuda()
    shape = (ROWS, HEADS, length, SIZE)
    query, key, value, gradient = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    inputs = [(4 * query).requires_grad_(), (4 * key).requires_grad_(), value.requires_grad_()]
    with nullcontext() if kernel is None else sdpa_kernel(kernel):
        out = scaled_dot_product_attention(*inputs, attn_mask=mask)
        gradients = torch.autograd.grad(out, inputs, gradient * real[:, None, :, None].cuda())
    return all(bool(torch.isfinite(tensor).all()) for tensor in (out, *gradients))


if __name__ == "__main__":
    main()
