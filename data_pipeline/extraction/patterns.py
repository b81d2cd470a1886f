"""What class names, ids and short phrases say about a part of a page, as tables that the page kernel reads.

Two automata (Aho–Corasick, as dense transition tables): one over the `class`, `id` and `role` values of elements, one
over the text itself in UTF-8. Each pattern belongs to a group, each group is one bit."""

from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np

# What an element is called. `=word` matches a whole word only ("ad" but not "head"; camelCase, digits and
# punctuation part
# words), anything else matches anywhere. Pinyin and the abbreviations of Chinese content systems are among them.
NAME_GROUPS: dict[str, str] = {
    "content": "content =cont =con =nr =contents neirong zhengwen =zw =zoom =mainbody",
    "article": (
        "article =arti artibody =art story =entry =news newstext wenzhang =blog blogcon essay =endtext =chapter"
    ),
    "text": ("=text =txt =body detail =para paragraph richtext =rich =read =desc description summary abstract =intro"),
    "post": (
        "=post posts postmessage postbody post_body =topic =thread =message =msg msgfont =floor reply "
        "replies answer question =bbs forum t_f d_post postcontent =lz =louzhu comment-content markdown"
    ),
    "main": "=main maincon maincontent center =middle =primary =centre leftmain main_left",
    "navigation": (
        "=nav navi navbar nav_ menu crumb =location =position =path =channel =tabs =tab sitemap weizhi dangqian =here"
    ),
    "header": "header =head =top topbar =hd banner logo masthead",
    "footer": "footer =foot bottom copyright =copy =ft beian",
    "side": "=side sidebar =right aside widget =rail rcol right_ rightcol =sub secondary portlet",
    "advertisement": (
        "=ad =ads advert =gg guanggao sponsor promo =adv google adsense tuiguang =adbox =guanggao affiliate"
    ),
    "related": (
        "relat xiangguan recommend tuijian =hot rank guess similar =more top10 =also xgyd readmore "
        "=topnews paihang =rel popular latest =recent correlat interest"
    ),
    "comment": "comment =cmt pinglun review discuss disqus feedback guestbook liuyan commentlist",
    "tool": (
        "share social =tool toolbar tools bdshare =fav collect =like =digg vote =print =qr qrcode weixin "
        "wechat bshare jiathis fontsize subscri donate erweima =func =opt operat =action =btn button "
        "reward dashang praise report =control"
    ),
    "person": (
        "author profile userinfo user-info =user avatar signature =sign member =pls plhin =face =medal "
        "=uinfo =credit =favatar =poster"
    ),
    "form": "login =form register regist search =pop popup modal dialog =mask input captcha fastpost =editor",
    "list": "=list =item =items =links =link flink friendlink =ul =li ullist newslist =col",
    "paging": ("=page pager paging pagin =pages =next =prev =pre pgbtn =pgs =pg turnpage prenext prevnext =adjacent"),
    "byline": (
        "=time =date =info source byline =meta publish pubtime =from laiyuan postmeta entry-meta pubdate =editor zebian"
    ),
    "title": "=title headline subject =caption biaoti =tit",
    "label": "=tag =tags keyword =label categor =cat taglist",
    "hidden": "=hidden =hide sr-only visually jammer invisible",
    "quote": "=quote blockquote =cite",
    "contents_list": "=toc catalog mulu directory",
    "notice": (
        "cookie =notice =tips =tip =alert warning disclaimer shengming mianze statement noprint editsection navbox"
    ),
}

