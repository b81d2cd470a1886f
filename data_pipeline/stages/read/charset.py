"""In which encoding the bytes of a Chinese page or text are, and their text.

The order of evidence is byte order mark, HTTP header, `<meta>`, validity, and how common the characters are that a
decoding gives. No label is taken at its word: a declared encoding only adds a little to its score, so the page that
says `gb2312` and is UTF-8, or the other way round, comes out right. Japanese and Korean encodings are judged too, so
that their text is not read as rare Han characters.

Label names and the encodings behind them (`gb2312` means GB18030, `big5` means code page 950) are those of the WHATWG
Encoding Standard. The character tables are the commonest of news, laws, medicine and novels (public corpora counted
by this project)."""

import codecs
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

SAMPLE_BYTES = 1 << 13  # from the first byte that is not ASCII on, this much is judged; pages are decided long before
DECLARED_BONUS = 0.08  # what a header or meta adds to the score of its encoding
CERTAIN_SCORE = 0.7  # as common as characters get in Chinese pages: nothing else is tried
DOUBTFUL_SCORE = 0.12  # Chinese scores 0.6 and more, noise less than 0
UNMIXED_SCORE = 0.5  # text of one encoding scores more
MINIMAL_MULTIBYTE = 3  # fewer UTF-8 sequences than this prove nothing against a declared encoding

_SIMPLIFIED = (
    "的以用是一在有不可和行人要为时中了个会下能数上如者你使定这肝应大到当对病我来据理文本他于发生后法建过件务作出果第部十表或条多查性就治进管方关设所规分将并高动置常需三面地开等同其自工们说安实量情通经制内"
    "服好令国成保年及业血主事任之政机命物现前民意重子都复点市接间么二区食入体公而也备例得配全加提乙程合统门信患持位相化压议因单从正检新处与心集问系存没日些代最药器看示它期功引由式次况救户更科小参家目息还很"
    "种运度样王外医项但去员施被向认请该道然军天名阳水标选列产解明平执改此份具取指调疗节吃计装结除已类支监五原则活四照组按给何控只包证护府想注太连索供报级版确源比资长容做立口构群创身求饮字见型防责状传无启录"
    "什值变完再书毒帝根恢题起密力导那月里元回基步始权语糖依序各库办展端打学推告效吗症两且许知网免您交先特划城整准止直院增受快又品每态癫询着才测收让降反场致消别操痫非码显案志载少修职强范放考必共决利符写委抗"
    "限专默话输验图境染断官试感怎击细环路转胃营教六州诊未留采低义手技记带较清社即格助朝尿算术便炎把适儿终段东百西游获史模县己预排兵换述校协译流布守句错酒称康织候车率害皇章访神像移司升严至核键优质空围万疫编"
    "台客律储七总气南负望费否失督精含择商金几健易死武域违审超登读软维八世够育电领养张企速线马款署老号派素近亲白响头络影觉举初买享今卖吧听呢哥哦哪啊坛她妈妹姐山岁帖弟昨树楼河爱爸狗猫真笑花论谁谢贵走跑钱闻顶"
)
_TRADITIONAL = (
    "為時個會數這應當對來據於發後過務條進關設規將並動開們說實經內國業機現復點間麼區體備統門壓議單從檢處與問沒藥況戶參還種運樣醫項員認請該軍陽標選產執調療節計裝結類監則組給證護連報級確資長構創飲見責狀傳無啟"
    "錄變書題導裡權語庫辦學嗎兩許網劃準態癲詢著測讓場別癇碼顯載職強範決寫專話輸驗圖斷試擊細環轉營診採義記帶較術適兒終東遊獲縣預換協譯錯稱織車訪嚴鍵優質圍萬編臺儲總氣負費擇幾違審讀軟維夠電領養張線馬號親響頭"
    "絡覺舉買賣聽壇媽歲樹樓愛貓論誰謝貴錢聞頂"
)
_JAPANESE = (
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回新場金員九入選立開手米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法"
    "不来作性的要用制治度務強気小七成期公野協取都和統以機平総加山思家話世受区領多県続進正安設保改数記院女初北午指権心界支第産結百派点教報済書府活原先共得解名交資予川向際査勝面委告軍文反元重近千考判認画海参"
    "売利組知案道信策集在件団別物側任引使求所次水半品昨論計死官増係感特情投示変打男基私各始島直両朝革価式確村提運終挙果西勢減台広容必応演電歳住争談能無再位置企真流格有疑口過局少放税検藤町常校料沢裁状工建語"
    "球営空職証土与急止送援供可役構木割聞身費付施切由説転食比難防補車優夫研収断井何南石足違消境神番規術護展態導鮮備宅害配副算視条幹独警宮究育席輸訪楽起万着乗店述残想線率病農州武声質念待試族象銀域助労例衛然"
    "早張映限親額監環験追審商葉義伝働形景落欧担好退準賞訴辺造英被株頭技低毎医復仕去姿味負閣韓渡失移差衆個門写評課末守若脳極種美岡影命含福蔵量望松非撃佐核観察整段横融型白深字答夜製票況音申様財港識注呼渉達"
)
_KOREAN = (
    "이다는의에을가고하지를한은로기도자사리서시대나라인어으해일정아스주전제수보그부상동장비원오과우구여성들중국연게만면유안회신조관계방미용것없있마내세모적거위분경교산점선양드소명개운실학습공생진입당치물민"
    "출행체력통영업무작때문강화재결설바려까와터등발표최후간현금번및될된않았었니요네죠저희"
)

