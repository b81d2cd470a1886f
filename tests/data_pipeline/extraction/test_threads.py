# ruff: noqa: E501 (markup)
"""Threads in the markup of the software that runs them: every reply comes out, and no card, floor, count, signature or
list beside them."""

import pytest

from data_pipeline.extraction.extract import extract
from tests.data_pipeline.extraction.pages import SENTENCES

TITLE = "请教：老房子的水管总是有响声，该怎么处理？"
POSTS = [
    "大家好，我家住的是九十年代的老房子，最近半年每天早上用水的时候，墙里的水管都会发出“嗡嗡”的响声，关掉龙头就没有了。物业来看过一次，说是水压的问题，让我们自己找师傅。想问问有没有遇到过同样情况的朋友，最后是怎么解决的？",
    "先看一下是不是阀门里的垫圈松了，我家以前也是这样，换了一个五块钱的垫圈就好了。",
    "同问，坐等高手。",
    "楼上说的有道理。除了垫圈，还有一种可能是管子没有固定好，水一冲就抖，需要把墙里的管卡重新打一遍，这个就要敲墙了。",
    "谢谢各位，我周末先把垫圈换了试试，回头来报告结果。",
    "顶",
    "我是做水电的，给你一个判断的办法：响的时候把总阀关小一半，如果声音变小，那就是水压太高，装一个减压阀就行，材料加人工大概两三百块。",
    "减压阀装在总阀后面就可以，不用每层都装。",
    "学习了",
    "报告一下：换了垫圈没有用，按六楼的办法关小总阀，声音真的小了很多，已经约了师傅来装减压阀。谢谢大家！",
]
NAMES = [
    "河边钓鱼人",
    "Lily_2020",
    "小城旧事",
    "老王修水电",
    "河边钓鱼人",
    "路过的猫",
    "水电老周",
    "Tom哥",
    "青青子衿",
    "河边钓鱼人",
]
PLACES = ["江苏", "浙江", "北京", "广东"]
HOT = [
    "装修公司跑路了怎么办",
    "阳台封不封的十年之争",
    "卫生间漏水邻居不配合",
    "旧房翻新花了八万块",
    "地暖和暖气片哪个好",
    "厨房台面选石英石还是岩板",
]
FURNITURE = ["积分", "注册时间", "只看该作者", "精华", "发表于", "来自手机", "举报", "本帖最后由", "签名：", "人赞同了", "天前", "楼主", "回复了此帖", "1楼", "#3", *HOT]  # fmt: skip

ARTICLE = "河边小镇的道路今年全部修通"
HEAD = "<!DOCTYPE html><html><head><meta charset=utf-8><title>{title}</title></head><body>"


def day(number: int) -> str:
    return f"2024-5-{number + 3} {number + 8}:{number * 5 + 11}"


def discuz() -> str:
    """Tables, a card of the author left of every post, a signature below it."""
    posts = "".join(
        f"<div id=post_{n}><table id=pid{n} class=plhin><tr><td class=pls rowspan=2><div class='pls favatar'><div class=pi><div class=authi><a href=/u{n} class=xw1>{NAMES[n]}</a></div></div>"
        f"<div class=tns><table><tr><th><p><a href=#>{n * 7 + 3}</a></p>主题</th><th><p><a href=#>{n * 31 + 12}</a></p>帖子</th><td><p><a href=#>{n * 57 + 120}</a></p>积分</td></tr></table></div>"
        f"<p><em><a href=#>中级会员</a></em></p><dl class='pil cl'><dt>注册时间</dt><dd>2019-{n + 1}-3</dd><dt>精华</dt><dd>0</dd></dl></div></td>"
        f"<td class=plc><div class=pi><strong><a href=#>{['楼主', '沙发', '板凳', '地板'][n] if n < 4 else f'{n + 1}<sup>#</sup>'}</a></strong><div class=pti><div class=authi><em>发表于 {day(n)}</em> | <a href=#>只看该作者</a></div></div></div>"
        f"<div class=pct><div class=pcb><div class=t_fsz><table><tr><td class=t_f id=postmessage_{n}>{'<i class=pstatus>本帖最后由 ' + NAMES[n] + ' 于 ' + day(n) + ' 编辑</i><br>' if n == 4 else ''}{text}</td></tr></table></div></div></div></td></tr>"
        f"<tr><td class='plc plm'><div class=sign>签名：人生得意须尽欢</div><div class=po><a href=#>回复</a> <a href=#>举报</a></div></td></tr></table></div>"
        for n, text in enumerate(POSTS)
    )
    hot = "".join(f"<li><a href=/t{n}>{words}</a></li>" for n, words in enumerate(HOT))
    return (
        f"<div id=nv><ul><li><a href=/>首页</a></li><li><a href=/f>论坛</a></li></ul></div><div id=ct><div id=pt>论坛 › 家居 › 水电</div><h1 class=ts>{TITLE}</h1>"
        f"<div class=hm>查看: 1203|回复: 9</div><div id=postlist class=pl>{posts}</div><div id=f_pst><textarea></textarea>您需要登录后才可以回帖 登录 | 立即注册</div><div class=bm><h2>相关帖子</h2><ul>{hot}</ul></div></div><div id=ft>Powered by Discuz! X3.4 © 2001-2024</div>"
    )


