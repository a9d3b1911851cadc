"""A plain vision transformer and a MobileViT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from nets.layers import PoolHead, conv_bn
from torch import Tensor, nn


class Attention(nn.Module):
    """Fused, it is one scaled_dot_product_attention; else two products and a Softmax."""

    def __init__(self, dim: int, heads: int, *, is_fused: bool) -> None:
        super().__init__()
        self.heads, self.is_fused = heads, is_fused
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        size = dim // self.heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.is_fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * size**-0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, *, is_fused: bool, act: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads, is_fused=is_fused)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), act(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim = 32
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 17, dim))
        self.blocks = nn.Sequential(*(Block(dim, 4, is_fused=True, act=nn.GELU) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class MobileViTBlock(nn.Module):
    """Local convolution, attention between the pixels that have the same place in their 2 x 2 patch, fusion."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.local = nn.Sequential(
            conv_bn(channels, channels, act=nn.SiLU), nn.Conv2d(channels, dim, 1, bias=False)
        )
        self.blocks = nn.Sequential(*(Block(dim, 2, is_fused=False, act=nn.SiLU) for _ in range(2)))
        self.norm = nn.LayerNorm(dim)
        self.back = conv_bn(dim, channels, 1, act=nn.SiLU)
        self.fuse = conv_bn(2 * channels, channels, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local(x)
        batch, dim, height, width = y.shape
        rows, columns = height // 2, width // 2
        y = y.reshape(batch * dim * rows, 2, columns, 2).transpose(1, 2)
        y = y.reshape(batch, dim, rows * columns, 4).transpose(1, 3)
        y = self.norm(self.blocks(y.reshape(batch * 4, rows * columns, dim)))
        y = y.contiguous().view(batch, 4, rows * columns, dim).transpose(1, 3)
        y = y.reshape(batch * dim * rows, columns, 2, 2).transpose(1, 2)
        y = y.reshape(batch, dim, height, width)
        return self.fuse(torch.cat((x, self.back(y)), 1))


def mobilevit() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, act=nn.SiLU),
        MobileViTBlock(16, 24),
        conv_bn(16, 32, 3, 2, act=nn.SiLU),
        PoolHead(32),
    )
