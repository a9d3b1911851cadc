"""Train the example network on scikit-learn's digits and write it as two ONNX files, with the held-out pictures.

    python examples/digits/train.py [--out FOLDER]

Writes `digits_bn.onnx` (BatchNorm nodes kept), `digits_folded.onnx` (as PyTorch's default exporter writes it) and
`heldout.zip` (one folder a class, the form that `edgeq build --eval` reads). One seed, one thread: the same versions
of the packages give the same weights. Preprocessing is that of `--preset unit`: p / 255.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 0
EPOCHS = 30
BATCH = 64
SIZE = 16  # pixels a side; the data set has 8, which leaves no room for two reductions


class ConvNorm(nn.Sequential):
    """Convolution and BatchNorm, "same" padding."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Block(nn.Module):
    """Two convolutions and a residual add; the shortcut has a convolution where the shape changes."""

    def __init__(self, first: ConvNorm, second: ConvNorm, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, K, H', W'] for x [N, C, H, W]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Plain, depthwise and strided convolutions, both kinds of residual add, both kinds of pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 16, 3)
        self.pool = nn.MaxPool2d(2)
        self.plain = Block(ConvNorm(16, 16, 3), ConvNorm(16, 16, 3), nn.Identity())
        self.strided = Block(
            ConvNorm(16, 16, 3, stride=2, groups=16),
            ConvNorm(16, 32, 1),
            ConvNorm(16, 32, 1, stride=2),
        )
        self.last = Block(ConvNorm(32, 32, 3), ConvNorm(32, 32, 3), nn.Identity())
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 10] for pictures [N, 1, 16, 16] in 0..1."""
        x = self.pool(F.relu(self.stem(x)))
        x = self.last(self.strided(self.plain(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def load_pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all pictures [N, 16, 16] as 8-bit grey values, bilinearly enlarged, and their classes [N]."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for p in small
    ]
    return np.stack(large), digits.target.astype(np.int64)


def to_input(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return [N, 1, H, W] float32 in 0..1, as `--preset unit` makes it."""
    return (pictures.astype(np.float32) / np.float32(255))[:, None]


def train(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> DigitsNet:
    """Return the trained network, in evaluation mode."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums in one order: the same weights on every run
    net = DigitsNet()
    x, y = torch.from_numpy(to_input(pictures)), torch.from_numpy(labels)
    steps = EPOCHS * (len(x) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x))[: steps // EPOCHS * BATCH].split(BATCH):
            dy, dx = torch.randint(-1, 2, (2,)).tolist()  # the border is empty: rolling shifts
            loss = F.cross_entropy(net(x[batch].roll((dy, dx), (2, 3))), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1:2d}/{EPOCHS}  loss {total * EPOCHS / steps:.4f}")
    return net.eval()


def export(net: DigitsNet, folder: Path) -> tuple[Path, Path]:
    """Write the network with BatchNorm kept and with BatchNorm folded; return both paths."""
    kept, folded = folder / "digits_bn.onnx", folder / "digits_folded.onnx"
    example = torch.zeros(2, 1, SIZE, SIZE)
    torch.onnx.export(
        net,
        (example,),
        kept,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,  # evaluation mode would fold BatchNorm
        do_constant_folding=False,
        dynamo=False,
    )
    torch.onnx.export(
        net,
        (example,),
        folded,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
        dynamo=True,  # the default since PyTorch 2.9
    )
    drop_stack_traces(folded)
    return kept, folded


def drop_stack_traces(path: Path) -> None:
    """Remove the stack traces that the exporter stores with every node: they name folders of this machine."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


def write_heldout(path: Path, pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write PNG pictures, one folder a class, with a fixed time stamp: the same pictures give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index in np.argsort(labels, kind="stable"):
            file = io.BytesIO()
            Image.fromarray(pictures[index]).save(file, "png", optimize=True)
            entry = zipfile.ZipInfo(f"{labels[index]}/{index:04d}.png", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, file.getvalue())


def measure_accuracy(
    path: Path, pictures: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[float, NDArray[np.float32]]:
    """Return top-1 in per cent and the logits [N, 10], by ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": to_input(pictures)})
    return 100 * float(np.mean(logits.argmax(1) == labels)), logits


def main() -> None:
    """Train, write the files, and print how well both of them do."""
    parser = argparse.ArgumentParser(description="Train the digits example and write its files.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    pictures, labels = load_pictures()
    train_x, test_x, train_y, test_y = train_test_split(
        pictures, labels, test_size=0.2, random_state=SEED, stratify=labels
    )
    net = train(train_x, train_y)
    print(f"trained on {len(train_x)} pictures in {time.perf_counter() - start:.0f} s")
    write_heldout(folder / "heldout.zip", test_x, test_y)
    logits = []
    for path in export(net, folder):
        accuracy, values = measure_accuracy(path, test_x, test_y)
        logits.append(values)
        size_kb = path.stat().st_size / 1000
        print(f"{path.name}: {accuracy:.2f} % of {len(test_x)} held-out pictures, {size_kb:.0f} kB")
    print(f"largest difference between the two: {np.abs(logits[0] - logits[1]).max():.1e}")


if __name__ == "__main__":
    main()
