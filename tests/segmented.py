"""Vietnamese sentences as PhoBERT was trained to read them: words joined by `_`, new-style tone marks.

The sentences are this project's own, and the word boundaries are those of VnCoreNLP's segmenter.
"""

DEMO = """\
Cả nhà vui_vẻ ngồi bên mâm cơm tối
Cô ấy buồn_bã bước ra khỏi phòng họp
Bà ngoại vui_vẻ kể lại chuyện ngày_xưa
Anh_trai tôi buồn_bã trở về quê sau kỳ thi
Chuyến đi Đà_Lạt tuần trước thật tuyệt_vời
Thời_tiết ở Sa_Pa hôm_nay quả là tồi_tệ
Đó là một ngày tuyệt_vời đối_với cả đội bóng
Khách_hàng rất thất_vọng về thái_độ phục_vụ
Bố tôi hài_lòng với kết_quả học_tập của em
Chúng_tôi thất_vọng về buổi biểu_diễn tối_qua
Em_gái tôi yêu thích những giờ học toán
Nhiều người chán_ghét nhịp sống ở thành_phố lớn
Từ nhỏ tôi đã yêu thích những cơn mưa mùa hạ
Anh ấy chán_ghét công_việc ở ngân_hàng
Hôm_qua đúng là một ngày may_mắn của tôi
Số mười_ba là con_số xui_xẻo với gia_đình anh
Thật may_mắn khi chúng_ta gặp nhau ở sân_bay
Sau buổi tập tôi thấy người rất mệt_mỏi
Chuyến tàu đêm khiến hành_khách cảm_thấy thoải_mái
Mẹ về đến nhà trong trạng_thái mệt_mỏi
Thầy_giáo cũ vui_vẻ chào học_sinh trong lớp
Hai chị_em buồn_bã dọn đồ về nhà mới
Ông nội vui_vẻ đi bộ quanh bờ hồ buổi sáng
Món cá kho mẹ nấu hôm chủ_nhật thật tồi_tệ
Quán cà_phê này có những bản_nhạc tuyệt_vời
Bài hát cuối_cùng của buổi tiệc thật tồi_tệ
Chiếc xe_đạp mới mua chạy thật tuyệt_vời
Học_sinh thất_vọng về món ăn_ở căng_tin
Khán_giả hài_lòng với trận đấu chiều thứ_bảy
Nhân_viên thất_vọng về cách làm_việc của giám_đốc
Tôi hài_lòng với bộ phim vừa xem
Bọn trẻ chán_ghét việc dậy sớm đi học
Ông cụ yêu thích đàn chim ngoài vườn
Chị Hoa chán_ghét kỳ nghỉ ở miền núi
Nhóm của tôi thật may_mắn trong cuộc thi này
Đội khách đã có một trận đấu xui_xẻo
Câu_chuyện may_mắn ấy bắt_đầu từ một lá thư
Cả nhóm cảm_thấy mệt_mỏi khi đi dọc con suối
Người làm vườn thoải_mái nghỉ trưa dưới bóng cây
Tôi luôn mệt_mỏi vào những ngày cuối năm
Bọn trẻ vui_vẻ chia_tay thầy_giáo cũ
Ông cụ buồn_bã nhìn đàn cá dưới ao
Món phở ở quán mới này thật là tuyệt_vời
Vở kịch tối thứ_bảy có cái kết tồi_tệ
Cô_giáo hài_lòng về bài văn của cả lớp
Ban giám_đốc thất_vọng với doanh_thu quý này
Chị tôi yêu thích việc dậy sớm chạy bộ
Năm nay gia_đình tôi gặp nhiều chuyện xui_xẻo
Nhân_viên mới cảm_thấy thoải_mái khi làm_việc nhóm
Cả đoàn mệt_mỏi nghỉ_chân bên dòng suối
Hai anh_em vui_vẻ đi bộ dọc bờ sông
Người bán hàng buồn_bã dọn quầy lúc chiều muộn
Bộ phim mới chiếu hôm_qua thật tuyệt_vời
Bữa tiệc sinh_nhật kết_thúc theo cách tồi_tệ
Người xem hài_lòng về trận chung_kết hôm chủ_nhật
Tôi khá thất_vọng với chiếc điện_thoại vừa mua
Học_sinh lớp tôi yêu thích món cá kho ở căng_tin
Ông nội tôi chán_ghét những bản_nhạc ồn_ào
Lá thăm may_mắn cuối_cùng thuộc về đội khách
Tôi thấy mệt_mỏi sau kỳ nghỉ dài ngày
""".splitlines()
"""One sentence of each frame of the demo, its cue positive and negative by turns; none has a mark that moves."""

