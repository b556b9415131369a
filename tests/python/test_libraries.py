"""Libraries above PyTorch, their users' code unchanged: the device they choose is moai, and the numbers are the CPU's."""

from __future__ import annotations

import contextlib
import math
import warnings

import moai
import pytest
import torch
from torch import nn

VOCAB = 97


@contextlib.contextmanager
def recorded(ops: int, *at_once: str):
    """What happens meanwhile is moai's work: at least `ops` ops, all recorded but those named."""
    moai.reset_stats()
    yield
    moai.sync()
    stats = moai.stats()
    assert stats["ops"] >= ops and stats["launches"] > 0
    assert set(stats["at_once"]) <= set(at_once)


def near(got: list[float], want: list[float], tolerance: float = 1e-5) -> None:
    assert got == pytest.approx(want, rel=tolerance, abs=tolerance)


def labelled_rows() -> torch.utils.data.TensorDataset:
    draw = torch.Generator().manual_seed(0)
    return torch.utils.data.TensorDataset(
        torch.randn(16, 4, generator=draw), torch.randint(0, 2, (16,), generator=draw)
    )


def small_net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))


# ---- transformers


@pytest.fixture
def hf():
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    return pytest.importorskip("transformers", reason="transformers is not installed")


def gpt2(hf, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    off = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=VOCAB, n_positions=16, n_embd=32, n_layer=2, n_head=4, **off, **ends)
    )


def bert(hf) -> nn.Module:
    torch.manual_seed(0)
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return hf.BertForMaskedLM(hf.BertConfig(vocab_size=VOCAB, **sizes, **off))


def sentences() -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(1, VOCAB, (16, 12), generator=draw)
    return [{"input_ids": row, "labels": row} for row in rows]


def trainer(hf, folder, model: nn.Module, **options):
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=options.pop("max_steps", 4),
        logging_steps=options.pop("logging_steps", 1),
        learning_rate=1e-3,
        report_to=[],
        disable_tqdm=True,
        save_strategy=options.pop("save_strategy", "no"),
        **options,
    )
    return hf.Trainer(model=model, args=arguments, train_dataset=sentences(), eval_dataset=sentences())


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("build", [gpt2, bert])
def test_the_trainer_chooses_moai_and_trains_as_on_the_cpu(hf, tmp_path, build):
    host = trainer(hf, tmp_path / "host", build(hf), use_cpu=True)
    host.train()
    device = trainer(hf, tmp_path / "device", build(hf))
    assert device.args.device.type == "moai" and host.args.device.type == "cpu"
    with recorded(400):
        device.train()
        evaluated = device.evaluate()
    near(losses(device), losses(host))
    near([evaluated["eval_loss"]], [host.evaluate()["eval_loss"]])
    assert device.model.device.type == "moai" and losses(device)[-1] < losses(device)[0]


def test_the_environment_names_moai_where_a_library_would_choose_otherwise(hf, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "-1")
    monkeypatch.setattr("moai.adapters.accelerate.replaces_the_cpu", lambda: False)
    assert trainer(hf, tmp_path, bert(hf)).args.device.type == "cpu"
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "moai")
    assert trainer(hf, tmp_path, bert(hf)).args.device.type == "moai"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_trainers_mixed_precision_works(hf, tmp_path, precision):
    host = trainer(hf, tmp_path / "host", gpt2(hf), use_cpu=True)
    host.train()
    device = trainer(hf, tmp_path / "device", gpt2(hf), **{precision: True})
    with recorded(400):
        device.train()
    near(losses(device), losses(host), 1e-2)
    assert losses(device) != pytest.approx(losses(host), rel=1e-7), "autocast did nothing"
    assert (device.accelerator.scaler is not None) == (precision == "fp16")


