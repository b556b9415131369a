"""What torch's databases are known to do differently here, and why; see opinfo.py and moduleinfo.py.

Entries are names, or `name dtype`. Every entry of KNOWN is a strict expected failure: what heals must leave the table.
"""

from __future__ import annotations

# Not equal: why. The error that it raises stands in docs/coverage.md.
SPARSE = "moai holds strided tensors only, and says so"
KNOWN: dict[str, str] = {
    "sparse.sampled_addmm": SPARSE,
    "sparse.mm.reduce": SPARSE,
    "to_sparse": SPARSE,
    "SparseAdam": SPARSE,
}

# The call's sizes or course depend on the values of its inputs, so that eager on any asynchronous device
# waits too: running at once, or reading on the host, is all that can be done.
SIZE = "the result's size depends on data"
ILL_DEFINED = "torch raises where the gradient is ill-defined"
MOMENTUM = "torch reads how many batches there were where momentum is None"
MASK = "torch reads whether a mask is the causal one"
DEPENDS_ON_DATA: dict[str, str] = {
    "allclose": "returns a bool",
    "argwhere": SIZE,
    "bincount": SIZE,
    "corrcoef": "torch warns where the degrees of freedom are too few",
    "cov": "torch warns where the degrees of freedom are too few",
    "equal": "returns a bool",
    "index_put": "the size of what a mask selects depends on data",
    "istft": "torch raises where the windows' overlap has a zero",
    "item": "returns a number",
    "linalg.eig": ILL_DEFINED,
    "linalg.eigh complex64": ILL_DEFINED,
    "linalg.lstsq": "the residuals' size depends on the rank",
    "linalg.lstsq.grad_oriented": "the residuals' size depends on the rank",
    "linalg.svd complex64": ILL_DEFINED,
    "masked_select": SIZE,
    "narrow": "a start in a tensor is read",
    "nn.functional.ctc_loss": "lengths in tensors are read",
    "nn.functional.gaussian_nll_loss": "torch raises where a variance is negative",
    "nn.functional.one_hot": "the number of classes is read where it is not given",
    "nonzero": SIZE,
    "pca_lowrank complex64": ILL_DEFINED,
    "repeat_interleave": "repeats in a tensor are read",
    "svd complex64": ILL_DEFINED,
    "svd_lowrank complex64": ILL_DEFINED,
    "unique": SIZE,
    "unique_consecutive": SIZE,
    # Modules
    "nn.BatchNorm1d": MOMENTUM,
    "nn.BatchNorm2d": MOMENTUM,
    "nn.BatchNorm3d": MOMENTUM,
    "nn.GaussianNLLLoss": "torch raises where a variance is negative",
    "nn.Transformer": MASK,
    "nn.TransformerEncoder": MASK,
    # Optimizers
    "ASGD": "torch keeps its rate and step on the device, and reads them unless it is capturable",
    "Adafactor": "torch reads the norm of each parameter",
    "LBFGS": "torch reads the loss and decides on the host",
    "NAdam": "torch's load_state_dict moves mu_product to the device, where each step reads it unless capturable",
}

# What the databases do not show. A test holds each: see test_transforms.py.
STATED: dict[str, str] = {
    "nn.TransformerEncoder, evaluated without gradients under a padding mask": "torch packs the rows in a nested tensor on"
    " the CPU and on CUDA, which leaves zeros in padded positions; moai takes torch's other path, as"
    " `torch.backends.mha.set_fastpath_enabled(False)` does, which leaves there what the layers compute. The other positions"
    " are equal",
}

# The values are whatever the memory held.
UNDEFINED: dict[str, str] = {
    name: "returns memory that nobody wrote"
    for name in ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
}

# Arguments behind the first are to be CPU tensors on every device.
ON_CPU = {"tensor_split"}

TOLERANCES = {
    # Kernels that sum in another order when another number of threads shares the work.
    "nn.functional.scaled_dot_product_attention": {"atol": 5e-5, "rtol": 1e-5},
    # Ill-conditioned: the CPU's own gradients are as far from those in complex128. BLAS is told of a lazy
    # conjugation on the CPU, and gets conjugated operands here, which it rounds otherwise.
    "linalg.householder_product complex64": {"atol": 1e-5, "rtol": 2e-5},
}


def known(name: str, dtype: str) -> str | None:
    """Why it is not equal."""
    return KNOWN.get(name) or KNOWN.get(f"{name} {dtype}")


def depends_on_data(name: str, dtype: str) -> str | None:
    """Why it is not recorded throughout."""
    return DEPENDS_ON_DATA.get(name) or DEPENDS_ON_DATA.get(f"{name} {dtype}")
