"""Frechet distance between two Gaussians (Dowson & Landau 1982), the "FID" when they were fitted to features:

    d^2 = |m_1 - m_2|^2 + tr(C_1) + tr(C_2) - 2 tr((C_1^{1/2} C_2 C_1^{1/2})^{1/2})

The last trace is the sum of the singular values of C_1^{1/2} C_2^{1/2}. In this form no root is taken of
a product's eigenvalues, so singular covariances (fewer samples than features) cost no digits, and no
complex number can appear as it does with a general matrix root of C_1 C_2.
"""

import torch
from torch import Tensor


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64; N must be at least 2."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N >= 2, got {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError("features must be finite")
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """d^2 (not its root) between N(mean1, cov1) and N(mean2, cov2); means (D,), covariances (D, D).

    Raises ValueError for shapes that do not match and for a matrix that is no covariance.
    """
    D = len(mean1)
    for name, tensor, shape in (
        ("mean1", mean1, (D,)),
        ("cov1", cov1, (D, D)),
        ("mean2", mean2, (D,)),
        ("cov2", cov2, (D, D)),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} must be finite")
    root1, root2 = _root("cov1", cov1), _root("cov2", cov2)
    shift = (mean1.double() - mean2.double()).square().sum()
    overlap = torch.linalg.svdvals(root1 @ root2).sum()
    return (shift + cov1.double().trace() + cov2.double().trace() - 2 * overlap).item()


def _root(name: str, cov: Tensor) -> Tensor:
    """The symmetric square root, in float64."""
    cov = cov.double()
    if not torch.allclose(cov, cov.T, rtol=1e-5, atol=1e-8 * cov.abs().max().item()):
        raise ValueError(f"{name} must be symmetric")
    values, vectors = torch.linalg.eigh(cov)
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"{name} must have no negative eigenvalue, got {values[0].item():.3g}")
    # Rounding noise at 1e-16 would have a root of 1e-8: what is below the noise of eigh counts as zero.
    values = values.where(values > len(values) * torch.finfo(values.dtype).eps * values[-1], 0)
    return vectors * values.sqrt() @ vectors.T