# What a line of text says. Matched anywhere, ASCII letters without regard to case.
PHRASE_GROUPS: dict[str, str] = {
    "copyright": (
        "版权所有 版權所有 copyright © &copy; icp备 icp证 icp備 京icp rights reserved 备案 公网安备 许可证 "
        "不良信息 技术支持 网站地图 联系我们 關於我們 关于我们 免责声明 友情链接 法律声明 隐私 广告服务 "
        "诚聘英才 举报电话 建站 主办单位 承办单位 powered by 网站标识码 邮编 站长统计 未经授权 未经许可 "
        "转载请注明 转载必究 侵权 本站 本网 著作权 特别声明 信息存储 自媒体 仅代表 利用規約 プライバシー "
        "無断転載 個人情報 運営会社"
    ),
    "navigation": (
        "首页 首頁 上一篇 下一篇 上篇 下篇 上一页 下一页 上一頁 下一頁 上一章 下一章 返回 当前位置 您的位置 "
        "所在位置 你的位置 您现在的位置 更多 登录 登錄 注册 註冊 搜索 搜尋 导航 設為首頁 设为首页 加入收藏 "
        "收藏本 无障碍 网站支持 跳转 回到顶部 返回顶部 快捷 频道 专题 繁體 english >> » 前一篇 后一篇 退出 "
        "订阅 论坛首页 帮助 客户端 下载app 手机版 我的 トップ ホーム ログイン 会員登録 もっと見る 次へ 前へ "
        "一覧 目录 目錄 分类 分類 标签 カテゴリ 展开 收起 隐藏"
    ),
    "tool": (
        "分享 打印 关闭窗口 关闭 關閉 收藏 字号 字體 字体 扫一扫 扫码 二维码 微信 微博 复制链接 点赞 點讚 "
        "举报 转发 朋友圈 qq空间 评分 顶一下 推荐给 复制本 发送给 保存 大 中 小 mail 赞赏 打赏 投票 赞( rss "
        "放大 缩小 听新闻 朗读 公众号 长按 关注我们 不喜欢 屏蔽 不感兴趣 分享至 分享到 シェア ツイート "
        "フォロー 感想 写真拡大 生成海报 听全文 有用 点个赞 加关注"
    ),
    "related": (
        "相关阅读 相关新闻 相关文章 推荐阅读 热门 猜你喜欢 延伸阅读 排行 精彩推荐 最新文章 相关链接 "
        "相关推荐 为您推荐 相关专题 相关资讯 大家都在 热点 今日 精选 最新 推荐 焦点 相关 新闻榜 相關 "
        "全部文章 近期文章 随机 栏目 链接 站内 最近 图文 热搜 热榜 頭條 为你推荐 類似 关键词 阅读推荐 "
        "大家都在看 関連 おすすめ ランキング 人気 新着 外部サイト あわせて読 【详细】 [详细]"
    ),
    "byline": (
        "来源 來源 作者 编辑 編輯 记者 发布 發佈 发表于 发表时间 時間 时间 点击 浏览 阅读 閱讀 字数 "
        "责任编辑 责编 日期 稿源 人气 审核 校对 校對 供稿 文章来源 查看 撰文 出所 配信 更新 投稿 テーマ "
        "已编辑 时长 播放文章 播报"
    ),
    "comment": (
        "评论 評論 回复 回覆 网友 楼主 沙发 跟帖 发表评论 我要 条评论 留言 發表 匿名 验证码 昵称 跟贴 回帖 "
        "发帖 言论 网民 观点 表情 コメント 理性发言 写下你 说点什么 楼层"
    ),
    "person": (
        "积分 積分 帖子 注册时间 威望 金钱 在线时间 精华 等级 好友 发消息 加关注 粉丝 只看该作者 倒序 "
        "短消息 查看资料 使用道具 注册日期 个人空间 主题 来自 头衔 勋章 贡献 用户组 阅读权限 升级 新手 会员 "
        "金币 当前离线 签到 博主 文章数 访问量 ip 官方账号 私信 提问 获赞 采纳 作品 关注"
    ),
    "advertisement": (
        "广告 廣告 推广 赞助 优惠 热线 咨询 加盟 特价 免费 立即 抢购 点击进入 报价 订购 招商 客服 团购 商城 "
        "电话 推薦商品 限时 领取 下载 打开app 详询 sponsored"
    ),
    "prompt": (
        "您的浏览器 你的浏览器 不支持 javascript cookie flash 加载中 请稍候 请稍后 正在加载 无法显示 启用 "
        "播放 loading 输入 请登录 登录后 您需要 权限 游客 倍速 全屏 弹幕 清晰度 高清 错误代码 重试 刷新 "
        "失败 设置成功 クッキー 已标记 暂无 浏览器"
    ),
    "age": (
        "小时前 分钟前 天前 小時前 分鐘前 周前 月前 時間前 分前 刚刚 昨天 剛剛 ago 收市 阅读数 次播放 万播放 人看过"
    ),
}


@dataclass(frozen=True)
class Automaton:
    """Dense Aho–Corasick tables. From state s with byte b the machine goes to `step[s, b]`.

    `found[s]` are the bits of the groups whose patterns end there; `whole_length[s, k]`, `whole_bits[s, k]` are the
    (at most two) whole-word patterns that end there: their length in bytes, so that the byte before can be looked at,
    and their bits."""

    step: np.ndarray  # int16 [states, 256]
    found: np.ndarray  # int64 [states]
    whole_length: np.ndarray  # int16 [states, 2]
    whole_bits: np.ndarray  # int64 [states, 2]


def build_automaton(groups: dict[str, str]) -> Automaton:
    """Return the automaton of Aho and Corasick, "Efficient string matching" (CACM 1975), with failure links resolved
    into the table."""
    trie: list[dict[int, int]] = [{}]
    found, whole = [0], [dict[int, int]()]
    for bit, words in enumerate(groups.values()):
        for word in words.split():
            is_whole, pattern = word.startswith("=") and len(word) > 1, word
            pattern = word[1:] if is_whole else word
            state = 0
            for byte in pattern.encode():
                if byte not in trie[state]:
                    trie.append({})
                    found.append(0)
                    whole.append({})
                    trie[state][byte] = len(trie) - 1
                state = trie[state][byte]
            if is_whole:
                length = len(pattern.encode())
                whole[state][length] = whole[state].get(length, 0) | 1 << bit
            else:
                found[state] |= 1 << bit
    step = np.zeros((len(trie), 256), np.int16)
    fail = [0] * len(trie)
    queue = deque([0])
    while queue:
        state = queue.popleft()
        if state:
            found[state] |= found[fail[state]]
            whole[state] = {**whole[fail[state]], **whole[state]}
            step[state] = step[fail[state]]
        for byte, child in trie[state].items():
            fail[child] = int(step[state, byte]) if state else 0
            queue.append(child)
        for byte, child in trie[state].items():
            step[state, byte] = child
    whole_length, whole_bits = np.zeros((len(trie), 2), np.int16), np.zeros((len(trie), 2), np.int64)
    for state, patterns in enumerate(whole):
        for slot, (length, bits) in enumerate(sorted(patterns.items(), reverse=True)[:2]):
            whole_length[state, slot], whole_bits[state, slot] = length, bits
    return Automaton(step, np.array(found, np.int64), whole_length, whole_bits)


@cache
def name_automaton() -> Automaton:
    return build_automaton(NAME_GROUPS)


@cache
def phrase_automaton() -> Automaton:
    return build_automaton(PHRASE_GROUPS)