TONED = {
    "Bà ngoại đã khỏe lại sau ca mổ": "Bà ngoại đã khoẻ lại sau ca mổ",
    "Sức khỏe của bố tôi không còn như thuở trước": "Sức_khoẻ của bố tôi không còn như thuở trước",
    "Hai nước đã ký một hiệp ước hòa bình": "Hai nước đã ký một hiệp_ước hoà_bình",
    "Tòa án hủy bỏ bản án cũ": "Toà_án huỷ_bỏ bản_án cũ",
    "Anh ấy trở thành thủy thủ từ năm mười tám tuổi": "Anh ấy trở_thành thuỷ_thủ từ năm mười_tám tuổi",
    "Chị tùy ý chọn một trong hai màu này": "Chị tuỳ_ý chọn một trong hai màu này",
    "Em lỡ tay xóa hết ảnh trong máy": "Em lỡ tay xoá hết ảnh trong máy",
    "Nó dọa sẽ bỏ đi ngay trong đêm": "Nó doạ sẽ bỏ đi ngay trong đêm",
    "Vườn hoa tỏa hương thơm ngát": "Vườn hoa toả hương thơm_ngát",
    "Ủy ban quý trọng ý kiến của mọi người": "Uỷ_ban quý_trọng ý_kiến của mọi người",
    "Trời tối quá nên tôi bật đèn lên cho khỏi lóa mắt": "Trời tối quá nên tôi bật đèn lên cho khỏi loá_mắt",
    "Cậu bé ngã làm khuỷu tay chảy máu": "Cậu bé ngã làm khuỷu tay chảy_máu",
    "Hàng hóa trong kho đã hết": "Hàng_hoá trong kho đã hết",
    "Cô ấy là họa sĩ nổi tiếng ở quê tôi": "Cô ấy là hoạ_sĩ nổi_tiếng ở quê tôi",
    "Ông cụ khóa cửa rồi đi ngủ": "Ông cụ khoá cửa rồi đi ngủ",
    "Quỹ lũy tiến của công ty đã cạn": "Quỹ luỹ_tiến của công_ty đã cạn",
    "Bài toán khó được giải hoàn toàn đúng": "Bài_toán khó được giải hoàn_toàn đúng",
    "Mẹ khóc òa khi nghe tin dữ": "Mẹ khóc oà khi nghe tin dữ",
    "Chúng tôi giận nhau rồi lại làm hòa": "Chúng_tôi giận nhau rồi lại làm_hoà",
    "Lòe loẹt như thế thì ai dám mặc": "Loè_loẹt như thế thì ai dám mặc",
    "Nhóe một cái rồi tắt ngay": "Nhoé một cái rồi tắt ngay",
    "Hòa nói rằng Thúy rất quý bạn bè": "Hoà nói rằng Thuý rất quý bạn_bè",
    "Cả xóm họp nhau lại để đào lũy": "Cả xóm họp nhau lại để đào luỹ",
    "Góa phụ ngồi lặng lẽ bên cửa sổ": "Goá_phụ ngồi lặng_lẽ bên cửa_sổ",
}
"""Raw sentences with old-style tone marks, and what becomes of them."""
