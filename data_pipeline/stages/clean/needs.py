"""What the cleaning rules look for, as the table that the survey of a column goes by (kernels/survey_flags.py)."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.kernels import survey_flags
from data_pipeline.stages.clean.boilerplate_lines import NAVIGATION_CHARACTERS, NAVIGATION_ITEM, NAVIGATION_WORDS
from data_pipeline.stages.clean.characters import symbol_points, unified_points
from data_pipeline.stages.clean.mojibake import WIDE_FIRST
from data_pipeline.stages.clean.publisher_lines import PAIRS
from data_pipeline.stages.clean.simplified import traditional_points

if TYPE_CHECKING:
    from data_pipeline.kernels.survey import Words


@cache
def navigation_words() -> "Words":
    """Return the words of navigation bars, as the survey looks for them."""
    from data_pipeline.kernels import survey

    return survey.words(NAVIGATION_WORDS, NAVIGATION_ITEM, NAVIGATION_CHARACTERS)


@cache
def character_classes(
    conversion: str = "t2s", keep_text_symbols: bool = False, with_publisher: bool = False
) -> np.ndarray:
    """Return int32[262144]: the classes of each code point, for these settings of `clean`."""
    from data_pipeline.kernels.normal_form import TABLE_SIZE

    classes = np.zeros(TABLE_SIZE, np.int32)
    for points, kind in (
        (symbol_points(keep_text_symbols), survey_flags.SYMBOL),
        (unified_points(), survey_flags.UNIFY),
        (traditional_points(conversion), survey_flags.TRADITIONAL),
    ):
        classes[points] |= kind
    classes[0x80:0x100] |= survey_flags.LATIN
    classes[0xA1:0x100] |= survey_flags.LATIN_FIRST
    for byte in range(0x80, 0xA0):
        if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D):
            classes[ord(bytes([byte]).decode("cp1252"))] |= survey_flags.LATIN
    for character in WIDE_FIRST:
        classes[ord(character)] |= survey_flags.WIDE_FIRST
    for point in range(0x3100):
        if chr(point).isspace():
            classes[point] |= survey_flags.SPACE | survey_flags.SEPARATOR
    for characters, kind in (
        ("\x0b\x0c\r\x85\u2028\u2029", survey_flags.BREAK),
        ("\t\u00a0\u3000", survey_flags.INDENT),
        (" \t\u00a0\u3000", survey_flags.TRAILING),
        ("0123456789０１２３４５６７８９", survey_flags.DIGIT),
        ("|｜丨»›>·•/／【】[]", survey_flags.SEPARATOR),
        ("。！？；，：…", survey_flags.SENTENCE),
        ("@＠", survey_flags.AT),
        # 电话 手机 热线 传真 邮箱 邮政 邮编 邮件 信箱 地址 联系 公众 微信 QQ 扣扣 企鹅 网址 官网 扫码 扫一扫 扫描
        # 长按 点击 关注 加微信 来电 致电 咨询 欢迎 添加 薇信 威信 We VX 加V 锟斤拷 烫烫 屯屯
        ("电手热传邮信地联公微QqＱｑ扣企网官扫长点关加来致咨欢添薇威VvWw锟烫屯", survey_flags.PAIR_FIRST),
        ("话机线真箱政编件址系众信QqＱｑ扣鹅网码一描按击注微电询迎加eXxVv斤烫屯群我客老小", survey_flags.PAIR_SECOND),
    ):
        for character in characters:
            classes[ord(character)] |= kind
    if with_publisher:
        for pair in PAIRS:
            classes[ord(pair[0])] |= survey_flags.PAIR_FIRST
            classes[ord(pair[1])] |= survey_flags.PAIR_SECOND
    return classes
