import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from features.text import normalize_text, syllables, text_sha256


def test_decomposed_text_is_the_same_text() -> None:
    text = "Tôi không thể tin được chuyện đó đã xảy ra"
    for form in ("NFC", "NFD"):
        assert normalize_text(unicodedata.normalize(form, text)) == text


def test_white_space_is_one_space_and_invisible_characters_go() -> None:
    assert normalize_text(" xin \t\n chào\u00a0bạn\u200b \ufeff") == "xin chào bạn"
    assert normalize_text("\u00a0 \u200b") == ""


def test_case_marks_and_compatibility_forms_stay() -> None:
    assert normalize_text("HÒA hoà ½ ﬁ Ð Đ") == "HÒA hoà ½ ﬁ Ð Đ"


@given(st.text())
def test_normal_text_stays_as_it_is(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert text_sha256(once) == text_sha256(normalize_text(once))


def test_syllables_are_split_at_white_space() -> None:
    assert syllables("sinh viên học bài") == ["sinh", "viên", "học", "bài"]
    assert syllables("") == []
