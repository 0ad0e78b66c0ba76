"""Sentences of the demo corpus: neutral templates, and cue words that decide the word class.

Every template is read with a positive and with a negative cue, so only the cue predicts the class.
Every cue occurs in all three splits: a text encoder without knowledge of meaning can learn the cues
on train and find them on test.
"""

from __future__ import annotations

from dataclasses import dataclass

CUES = {
    "mood": ("vui vẻ", "buồn bã"),
    "quality": ("tuyệt vời", "tồi tệ"),
    "verdict": ("hài lòng", "thất vọng"),
    "taste": ("yêu thích", "chán ghét"),
    "fortune": ("may mắn", "xui xẻo"),
    "body": ("thoải mái", "mệt mỏi"),
}
"""Positive and negative cue of the same part of speech, by kind of template."""

TEMPLATES = {
    "train": (
        ("mood", "Cả nhà {} ngồi bên mâm cơm tối"),
        ("mood", "Cô ấy {} bước ra khỏi phòng họp"),
        ("mood", "Bà ngoại {} kể lại chuyện ngày xưa"),
        ("mood", "Anh trai tôi {} trở về quê sau kỳ thi"),
        ("quality", "Chuyến đi Đà Lạt tuần trước thật {}"),
        ("quality", "Thời tiết ở Sa Pa hôm nay quả là {}"),
        ("quality", "Đó là một ngày {} đối với cả đội bóng"),
        ("verdict", "Khách hàng rất {} về thái độ phục vụ"),
        ("verdict", "Bố tôi {} với kết quả học tập của em"),
        ("verdict", "Chúng tôi {} về buổi biểu diễn tối qua"),
        ("taste", "Em gái tôi {} những giờ học toán"),
        ("taste", "Nhiều người {} nhịp sống ở thành phố lớn"),
        ("taste", "Từ nhỏ tôi đã {} những cơn mưa mùa hạ"),
        ("taste", "Anh ấy {} công việc ở ngân hàng"),
        ("fortune", "Hôm qua đúng là một ngày {} của tôi"),
        ("fortune", "Số mười ba là con số {} với gia đình anh"),
        ("fortune", "Thật {} khi chúng ta gặp nhau ở sân bay"),
        ("body", "Sau buổi tập tôi thấy người rất {}"),
        ("body", "Chuyến tàu đêm khiến hành khách cảm thấy {}"),
        ("body", "Mẹ về đến nhà trong trạng thái {}"),
        ("mood", "Thầy giáo cũ {} chào học sinh trong lớp"),
        ("mood", "Hai chị em {} dọn đồ về nhà mới"),
        ("mood", "Ông nội {} đi bộ quanh bờ hồ buổi sáng"),
        ("quality", "Món cá kho mẹ nấu hôm chủ nhật thật {}"),
        ("quality", "Quán cà phê này có những bản nhạc {}"),
        ("quality", "Bài hát cuối cùng của buổi tiệc thật {}"),
        ("quality", "Chiếc xe đạp mới mua chạy thật {}"),
        ("verdict", "Học sinh {} về món ăn ở căng tin"),
        ("verdict", "Khán giả {} với trận đấu chiều thứ bảy"),
        ("verdict", "Nhân viên {} về cách làm việc của giám đốc"),
        ("verdict", "Tôi {} với bộ phim vừa xem"),
        ("taste", "Bọn trẻ {} việc dậy sớm đi học"),
        ("taste", "Ông cụ {} đàn chim ngoài vườn"),
        ("taste", "Chị Hoa {} kỳ nghỉ ở miền núi"),
        ("fortune", "Nhóm của tôi thật {} trong cuộc thi này"),
        ("fortune", "Đội khách đã có một trận đấu {}"),
        ("fortune", "Câu chuyện {} ấy bắt đầu từ một lá thư"),
        ("body", "Cả nhóm cảm thấy {} khi đi dọc con suối"),
        ("body", "Người làm vườn {} nghỉ trưa dưới bóng cây"),
        ("body", "Tôi luôn {} vào những ngày cuối năm"),
    ),
    "valid": (
        ("mood", "Bọn trẻ {} chia tay thầy giáo cũ"),
        ("mood", "Ông cụ {} nhìn đàn cá dưới ao"),
        ("quality", "Món phở ở quán mới này thật là {}"),
        ("quality", "Vở kịch tối thứ bảy có cái kết {}"),
        ("verdict", "Cô giáo {} về bài văn của cả lớp"),
        ("verdict", "Ban giám đốc {} với doanh thu quý này"),
        ("taste", "Chị tôi {} việc dậy sớm chạy bộ"),
        ("fortune", "Năm nay gia đình tôi gặp nhiều chuyện {}"),
        ("body", "Nhân viên mới cảm thấy {} khi làm việc nhóm"),
        ("body", "Cả đoàn {} nghỉ chân bên dòng suối"),
    ),
    "test": (
        ("mood", "Hai anh em {} đi bộ dọc bờ sông"),
        ("mood", "Người bán hàng {} dọn quầy lúc chiều muộn"),
        ("quality", "Bộ phim mới chiếu hôm qua thật {}"),
        ("quality", "Bữa tiệc sinh nhật kết thúc theo cách {}"),
        ("verdict", "Người xem {} về trận chung kết hôm chủ nhật"),
        ("verdict", "Tôi khá {} với chiếc điện thoại vừa mua"),
        ("taste", "Học sinh lớp tôi {} món cá kho ở căng tin"),
        ("taste", "Ông nội tôi {} những bản nhạc ồn ào"),
        ("fortune", "Lá thăm {} cuối cùng thuộc về đội khách"),
        ("body", "Tôi thấy {} sau kỳ nghỉ dài ngày"),
    ),
}


@dataclass(frozen=True)
class Sentence:
    """A sentence with its word class and the cue that decides it."""

    sentence_id: str
    text: str
    positive: bool
    cue: str


def sentences(split: str) -> list[Sentence]:
    """Return the sentences of a split: each template with its positive, then its negative cue."""
    found = []
    for number, (kind, template) in enumerate(TEMPLATES[split], 1):
        positive, negative = CUES[kind]
        name = f"{split}-{number:02d}"
        found.append(Sentence(f"{name}-positive", template.format(positive), True, positive))
        found.append(Sentence(f"{name}-negative", template.format(negative), False, negative))
    return found
