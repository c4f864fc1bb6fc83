"""Numbers end to end in 32-bit words, the slow and plain way."""

import torch


def words(numbers, bits):
    """Numbers end to end in int32 words, as one long whole number."""
    long = sum(int(n) << bits * i for i, n in enumerate(numbers))
    count = -(-len(numbers) * bits // 32)
    return [(long >> 32 * i & 0xFFFFFFFF) - (1 << 32) * (long >> 32 * i + 31 & 1) for i in range(count)]


def packed(rows, bits):
    return torch.tensor([words(row, bits) for row in rows.tolist()], dtype=torch.int32)
