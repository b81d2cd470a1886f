# ruff: noqa: E501 (markup)
"""Small invented pages for the tests of extraction."""

SENTENCES = [
    "今年前三季度，全市新增城镇就业十二万人，完成年度目标的百分之九十五。",
    "记者在现场看到，工人们正在安装最后一批设备，预计月底前可以全部完工。",
    "“这条路修通以后，孩子们上学再也不用绕远了。”村民李大叔高兴地说。",
    "据了解，该项目总投资三千万元，建成后每年可处理污水两百万吨。",
    "专家提醒，近期早晚温差较大，老人和儿童要注意添衣保暖，少去人多的地方。",
    "下一步，市里将继续加大投入，让更多居民在家门口就能享受到便捷的服务。",
]


def article(inside: str, title: str = "河边小镇的春天") -> bytes:
    """Return a page with a menu, an article around `inside`, and a footer."""
    return (
        f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{title}</title></head><body><div class=nav><a href=/>首页"
        f"</a><a href=/n>新闻</a><a href=/c>联系我们</a></div><div class=article><h1>{title}</h1><p>{SENTENCES[0]}</p>"
        f"{inside}<p>{SENTENCES[1]}</p></div><div class=footer>版权所有 2024 河边网</div></body></html>"
    ).encode()