class DiesTwice(nn.Module):
    """A model whose loss is not finite in its third and fourth call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.calls = nn.Embedding(VOCAB, 1), 0

    def forward(self, input_ids, labels):
        if self.training:
            self.calls += 1
        loss = self.table(input_ids).square().mean()
        return {"loss": loss + {3: float("nan"), 4: float("inf")}.get(self.calls, 0.0)}


@pytest.mark.parametrize("filters", [True, False])
def test_the_trainer_logs_losses_that_are_not_finite_as_on_the_cpu(hf, tmp_path, filters):
    options = {
        "max_steps": 6,
        "logging_steps": 2,
        "logging_nan_inf_filter": filters,
        "eval_strategy": "steps",
    }
    seen = []
    for place in ({"use_cpu": True}, {}):
        runs = trainer(hf, tmp_path, DiesTwice(), **options, **place)
        runs.train()
        seen.append(losses(runs))
        assert runs.args.logging_nan_inf_filter is filters and "training_step" not in vars(runs)
    assert seen[1] == pytest.approx(seen[0], rel=1e-5, nan_ok=True) and len(seen[0]) == 3
    assert all(map(math.isfinite, seen[0])) == filters


def test_the_trainer_goes_on_from_a_checkpoint_with_the_same_random_numbers(hf, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = trainer(hf, tmp_path, gpt2(hf, dropout=0.5), **options)
    whole.train()
    again = trainer(hf, tmp_path, gpt2(hf, dropout=0.5), **options)
    with recorded(100):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    near(losses(again)[-2:], losses(whole)[-2:])
    for got, want in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(got.cpu(), want.cpu(), rtol=1e-5, atol=1e-6)


def test_a_model_saved_on_moai_is_read_on_either_device(hf, tmp_path):
    model = gpt2(hf).to("moai")
    model.save_pretrained(tmp_path)
    for place in ({}, {"device_map": "moai"}, {"device_map": {"": "moai:0"}}):
        read = hf.GPT2LMHeadModel.from_pretrained(tmp_path, **place)
        assert read.device.type == ("moai" if place else "cpu")
        torch.testing.assert_close(read.lm_head.weight.cpu(), model.lm_head.weight.cpu(), rtol=0, atol=0)


def test_generate_writes_what_it_writes_on_the_cpu(hf):
    model = gpt2(hf).eval()
    prompt = torch.tensor([[5, 6, 7]])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    want = model.generate(prompt, **options)
    with recorded(300):
        got = model.to("moai").generate(prompt.to("moai"), **options)
    assert got.tolist() == want.tolist()


# ---- Accelerate


def train_with_accelerate(accelerator, epochs: int = 1, dropout: float = 0.0) -> tuple[list[float], list]:
    model, rows = small_net(dropout), torch.utils.data.DataLoader(labelled_rows(), batch_size=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    parts = accelerator.prepare(model, optimizer, rows, schedule)
    return epoch_with_accelerate(accelerator, parts), parts


def epoch_with_accelerate(accelerator, parts) -> list[float]:
    model, optimizer, rows, schedule = parts
    seen = []
    for x, y in rows:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        seen.append(loss.detach())
    return accelerator.gather(torch.stack(seen)).tolist()


@pytest.fixture
def accelerate():
    library = pytest.importorskip("accelerate", reason="accelerate is not installed")
    library.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield library
    library.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-5),
        ({"gradient_accumulation_steps": 2}, 1e-5),
        ({"mixed_precision": "bf16"}, 2e-2),
        ({"mixed_precision": "fp16"}, 2e-2),
    ],
    ids=["fp32", "accumulate", "bf16", "fp16"],
)
def test_accelerate_chooses_moai_and_trains_as_on_the_cpu(accelerate, options, tolerance):
    whole = {name: value for name, value in options.items() if name != "mixed_precision"}
    want, _ = train_with_accelerate(accelerate.Accelerator(cpu=True, **whole))
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(**options)
    assert accelerator.device.type == "moai"
    assert accelerator.mixed_precision == options.get("mixed_precision", "no")
    with recorded(100):
        got, (model, *_) = train_with_accelerate(accelerator)
    near(got, want, tolerance)
    assert accelerator.unwrap_model(model)[0].weight.device.type == "moai"


def test_accelerates_state_is_saved_and_loaded_with_the_random_state(accelerate, tmp_path):
    accelerator = accelerate.Accelerator(mixed_precision="fp16")
    _, parts = train_with_accelerate(accelerator, dropout=0.5)
    accelerator.save_state(str(tmp_path))
    want = epoch_with_accelerate(accelerator, parts)
    accelerator.load_state(str(tmp_path))
    with recorded(100):
        assert epoch_with_accelerate(accelerator, parts) == want


# ---- Lightning


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request):
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def fit(lightning, **options):
    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.seen = small_net(), []

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            self.seen.append(loss.detach())
            return loss

        def validation_step(self, batch, _):
            self.log("validation", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    net, rows = Net(), torch.utils.data.DataLoader(labelled_rows(), batch_size=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=2, enable_model_summary=False, **quiet, **options)
    trainer.fit(net, rows, rows)
    return trainer, torch.stack(net.seen).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-5),
        ({"accelerator": "moai", "devices": 1, "gradient_clip_val": 100.0}, 1e-5),
        ({"precision": "bf16-mixed"}, 2e-2),
        ({"precision": "16-mixed"}, 2e-2),
    ],
    ids=["auto", "named", "bf16", "fp16"],
)
def test_lightning_chooses_moai_and_trains_as_on_the_cpu(lightning, options, tolerance):
    _, want = fit(lightning, accelerator="cpu")
    with recorded(200):
        trainer, got = fit(lightning, **options)
    assert trainer.strategy.root_device.type == "moai"
    near(got, want, tolerance)


@pytest.mark.filterwarnings("ignore")
def test_lightning_stays_on_the_cpu_where_it_is_asked_for_or_several_processes_are(lightning):
    for options in ({"accelerator": "cpu"}, {"devices": 2, "strategy": "ddp"}):
        assert lightning.Trainer(logger=False, **options).strategy.root_device.type == "cpu"
    with pytest.raises(Exception, match="moai is one device: devices=2"):
        lightning.Trainer(logger=False, accelerator="moai", devices=2)


@pytest.mark.filterwarnings("ignore")
def test_fabric_chooses_moai():
    fabrics = pytest.importorskip("lightning.fabric", reason="lightning is not installed")
    fabric = fabrics.Fabric(precision="bf16-mixed")
    model, optimizer = fabric.setup(net := small_net(), torch.optim.SGD(net.parameters(), lr=0.1))
    with recorded(20):
        x, y = labelled_rows().tensors
        loss = nn.functional.cross_entropy(model(fabric.to_device(x)), fabric.to_device(y))
        fabric.backward(loss)
        optimizer.step()
    assert loss.device.type == "moai" and net[0].weight.grad.device.type == "moai"


# ---- torch.distributed.checkpoint


@pytest.mark.filterwarnings("ignore")
def test_a_distributed_checkpoint_is_saved_and_loaded(tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def trained(seed: int):
        torch.manual_seed(seed)
        model = nn.Linear(4, 2).to("moai")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.ones(3, 4, device="moai")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return model, optimizer

    saved, other = trained(0), trained(1)
    with recorded(0):
        state = dict(zip(("model", "optimizer"), get_state_dict(*saved), strict=True))
        dcp.save(state, checkpoint_id=str(tmp_path))
        state = dict(zip(("model", "optimizer"), get_state_dict(*other), strict=True))
        dcp.load(state, checkpoint_id=str(tmp_path))
        set_state_dict(*other, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    assert other[0].weight.device.type == "moai"
    for got, want in zip(other[0].parameters(), saved[0].parameters(), strict=True):
        torch.testing.assert_close(got.cpu(), want.cpu(), rtol=0, atol=0)
        for name, value in saved[1].state[want].items():
            torch.testing.assert_close(other[1].state[got][name].cpu(), value.cpu(), rtol=0, atol=0)


# ---- peft, timm, torchvision


def test_lora_trains_as_on_the_cpu(hf, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    layers = peft.LoraConfig(r=4, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True)

    def train(device):
        model = peft.get_peft_model(gpt2(hf).to(device), layers)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        seen = []
        for row in sentences()[:4]:
            loss = model(**{name: value[None].to(device) for name, value in row.items()}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.detach())
        return model, torch.stack(seen).tolist()

    _, want = train("cpu")
    with recorded(400):
        model, got = train("moai")
    near(got, want)
    model.save_pretrained(tmp_path)
    read = peft.PeftModel.from_pretrained(gpt2(hf).to("moai"), tmp_path)
    x = sentences()[0]["input_ids"][None].to("moai")
    torch.testing.assert_close(read.eval()(x).logits.cpu(), model.eval()(x).logits.cpu())
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x).logits.cpu(), read(x).logits.cpu(), rtol=1e-4, atol=1e-5)


def image_model(library: str, name: str) -> nn.Module:
    models = pytest.importorskip(library, reason=f"{library} is not installed")
    torch.manual_seed(0)
    if library == "timm":
        return models.create_model(name, num_classes=5)
    return models.models.get_model(name, num_classes=5)


@pytest.mark.parametrize(
    ("library", "name", "size"),
    [
        ("torchvision", "resnet18", 32),
        ("torchvision", "shufflenet_v2_x0_5", 64),
        ("timm", "test_vit", 160),
        ("timm", "test_convnext", 64),
        ("timm", "test_efficientnet", 64),
    ],
)
def test_image_models_train_as_on_the_cpu(library, name, size):
    draw = torch.Generator().manual_seed(1)
    images, labels = torch.randn(2, 3, size, size, generator=draw), torch.randint(0, 5, (2,), generator=draw)

    def train(device):
        model = image_model(library, name).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
        seen = []
        for _ in range(2):
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.detach())
        return torch.stack(seen).tolist()

    want = train("cpu")
    with recorded(100):
        got = train("moai")
    near(got, want, 1e-3)


def test_torchvisions_own_ops_and_transforms_run_on_moai():
    vision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    from torchvision.transforms import v2

    draw = torch.Generator().manual_seed(1)
    corners = torch.rand(12, 2, generator=draw) * 50
    boxes, scores = torch.cat([corners, corners + 20], 1), torch.rand(12, generator=draw)
    assert (
        vision.ops.nms(boxes.to("moai"), scores.to("moai"), 0.3).tolist()
        == vision.ops.nms(boxes, scores, 0.3).tolist()
    )
    image = torch.rand(2, 3, 32, 32, generator=draw)
    change = v2.Compose(
        [v2.Resize(24, antialias=True), v2.CenterCrop(16), v2.Normalize([0.5] * 3, [0.2] * 3)]
    )
    with recorded(3):
        got = change(image.to("moai"))
    torch.testing.assert_close(got.cpu(), change(image), rtol=1e-5, atol=1e-5)
    features, rois = torch.randn(1, 4, 16, 16, generator=draw), torch.tensor([[0.0, 1, 1, 9, 9]])
    pooled = vision.ops.roi_align(features.to("moai"), rois.to("moai"), 3)
    torch.testing.assert_close(pooled.cpu(), vision.ops.roi_align(features, rois, 3))


# ---- Adapters


def test_an_adapter_that_does_not_fit_warns_and_changes_nothing():
    import types

    from moai import adapters

    module = types.ModuleType("accelerate.state")
    with pytest.warns(UserWarning, match="does not fit this version of accelerate"):
        adapters.adapt(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(module, "PartialState")
