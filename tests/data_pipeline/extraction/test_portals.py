# ruff: noqa: E501 (markup)
"""Portals of today: the article of the page comes out, not the boxes, streams and other articles around it."""

import pytest

from data_pipeline.extraction.extract import extract
from tests.data_pipeline.extraction.pages import SENTENCES

TITLE = "江城前三季度新增城镇就业十二万人"
HOT = [
    f"{place}{event}"
    for place in ("城北", "老街", "河畔", "东湖")
    for event in ("两条公交线路下月调整", "新图书馆周末开放", "秋季运动会开始报名", "今冬供暖时间确定", "改造方案公示")
]
OTHER = [
    "这首歌有很多人翻唱过，但原唱其实是一位军人家庭出身的歌手。", "他从小对唱歌产生了浓厚的兴趣，高中毕业后毅然走上了音乐的道路。",
    "在那个年代网络并不发达，要想被别人记住，只能靠一张张唱片和一场场演出。", "后来他去国外举办演唱会，也正是在那一次演出中认识了他的妻子。",
    "就在大家以为他会一直幸福生活下去的时候，意外发生了，他病倒了。", "但是他并没有放弃，病情稳定以后，他又重新站上了舞台，一唱就是十二年。",
]  # fmt: skip


def portal(before: str = "", inside: str = "", behind: str = "", paragraphs: int = 4) -> bytes:
    text = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES[:paragraphs])
    return (
        f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{TITLE}_江城在线</title></head><body><div id=app><div class=nav-7f3><a href=/>首页</a>"
        f"<a href=/n>新闻</a><a href=/s>体育</a></div>{before}<div class=x-9a1><div class=x-9a2><h1>{TITLE}</h1><div><span>江城在线</span> <span>2024-05-20 13:09</span></div>"
        f"<div class=x-9a3>{text}</div>{inside}</div></div>{behind}</div><div>版权所有 2024 江城在线</div></body></html>"
    ).encode()


HOT_WORDS = "<div class=k-01>" + "".join(f"<div class=k-02>{words}</div>" for words in HOT) + "</div>"
STREAM = "<ul class=s-1>" + "".join(
    f"<li><div>江城财经·{number} 小时前</div><h4><a href=/a/{number}>{words}</a></h4><p>{OTHER[number % 6]}{OTHER[(number + 1) % 6]}…</p></li>" for number, words in enumerate(HOT)
) + "</ul>"  # fmt: skip
OTHER_ARTICLE = (
    "<div class=x-9a1><div class=x-9a2><h1>一首老歌和它的原唱，他的故事你未必听过</h1><div><span>娱乐号</span> <span>2023-06-01 00:48</span></div><div class=x-9a3>"
    + "".join(f"<p>{line}</p>" for line in OTHER)
    + "</div></div></div>"
)
DIALOG = "<div><div>不喜欢</div><div>减少或屏蔽此类内容推荐</div><div>已标记为不喜欢内容，系统将减少此类推荐</div><div>举报</div></div>"
PLAYER = "<div><div>正在为您切换到高清 480P,请稍候...</div><div>播放速度：2X</div><div>很抱歉，当前视频播放失败</div><div>错误代码：QVS.4100</div></div>"
DECLARATION = (
    "<p>特别声明：以上内容(如有图片或视频亦包括在内)为自媒体平台用户上传并发布，本平台仅提供信息存储服务。</p>"
)


@pytest.mark.parametrize(
    ("parts", "gone"),
    [
        ({"before": HOT_WORDS * 2}, HOT),
        ({"behind": HOT_WORDS}, HOT),
        ({"behind": STREAM}, [*HOT, *OTHER]),
        ({"behind": OTHER_ARTICLE}, OTHER),
        ({"inside": DIALOG + DECLARATION}, ["减少或屏蔽", "自媒体平台"]),
        ({"inside": PLAYER}, ["播放速度", "错误代码"]),
        ({"before": HOT_WORDS, "inside": DIALOG, "behind": OTHER_ARTICLE + STREAM, "paragraphs": 2}, [*HOT, *OTHER]),
    ],
)  # fmt: skip
def test_what_stands_around_the_article_stays_away(parts: dict, gone: list[str]) -> None:
    text = extract(portal(**parts)).text
    assert all(sentence in text for sentence in SENTENCES[: parts.get("paragraphs", 4)])
    assert not [words for words in gone if words in text]
