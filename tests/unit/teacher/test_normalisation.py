"""BatchNormalization: its gradients are torch's."""

from __future__ import annotations

import torch

from edgeq.teacher.normalisation import batch_normalization


def test_the_gradient_through_a_batchnorm_of_constants_is_torchs():
    generator = torch.Generator().manual_seed(0)
    scale, bias, mean = (torch.randn(3, generator=generator) for _ in range(3))
    var = torch.rand(3, generator=generator) + 0.1
    for shape in ((4, 3), (4, 3, 5, 5)):
        x = torch.randn(shape, generator=generator)
        grad = torch.randn(shape, generator=generator)
        found, wanted = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        y = batch_normalization(found, scale, bias, mean, var)
        z = torch.nn.functional.batch_norm(wanted, mean, var, scale, bias)
        torch.autograd.backward([y, z], [grad, grad])
        assert torch.equal(y, z)
        torch.testing.assert_close(found.grad, wanted.grad)


def test_parameters_of_a_batchnorm_that_are_trained_get_their_gradient():
    scale = torch.ones(3, requires_grad=True)
    y = batch_normalization(torch.ones(2, 3), scale, torch.zeros(3), torch.zeros(3), torch.ones(3))
    torch.autograd.backward(y.sum())
    assert scale.grad is not None
