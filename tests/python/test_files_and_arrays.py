"""What leaves the device and comes back: files, checkpoints, other libraries' arrays, storage types."""

from __future__ import annotations

import copy
import io

import numpy
import pytest
import torch
from small_nets import D, both, net, rows, same


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_saved_tensors_come_back_where_they_are_asked_for(options):
    x = torch.arange(4.0, device=D)
    file = io.BytesIO()
    torch.save({"whole": x, "part": x[1:], "n": 3}, file, **options)
    for place, device in (
        (None, D),
        ("cpu", "cpu"),
        (D, D),
        ({"moai:0": "cpu"}, "cpu"),
        (lambda s, _: s, "cpu"),
    ):
        file.seek(0)
        read = torch.load(file, map_location=place)
        assert read["whole"].device.type == device or callable(place)
        read["part"][0] = 9
        assert read["whole"].tolist() == [0, 9, 2, 3], "views share their storage again"


def test_a_mapped_file_and_one_written_without_its_data(tmp_path):
    torch.save({"x": torch.arange(4.0, device=D)}, tmp_path / "x.pt")
    for device in ("cpu", D):
        read = torch.load(tmp_path / "x.pt", mmap=True, map_location=device)["x"]
        assert read.device.type == device and read.tolist() == [0, 1, 2, 3]


def test_safetensors_reads_and_writes(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    from safetensors import safe_open

    host, device = both(net)
    path = tmp_path / "net.safetensors"
    library.save_file(device.state_dict(), path)
    for place in ("cpu", D, "moai:0"):
        read = library.load_file(path, device=place)
        assert {tensor.device.type for tensor in read.values()} == {place.partition(":")[0]}
        same(read["0.weight"], host[0].weight, 0)
    with safe_open(path, "pt", device=D) as file:
        assert isinstance(file, safe_open) and set(file.keys()) == set(host.state_dict())
        part = file.get_slice("0.weight")
        assert part.get_shape() == [8, 4] and part[1:3].device.type == D
        same(part[1:3], host[0].weight[1:3], 0)
    library.load_model(device, path, device=D)
    with safe_open(path, "pt") as file:
        assert isinstance(file, safe_open) and file.get_tensor("0.weight").device.type == "cpu"


@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_of_one_process(tmp_path):
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def trained():
        model = net().to(D)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(rows(D)).square().sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = trained()
    weights, state = get_state_dict(model, optimizer)
    checkpoint.save({"weights": weights, "state": state}, checkpoint_id=tmp_path / "a")
    checkpoint.async_save({"weights": weights}, checkpoint_id=tmp_path / "b").result()
    other, its_optimizer = trained()
    read = dict(zip(("weights", "state"), get_state_dict(other, its_optimizer), strict=True))
    checkpoint.load(read, checkpoint_id=tmp_path / "a")
    set_state_dict(other, its_optimizer, model_state_dict=read["weights"], optim_state_dict=read["state"])
    same(other[0].weight, model[0].weight, 0)
    same(its_optimizer.state[other[0].weight]["exp_avg"], optimizer.state[model[0].weight]["exp_avg"], 0)
    assert other[0].weight.device.type == D
    on_host = {"weights": {"0.weight": torch.zeros(8, 4)}}
    checkpoint.load(on_host, checkpoint_id=tmp_path / "b")
    same(on_host["weights"]["0.weight"], model[0].weight, 0)


def test_other_libraries_get_a_copy_on_the_host():
    x = torch.arange(4.0, device=D)
    for array in (numpy.from_dlpack(x), x.cpu().numpy(), x.numpy(force=True), torch.from_dlpack(x).numpy()):
        assert array.tolist() == [0, 1, 2, 3]
    assert torch.from_dlpack(x, device=D).device.type == D and x.tolist() == [0, 1, 2, 3]
    assert torch.from_dlpack(numpy.ones(2), device=D).device.type == D
    with pytest.raises(BufferError, match="copy=None or copy=True"):
        torch.from_dlpack(x, copy=False)
    with pytest.raises(
        TypeError, match=r"can't convert moai:0 device type tensor to numpy. Use Tensor.cpu\(\)"
    ):
        numpy.asarray(x)
    assert torch.from_dlpack(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.complex32,
        torch.complex64,
        torch.uint16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e8m0fnu,
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_storage_types_move_and_cast(dtype):
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])
    there = x.to(dtype).to(D)
    assert there.dtype == dtype and there.cpu().view(torch.uint8).equal(x.to(dtype).view(torch.uint8))
    real = there.real if dtype.is_complex else there
    assert real.float().tolist() == x.to(D).tolist() == [1, 2, 4, 8]


BYTES = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)
OF_BYTES = {
    "made": lambda dtype, device: torch.zeros(2, dtype=dtype, device=device),
    "moved": lambda dtype, device: BYTES.view(dtype).to(device),
    "cloned": lambda dtype, device: BYTES.to(device).view(dtype).clone(),
    "joined": lambda dtype, device: torch.cat([BYTES.to(device).view(dtype)] * 2),
    "transposed": lambda dtype, device: BYTES.view(2, 2).to(device).view(dtype).t().contiguous(),
    "sliced": lambda dtype, device: BYTES.to(device).view(dtype)[1:3],
    "copied": lambda dtype, device: copy.deepcopy(BYTES.to(device).view(dtype)),
    "written": lambda dtype, device: torch.zeros(4, dtype=dtype, device=device).copy_(BYTES.view(dtype)),
    "cast": lambda dtype, device: BYTES.to(device).view(dtype).float(),
    "cast_from": lambda dtype, device: BYTES.to(device).float().to(dtype),
}


def bytes_or_error(make, dtype: torch.dtype, device: str) -> object:
    try:
        made = make(dtype, device)
    except Exception as error:
        return type(error), str(error)
    assert made.device.type == device
    return made.dtype, made.shape, made.cpu().view(torch.uint8).tolist()


@pytest.mark.parametrize("make", OF_BYTES.values(), ids=OF_BYTES)
def test_types_that_torch_only_stores_do_what_they_do_on_the_cpu(make):
    for dtype in (
        *(torch.uint1, torch.uint2, torch.uint4, torch.int4, torch.int7),
        *(torch.bits8, torch.bits4x2, torch.bits2x4, torch.bits16, torch.float4_e2m1fn_x2),
    ):
        want = bytes_or_error(make, dtype, "cpu")
        if make is OF_BYTES["written"] and dtype in (
            torch.uint1,
            torch.uint2,
            torch.uint4,
            torch.int4,
            torch.int7,
        ):
            want = (
                dtype,
                torch.Size([4]),
                [1, 2, 3, 4],
            )  # the CPU has no copy for them; from a host the bytes are moved
        assert bytes_or_error(make, dtype, D) == want, dtype


def test_types_of_quantized_tensors_say_what_to_do():
    there = BYTES.to(D)
    with pytest.raises(
        NotImplementedError, match=r"moai has no tensors of type QUInt4x2; .*view\(torch.uint8\)"
    ):
        there.view(torch.quint4x2)
    with pytest.raises(NotImplementedError, match="dequantize()"):
        BYTES.view(torch.quint4x2).to(D)