def cells() -> str:
    """A box of table cells for every reply, as a forum for programmers has them."""
    replies = "".join(
        f"<div id=r_{n} class=cell><table cellpadding=0 width=100%><tr><td width=48><img class=avatar></td><td width=10></td><td width=auto><div class=fr><span class=no>{n}</span></div>"
        f"<strong><a href=/m/{n} class=dark>{NAMES[n]}</a></strong> <span class=ago>{n} 天前</span> <div class=reply_content>{'@<a href=/m/x>' + NAMES[n - 1] + '</a> ' if n == 4 else ''}{text}</div></td></tr></table></div>"
        for n, text in enumerate(POSTS)
        if n
    )
    hot = "".join(f"<div class=cell><span class=item_hot_topic_title><a href=/t/{n}>{words}</a></span></div>" for n, words in enumerate(HOT))  # fmt: skip
    return (
        f"<div id=Top>首页 登录 注册</div><div id=Wrapper><div id=Rightbar><div class=box><div class=inner>社区是创意工作者们的地方</div>{hot}</div></div><div id=Main><div class=box><div class=header><h1>{TITLE}</h1><small class=gray>{NAMES[0]} · 12 天前 · 1203 次点击</small></div>"
        f"<div class=cell><div class=topic_content><div class=markdown_body><p>{POSTS[0]}</p></div></div></div></div><div class=box><div class=cell><span class=gray>9 条回复 &nbsp;•&nbsp; 2024-05-13 08:11:00 +08:00</span></div>{replies}</div></div></div><div id=Bottom>关于 · 帮助文档 · FAQ</div>"
    )


def stream() -> str:
    """Articles in a stream, whose classes a build tool made up; a line in every post's foot says who answered it."""
    posts = "".join(
        f"<div class=s-91a><article class='p-3c{' p-own' if n % 3 == 0 else ''}'><header class=h-77><h3><a href=/u/{n}>{NAMES[n]}</a></h3><span class=d-1>{12 - n} 天前</span><span class=d-2>发布 #{n + 1} {day(n)}</span></header>"
        f"<div class=b-5>{'<div class=m-4><a href=#>' + NAMES[n - 1] + '</a></div>' if n in (3, 7) else ''}<p>{text}</p></div><footer class=f-8><span>{NAMES[(n + 1) % 10]} 回复了此帖</span></footer></article></div>"
        for n, text in enumerate(POSTS)
    )
    hot = "".join(f"<li class=l-2><a href=/d/{n}>{words}</a> <span>{n * 11 + 3}</span></li>" for n, words in enumerate(HOT))  # fmt: skip
    return f"<header class=a-1><a href=/>首页</a><a href=/tags>标签</a><a href=/login>登录</a></header><div class=a-2><div class=a-3><h1>{TITLE}</h1></div><div class=a-4>{posts}</div><aside class=a-5><h4>大家都在看</h4><ul>{hot}</ul></aside></div><footer>社区规范 | 版本 1.8.1</footer>"


def answers() -> str:
    """A question and its answers, each with its author's card, the votes and a place."""
    items = "".join(
        f"<div class=List-item><div class=ContentItem><div class=ContentItem-meta><div class=AuthorInfo><span class=UserLink>{NAMES[n]}</span><div class=AuthorInfo-badge>家居话题下的优秀答主</div></div><div>{n * 13 + 2} 人赞同了该回答</div></div>"
        f"<div class=RichContent><div class=RichContent-inner><span class=RichText><p>{text}</p></span></div><div class=ContentItem-time>发布于 {day(n)}・{PLACES[n % 4]}</div><div class=ContentItem-actions><button>赞同 {n * 13 + 2}</button><button>添加评论</button><button>分享</button><button>收藏</button></div></div></div></div>"
        for n, text in enumerate(POSTS)
        if n
    )
    hot = "".join(
        f"<a class=SimilarQuestions-item href=/q/{n}>{words} {n + 5} 个回答</a>" for n, words in enumerate(HOT)
    )
    return f"<header>首页 发现 等你来答</header><div class=QuestionHeader><h1>{TITLE}</h1><div class=QuestionRichText>{POSTS[0]}</div><div>关注者 12 被浏览 1,203</div></div><div class=Question-main><div class=List><h4>9 个回答</h4>{items}</div><div class=Question-sideColumn><div class=Card><div>相关问题</div>{hot}</div></div></div>"


