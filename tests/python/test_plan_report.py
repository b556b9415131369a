"""What is made of a plan for people: the text of 80 columns, the page, the picture."""

from __future__ import annotations

import copy
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import moai
import pytest
from moai.planning.page import page
from moai.planning.picture import COLOURS, save_png
from moai.planning.report import comparison, gib, often, percent, placement, report, seconds, warnings
from moai.planning.sweep import sweep_charts


@pytest.fixture(scope="module")
def planned() -> dict:
    return moai.plan("gpt2", 16, 128, "h100:8", pin="dp=2,tp=2,pp=2,micro=4,order=zero_bubble")


@pytest.fixture
def found(planned: dict) -> dict:
    return copy.deepcopy(planned)


def long_words(found: dict) -> dict:
    """A result whose every name is longer than a terminal likes."""
    found["model"] = "/home/somebody/" + "a_folder/" * 20 + "train.py"
    found["kept_whole"] = {"flops": 0.2, "bytes": 0.1}
    row = {"op": "library.an_operator_of_nobody_here", "why": "no rule says how it splits " * 3, "flops": 1e9, "bytes": 1e9, "nodes": 12, "line": "some_module_of_the_script.py:1234"}  # fmt: skip
    found["kept_whole_ops"] = [row]
    found["largest"] = [{"op": "aten._scaled_dot_product_flash_attention_for_cpu_backward", "shape": [8] * 12, "bytes": 2**40, "line": row["line"]}]  # fmt: skip
    found["reads"] = {row["line"]: 1}
    return found


def test_no_name_is_too_long_for_a_terminal(found: dict) -> None:
    text = report(long_words(found))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "some_module_of_the_script.py:1234" in text and "once" in text


def test_what_is_kept_whole_is_told_where_it_weighs(found: dict) -> None:
    found["kept_whole"] = {"flops": 0.0, "bytes": 0.0004}
    assert "kept whole" not in report(found) and "Kept whole" not in page(found)
    found["kept_whole"]["bytes"] = 0.01
    assert "kept whole on every device: 0.00% of FLOPs, 1.00% of bytes" in report(found)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rounds", 40, "40 rounds of 16 samples of 128 tokens"),
        ("rounds", 40, "the gradients of 40 rounds"),
        ("steps_alike", False, "was not like the one before"),
        ("optimizers", 2, "steps 2 optimizers"),
        ("axes", [{"name": "whole", "size": 4}, {"name": "data", "size": 2}], "4 devices at a time do the same"),
    ],
)  # fmt: skip
def test_what_to_know_first_is_said_in_text_and_page(
    found: dict, field: str, value: object, says: str
) -> None:
    assert not warnings(found)
    found.update({field: value, "steps_recorded": 4})
    # What the messages of the real axes were is of no interest here.
    found["breakdown"]["messages"] = []
    assert says in " ".join(report(found).split()) and says in page(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data 8: replicate; tensor 4: replicate", "whole on each device"),
        ("data 8: shard dim 0; tensor 4: replicate", "shard dim 0 over data 8"),
        ("data 8: shard dim 0; tensor 4: shard dim 0", "shard dim 0 over data 8 x tensor 4"),
        ("data 8: shard dim 1; tensor 4: shard dim 0", "shard dim 1 over data 8; shard dim 0 over tensor 4"),
        ("", "whole on each device"),
    ],
)
def test_a_placement_says_what_is_split(text: str, says: str) -> None:
    assert placement(text) == says


def test_small_numbers_are_not_nothing() -> None:
    assert [gib(4), gib(2048), gib(3 * 2**30)] == ["4 B", "2.0 KiB", "3.0 GiB"]
    assert [percent(0), percent(0.00001), percent(0.4567)] == ["0.0%", "0.001%", "45.7%"]
    assert [seconds(0), seconds(2e-6), seconds(0.5), seconds(3)] == ["0", "2 us", "500 ms", "3 s"]
    assert [often(1), often(2)] == ["once", "2 times"]


class Balance(HTMLParser):
    """The elements that were opened and not closed, and what closed none."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(tag)


def test_the_page_stands_alone_and_closes_what_it_opens(found: dict) -> None:
    text = page(long_words(found) | {"model": "<script>alert(1)</script>"})
    parser = Balance()
    parser.feed(text)
    assert not parser.wrong and not parser.open and "<script" not in text
    assert not re.search(r"(src|href)=", text)
    assert "some_module_of_the_script.py:1234" in text


def test_a_limit_far_above_is_told_and_not_drawn(found: dict) -> None:
    assert "stroke-dasharray" not in page(found) and "78.4 GiB usable" in page(found)
    found["cluster"]["memory_bytes"] = 1.5 * found["peak_bytes"]
    assert "stroke-dasharray" in page(found)


def test_the_picture_shows_every_part_of_the_step(found: dict, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    path = tmp_path / "plan"  # whatever its name ends with
    save_png(found, str(path))
    pixels = imread(str(path), format="png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 500
    for kind in {span[1] for span in found["picture"]["spans"]}:
        colour = [int(COLOURS[kind][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels[..., :3] - colour).max(axis=-1) < 0.01).sum() > 1000, kind


def test_no_picture_says_why(found: dict, tmp_path: Path, monkeypatch) -> None:
    path = str(tmp_path / "plan.png")
    with pytest.raises(ValueError, match="--html"):
        save_png(found | {"fits": False}, path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        save_png(found, path)


def test_a_sweep_is_drawn_where_there_are_two_points(found: dict) -> None:
    half = copy.deepcopy(found) | {"tokens_per_s": found["tokens_per_s"] / 2}
    no = {"fits": False, "refused": "cannot be"}
    points = [("a<b=1", half), ("a<b=2", found), ("a<b=3", no)]
    text = "".join(sweep_charts(points))
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    assert heights == [75, 150, 150, 150] and "a&lt;b" in text and 'aria-label="tokens/sec"' in text
    assert sweep_charts(points[1:]) == []


def test_plans_side_by_side_fit_a_terminal(found: dict) -> None:
    rows = [
        ("as asked", found),
        ("pin=dp=2,tp=2,pp=2,micro=4,zero=1,recompute=full,order=zero_bubble", found),
    ]
    rows.append(("cluster=/home/somebody/clusters/of/another/department.json", found | {"fits": False}))
    text = comparison(rows)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "does not fit" in text
