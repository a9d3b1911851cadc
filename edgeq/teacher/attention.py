"""Scaled dot product attention and rotary positions, which opset 23 has as operators."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeq.teacher.converters import converter


@converter("Attention", returns_tuple=True)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 1,
) -> tuple[Tensor, ...]:
    """Return softmax(q k' scale + mask) v, the keys and values with the past before them, and the scores.

    Inputs are [N, heads, T, D], or [N, T, heads D] with the numbers of heads as attributes. A row that may look at
    nothing gives zeros. Softmax is computed in the type of the scores, whatever `softmax_precision` says.
    """
    is_flat = q.dim() == 3
    if is_flat:
        q, k, v = (
            x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
            for x, heads in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads))
        )
    past = 0 if past_key is None else past_key.shape[2]
    k = k if past_key is None else torch.cat((past_key, k), 2)
    v = v if past_value is None else torch.cat((past_value, v), 2)
    repeats = q.shape[1] // k.shape[1]
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    raw = (q * root) @ (k.repeat_interleave(repeats, 1) * root).transpose(2, 3)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    allowed = _allowed_keys(raw, past, nonpad_kv_seqlen, is_causal=bool(is_causal))
    masked = _add_mask(capped, attn_mask).masked_fill(~allowed, -torch.inf)
    weights = torch.nan_to_num(torch.softmax(masked, -1))
    y = weights @ v.repeat_interleave(repeats, 1)
    y = y.transpose(1, 2).flatten(2) if is_flat else y
    return y, k, v, (raw, capped, masked, weights)[qk_matmul_output_mode]


def _allowed_keys(scores: Tensor, past: int, counts: Tensor | None, *, is_causal: bool) -> Tensor:
    """Return which keys each query may look at, [1 or N, 1, Tq, Tk]; `counts` are the keys in use of each sample."""
    queries = torch.arange(scores.shape[2], device=scores.device)[:, None]
    keys = torch.arange(scores.shape[3], device=scores.device)
    offset = torch.tensor(past, device=scores.device)
    allowed = torch.ones_like(keys, dtype=torch.bool).expand(1, 1, len(queries), -1)
    if counts is not None:
        allowed = allowed & (keys < counts.reshape(-1, 1, 1, 1))
        offset = counts.reshape(-1, 1, 1, 1) - len(queries)
    return allowed & (keys <= queries + offset) if is_causal else allowed


def _add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the scores with `mask` added, or -inf where a boolean one is false; keys beyond it are masked."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        zeros = torch.zeros_like(mask, dtype=scores.dtype)
        mask = zeros.masked_fill(~mask, -torch.inf)
    missing = scores.shape[-1] - mask.shape[-1] if mask.shape[-1] > 1 else 0
    return scores + torch.nn.functional.pad(mask, (0, missing), value=-torch.inf)


@converter("RotaryEmbedding")
def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Return x with pairs of its features turned by the angles of their positions.

    Args:
        x: [N, heads, T, D], or [N, T, heads D] with `num_heads`.
        cos_cache: [positions, R / 2] with `position_ids`, else [N, T, R / 2].
        sin_cache: the same.
        position_ids: [N, T].
        interleaved: whether a pair are neighbours, not the same places of two halves.
        num_heads: of a three-dimensional x.
        rotary_embedding_dim: R, the number of features that are turned; 0 for all.
    """
    heads = x.reshape(*x.shape[:2], num_heads, -1) if x.dim() == 3 else x.transpose(1, 2)
    size = rotary_embedding_dim or heads.shape[-1]
    turned, rest = heads[..., :size], heads[..., size:]
    cos, sin = (
        (cache if position_ids is None else cache[position_ids])[..., : size // 2].unsqueeze(2)
        for cache in (cos_cache, sin_cache)
    )
    pairs = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = pairs[0] * cos - pairs[1] * sin, pairs[0] * sin + pairs[1] * cos
    both = (
        torch.stack((real, imaginary), -1).flatten(-2)
        if interleaved
        else torch.cat((real, imaginary), -1)
    )
    y = torch.cat((both, rest), -1)
    return y.flatten(2) if x.dim() == 3 else y.transpose(1, 2)
