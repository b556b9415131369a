"""How often a steady step is cut, by model and by library, and who asks for what is read.

A step that nothing reads is cut once, at the end of `optimizer.step()`. Every other cut stands here with its reason, so that a new one
is seen, and one that went is too.
"""

from __future__ import annotations

from collections.abc import Callable

import moai
import pytest
import torch
from test_libraries import gpt2, labelled_rows, sentences, small_net
from test_models import MODELS
from torch import nn

WARM, COUNTED = 3, 4
STEP = {"optimizer step": 1}


class Counter:
    """Told of the beginning of each step: why the steps behind the first were cut, as a mean."""

    def __init__(self) -> None:
        self.begun = 0
        self.cuts: dict[str, float] = {}

    def step(self) -> None:
        if self.begun == WARM:
            moai.reset_stats()
        if self.begun == WARM + COUNTED:
            reasons = moai.stats()["cut_reasons"]
            self.cuts = {reason: count / COUNTED for reason, count in reasons.items()}
        self.begun += 1


def cuts(step: Callable[[], object]) -> dict[str, float]:
    counter = Counter()
    for _ in range(WARM + COUNTED + 1):
        counter.step()
        step()
    return counter.cuts


# ---- Models, of which nobody reads the loss

PADDED = {"host read": 1, **STEP}  # transformers asks whether the mask hides anything
READ_BY_A_MODEL = {
    "bert": PADDED,
    "t5": {"host read": 2, **STEP},  # the encoder and the decoder each ask that
    # Each layer looks up which experts have tokens (nonzero), and asks for each expert that has: 4 of them.
    "mixtral-loop": {"host read": 8, "op at once": 2, **STEP},
}


@pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])
def test_of_a_model(model):
    torch.manual_seed(0)
    module = model.build().to("moai").train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    batch = {name: value.to("moai") for name, value in model.batch(0).items()}

    def step() -> None:
        module(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert cuts(step) == READ_BY_A_MODEL.get(model.name, STEP)


# ---- transformers' Trainer

PACKED = {
    "host read": 1,
    **STEP,
}  # with neither mask nor cache, transformers asks whether positions are of packed sequences
TRAINED = {
    "fp32": ({}, PACKED),
    "fp16": ({"fp16": True}, PACKED),
    "unfiltered": ({"logging_nan_inf_filter": False}, PACKED),
    "accumulating": (
        {"gradient_accumulation_steps": 2},
        {"host read": 2, **STEP},
    ),  # that, in each of two passes
    # Trainer formats the loss, and the norm of the gradients, which is there by then.
    "logging": ({"logging_steps": 1}, {"host read": 2, **STEP}),
    # Accelerate wants to know of skipped steps, and asks GradScaler for them; "adamw_torch" is not fused.
    "fp16_plain": ({"fp16": True, "optim": "adamw_torch"}, {"host read": 2, **STEP}),
}


@pytest.mark.parametrize(("options", "expected"), TRAINED.values(), ids=TRAINED)
def test_of_the_trainer(options, expected, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    import transformers

    counter = Counter()

    class AtEachStep(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            counter.step()

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        max_steps=WARM + COUNTED + 1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        **{"logging_steps": 100, **options},
    )
    model = gpt2(transformers)
    transformers.Trainer(model, arguments, train_dataset=sentences(), callbacks=[AtEachStep()]).train()
    assert counter.cuts == expected


# ---- Accelerate

ACCELERATED = {
    "fp32": ({}, STEP),
    "bf16": ({"mixed_precision": "bf16"}, STEP),
    "fp16": ({"mixed_precision": "fp16"}, {"host read": 1, **STEP}),  # it wants to know of skipped steps
    "accumulating": ({"gradient_accumulation_steps": 2}, {"optimizer step": 0.5}),
}


@pytest.mark.parametrize(("options", "expected"), ACCELERATED.values(), ids=ACCELERATED)
def test_of_accelerate(options, expected):
    library = pytest.importorskip("accelerate", reason="accelerate is not installed")
    library.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = library.Accelerator(**options)
    model, rows = small_net(), torch.utils.data.DataLoader(labelled_rows(), batch_size=4)
    model, optimizer, rows = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), rows)
    batches = iter([batch for _ in range(2) for batch in rows])

    def step() -> None:
        x, y = next(batches)
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    try:
        assert cuts(step) == expected
    finally:
        library.state.AcceleratorState._reset_state(reset_partial_state=True)


# ---- Lightning

FITTED = {
    "fp32": ({}, STEP),
    "bf16": ({"precision": "bf16-mixed"}, STEP),
    "fp16": ({"precision": "16-mixed"}, STEP),
    "clipping": ({"gradient_clip_val": 1.0}, STEP),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("options", "expected"), FITTED.values(), ids=FITTED)
def test_of_lightning(options, expected):
    library = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    counter = Counter()

    class Net(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_net()

        def training_step(self, batch, _):
            counter.step()
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fitter = library.Trainer(max_epochs=1, enable_model_summary=False, **quiet, **options)
    fitter.fit(Net(), torch.utils.data.DataLoader(labelled_rows(), batch_size=2))
    assert counter.cuts == expected
