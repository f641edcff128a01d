"""What is available: of the machine, and of its control group."""

import pytest

from kfisher._common import memory


@pytest.mark.parametrize(
    "limit, use, statistics",
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_the_limit_of_a_control_group_counts_where_it_is_smaller(
    limit, use, statistics, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    of_machine = memory.available()
    assert 0 < of_machine < float("inf")
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("5000\n")
    (tmp_path / use).write_text("1500\n")
    (tmp_path / statistics).write_text("active_file 7\ninactive_file 300\n")
    assert memory.available() == 3800  # what only caches files can be had
    (tmp_path / limit).write_text(f"{2**62}\n" if "bytes" in limit else "max\n")
    assert memory.available() > 1e6