_CODECS = {
    "utf-8": "utf-8", "gb18030": "gb18030", "big5": "cp950", "euc-jp": "euc_jp", "shift_jis": "cp932",
    "euc-kr": "cp949", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be", "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be", "hz-gb-2312": "hz", "iso-2022-jp": "iso2022_jp", "windows-1252": "cp1252",
}  # fmt: skip
_LABELS = {
    "utf-8": "utf8 utf-8 unicode-1-1-utf-8 utf_8 utf-8-sig",
    "gb18030": "gb18030 gbk gb2312 gb_2312 gb_2312-80 x-gbk cp936 ms936 windows-936 chinese csgb2312 iso-ir-58 "
    "gb-2312 gb2312-80 euc-cn gb18030-2000 gb18030-2022",
    "big5": "big5 big5-hkscs big5hkscs cn-big5 csbig5 x-x-big5 cp950 ms950 big-5",
    "euc-jp": "euc-jp eucjp x-euc-jp cseucpkdfmtjapanese",
    "shift_jis": "shift_jis shift-jis sjis x-sjis ms_kanji windows-31j cp932 ms932",
    "euc-kr": "euc-kr euckr ks_c_5601-1987 ksc5601 ks_c_5601 korean windows-949 cp949 ms949",
    "utf-16le": "utf-16 utf-16le ucs-2 unicode iso-10646-ucs-2",
    "utf-16be": "utf-16be unicodefffe",
    "hz-gb-2312": "hz-gb-2312 hz",
    "iso-2022-jp": "iso-2022-jp csiso2022jp",
    "windows-1252": "windows-1252 iso-8859-1 latin1 l1 us-ascii ascii cp1252 iso8859-1 x-cp1252",
}
_ENCODING_OF_LABEL = {label: encoding for encoding, labels in _LABELS.items() for label in labels.split()}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32le"), (codecs.BOM_UTF32_BE, "utf-32be"),
    (codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"), (b"\x84\x31\x95\x33", "gb18030"),
)  # fmt: skip
_META = re.compile(
    rb"""<(?:meta\b[^>]{0,1000}?|\?xml\b[^>]{0,200}?en)(?:charset|coding)\s*=\s*["']?\s*([\w.:-]{2,30})""", re.I
)
_CONTENT_TYPE = re.compile(r"""charset\s*=\s*["']?\s*([\w.:-]{2,30})""", re.I)
# What GB18030 of 2022 changed: places of the older tables that were private use are characters now.
_RENEWED = {
    bytes.fromhex(place).decode("gb18030"): character
    for places, characters in (
        ("a6d9 a6da a6db a6dc a6dd a6de a6df", "\ufe10\ufe12\ufe11\ufe13\ufe14\ufe15\ufe16"),
        ("a6ec a6ed a6f3", "\ufe17\ufe18\ufe19"),
        ("fe59 fe61 fe66 fe67 fe6d fe7e fe90 fea0", "\u9fb4\u9fb5\u9fb6\u9fb7\u9fb8\u9fb9\u9fba\u9fbb"),
        ("fe51 fe52 fe53 fe6c fe76 fe91 a8bc", "\U00020087\U00020089\U000200cc\U000215d7\U0002298f\U000241fe\u1e3f"),
    )
    for place, character in zip(places.split(), characters, strict=True)
}
_OLD_PLACE = re.compile("[" + "".join(_RENEWED) + "]")
_UTF16_HAN = bytes([0x20, 0x30, *range(0x4E, 0xA0), 0xFF])
_HIGH_BYTES = bytes(range(0x80, 0x100))
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]{1,3}")
# none of these bytes is a part of a character of GB18030
_PIECE = re.compile(rb"[^<>\r\n]+")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text of some bytes, without the byte order mark."""

    text: str
    charset: str  # the encoding's WHATWG name, in small letters
    evidence: str  # what decided: "mark", "ascii", "utf-8", "nul", "frequency", "mixed", "declared"
    declared: (
        str | None
    )  # what the header or else the meta said, as an encoding's name; "?" and the label if there is none such
    replaced: int  # bytes that belong to no character, U+FFFD in the text now
    doubtful: bool  # no encoding made sense: binary data, or a language that this module does not know


def decode(data: bytes, header: str | None = None, markup: bool = True) -> Decoded:
    """Return the text of `data`. `header` is the value of Content-Type or a bare label; `markup`: look for `<meta
    charset>`.

    Never raises. The time is linear in the bytes.
    """
    parameter = _CONTENT_TYPE.search(header) if header else None
    from_header = _label(parameter[1] if parameter else header)
    from_meta = None
    if markup:
        found = _META.search(data, 0, 16384)
        from_meta = _label(found[1].decode("ascii", "replace")) if found else None
    declared = from_header or from_meta
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text, replaced = _decode(data[len(mark) :], encoding)
            if replaced * 50 <= len(text):
                return Decoded(text, encoding, "mark", declared, replaced, False)
            # a mark before other bytes than it promises is a lie too, left by an editor
            if encoding == "utf-8":
                data = data[len(mark) :]
            break
    by_nul = utf16_by_nul(data)
    if by_nul:
        text, replaced = _decode(data, by_nul)
        return Decoded(text, by_nul, "nul", declared, replaced, replaced * 20 > len(text))
    if data.isascii():
        for escaped, sign in (("hz-gb-2312", b"~{"), ("iso-2022-jp", b"\x1b$")):
            if sign in data and escaped in (from_header, from_meta, "iso-2022-jp"):
                text, replaced = _decode(data, escaped)
                return Decoded(text, escaped, "frequency", declared, replaced, False)
        return Decoded(data.decode("ascii"), "utf-8", "ascii", declared, 0, False)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if declared in (None, "utf-8") or len(_UTF8_SEQUENCE.findall(data, 0, 4096)) >= MINIMAL_MULTIBYTE:
            return Decoded(text.removeprefix("\ufeff"), "utf-8", "utf-8", declared, 0, False)
    return _by_frequency(data, from_header, from_meta)


def _label(label: str | None) -> str | None:
    if not label:
        return None
    label = label.strip().lower()
    return _ENCODING_OF_LABEL.get(label, f"?{label}") if "/" not in label else None


def _decode(data: bytes, encoding: str) -> tuple[str, int]:
    """Return the text, and how many replacement characters were put where bytes made no sense."""
    own = data.count(b"\xef\xbf\xbd") if encoding == "utf-8" else 0
    text = data.decode(_CODECS[encoding], "replace")
    if encoding == "gb18030":
        text = _OLD_PLACE.sub(lambda place: _RENEWED[place[0]], text)
    replaced = max(0, text.count("\ufffd") - own)
    if replaced and encoding == "big5":
        hong_kong = data.decode("big5hkscs", "replace")
        if hong_kong.count("\ufffd") < replaced:
            return hong_kong, hong_kong.count("\ufffd")
    return text, replaced


def utf16_by_nul(data: bytes) -> str | None:
    """Recognise UTF-16 without a mark, which shows as NUL bytes at every other place, for its markup, spaces and line
    ends are ASCII."""
    head = data[:4096]
    nul = head.count(0)
    if nul < 2 or nul * 50 < len(head):
        return None
    if _is_utf16_han(head):  # U+4E00 has a NUL too, at the other place
        return max(("utf-16le", "utf-16be"), key=lambda encoding: _score(*_decode(head, encoding)))
    odd = head[1::2].count(0)
    even = nul - odd
    if odd > 20 * even:
        return "utf-16le"
    return "utf-16be" if even > 20 * odd else None


def _is_utf16_han(head: bytes) -> bool:
    """Return whether every other byte is one that Han, kana and their punctuation begin with in UTF-16."""
    sides = (head[0::2], head[1::2])
    return any(len(side.translate(None, _UTF16_HAN)) * 10 <= len(side) for side in sides)


def _candidates(data: bytes, sample: bytes, declared: tuple[str | None, str | None]) -> list[str]:
    """Return what the bytes could be, the likely first."""
    found = [
        label for label in declared if label in _CODECS and label not in ("hz-gb-2312", "iso-2022-jp", "windows-1252")
    ]
    head = sample[:2048]
    high = len(head) - len(head.translate(None, _HIGH_BYTES))
    if sum(map(len, _UTF8_SEQUENCE.findall(head))) * 5 >= high * 4:
        found.append("utf-8")
    else:
        # thousands of errors are slow to replace
        found = [label for label in found if label != "utf-8"]
    if b"\0" in data[:4096] or _is_utf16_han(data[:4096]):
        found += ["utf-16le", "utf-16be"]
    return list(dict.fromkeys([*found, "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr"]))


def _by_frequency(data: bytes, from_header: str | None, from_meta: str | None) -> Decoded:
    """Return the encoding whose characters are the commonest and whose errors are the fewest."""
    start = _NON_ASCII.search(data).start()  # type: ignore[union-attr]  # the caller saw that it is not ASCII
    declared = from_header or from_meta
    best, best_score = "gb18030", -np.inf
    sample = data[start : start + SAMPLE_BYTES]
    for encoding in _candidates(data, sample, (from_header, from_meta)):
        # UTF-16 has its own alignment
        text, replaced = _decode(data[:SAMPLE_BYTES] if encoding.startswith("utf-16") else sample, encoding)
        score = _score(text, replaced) + DECLARED_BONUS * ((encoding == from_header) + (encoding == from_meta))
        if score > best_score:
            best, best_score = encoding, score
        if score > CERTAIN_SCORE and replaced <= 1:
            break
    if best_score < UNMIXED_SCORE and _score(*_mixed(sample)) > max(best_score, DOUBTFUL_SCORE):
        text, replaced = _mixed(data)
        return Decoded(text.removeprefix("\ufeff"), "utf-8", "mixed", declared, replaced, False)
    if best_score < DOUBTFUL_SCORE and _is_western(sample):
        text, replaced = _decode(data, "windows-1252")
        return Decoded(text, "windows-1252", "frequency", declared, replaced, False)
    if best_score < DOUBTFUL_SCORE and declared and declared.startswith("?"):
        known = _declared_only(data, declared[1:])
        if known is not None:
            return Decoded(known, declared[1:], "declared", declared, known.count("\ufffd"), False)
    text, replaced = _decode(data, best)
    return Decoded(
        text.removeprefix("\ufeff"), best, "frequency", declared, replaced, bool(best_score < DOUBTFUL_SCORE)
    )


def _mixed(data: bytes) -> tuple[str, int]:
    """Return the text of lines and elements that are each UTF-8 or GB18030, and how many replacement characters are in
    it: pages put together of two sites, files that were appended to each other."""
    own = data.count(b"\xef\xbf\xbd")
    text = _PIECE.sub(_piece, data).decode("utf-8", "replace")
    return text, max(0, text.count("\ufffd") - own)


def _piece(match: re.Match[bytes]) -> bytes:
    piece = match[0]
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        both = [_decode(piece, encoding) for encoding in ("utf-8", "gb18030")]
        return max(both, key=lambda found: _score(*found))[0].encode("utf-8", "replace")
    return piece


def _declared_only(data: bytes, label: str) -> str | None:
    """Return the text by an encoding outside this module's (Cyrillic, Thai, ...), where it makes sense as that."""
    try:
        text = data.decode(codecs.lookup(label).name, "replace")
    except (LookupError, UnicodeError, ValueError):
        return None
    return text if isinstance(text, str) and text.count("\ufffd") * 50 <= len(text) else None


