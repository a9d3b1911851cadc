"""Networks on other things than colour pictures: spectrograms, sound, vectors, and two inputs."""

from __future__ import annotations

import torch
from nets.layers import PoolHead, conv_bn
from torch import Tensor, nn


def ds_cnn() -> nn.Module:
    """Keyword spotting on a spectrogram of 49 frames and 10 coefficients."""
    layers = [conv_bn(1, 16, 5, 2)]
    for _ in range(3):
        layers += [conv_bn(16, 16, groups=16), conv_bn(16, 16, 1)]
    return nn.Sequential(*layers, nn.Dropout(0.2), PoolHead(16))


def audio_1d() -> nn.Module:
    """Strided one-dimensional convolutions on raw sound."""
    layers: list[nn.Module] = []
    for cin, cout, size, stride in ((1, 8, 16, 4), (8, 16, 3, 2), (16, 32, 3, 2)):
        layers += [
            nn.Conv1d(cin, cout, size, stride, size // 2, bias=False),
            nn.BatchNorm1d(cout),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 10))


def autoencoder() -> nn.Module:
    """Anomaly detection on vectors, as MLPerf Tiny has it."""
    layers: list[nn.Module] = []
    for cin, cout in ((64, 32), (32, 32), (32, 8), (8, 32), (32, 32)):
        layers += [nn.Linear(cin, cout), nn.BatchNorm1d(cout), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 64))


class TwoInputs(nn.Module):
    """A picture and a vector of measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1))
        self.ear = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, picture: Tensor, vector: Tensor) -> Tensor:
        return self.head(torch.cat([self.eye(picture).flatten(1), self.ear(vector)], 1))
