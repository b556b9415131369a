"""What torch's op database is known to do differently here, by op; see opinfo.py.

Every entry of KNOWN is a strict expected failure: an op that heals must leave the table.
"""

from __future__ import annotations

# Not equal, or not recorded: why.
SPARSE = "moai holds strided tensors only, and says so"
KNOWN: dict[str, str] = {
    "sparse.sampled_addmm": SPARSE,
    "sparse.mm.reduce": SPARSE,
    "to_sparse": SPARSE,
}

# The call's sizes or course depend on the values of its inputs, so that eager on any asynchronous device
# waits too: running at once, or reading on the host, is all that can be done.
SIZE = "the result's size depends on data"
PRODUCT = "torch's formula for a product's gradient looks for zeros"
DEPENDS_ON_DATA: dict[str, str] = {
    "allclose": "returns a bool",
    "argwhere": SIZE,
    "bincount": SIZE,
    "combinations": SIZE,
    "corrcoef": "torch warns where the degrees of freedom are too few",
    "cov": "torch warns where the degrees of freedom are too few",
    "cumprod": PRODUCT,
    "equal": "returns a bool",
    "index_fill": "the gradient of a value sums over distinct indices",
    "index_put": "the size of what a mask selects depends on data",
    "istft": "torch raises where the windows' overlap has a zero",
    "item": "returns a number",
    "linalg.eig": "torch raises where the gradient is ill-defined",
    "linalg.lstsq": "the residuals' size depends on the rank",
    "linalg.lstsq.grad_oriented": "the residuals' size depends on the rank",
    "linalg.vander": PRODUCT,
    "masked.cumprod": PRODUCT,
    "masked.prod": PRODUCT,
    "masked_fill": "the gradient of a value sums what the mask selects",
    "masked_select": SIZE,
    "narrow": "a start in a tensor is read",
    "nn.functional.ctc_loss": "lengths in tensors are read",
    "nn.functional.gaussian_nll_loss": "torch raises where a variance is negative",
    "nn.functional.one_hot": "the number of classes is read where it is not given",
    "nonzero": SIZE,
    "prod": PRODUCT,
    "repeat_interleave": "repeats in a tensor are read",
    "unique": SIZE,
    "unique_consecutive": SIZE,
}

# The values are whatever the memory held.
UNDEFINED: dict[str, str] = {
    name: "returns memory that nobody wrote"
    for name in ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
}

# Arguments behind the first are to be CPU tensors on every device.
ON_CPU = {"tensor_split"}

# Kernels that sum in another order when another number of threads shares the work.
TOLERANCES = {
    "nn.functional.scaled_dot_product_attention": {"atol": 5e-5, "rtol": 1e-5},
}

# Eager refuses an out= that shares memory with an input; here the op reads what was there before.
ALIASED = "some elements of the input tensor and the written-to tensor refer to a single memory location"
WRITES_A_COPY = {"cat", "gather", "kthvalue", "masked_select", "take"}