def _score(text: str, replaced: int) -> float:
    """Return the mean weight of the characters that are not ASCII (common 1, rare and unassigned less), minus a fine
    for errors."""
    points = np.frombuffer(text.encode("utf-16-le", "replace"), np.uint16)
    points = points[points >= 0x80]
    if not len(points):
        return 0.0
    return float(_weights()[points].mean()) - 8.0 * replaced / len(points)


def _is_western(sample: bytes) -> bool:
    """Return whether bytes above 0x7F stand alone between ASCII, as accents do."""
    runs = re.findall(rb"[\x80-\xff]+", sample[:65536])
    return sum(len(run) == 1 for run in runs) * 10 >= 8 * len(runs)


@cache
def _weights() -> np.ndarray:
    """Return what a UTF-16 unit says for the decoding that gave it; float32 [65536]."""
    weights = np.full(65536, -1.0, np.float32)  # unassigned, controls, private use
    for first, last, weight in (
        (0x3400, 0x4DBF, -1.0),
        (0x4E00, 0x9FA5, -0.1),  # Han that is not common
        (0xAC00, 0xD7A3, -0.1),  # Hangul that is not common
        (0xD800, 0xDFFF, -0.3),
        (0x3041, 0x3093, 0.8),
        (0x30A1, 0x30FC, 0.6),
        (0xFF61, 0xFF9F, -0.5),  # half-width kana: what Shift_JIS makes of other bytes
        (0xFF01, 0xFF5E, 0.3),
        (0x2010, 0x2027, 0.3),
        (0x2460, 0x2473, 0.1),
        (0x25A0, 0x25FF, 0.0),
        (0x00A0, 0x00FF, -0.2),
        (0x0391, 0x03C9, -0.2),
        (0x0401, 0x0451, -0.3),
        (0x2500, 0x257F, -0.2),
    ):
        weights[first : last + 1] = weight
    for characters, weight in ((_KOREAN, 0.9), (_JAPANESE, 0.8), (_TRADITIONAL, 1.0), (_SIMPLIFIED, 1.0)):
        weights[[ord(character) for character in characters]] = weight
    for character in "，。、：；！？“”‘’（）《》【】「」『』…—·　":
        weights[ord(character)] = 0.8
    weights[[0xA0, 0xA9, 0xB7, 0xBB, 0x2022]] = 0.2
    weights[0xFFFD] = 0.0  # counted as an error
    return weights
