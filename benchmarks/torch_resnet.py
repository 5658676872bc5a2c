"""The peer of the library in plain PyTorch: a step, or a prediction, of ResNet-18.

Dense tensors times a mask, two convolutions and noise a layer (local
reparameterization), closed-form KL, SGD with momentum; channels last, the fused loops
of PyTorch wherever it has them.
"""

# PyTorch is optional, and not among what the checks install.
# pyright: reportMissingImports=false

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

_PRIOR_STD = 1.0


class LrtConv(nn.Module):
    """Convolution with independent Gaussian weights under a fixed mask."""

    mask: torch.Tensor

    def __init__(
        self, num_in: int, num_out: int, window: int, stride: int, density: float
    ) -> None:
        super().__init__()
        shape = (num_out, num_in, window, window)
        keep = torch.rand(shape) < density
        self.mean = nn.Parameter(torch.randn(shape) * 0.05 * keep)
        self.rho = nn.Parameter(torch.full(shape, -7.0))
        self.register_buffer("mask", keep.float())
        self.stride, self.padding = stride, window // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Samples the pre-activations."""
        mean, variance = self.moments()
        m = F.conv2d(x, mean, None, self.stride, self.padding)
        v = F.conv2d(x.square(), variance, None, self.stride, self.padding)
        return torch.addcmul(m, torch.sqrt(v + 1e-16), torch.randn_like(m))

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked means and variances."""
        return self.mean * self.mask, F.softplus(self.rho).square() * self.mask

    def kl(self) -> torch.Tensor:
        """KL to a centred Gaussian prior, over the kept weights, in nats."""
        sigma = F.softplus(self.rho)
        ratio = (sigma.square() + self.mean.square()) / _PRIOR_STD**2
        return 0.5 * ((ratio - 1 - 2 * torch.log(sigma / _PRIOR_STD)) * self.mask).sum()


ConvFactory = Callable[[int, int, int, int], nn.Module]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, conv: ConvFactory, num_in: int, num_out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(num_in, num_out, 3, stride), nn.BatchNorm2d(num_out)
        self.conv2, self.bn2 = conv(num_out, num_out, 3, 1), nn.BatchNorm2d(num_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Sequential(
                conv(num_in, num_out, 1, stride), nn.BatchNorm2d(num_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual block."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet18(conv: ConvFactory) -> nn.Module:
    """CIFAR ResNet-18: 3x3 stem, widths 64 to 512."""
    layers: list[nn.Module] = [conv(3, 64, 3, 1), nn.BatchNorm2d(64), nn.ReLU(True)]
    num_in = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers.append(Block(conv, num_in, width, stride))
        layers.append(Block(conv, width, width, 1))
        num_in = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(*layers)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _plain_conv(num_in: int, num_out: int, window: int, stride: int) -> nn.Module:
    return nn.Conv2d(num_in, num_out, window, stride, window // 2, bias=False)


def _images(batch_size: int) -> torch.Tensor:
    images = torch.randn(batch_size, 3, 32, 32)
    return images.to(memory_format=torch.channels_last)


def make_step(
    batch_size: int, density: float | None, device: str = "cpu"
) -> Callable[[], torch.Tensor]:
    """One training step on random images; returns its loss, perhaps still computing.

    Args:
      batch_size: images a step.
      density: kept fraction for local reparameterization; None for plain weights.
      device: PyTorch's name of where it runs. On a GPU, as in JAX, float32 products
        use TF32 and the fastest convolution is looked for.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if density is None:
        model = resnet18(_plain_conv)
    else:
        model = resnet18(lambda i, o, w, s: LrtConv(i, o, w, s, density))
    model = model.to(device)
    sampled = [m for m in model.modules() if isinstance(m, LrtConv)]
    images = _images(batch_size).to(device)
    labels = torch.randint(0, 10, (batch_size,)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        for layer in sampled:
            loss = loss + layer.kl() / 50_000
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_forward(
    batch_size: int, *, compiled: bool = False
) -> Callable[[], np.ndarray]:
    """One prediction of random images with plain weights; returns probabilities.

    Args:
      batch_size: images a prediction.
      compiled: by `torch.compile`, at the first call.
    """
    torch.manual_seed(0)
    model, images = resnet18(_plain_conv).eval(), _images(batch_size)
    if compiled:
        model = torch.compile(model)

    @torch.inference_mode()
    def forward() -> np.ndarray:
        return torch.softmax(model(images), dim=-1).numpy()

    return forward
