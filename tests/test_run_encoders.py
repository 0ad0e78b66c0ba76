"""Encoders of a run: found without its stores, and refused if they do not compute its features."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_train_head import data, made, train
from tiny import wave

from features.encoders.base import load_encoder
from features.encoders.selector import parse_selector
from features.errors import InputError, UsageError
from mervn.use.recognizer import EmotionRecognizer

__all__ = ["data", "made"]  # fixtures


def scores(run: Path, **options: object) -> list[float]:
    recognizer = EmotionRecognizer.from_pretrained(run, device="cpu", **options)  # type: ignore[arg-type]
    found = recognizer(wave(0.5, 0), "hôm nay tôi vui lắm", sample_rate=16_000)
    return [one["score"] for one in found]  # type: ignore[index,call-overload]


def test_the_record_of_the_run_is_enough_without_its_stores(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    expected = scores(run)
    stores = shutil.move(data / "stores", tmp_path / "moved")
    shutil.rmtree(data)
    assert scores(run) == expected  # config.json names the checkpoints
    assert scores(run, features_dir=Path(stores)) == expected


def test_an_encoder_with_other_weights_is_refused(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    config = json.loads((run / "config.json").read_text("utf-8"))
    selector = parse_selector(config["models"]["audio"]["extract"].split(" ")[1].rpartition("@")[0], "audio")
    changed = load_encoder(selector)
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    changed.save(tmp_path / "changed")
    for place in (run / "config.json", *data.glob("stores/audio/*/store.json")):
        place.write_text(place.read_text("utf-8").replace(str(selector.model), str(tmp_path / "changed")), "utf-8")
    with pytest.raises(InputError, match=r"was trained on features of identity.*\n  weights_sha256: '"):
        scores(run)
    shutil.rmtree(data / "stores")
    with pytest.raises(InputError, match="weights, settings or numerics_version differ"):
        scores(run)


def test_a_run_without_a_record_asks_for_the_stores(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run").path
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["models"]["audio"]["extract"] = "--audio-encoder mine.py:Encoder@last"  # code is never loaded from a record
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    assert scores(run)  # the store names it
    shutil.rmtree(data / "stores")
    with pytest.raises(InputError, match="give the folder of the stores with --features-dir"):
        scores(run)


def test_a_series_is_no_run(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "series" / "seed-0", fusion="audio")
    (tmp_path / "series" / "summary.json").write_text("{}")
    with pytest.raises(UsageError, match="is a series of runs; give one of them, such as .*seed-0"):
        scores(tmp_path / "series")