def floors() -> str:
    """Posts with floors and places below their text, replies to replies inside them."""
    posts = "".join(
        f"<div class='l_post clearfix'><div class=d_author><ul><li class=d_name><a href=/u{n}>{NAMES[n]}</a></li><li class=d_badge>渐入佳境{n + 3}</li></ul></div><div class=d_post_content_main><div class=p_content><cc><div class=d_post_content>{text}</div></cc></div>"
        f"<div class=core_reply_tail><ul><li><a href=#>举报</a></li></ul><span class=tail-info>IP属地:{PLACES[n % 4]}</span><span class=tail-info>来自手机客户端</span><div class=tail-info>{n + 1}楼</div><div class=tail-info>{day(n)}</div><a href=#>回复</a></div></div></div>"
        for n, text in enumerate(POSTS)
    )
    hot = "".join(f"<li><span>{n + 1}</span><a href=/p/{n}>{words}</a><span>{n * 97 + 1000}</span></li>" for n, words in enumerate(HOT))  # fmt: skip
    return f"<div class=head>登录 注册</div><div class=card_title>水电吧 关注 12,034</div><div class=left_section><div><h3 class=core_title_txt>{TITLE}</h3></div><div class=p_postlist>{posts}</div></div><div class=right_section><div><h4>热议榜</h4><ul>{hot}</ul></div></div><div class=footer>©2024 使用前必读</div>"


def group() -> str:
    """A topic of a group: text above, a list of comments below, recommended topics behind."""
    items = "".join(
        f"<li class='clearfix comment-item reply-item'><div class=user-face><img></div><div class='reply-doc content'><div class='bg-img-green'><h4><a href=/p/{n}>{NAMES[n]}</a> <span class=pubtime>{day(n)} {PLACES[n % 4]}</span></h4></div><div class='reply-content'><p>{text}</p></div><div class=operation_div><a href=#>赞 ({n})</a><a href=#>回复</a></div></div></li>"
        for n, text in enumerate(POSTS)
        if n
    )
    hot = "".join(f"<li><a href=/topic/{n}>{words}</a> <span class=pl>({NAMES[n]})</span></li>" for n, words in enumerate(HOT))  # fmt: skip
    return f"<div class=nav>首页 小组 登录</div><div id=content><h1>{TITLE}</h1><div class=article><div class=topic-content><div class=topic-doc><h3><span class=from>来自: {NAMES[0]}</span> <span class=create-time>{day(0)} 江苏</span></h3><div class=rich-content><p>{POSTS[0]}</p></div></div></div><ul class=topic-reply id=comments>{items}</ul></div><div class=aside><div class=mod><h2>最新讨论</h2><ul>{hot}</ul></div></div></div><div id=footer>© 2005－2024</div>"


SOFTWARE = [discuz, cells, stream, answers, floors, group]


@pytest.mark.parametrize("software", SOFTWARE)
def test_a_thread_gives_every_post_and_none_of_their_furniture(software) -> None:
    text = extract((HEAD.format(title=TITLE) + software() + "</body></html>").encode()).text
    lost = [post for post in POSTS if post not in text]
    # words of the posts themselves do not count
    rest = text
    for post in POSTS:
        rest = rest.replace(post, "")
    found = [words for words in FURNITURE if words in rest]
    assert (lost, found) == ([], [])


COMMENTS = {
    "floors": "<div class=feedbackItem><span>#{n}楼 {day} {name}</span><div class=feedbackCon>{text}</div><a href=#>回复</a></div>",
    "counted": "<li class=x-1><b>{name}</b><i>{day}</i><p>{text}</p><span>回复</span></li>",
}


@pytest.mark.parametrize("form", COMMENTS)
@pytest.mark.parametrize("heading", ["最新评论（9条）", "网友评论 9 条", "全部评论"])
def test_comments_below_an_article_make_no_thread(form, heading) -> None:
    comments = "".join(COMMENTS[form].format(n=n, day=day(n), name=NAMES[n], text=text) for n, text in enumerate(POSTS))
    body = "".join(f"<p>{sentence}</p>" for sentence in SENTENCES)
    markup = f"{HEAD.format(title=ARTICLE)}<div class=article><h1>{ARTICLE}</h1>{body}</div><div class=box><h3>{heading}</h3>{comments}</div></body></html>"
    text = extract(markup.encode()).text
    assert all(sentence in text for sentence in SENTENCES)
    assert [post for post in POSTS if len(post) > 5 and post in text] == []
