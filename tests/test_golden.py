"""A seed draws what it always drew; how to see what changed is told in `golden_draws.py`."""

import json

import pytest

from tests import golden_draws


@pytest.mark.parametrize("name", golden_draws.DRAWS)
def test_a_seed_draws_what_it_always_drew(name):
    now = {key: golden_draws.record(values) for key, values in golden_draws.DRAWS[name]().items()}
    assert now == golden_draws.recorded(name), "see tests/golden_draws.py"


def test_what_is_recorded_is_worth_comparing():
    """The draws differ from each other, so none is a constant, and crops reach all places."""
    for name in golden_draws.DRAWS:
        hashes = [record["sha256"] for key, record in golden_draws.recorded(name).items() if not key.startswith("none")]
        assert len(hashes) > 1
        assert len(set(hashes)) == len(hashes), name
    for places in golden_draws.crops_and_flips().values():
        tops, lefts, flips = (set(column) for column in zip(*places, strict=True))
        assert (tops, lefts, flips) == ({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, {0, 1})


def test_a_draw_that_differs_is_shown(tmp_path, monkeypatch, capsys):
    for name in golden_draws.DRAWS:
        (tmp_path / f"{name}.json").write_text(json.dumps(golden_draws.recorded(name)))
    wrong = golden_draws.recorded("order")
    wrong["meta"]["first"][0] += 1
    (tmp_path / "order.json").write_text(json.dumps(wrong))
    monkeypatch.setattr(golden_draws, "FOLDER", tmp_path)
    assert golden_draws.main(["--dump", str(tmp_path / "all")]) == 1
    assert capsys.readouterr().out.startswith("order.json, meta:\n  recorded {'count': 480, 'first': [")
    dumped = (tmp_path / "all" / "order" / "meta.txt").read_text().split()
    assert [int(row) for row in dumped] == golden_draws.order()["meta"]
    # And writing records it.
    assert golden_draws.main(["--write"]) == 0
    assert golden_draws.recorded("order")["meta"]["first"][0] == wrong["meta"]["first"][0] - 1
