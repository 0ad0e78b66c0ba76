"""Word segmentation and tone marks: text encoders read transcripts in the form that they were trained on."""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from segmented import DEMO, TONED
from tiny import make_data, make_phobert, read_jsonl, write_manifest

from cli.main import run
from features.encoders.base import load_encoder
from features.encoders.selector import EncoderSettings, parse_selector
from features.encoders.transformer_text import TextTransformer
from features.errors import InputError, UsageError
from features.text.normalize import apply_tone_style
from features.text.segmenters import VNCORENLP_FILES, load_segmenter
from mervn.demo.sentences import sentences

EXPECTED = {line.replace("_", " "): line for line in DEMO} | TONED
"""Raw transcript with old-style tone marks -> the text that PhoBERT was trained on."""
WORDS = tuple(dict.fromkeys(word for line in EXPECTED.values() for word in line.split()))
IDS = {word: 4 + place for place, word in enumerate(WORDS)}
"""vocab.txt counts from 4, after the special tokens."""
NEW = {apply_tone_style(raw, "new"): expected for raw, expected in EXPECTED.items()}
STYLES = {"old": EXPECTED, "new": NEW}


@pytest.fixture(scope="module")
def phobert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phobert(tmp_path_factory.mktemp("models") / "phobert", words=WORDS)


def load(path: Path, **settings: str) -> TextTransformer:
    encoder = load_encoder(parse_selector(f"phobert={path}", "text"), EncoderSettings(**settings))
    assert isinstance(encoder, TextTransformer)
    return encoder


def expected_ids(words: str) -> list[int]:
    return [0, *(IDS[word] for word in words.split()), 2]


def differing(encoder: TextTransformer, cases: dict[str, str]) -> set[str]:
    """Return the expected texts whose token ids are others."""
    return {words for raw, words in cases.items() if encoder.prepare(raw).tolist() != expected_ids(words)}


def test_the_fixture_is_made_of_the_demos_sentences() -> None:
    demo = {sentence.text for split in ("train", "valid", "test") for sentence in sentences(split)}
    assert len(DEMO) == 60 and {line.replace("_", " ") for line in DEMO} <= demo
    assert len(TONED) == 24 and all(apply_tone_style(new, "old").replace("_", " ") == old for old, new in TONED.items())
    assert sum(old != new for old, new in zip(EXPECTED, NEW, strict=True)) == 22


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("segmenter", ["none", "pyvi", "underthesea"])
def test_text_that_is_segmented_gives_phoberts_ids_in_either_style(phobert: Path, segmenter: str, style: str) -> None:
    encoder = load(phobert, segmenter=segmenter)
    segmented = {apply_tone_style(words, style): words for words in EXPECTED.values() if "_" in words}
    assert len(segmented) >= 70 and differing(encoder, segmented) == set()
    if style == "old":  # a control: the marks matter
        assert len(differing(load(phobert, segmenter=segmenter, tone_style="keep"), segmented)) >= 10


OTHER_WORDS = {
    "Chúng_tôi thất_vọng về buổi biểu_diễn tối_qua",  # tối qua
    "Số mười_ba là con_số xui_xẻo với gia_đình anh",  # mười ba
    "Khán_giả hài_lòng với trận đấu chiều thứ_bảy",  # trận_đấu
    "Đội khách đã có một trận đấu xui_xẻo",  # trận_đấu
    "Câu_chuyện may_mắn ấy bắt_đầu từ một lá thư",  # bắt_đầu_từ
    "Người làm vườn thoải_mái nghỉ trưa dưới bóng cây",  # Người_làm_vườn
    "Vở kịch tối thứ_bảy có cái kết tồi_tệ",  # thứ bảy
    "Anh ấy trở_thành thuỷ_thủ từ năm mười_tám tuổi",  # mười tám
    "Chúng_tôi giận nhau rồi lại làm_hoà",  # làm hoà
    "Loè_loẹt như thế thì ai dám mặc",  # thế_thì
}
"""Where pyvi 0.1.1 joins other words than VnCoreNLP: 7 of the demo's 60 sentences, 3 of the other 24."""


@pytest.mark.parametrize("style", STYLES)
def test_raw_text_gives_phoberts_ids_in_either_style(phobert: Path, style: str) -> None:
    encoder = load(phobert)
    assert encoder.config["segmenter"].startswith("pyvi ") and encoder.config["tone_style"] == "new"
    assert differing(encoder, STYLES[style]) <= OTHER_WORDS


@pytest.mark.parametrize("segmenter", ["pyvi", "underthesea", "none"])
@pytest.mark.parametrize("tone_style", ["old", "new"])
def test_the_input_style_changes_no_token(phobert: Path, segmenter: str, tone_style: str) -> None:
    encoder = load(phobert, segmenter=segmenter, tone_style=tone_style)
    for old, new in zip(EXPECTED, NEW, strict=True):
        assert encoder.tokens(old) == encoder.tokens(new)
        assert encoder.words(old) == apply_tone_style(encoder.words(old), tone_style)


def test_segmenters_join_the_syllables_of_a_word_or_are_named_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("underthesea", "pyvi"):
        segment, version = load_segmenter(name)
        assert "sinh_viên" in segment("tôi là sinh viên") and version.startswith(f"{name} ")
    monkeypatch.setitem(sys.modules, "pyvi", None)
    with pytest.raises(InputError, match=r"pip install 'mervn\[segment\]', or use --segmenter underthesea or none"):
        load_segmenter("pyvi")
    monkeypatch.setitem(sys.modules, "py_vncorenlp", None)
    with pytest.raises(InputError, match=r"vncorenlp is not installed .*pip install 'mervn\[vncorenlp\]', or use"):
        load_segmenter("vncorenlp")


