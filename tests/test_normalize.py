import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.text.normalize import apply_tone_style, is_segmented, normalize_text, syllables, text_sha256


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


BOTH_STYLES = {
    "hòa": "hoà", "HÒA BÌNH": "HOÀ BÌNH", "Hóa đơn": "Hoá đơn", "khỏe": "khoẻ", "lòe loẹt": "loè loẹt", "Òa": "Oà",
    "thủy": "thuỷ", "Ủy ban": "Uỷ ban", "tuy lũy": "tuy luỹ", "ngã quỵ, khụy": "ngã quỵ, khuỵ", "họa": "hoạ",
    "hòa_bình": "hoà_bình", "sức_khỏe": "sức_khoẻ", "thủy_thủ": "thuỷ_thủ", "ủy-ban": "uỷ-ban", "hòa2": "hoà2",
    "'xóa',": "'xoá',", "HỦY": "HUỶ",
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), BOTH_STYLES.items(), ids=BOTH_STYLES)
def test_tone_styles_move_the_mark_of_open_syllables(old: str, new: str) -> None:
    assert apply_tone_style(old, "new") == new and apply_tone_style(new, "old") == old
    assert apply_tone_style(old, "keep") == old and apply_tone_style(new, "keep") == new
    assert apply_tone_style(old, "old") == old and apply_tone_style(new, "new") == new


ONE_STYLE = (
    "hoàng hoàn toàn toán ngoài xoáy khoét loét khoèo", "hoàn_toàn toán_học", "quý quỳ QUỶ quỵ quý_khách",
    "thuyền Nguyễn", "khuỷu tay khuýp", "thuở thuở_xưa", "của múa mía", "huế thuế tuệ", "già giá giò gìn giữ giường",
    "quà quả què quẻ",
    "ngoặc hoặc loắt", "cờ cộ nơ", "hoa hoe tuy", "khoảng thoải mái", "oằn oẳn",
)  # fmt: skip
"""Both styles write these alike: closed syllables, other vowels, the u of qu, the i of gi, no mark."""


@pytest.mark.parametrize("text", ONE_STYLE)
def test_tone_styles_leave_all_other_syllables_alone(text: str) -> None:
    for style in ("old", "new"):
        assert apply_tone_style(text, style) == text


@pytest.mark.parametrize(("typed", "right"), [("hòan tòan", "hoàn toàn"), ("qúy qùy", "quý quỳ"), ("khủyu", "khuỷu")])
def test_a_mark_on_the_wrong_letter_is_put_right_in_both_styles(typed: str, right: str) -> None:
    for style in ("old", "new"):
        assert apply_tone_style(typed, style) == right
    assert apply_tone_style(typed, "keep") == typed


@given(st.text("hHoaAeEuUyYqQgin_ -1" + "\u0300\u0301\u0309\u0303\u0323\u0302\u0306\u031b"))
def test_a_tone_style_applied_again_changes_nothing(text: str) -> None:
    text = normalize_text(text)
    for style in ("old", "new"):
        once = apply_tone_style(text, style)
        assert apply_tone_style(once, style) == once
        assert len(unicodedata.normalize("NFD", once)) == len(unicodedata.normalize("NFD", text))


def test_words_joined_by_an_underscore_are_segmented_text() -> None:
    assert is_segmented("tôi là sinh_viên") and is_segmented("Hà_Nội")
    for text in ("tôi là sinh viên", "_", "a _ b", "_tôi_", "1_2", ""):
        assert not is_segmented(text)
