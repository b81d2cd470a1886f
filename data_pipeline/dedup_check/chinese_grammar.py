"""Seeded Chinese-looking documents from a small grammar: as many as wanted, the same ones for the same seed, no
download.

The sentences are grammatical and mean little. What matters for measuring deduplication, throughput and memory is that
lengths spread as on the web (log-normal), that paragraphs and punctuation are there, and that two documents share few
character 5-grams (Jaccard similarity below 0.01), as real documents on different subjects do.
"""

import random
from collections.abc import Iterator


def _words(text: str) -> list[str]:
    return text.split()


_NOUNS = _words(
    "学生 老师 医生 工人 农民 记者 专家 市民 游客 顾客 孩子 老人 青年 教授 律师 法官 警察 司机 厨师 画家 作家 "
    "歌手 演员 导演 球员 教练 城市 乡村 山区 海岸 河流 湖泊 森林 草原 沙漠 岛屿 公园 广场 车站 机场 码头 桥梁 "
    "隧道 公路 铁路 学校 医院 银行 商店 工厂 农场 剧院 技术 产品 市场 价格 质量 成本 利润 合同 法律 制度 政策 "
    "计划 方案 项目 工程 任务 目标 成果 经验 问题 原因 结果 影响 作用 意义 价值 电脑 手机 网络 软件 数据 算法 "
    "模型 芯片 电池 汽车 飞机 火车 轮船 卫星 火箭 机器 设备 仪器 材料 能源 粮食 蔬菜 水果 茶叶 药材 历史 文化 "
    "艺术 音乐 电影 小说 诗歌 绘画 书法 建筑 语言 文字 传统 节日 习俗 故事 传说 神话 哲学 科学 数学 物理 化学 "
    "生物 地理 天文 春天 夏天 秋天 冬天 清晨 黄昏 雨水 阳光 月亮 星空 雪花 微风 云雾 花朵 树木 鸟儿 鱼群 马匹 "
    "牛羊 蜜蜂 蝴蝶 石头 泥土 火焰 海浪"
)
_VERBS = _words(
    "研究 分析 讨论 介绍 说明 证明 发现 改变 提高 降低 增加 减少 保护 支持 反对 接受 拒绝 选择 使用 利用 开发 "
    "建设 管理 控制 检查 测量 计算 设计 制造 销售 购买 运输 保存 记录 描述 表达 理解 学习 教育 培养 帮助 影响 "
    "推动 促进 阻碍 限制 解决 处理 面对 克服 经历 观察 参观 访问 欣赏 喜爱 怀念 盼望 寻找 追求 创造 传承 传播 "
    "翻译 整理 收集 展示 表演 比较 区分 联系 结合 替代 超过 达到 满足 违反 遵守"
)
_QUALITIES = _words(
    "重要 复杂 简单 明显 丰富 美丽 古老 现代 传统 新鲜 安静 热闹 宽阔 狭窄 明亮 黑暗 温暖 寒冷 干燥 潮湿 坚固 "
    "柔软 昂贵 便宜 先进 落后 普通 特殊 公开 秘密 稳定 危险 安全 健康 疲惫 快乐 悲伤 勇敢 谨慎 聪明 勤劳 诚实 "
    "谦虚 骄傲 陌生 熟悉 遥远 邻近 巨大 微小 完整 零散"
)
_MANNERS = _words(
    "认真地 迅速地 慢慢地 悄悄地 不断地 偶尔 经常 始终 逐渐 突然 已经 正在 曾经 可能 必须 应当 往往 几乎 完全 "
    "部分地 共同 独立地 主动地 耐心地 仔细地 大胆地 公开地 反复 重新 首次"
)
_PLACES = _words(
    "北京 上海 广州 深圳 成都 武汉 西安 南京 杭州 重庆 天津 苏州 长沙 青岛 大连 厦门 昆明 兰州 哈尔滨 乌鲁木齐 "
    "拉萨 海口 贵阳 郑州"
)
_LINKS = _words(
    "因此 然而 同时 此外 例如 另一方面 事实上 总的来说 后来 据了解 其实 不过 值得一提的是 与此相反 毫无疑问 "
    "令人意外的是"
)
_ENDS = "。。。。。。！？；"


def sentence(randomness: random.Random) -> str:
    """Return one sentence of about 15 to 45 characters."""
    choice = randomness.choice
    subject = f"{choice(_QUALITIES)}的{choice(_NOUNS)}" if randomness.random() < 0.5 else choice(_NOUNS)
    target = f"{choice(_NOUNS)}的{choice(_NOUNS)}" if randomness.random() < 0.5 else choice(_NOUNS)
    core = f"{subject}{choice(_MANNERS)}{choice(_VERBS)}{target}"
    kind = randomness.randrange(6)
    if kind == 0:
        core = f"在{choice(_PLACES)}，{core}"
    elif kind == 1:
        core = f"{choice(_LINKS)}，{core}"
    elif kind == 2:
        core = f"{randomness.randrange(1950, 2026)}年{randomness.randrange(1, 13)}月，{core}"
    elif kind == 3:
        core = f"{core}，{choice(_NOUNS)}和{choice(_NOUNS)}也{choice(_VERBS)}了{choice(_QUALITIES)}的{choice(_NOUNS)}"
    elif kind == 4:
        core = f"如果{choice(_NOUNS)}不{choice(_VERBS)}{choice(_NOUNS)}，{core}"
    return core + choice(_ENDS)


def document(randomness: random.Random, characters: int) -> str:
    """Return a title and paragraphs of two to six sentences, of at least `characters` characters together."""
    lines = [
        f"{randomness.choice(_PLACES)}{randomness.choice(_NOUNS)}{randomness.choice(_VERBS)}{randomness.choice(_NOUNS)}"
    ]
    written = len(lines[0])
    while written < characters:
        lines.append("".join(sentence(randomness) for _ in range(randomness.randint(2, 6))))
        written += len(lines[-1])
    return "\n".join(lines)


def documents(count: int, seed: int, median: int = 500) -> Iterator[str]:
    """Yield `count` documents whose lengths are log-normal around `median` characters, between 40 and 20,000."""
    randomness = random.Random(seed)
    for _ in range(count):
        yield document(randomness, int(min(20_000, max(40, median * randomness.lognormvariate(0, 1)))))