def test_an_unknown_segmenter_is_refused() -> None:
    """Any name that is no segmenter loaded pyvi."""
    with pytest.raises(UsageError, match="must be one of pyvi, underthesea, vncorenlp, none, found 'vncore'"):
        load_segmenter("vncore")


@pytest.fixture
def vncorenlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """A stand-in for py_vncorenlp with its folder, and what it was told; it moves into its folder, as that does."""
    told: list[Any] = []
    package, java = ModuleType("py_vncorenlp"), ModuleType("jnius_config")

    class VnCoreNLP:
        def __init__(self, annotators: list[str], save_dir: str) -> None:
            told.append((annotators, save_dir))
            os.chdir(save_dir)
            if (Path(save_dir) / "broken").exists():
                raise SystemError("JVM not found")

        def word_segment(self, text: str) -> list[str]:
            words = NEW[apply_tone_style(text, "new")].split()
            return [" ".join(words[:3]), " ".join(words[3:])]  # sentences

    package.VnCoreNLP = VnCoreNLP  # type: ignore[attr-defined]
    java.add_options = told.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "py_vncorenlp", package)
    monkeypatch.setitem(sys.modules, "jnius_config", java)
    folder = tmp_path / "vncorenlp"
    for name in VNCORENLP_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    monkeypatch.setenv("MERVN_VNCORENLP", str(folder))
    monkeypatch.setenv("JAVA_HOME", "/java")
    return folder, told


@pytest.mark.parametrize("style", STYLES)
def test_vncorenlp_gives_phoberts_ids(phobert: Path, vncorenlp: tuple[Path, list[Any]], style: str) -> None:
    folder, told = vncorenlp
    before = Path.cwd()
    encoder = load(phobert, segmenter="vncorenlp")
    assert differing(encoder, STYLES[style]) == set() and encoder.prepare("").shape == (0,)
    assert told == ["-Xrs", (["wseg"], str(folder))] and Path.cwd() == before
    again = load(phobert, segmenter="vncorenlp")
    assert len(told) == 2  # a second Java machine cannot be started
    assert again.config == encoder.config and encoder.config["segmenter"].startswith("vncorenlp 1.2-")
    (folder / VNCORENLP_FILES[1]).write_text("another vocabulary")
    assert load(phobert, segmenter="vncorenlp").config["segmenter"] != encoder.config["segmenter"]


def without_folder(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("MERVN_VNCORENLP")


def without_model(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / VNCORENLP_FILES[2]).unlink()


def without_java(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("JAVA_HOME")
    patch.setenv("PATH", "")


def with_broken_java(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "broken").touch()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (without_folder, "needs the folder of VnCoreNLP-1.2.jar and its models in MERVN_VNCORENLP, which is not set"),
        (without_model, r"vncorenlp lacks models/wordsegmenter/wordsegmenter.rdr$"),
        (without_java, "needs Java 8 or later: found no java in PATH and no JAVA_HOME"),
        (with_broken_java, r"could not start Java with .*jar \(SystemError: JVM not found\); install a Java runtime"),
    ],
)
def test_what_vncorenlp_lacks_is_named(
    vncorenlp: tuple[Path, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    fault(vncorenlp[0], monkeypatch)
    before = Path.cwd()
    with pytest.raises(InputError, match=message):
        load_segmenter("vncorenlp")
    assert Path.cwd() == before


def extract(data: Path, phobert: Path, *more: str) -> int:
    return run(["extract", "--data", str(data), "--text-encoder", f"phobert={phobert}", "--json", *more])


def test_extraction_tells_how_the_vocabulary_fits(
    phobert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "data", {"train": 4})
    texts = ["Toà_án huỷ_bỏ bản_án cũ", "Tòa án hủy bỏ bản án cũ", "Ж", None]  # 4 words, 4 words, one <unk>, none
    lines = [line | {"transcript": text} for line, text in zip(read_jsonl(data / "train.jsonl"), texts, strict=True)]
    write_manifest(data / "train.jsonl", lines)
    with pytest.warns(UserWarning, match=r"^1 transcripts are segmented already .* are not segmented again") as caught:
        assert extract(data, phobert, "--splits", "train") == 0
    assert len(caught) == 1
    found = capsys.readouterr()
    (store,) = json.loads(found.out.splitlines()[-1])["stores"]
    assert (store["unk_fraction"], store["single_token_fraction"], store["segmented"]) == (0.1111, 0.8889, 1)
    version = importlib.metadata.version("pyvi")
    assert (
        f"segmenter pyvi {version}, tone marks new: 11.11% of 9 tokens are <unk>, 88.9% of 9 words are a single token"
    ) in found.err
    assert extract(data, phobert, "--splits", "train", "--segmenter", "none", "--tone-style", "keep") == 0  # no warning
    (kept,) = json.loads(capsys.readouterr().out.splitlines()[-1])["stores"]
    assert kept["segmented"] == 0 and kept["identity"] != store["identity"]


def test_finetuning_warns_of_segmented_transcripts_too(phobert: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", {"train": 4, "valid": 4})
    for split in ("train", "valid"):
        lines = [line | {"transcript": "Toà_án huỷ_bỏ bản_án cũ"} for line in read_jsonl(data / f"{split}.jsonl")]
        write_manifest(data / f"{split}.jsonl", lines)
    arguments = ["finetune", "--data", str(data), "--text-encoder", f"phobert={phobert}", "--fusion", "text"]
    with pytest.warns(UserWarning, match="^8 transcripts are segmented already"):
        assert run([*arguments, "--epochs", "1", "--output", str(tmp_path / "run"), "--workers", "0"]) == 0
